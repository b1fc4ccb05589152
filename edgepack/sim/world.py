"""Devices, sticks and a base of the real code, and everything that can happen to them.

A world follows a schedule that a seed draws: rows, syncs, pulls, crashes, power cuts, clones,
images put back, sticks lost, copied and damaged, keys rotated and lost, backups, restores, purges.
After every step the books are checked (`check`), at the end everything must be home (`finish`).
"""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from device_runtime.clock import FixedClock
from device_runtime.errors import EdgepackError, StickError
from device_runtime.format.segment import Hole
from device_runtime.policy import Policy
from edgepack.courier.sync import sync
from edgepack.fleet.devices import accept
from edgepack.registry import PlanRow, Registry
from edgepack.sim.actors import BUNDLE, SimDevice, SimKit, SimRing
from edgepack.sim.disk import PowerCut, SimDisk
from edgepack.sim.ledger import Found, Id, at_base, declared, on_device, on_stick
from edgepack.sim.ports import MOUNT, FusedDisk, machine, new_stick, plug
from edgepack.store.archive import Archive, purge
from edgepack.store.backup import backup, restore
from edgepack.workspace import Workspace

QUOTA, RESERVE, SEGMENT = 160 << 10, 64 << 10, 1 << 20
SMALL_STICK = 160 << 10
HOME = Path("/dev/home")
ROUNDS = 8
Holes = list[tuple[str, Hole]]


class Broken(AssertionError):
    """A promise does not hold; the seed that shows it is worth keeping as a test."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes:
        what: Name of a method of `World` without its underscore.
        a: Chooses the device.
        b: Chooses the stick, or a variant.
        seed: For whatever chance the step needs.
        fuse: It is cut off after so many calls to the disk; None: it is not.
        kind: `power`, `process` or `pull`.
    """

    what: str
    a: int = 0
    b: int = 0
    seed: int = 0
    fuse: int | None = None
    kind: str = "power"


@dataclass
class Machine:
    """A physical device: a disk with a home on it, and a name that clones share."""

    device: SimDevice
    disk: SimDisk
    phys: int
    disk_id: str


@dataclass
class Split:
    """Two machines went on from one disk: both branches must be noticed at the base."""

    device_id: str
    one: int
    other: int
    born: int


@dataclass
class Carried:
    """A stick and what the base last put on it."""

    disk: SimDisk
    policy: bool = False


class World:
    """One base, devices, sticks.

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
        self.folder = folder
        self.clock = FixedClock()
        self.ring = copy.deepcopy(ring) if ring is not None else SimRing()
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
        for number in range(devices):
            self._new_machine(f"press-{number + 1}")
        for _ in range(2):
            self._snew()

    # --- making things -----------------------------------------------------------------------

    def _number(self) -> int:
        self.counter += 1
        return self.counter

    def _policy(self) -> Policy:
        return replace(
            self.ring.policy(quota_bytes=QUOTA, segment_bytes=SEGMENT), reserve_bytes=RESERVE
        )

    def _new_machine(self, name: str) -> None:
        kit = SimKit(name, f"kit-{name}", self._policy())
        with Registry.open(self.ws.registry) as registry:
            registry.put_plan(PlanRow(name, "sim", BUNDLE, kit.kit_id, 0))
        disk = SimDisk(self.rng.randrange(1 << 30))
        disk_id = f"{self._number():016x}"
        device = SimDevice(name, HOME, kit, disk=machine(disk), clock=self.clock, disk_id=disk_id)
        disk.flush()
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
            for uid in on_device(one.disk, HOME / "journal").uids:
                self.born.setdefault(uid, (one.phys, self.counter))

    def present(self) -> tuple[set[Id], set[Id], Holes]:
        """Return what is home, what is anywhere, and every HOLE that is anywhere."""
        with Registry.open(self.ws.registry) as registry:
            imported, rest = at_base(registry, self.ws.held, self.disk)
        if imported & self.purged:
            raise Broken("a purged record came back")
        home = imported | rest.ids | self.purged
        anywhere = Found(set(home), list(rest.holes))
        for one in self.machines:
            anywhere.add(on_device(one.disk, HOME / "journal"))
        for stick in self.sticks:
            anywhere.add(on_stick(stick.disk, MOUNT))
        return home, anywhere.ids, list(anywhere.holes)

    def check(self, what: str) -> None:
        """Check every promise that must hold at every moment.

        Raises:
            Broken: One does not.
        """
        self._note()
        try:
            _, anywhere, holes = self.present()
        except AssertionError as error:
            raise Broken(f"{error} after {what}") from None
        missing = self.durable - anywhere - self.excused
        if missing:
            missing -= declared(missing, self.lanes, holes)
        self.excused |= missing & self.risky
        missing -= self.risky
        if missing:
            raise Broken(f"undeclared after {what}: {sorted(missing)[:3]}")
        if not self.splits:
            self._no_false_alarm(what)

    def _no_false_alarm(self, what: str) -> None:
        with Registry.open(self.ws.registry) as registry:
            for alarm in registry.alarms():
                if alarm.kind in ("fork", "conflict"):
                    raise Broken(f"false alarm after {what}: {alarm.text}")

    def _lost(self, before: tuple[set[Id], set[Id], Holes], custody: set[Id]) -> None:
        """After a disk was destroyed: what was only there is gone; the rest hangs on one more."""
        _, anywhere, _ = self.present()
        self.excused |= before[1] - anywhere
        self.risky |= custody

    # --- one step ----------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Let one thing happen, perhaps cut off in the middle."""
        self._number()
        self.rng.seed(step.seed)
        self.clock.advance(3600)
        action: Callable[[Step], None] = getattr(self, f"_{step.what}")
        one = self._device(step)
        try:
            if step.fuse is not None and step.kind != "pull":
                self.disk.fuse = step.fuse
                if one is not None:
                    one.disk.crash_after(step.fuse + 1)
            action(step)
        except PowerCut:
            if one is not None and step.what not in ("bsync", "backup", "purge"):
                self._fall(one, power=step.kind == "power")
        except StickError:
            pass  # pulled, full: the person repeats the visit
        except EdgepackError as error:
            if step.fuse is None:
                raise Broken(f"{step.what} failed: {error.line()}") from error
        finally:
            self.disk.fuse = None
            for other in self.machines:
                other.disk.heal()
                plug(other.device.disk, None)
            for stick in self.sticks:
                stick.disk.heal()

    def _fall(self, one: Machine, *, power: bool) -> None:
        one.device.crash()
        one.disk.power_cut() if power else one.disk.kill()

    def _visit(self, step: Step, stick: Carried, action: Callable[[], object]) -> None:
        """Do something with a stick plugged in; perhaps it is pulled in the middle."""
        if step.kind == "pull" and step.fuse is not None:
            stick.disk.fail_at(step.fuse + 1, errno.EIO, times=1 << 30)
        try:
            action()
        except BaseException:
            stick.disk.heal()
            stick.disk.power_cut()
            raise
        stick.disk.heal()

    # --- what can happen ---------------------------------------------------------------------

    def _row(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            values = [self._number() for _ in range(1 + step.b % 3)]
            one.device.rows(values, sync=step.b % 3 != 0)

    def _label(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            one.device.label(self._number())

    def _seal(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            one.device.seal()

    def _stop(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            one.device.stop()

    def _kill(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            self._fall(one, power=step.kind == "power")

    def _prune(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            journal = one.device.start()
            journal.prune(one.device.home.generation().acked)

    def _dsync(self, step: Step) -> None:
        one, stick = self._device(step), self._stick(step)
        if one is None or stick is None:
            return
        one.device.start()
        plug(one.device.disk, stick.disk)
        self._visit(step, stick, lambda: one.device.sync(MOUNT))
        plug(one.device.disk, None)
        if stick.policy:
            one.device.take_policy(self._policy())

    def _bsync(self, step: Step) -> None:
        stick = self._stick(step)
        if stick is not None:
            self._visit(step, stick, lambda: self._base_sync(stick))
            stick.policy = True

    def _base_sync(self, stick: Carried) -> None:
        sync(self.ws, self.ring, MOUNT, clock=self.clock, disk=stick.disk, view=False)

    def _accept(self, step: Step) -> None:
        with Registry.open(self.ws.registry) as registry:
            waiting = registry.devices("pending")
            if waiting:
                accept(registry, waiting[step.a % len(waiting)].device, self.clock)

    def _clone(self, step: Step) -> None:
        one = self._device(step)
        if one is None or len(self.machines) > 4:
            return
        other = f"{self._number():016x}" if step.b % 2 else one.disk_id
        twin = self._copy_machine(one, other, power=False)
        self._note()
        self.splits.append(Split(one.device.home.card.device_id, one.phys, twin.phys, self.counter))
        self._number()
        self.machines.append(twin)

    def _image(self, step: Step) -> None:
        one = self._device(step)
        if one is not None:
            self._note()
            self.images.append((self._copy_machine(one, one.disk_id, power=True), self.counter))

    def _irestore(self, step: Step) -> None:
        if not self.images:
            return
        image, born = self.images[step.b % len(self.images)]
        index = next(
            (i for i, m in enumerate(self.machines) if m.device.name == image.device.name), None
        )
        if index is None:
            return
        old = self.machines[index]
        before, custody = self.present(), on_device(old.disk, HOME / "journal").ids
        self._note()
        disk_id = old.disk_id if step.b % 2 else f"{self._number():016x}"
        new = self._copy_machine(image, disk_id, power=False)
        self.machines[index] = new
        self.splits.append(Split(old.device.home.card.device_id, old.phys, new.phys, born))
        self._number()
        self._lost(before, custody)

    def _lose(self, step: Step) -> None:
        one = self._device(step)
        if one is not None and len(self.machines) > 1:
            self._note()
            before = self.present()
            self.machines.remove(one)
            self._lost(before, on_device(one.disk, HOME / "journal").ids)

    def _snew(self, step: Step | None = None) -> None:
        if len(self.sticks) < 4:
            small = step is not None and step.b % 3 == 0
            size = SMALL_STICK if small else 1 << 40
            self.sticks.append(Carried(new_stick(self.rng.randrange(1 << 30), size)))

    def _scopy(self, step: Step) -> None:
        stick = self._stick(step)
        if stick is not None and len(self.sticks) < 5:
            self.sticks.append(copy.deepcopy(stick))

    def _slose(self, step: Step) -> None:
        stick = self._stick(step)
        if stick is not None:
            self.sticks.remove(stick)

    def _sbad(self, step: Step) -> None:
        """A bit of one file on a stick flips."""
        stick = self._stick(step)
        files = sorted(_files(stick.disk, MOUNT)) if stick is not None else []
        if stick is not None and files:
            path = files[step.a % len(files)]
            data = bytearray(stick.disk.read(path))
            if data:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                stick.disk.unlink(path)
                handle = stick.disk.create(path)
                handle.write(data)
                stick.disk.flush()

    def _rotate(self, _step: Step) -> None:
        self.ring.rotate()

    def _dropkey(self, _step: Step) -> None:
        self.ring.drop_oldest()

    def _backup(self, _step: Step) -> None:
        folder = self.folder / f"backup-{len(self.backups) + 1}"
        backup(self.ws, folder, clock=self.clock)
        self.backups.append(folder)

    def _brestore(self, step: Step) -> None:
        if not self.backups:
            return
        newest = step.b % 3 != 0
        folder = self.backups[-1 if newest else step.b % len(self.backups)]
        before = self.present()
        self.bases += 1
        root = self.folder / f"base-{self.bases}"
        old = self.ws.root
        if step.a % 2:
            (old / "registry.sqlite").unlink()  # the disk died; only the tombstones were saved
        restore(folder, root, lost=old, disk=self.disk)
        self.ws = Workspace(root, self.ws.classes, self.disk)
        if not newest:
            self._lost(before, before[0] - self.present()[0])

    def _purge(self, step: Step) -> None:
        with Registry.open(self.ws.registry) as registry:
            rows = registry.segments()
            if rows:
                row = rows[step.b % len(rows)]
                for form in registry.forms(row.device, row.epoch, row.uid):
                    for first, last in registry.spans(form.hash):
                        place = f"{row.device}/{row.epoch}/{row.uid}"
                        self.purged |= {f"{place}/{s}" for s in range(first, last + 1)}
                archive = Archive(self.ws.archive, self.disk)
                purge(self.disk, self.ws.root, archive, registry, [row])

    # --- the end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Give everybody enough visits; then everything must be home, and every fork noticed.

        Raises:
            Broken: Something is stuck, undeclared, or went unnoticed.
        """
        if not self.sticks:
            self._snew()
        self.ring.recover()
        for turn in range(ROUNDS):
            for number in range(len(self.machines)):
                self.do(Step("accept", number))
                self.do(Step("dsync", number, 0))
            self.do(Step("bsync", 0, 0))
            for number in range(len(self.machines)):
                self.do(Step("accept", number))
            self.do(Step("backup"))
            self.check("a last visit")
            if turn >= 2 and not self._stuck():
                break
        for number in range(len(self.sticks)):
            self.do(Step("bsync", 0, number))
        self.check("the last sync")
        stuck = self._stuck()
        if stuck:
            raise Broken(stuck)
        self._forks_noticed()

    def _stuck(self) -> str:
        """Return what still lies on a device only, an empty text when all is home."""
        home, _, holes = self.present()
        for one in self.machines:
            stuck = (on_device(one.disk, HOME / "journal").ids & self.durable) - home
            stuck -= declared(stuck, self.lanes, holes)
            if stuck:
                return f"stuck on {one.device.name}: {sorted(stuck)[:3]}"
        return ""

    def _forks_noticed(self) -> None:
        with Registry.open(self.ws.registry) as registry:
            rows = registry.segments(state=None)
            flagged = {alarm.device for alarm in registry.alarms() if alarm.kind == "fork"}
        for split in self.splits:
            after = [
                self.born.get(row.uid, (0, 0)) for row in rows if row.device == split.device_id
            ]
            phys = {who for who, when in after if when > split.born}
            if {split.one, split.other} <= phys and split.device_id not in flagged:
                raise Broken(f"a fork of {split.device_id[:8]} went unnoticed")

    def _birth(self, uid: str) -> tuple[int, int]:
        return self.born.get(uid, (0, 0))


def _files(disk: SimDisk, folder: Path) -> list[Path]:
    found: list[Path] = []
    for name in disk.list(folder):
        path = folder / name
        if disk.kind(path) == "dir":
            found += _files(disk, path)
        elif name.endswith((".segs", ".ack", ".json")):
            found.append(path)
    return found
