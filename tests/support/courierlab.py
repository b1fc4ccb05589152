"""One base, devices and sticks in a temporary folder: the real courier on the real disk."""

from __future__ import annotations

from pathlib import Path

from device_runtime.disk import Disk, RealDisk
from device_runtime.policy import Policy
from edgepack.courier.sync import SyncResult, sync
from edgepack.registry import PlanRow, Registry
from edgepack.sim.actors import SimDevice, SimKit, SimRing
from edgepack.sim.clock import FixedClock
from edgepack.workspace import Workspace

_RING: list[SimRing] = []


class Lab:
    """A base with its keys, and whatever is plugged into it."""

    def __init__(self, folder: Path, *, stick_disk: Disk | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = FixedClock()
        if not _RING:
            _RING.append(SimRing())  # drawing keys costs more than using them
        self.ring = _RING[0]
        self.ws = Workspace.create(folder / "ws")
        self.stick_disk = stick_disk
        self.kits: dict[str, SimKit] = {}

    def policy(self, **more) -> Policy:
        sizes = {"quota_bytes": 8 << 20, "segment_bytes": 1 << 20} | more
        return self.ring.policy(**sizes)

    def registry(self) -> Registry:
        return Registry.open(self.ws.registry)

    def plan(self, name: str, **policy) -> SimKit:
        kit = SimKit(name, f"kit-of-{name}", self.policy(**policy))
        with self.registry() as registry:
            registry.put_plan(PlanRow(name, "sim", "sim", kit.kit_id, 0))
        return kit

    def device(self, name: str = "press-1", *, disk: Disk | None = None, **policy) -> SimDevice:
        """A device that has been planned and initialised, not accepted."""
        self.kits[name] = self.plan(name, **policy)
        return SimDevice(
            name,
            self.folder / "devices" / name,
            self.kits[name],
            disk=disk or RealDisk(),
            clock=self.clock,
            disk_id="d" * 16,
        )

    def accepted(self, name: str = "press-1", stick: Path | None = None, **policy) -> SimDevice:
        """A device that has been accepted; its first sync has been to the base."""
        device = self.device(name, **policy)
        stick = stick or self.stick("first")
        device.sync(stick)
        self.sync(stick, accept=[name])
        return device

    def stick(self, name: str = "usb") -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def sync(self, stick: Path, **more) -> SyncResult:
        more.setdefault("view", False)
        more.setdefault("disk", self.stick_disk)
        self.clock.advance(60)
        return sync(self.ws, self.ring, stick, clock=self.clock, **more)

    def imported(self) -> dict[tuple[str, str, str], set[int]]:
        """(device, epoch, uid) → sequences, straight from the registry."""
        found: dict[tuple[str, str, str], set[int]] = {}
        with self.registry() as registry:
            for row in registry.segments():
                place = (row.device, row.epoch, row.uid)
                for first, last in registry.spans(row.hash):
                    new = set(range(first, last + 1))
                    assert not new & found.setdefault(place, set()), "a record twice"
                    found[place] |= new
        return found

    def ids(self) -> set[str]:
        """Every imported record id."""
        return {
            f"{device}/{epoch}/{uid}/{sequence}"
            for (device, epoch, uid), sequences in self.imported().items()
            for sequence in sequences
        }
