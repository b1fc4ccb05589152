"""Devices: which names were planned, and which machines have enrolled."""

from __future__ import annotations

from edgepack.database import Database
from edgepack.errors import DeviceUnknownError
from edgepack.records import DeviceRow, PlanRow


class Devices(Database):
    """Planned names and enrolled devices."""

    def plan(self, name: str) -> PlanRow | None:
        """Return what `device new` said about a name."""
        return next(iter(self._all(PlanRow, "SELECT * FROM plans WHERE name=?", name)), None)

    def plans(self) -> list[PlanRow]:
        """Return all planned names."""
        return self._all(PlanRow, "SELECT * FROM plans ORDER BY name")

    def put_plan(self, plan: PlanRow) -> None:
        """Store a plan, or its kit id once a kit was written."""
        self._put("plans", plan)

    def devices(self, *states: str) -> list[DeviceRow]:
        """Return enrolled devices, by name; only those in `states` when given."""
        rows = self._all(DeviceRow, "SELECT * FROM devices ORDER BY name")
        return [row for row in rows if not states or row.state in states]

    def find_device(self, name_or_id: str) -> DeviceRow | None:
        """Return a device by name, id, or a beginning (8 characters or more) of its id."""
        exact = "SELECT * FROM devices WHERE device=? OR name=? ORDER BY name"
        for row in self._all(DeviceRow, exact, name_or_id, name_or_id):
            return row
        found = [row for row in self.devices() if row.device.startswith(name_or_id)]
        return found[0] if len(name_or_id) >= 8 and len(found) == 1 else None

    def device(self, name_or_id: str) -> DeviceRow:
        """As `find_device`.

        Raises:
            DeviceUnknownError: There is none.
        """
        row = self.find_device(name_or_id)
        if row is None:
            raise DeviceUnknownError(f"no device {name_or_id!r} is enrolled here")
        return row

    def put_device(self, row: DeviceRow) -> None:
        """Store an enrolled device."""
        self._put("devices", row)
