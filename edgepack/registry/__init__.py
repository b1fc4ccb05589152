"""What the base knows for sure: one SQLite file, every commit synced before it returns.

Devices, imported segments and the exact sequences that each brought, signed bundles and drawn
versions, the base generation, conflicts, alarms, the latest report of every device. The Delta table
is a view of this file and the archive; this file is what acks speak from.

Times are nanoseconds since 1970-01-01 UTC by the base's clock; they are shown, never compared with
a device's. All writes happen inside `with registry.commit():`, which is one durable transaction;
a single writing call outside of it is a transaction of its own.
"""

from __future__ import annotations

from edgepack.records import (
    AlarmRow,
    BundleRow,
    DeviceRow,
    EpochRow,
    HeldRow,
    HoleRow,
    PlanRow,
    ReportRow,
    SegmentRow,
    Span,
    Tombstone,
)
from edgepack.registry.bundles import Bundles
from edgepack.registry.devices import Devices
from edgepack.registry.losses import Losses
from edgepack.registry.notices import Notices

__all__ = [
    "AlarmRow",
    "BundleRow",
    "DeviceRow",
    "EpochRow",
    "HeldRow",
    "HoleRow",
    "PlanRow",
    "Registry",
    "ReportRow",
    "SegmentRow",
    "Span",
    "Tombstone",
]


class Registry(Devices, Losses, Bundles, Notices):
    """The open registry; one process at a time (the workspace's lock)."""

    def recipients_out(self) -> dict[str, list[str]]:
        """Return journal key id → names of the devices that still carry segments wrapped to it.

        By the newest report of each device, of each branch where it was copied. Such a key must
        not be destroyed.
        """
        found: dict[str, set[str]] = {}
        for device in self.devices():
            copied = any(alarm.kind == "fork" for alarm in self.alarms(device.device))
            for report in self.reports(device.device)[: None if copied else 1]:
                for key in report.body.get("recipients", []):
                    found.setdefault(key, set()).add(device.name)
        return {key: sorted(names) for key, names in found.items()}
