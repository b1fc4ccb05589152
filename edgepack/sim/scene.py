"""A base, devices and sticks, and the books: where is every record that was ever durable?"""

from __future__ import annotations

import copy
import random
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

from device_runtime.format.segment import Hole
from device_runtime.policy import Policy
from edgepack.registry import PlanRow, Registry
from edgepack.sim.actors import BUNDLE, SimDevice, SimKit, SimRing, lab_ring
from edgepack.sim.chance import chance, drawn_from
from edgepack.sim.clock import FixedClock
from edgepack.sim.disk import SimDisk
from edgepack.sim.ledger import Found, Id, at_base, declared, on_device, on_stick
from edgepack.sim.parts import HOME, BrokenError, Carried, Machine, Split, Step
from edgepack.sim.ports import MOUNT, FusedDisk, machine, new_stick
from edgepack.workspace import Workspace

QUOTA, RESERVE, SEGMENT = 160 << 10, 64 << 10, 1 << 20
SMALL_STICK = 160 << 10
Holes = list[tuple[str, Hole]]
Alarms = list[tuple[str, str]]

_HOMES: dict[tuple[str, str, tuple[str, ...]], SimDisk] = {}


def _home_disk(kit: SimKit, disk_id: str) -> SimDisk:
    """Return a disk with a fresh home; drawing its keys costs more than copying it."""
    key = (kit.device_name, disk_id, kit.policy.recipients)
    if key not in _HOMES:
        disk = SimDisk()
        with drawn_from(chance("home", *key)):
            SimDevice(
                kit.device_name, HOME, kit, disk=machine(disk), clock=FixedClock(), disk_id=disk_id
            )
        disk.flush()
        _HOMES[key] = disk
    return _HOMES[key]


class Scene:
    """One base, devices, sticks, and the books of every record.

    Args:
        folder: An empty folder for the base.
        seed: Of everything that is drawn.
        devices: How many devices to begin with.
        ring: Keys of the base; drawn when None.
    """

    def __init__(
        self, folder: Path, seed: int = 0, devices: int = 2, ring: SimRing | None = None
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.chance = chance("world", seed)
        self.folder = folder
        self.devices = devices
        self.clock = FixedClock()
        self.ring = copy.deepcopy(ring) if ring is not None else lab_ring()
        self.disk = FusedDisk()
        self.bases = 1
        self.ws = Workspace.create(folder / "base-1", disk=self.disk)
        self.counter = 0
        self.machines: list[Machine] = []
        self.sticks: list[Carried] = []
        self.images: list[tuple[Machine, int]] = []
        self.backups: list[Path] = []
        self.splits: list[Split] = []
        self.born: dict[str, tuple[int, int]] = {}
        self.durable: set[Id] = set()
        self.lanes: dict[Id, int] = {}
        self.excused: set[Id] = set()
        self.risky: set[Id] = set()
        self.purged: set[Id] = set()
        self._found: WeakKeyDictionary[SimDisk, tuple[int, Found]] = WeakKeyDictionary()
        self._base: tuple[set[Id], Found, Alarms] | None = None
        with self.drawn(), Registry.open(self.ws.registry) as registry, registry.commit():
            for number in range(devices):
                self._new_machine(registry, f"press-{number + 1}")
        for _ in range(2):
            self.add_stick()

    def drawn(self) -> AbstractContextManager[None]:
        """Let ids and keys come from this world's seed."""
        return drawn_from(self.chance)

    # --- making things -----------------------------------------------------------------------

    def _number(self) -> int:
        self.counter += 1
        return self.counter

    def _policy(self) -> Policy:
        return replace(
            self.ring.policy(quota_bytes=QUOTA, segment_bytes=SEGMENT), reserve_bytes=RESERVE
        )

    def _new_machine(self, registry: Registry, name: str) -> None:
        kit = SimKit(name, f"kit-{name}", self._policy())
        registry.put_plan(PlanRow(name, "sim", BUNDLE, kit.kit_id, 0))
        disk_id = f"{self._number():016x}"
        disk = copy.deepcopy(_home_disk(kit, disk_id))
        disk.rng.seed(self.rng.randrange(1 << 30))
        device = SimDevice(
            name, HOME, kit, disk=machine(disk), clock=self.clock, disk_id=disk_id, new=False
        )
        self.machines.append(Machine(device, disk, self._number(), disk_id))

    def _copy_machine(self, one: Machine, disk_id: str, *, power: bool) -> Machine:
        disk = copy.deepcopy(one.disk)
        disk.rng = random.Random(self.rng.randrange(1 << 30))  # noqa: S311
        disk.power_cut() if power else disk.kill()
        device = SimDevice(
            one.device.name, HOME, one.device.kit,
            disk=machine(disk), clock=self.clock, disk_id=disk_id, new=False,
        )  # fmt: skip
        return Machine(device, disk, self._number(), disk_id)

    def add_stick(self, capacity: int = 1 << 40) -> None:
        """Buy a stick."""
        self.sticks.append(Carried(new_stick(self.rng.randrange(1 << 30), capacity)))

    def _device(self, step: Step) -> Machine | None:
        return self.machines[step.a % len(self.machines)] if self.machines else None

    def _stick(self, step: Step) -> Carried | None:
        return self.sticks[step.b % len(self.sticks)] if self.sticks else None

    # --- the books ---------------------------------------------------------------------------

    def _note(self) -> None:
        """Write down what devices believe to be durable, and which machine wrote what."""
        for one in self.machines:
            for item in one.device.durable - self.durable:
                self.lanes[item] = one.device.lane_of[item]
            self.durable |= one.device.durable
            for uid in self.on(one).uids:
                self.born.setdefault(uid, (one.phys, self.counter))

    def _lost(self, before: tuple[set[Id], set[Id], Holes], custody: set[Id]) -> None:
        """After a disk was destroyed: what was only there is gone; the rest hangs on one more."""
        _, anywhere, _ = self.present()
        self.excused |= before[1] - anywhere
        self.risky |= custody

    def present(self) -> tuple[set[Id], set[Id], Holes]:
        """Return what is home, what is anywhere, and every HOLE that is anywhere."""
        imported, rest, _ = self._at_base()
        if imported & self.purged:
            raise BrokenError("a purged record came back")
        home = imported | rest.ids | self.purged
        anywhere = Found(set(home), list(rest.holes))
        for one in self.machines:
            anywhere.add(self.on(one))
        for stick in self.sticks:
            anywhere.add(self.on(stick))
        return home, anywhere.ids, list(anywhere.holes)

    def on(self, place: Machine | Carried) -> Found:
        """Return what is on a device or stick; read again only when something changed there."""
        disk = place.disk
        changes, found = self._found.get(disk, (-1, Found()))
        if changes != disk.changes:
            device = isinstance(place, Machine)
            found = on_device(disk, HOME / "journal") if device else on_stick(disk, MOUNT)
            self._found[disk] = disk.changes, found
        return found

    def _at_base(self) -> tuple[set[Id], Found, Alarms]:
        """Return what was imported, what is held, and which devices are said to be copied."""
        if self._base is None:
            with Registry.open(self.ws.registry) as registry:
                imported, rest = at_base(registry, self.ws.held, self.disk)
                found = registry.alarms()
                alarms = [(a.device, a.text) for a in found if a.kind in ("fork", "conflict")]
            self._base = imported, rest, alarms
        return self._base

    def check(self, what: str) -> None:
        """Check every promise that must hold at every moment.

        Raises:
            BrokenError: One does not.
        """
        self._note()
        try:
            _, anywhere, holes = self.present()
        except AssertionError as error:
            raise BrokenError(f"{error} after {what}") from None
        missing = self.durable - anywhere - self.excused
        if missing:
            missing -= declared(missing, self.lanes, holes)
        self.excused |= missing & self.risky
        missing -= self.risky
        if missing:
            raise BrokenError(f"undeclared after {what}: {sorted(missing)[:3]}")
        copied = {split.device_id for split in self.splits}
        for device, alarm in self._at_base()[2]:
            if device not in copied:
                raise BrokenError(f"false alarm after {what}: {alarm}")

    def stuck(self) -> str:
        """Return what still lies on a device only, an empty text when all is home."""
        home, _, holes = self.present()
        for one in self.machines:
            stuck = (self.on(one).ids & self.durable) - home
            stuck -= declared(stuck, self.lanes, holes)
            if stuck:
                return f"stuck on {one.device.name}: {sorted(stuck)[:3]}"
        return ""

    def forks_noticed(self) -> None:
        """Check that every fork whose two branches came home was flagged.

        Raises:
            BrokenError: One was not.
        """
        with Registry.open(self.ws.registry) as registry:
            rows = registry.segments(state=None)
            flagged = {alarm.device for alarm in registry.alarms() if alarm.kind == "fork"}
        for split in self.splits:
            after = [
                self.born.get(row.uid, (0, 0)) for row in rows if row.device == split.device_id
            ]
            phys = {who for who, when in after if when > split.born}
            if {split.one, split.other} <= phys and split.device_id not in flagged:
                raise BrokenError(f"a fork of {split.device_id[:8]} went unnoticed")
