"""Devices, sticks and a base of the real code, and everything that can happen to them.

A world follows a schedule that a seed draws: rows, syncs, pulls, crashes, power cuts, clones,
images put back, sticks lost, copied and damaged, keys rotated and lost, backups, restores, purges.
After every step the books are checked (`check`), at the end everything must be home (`finish`).
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable

from device_runtime.errors import EdgepackError, StickError
from edgepack.courier.sync import sync
from edgepack.fleet.devices import accept
from edgepack.registry import Registry
from edgepack.sim.disk import PowerCut
from edgepack.sim.parts import (
    HOME,
    BrokenError,
    Carried,
    Machine,
    Split,
    Step,
    every_file,
    files_on,
)
from edgepack.sim.ports import MOUNT, plug
from edgepack.sim.scene import SMALL_STICK, Scene
from edgepack.store.archive import Archive, purge
from edgepack.store.backup import backup, restore
from edgepack.workspace import Workspace

ROUNDS, MANY = 8, 10
AT_BASE = ("bsync", "accept", "backup", "brestore", "purge")


class World(Scene):
    """A scene in which things happen; each `_name` below is what a step of that name does."""

    # --- one step ----------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Let one thing happen, perhaps cut off in the middle."""
        self._number()
        self.rng.seed(step.seed)
        self.clock.advance(3600)
        action: Callable[[Step], None] = getattr(self, f"_{step.what}")
        one = self._device(step)
        try:
            with self.drawn():
                self._arm(step, one)
                action(step)
        except PowerCut:
            if one is not None and step.what not in ("bsync", "backup", "purge"):
                self._fall(one, power=step.kind == "power")
        except StickError:
            pass  # pulled, full: the person repeats the visit
        except OSError:
            if one is None or not (step.kind == "eio" or one.disk.capacity < 1 << 40):
                raise
            self._fall(one, power=False)  # the program ended with an error; somebody starts it
        except EdgepackError as error:
            if step.fuse is None:
                raise BrokenError(f"{step.what} failed: {error.line()}") from error
        finally:
            if step.what in AT_BASE:
                self._base = None
            self.disk.fuse = None
            for other in self.machines:
                other.disk.heal()
                plug(other.device.disk, None)
            for stick in self.sticks:
                stick.disk.heal()

    def _arm(self, step: Step, one: Machine | None) -> None:
        if step.fuse is None or step.kind == "pull":
            return
        if step.kind == "eio":
            if one is not None:
                one.disk.fail_at(step.fuse + 1, errno.EIO)
            return
        self.disk.fuse = step.fuse
        if one is not None:
            one.disk.crash_after(step.fuse + 1)

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

    def _clock(self, step: Step) -> None:
        """The wall clock is set to anything: nothing may hang on it."""
        self.clock.wall = self.rng.choice([0, 4_000_000_000, 1_767_225_600]) * 10**9 + step.a

    def _full(self, step: Step) -> None:
        """The disk of a device fills up, or is given room again."""
        one = self._device(step)
        if one is not None:
            used = sum(one.disk.size(path) for path in every_file(one.disk, HOME))
            one.disk.capacity = used + (step.b << 12) if step.b % 3 else 1 << 40

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

    def _accept_all(self) -> None:
        with Registry.open(self.ws.registry) as registry:
            for row in registry.devices("pending"):
                accept(registry, row.device, self.clock)
        self._base = None

    def _clone(self, step: Step) -> None:
        one = self._device(step)
        if one is None or len(self.machines) > self.devices + 2:
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
        before, custody = self.present(), self.on(old).ids
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
            self._lost(before, self.on(one).ids)

    def _snew(self, step: Step) -> None:
        if len(self.sticks) < 4:
            self.add_stick(SMALL_STICK if step.b % 3 == 0 else 1 << 40)

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
        files = sorted(files_on(stick.disk, MOUNT)) if stick is not None else []
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
            BrokenError: Something is stuck, undeclared, or went unnoticed.
        """
        if not self.sticks or self.sticks[0].disk.capacity < len(self.machines) << 15:
            self.add_stick()  # one that is too small for all of them is replaced by a person
            self.sticks.insert(0, self.sticks.pop())
        self.ring.recover()
        for one in self.machines:
            one.disk.capacity = 1 << 40
        least = 2 if len(self.machines) < MANY else 0
        for turn in range(ROUNDS):
            self._accept_all()
            for number in range(len(self.machines)):
                self.do(Step("dsync", number, 0))
            self.do(Step("bsync", 0, 0))
            self._accept_all()
            self.do(Step("backup"))
            self.check("a last visit")
            if turn >= least and not self.stuck():
                break
        for number in range(len(self.sticks)):
            self.do(Step("bsync", 0, number))
        self.check("the last sync")
        stuck = self.stuck()
        if stuck:
            raise BrokenError(stuck)
        self.forks_noticed()
