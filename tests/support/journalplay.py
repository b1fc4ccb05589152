"""Random schedules against a journal on a failing disk, and the books that must balance.

Every record is known by its id. Whatever happens, a record that was reported durable is on the
device, at the base, or declared lost; a record that is somewhere is what was appended under its
id; nothing that the base does not hold is unlinked without a HOLE.
"""

from __future__ import annotations

import copy
import errno
import random
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from device_runtime.errors import FormatError, JournalError
from device_runtime.format.segment import Lane
from device_runtime.journal import active
from device_runtime.journal.seal import OpenFile
from edgepack.sim.disk import PowerCut, SimDisk
from support import journalworld as jw
from support.journalworld import World

OPS = {
    "rows": 30,
    "many": 6,
    "label": 6,
    "sync": 10,
    "tick": 4,
    "seal": 5,
    "carry": 6,
    "prune": 4,
    "stop": 2,
    "kill": 3,
    "power": 5,
    "epoch": 0.5,
    "bundle": 1,
}


@dataclass
class Books:
    """What was appended, what is safe, what is known to be lost."""

    truth: dict = field(default_factory=dict)
    durable: set = field(default_factory=set)
    base: dict = field(default_factory=dict)
    acked: set = field(default_factory=set)
    holes: list = field(default_factory=list)


class Play:
    """One schedule.

    `short`: no column is hashed, so rows take the short way, and single ones come as the checker of
    a small request makes them, some of them one right after the other.
    """

    def __init__(
        self, seed, *, quota=1 << 30, reserve=0, capacity=1 << 40, strict=True, faults=True,
        short=False,
    ):  # fmt: skip
        self.rng = random.Random(seed)
        self.short = short
        self.world = World(
            disk=SimDisk(seed, capacity),
            policy=jw.policy(
                durability=self.rng.choice(["each", "group", "os"]),
                quota_bytes=quota,
                reserve_bytes=reserve,
                segment_bytes=self.rng.choice([6000, 9000, 20_000]),
                strict=strict,
            ),
            schema=jw.PLAIN if short else jw.SCHEMA,
        )
        self.books = Books()
        self.faults = faults
        self.push = self.rng.choice([1 << 20, 2000])  # bytes after which the disk is set to work
        self.number = 0
        self.live = set()  # appended in this life of the process
        self.version = 3
        self.world.open()

    def run(self, steps):
        for _ in range(steps):
            (op,) = self.rng.choices(list(OPS), list(OPS.values()))
            fuse = self.rng.randint(1, 14) if self.faults and self.rng.random() < 0.12 else None
            sick = self.faults and self.rng.random() < 0.05
            self.step(op, fuse, sick)
        self.world.disk.heal()
        self.restart(power=True)
        self.check()
        return self

    def step(self, op, fuse=None, sick=False):
        disk = self.world.disk
        self.world.clock.advance(self.rng.choice([0.001, 0.05, 0.3]))
        disk.crash_after(fuse)
        if sick:
            code = self.rng.choice([errno.EIO, errno.EIO, errno.ENOSPC])
            kinds = self.rng.choice([["sync"], ["write"], ["rename"], ["create"], []])
            disk.fail_at(self.rng.randint(1, 4), code, self.rng.choice([1, 1, 3]), kinds)
        try:
            try:
                with patch.object(active, "_PUSH", self.push):
                    getattr(self, op)()
                self.note()
            except JournalError:
                self.note()
            except OSError:
                pass
        except PowerCut:
            self.restart(power=self.rng.random() < 0.7)
        disk.heal()

    def restart(self, power):
        """The process is gone; perhaps the machine lost power too. Opening may be cut as well."""
        disk = self.world.disk
        (disk.power_cut if power else disk.kill)()
        self.live.clear()
        for _ in range(6):
            if self.faults and self.rng.random() < 0.3:
                disk.crash_after(self.rng.randint(1, 8))
            try:
                self.world.open()
                disk.heal()
                self.world.journal.use("flights", self.world.schema, self.version, "cd" * 32)
                self.check()
                return
            except PowerCut:
                disk.power_cut()
        disk.heal()
        self.world.open()
        self.check()

    def note(self):
        """Remember what is durable now."""
        journal = self.world.journal
        upto = {lane: journal.durable_upto(lane) for lane in Lane}
        self.books.durable |= {
            key for key in self.live if key[0] == self.world.epoch.id and key[3] < upto[key[1]]
        }

    def put(self, lane, done, whats):
        sequence, prefix = done or (-1, "")
        if sequence >= 0:
            _, epoch, uid, _ = prefix.split("/")
            for index, what in enumerate(whats):
                key = (epoch, lane, uid, sequence + index)
                assert key not in self.books.truth
                self.books.truth[key] = what
                self.live.add(key)

    # --- what happens ------------------------------------------------------------------------

    def rows(self, count=1):
        lane = self.rng.choice([Lane.BULK, Lane.BULK, Lane.PRIORITY])
        short = self.short and count == 1
        for _ in range(self.rng.choice([1, 1, 6]) if short else 1):
            start, self.number = self.number, self.number + count
            rows = jw.single(start) if short else jw.rows(start, count)
            done = self.world.journal.append_rows(rows, lane)
            self.put(lane, done, [("row", start + i) for i in range(count)])

    def many(self):
        self.rows(self.rng.choice([self.rng.randint(2, 60), 200]))  # 200: more than a small frame

    def label(self):
        self.number += 1
        done = self.world.journal.append_event("e", {"n": self.number})
        if done is not None:
            key = (done.epoch, Lane.PRIORITY, done.uid, done.sequence)
            assert key not in self.books.truth
            self.books.truth[key] = ("event", self.number)
            self.live.add(key)

    def sync(self):
        self.world.journal.sync()

    def tick(self):
        self.world.journal.tick()

    def seal(self):
        self.world.journal.seal("sync")

    def stop(self):
        self.world.journal.close()
        self.note()
        self.live.clear()
        self.world.open()

    def kill(self):
        self.restart(power=False)

    def power(self):
        self.restart(power=True)

    def bundle(self):
        self.version += 1
        self.world.journal.use("flights", self.world.schema, self.version, "cd" * 32)

    def epoch(self):
        self.note()
        self.world.epoch = self.world.journal.begin_epoch("test")

    def carry(self):
        """The base imports some of the sealed segments and acks them."""
        for info, _, found in self.world.segments():
            if self.rng.random() < 0.6:
                self.take(info, found)
        self.world.journal.mark_acked(self.books.acked)

    def take(self, info, found):
        self.books.acked.add(info.hash)
        for sequence, what in found.items():
            key = (info.epoch, info.lane, info.uid, sequence)
            assert self.books.base.setdefault(key, what) == what
            if what[0] == "hole":
                self.books.holes += what[1]

    def prune(self):
        self.world.journal.prune(self.books.acked)

    def fork(self, seed):
        """Cut the power of a copy of this machine, now, and check the books there."""
        self.note()
        disk = copy.deepcopy(self.world.disk)
        disk.rng = random.Random(seed)
        disk.power_cut()
        here, live = self.world, self.live
        self.world = replace(here, disk=disk, clock=replace(here.clock), journal=None)
        self.live = set()
        try:
            self.world.open()
            self.check()
        finally:
            self.world, self.live = here, live

    # --- the books ---------------------------------------------------------------------------

    def check(self):
        books = self.books
        device = self.world.everything()
        for key, what in device.items():
            if what[0] in ("row", "event") and key in books.truth:
                assert books.truth[key] == what, key
        declared = list(books.holes)
        declared += [hole for what in device.values() if what[0] == "hole" for hole in what[1]]
        declared += [h for info in self.world.journal.sealed() for h in info.header.holes]
        declared += self.world.journal._owed
        waiting, holes = open_now(self.world)
        declared += holes
        missing = books.durable - device.keys() - books.base.keys() - waiting
        for epoch, lane, uid, sequence in missing:
            assert any(covers(hole, epoch, lane, uid, sequence) for hole in declared), (
                epoch,
                lane,
                uid,
                sequence,
            )
        return len(missing)


def covers(hole, epoch, lane, uid, sequence):
    same = (hole.epoch, hole.lane) == (epoch, lane) and hole.uid in ("", uid)
    return same and (hole.first < 0 or hole.first <= sequence <= hole.last)


def open_now(world):
    """Ids in open files, and the HOLEs in them."""
    shelf = world.journal._shelf
    ids, holes = set(), []
    for name in shelf.names("open"):
        try:
            file = OpenFile.read(shelf.disk.read(shelf.path(name)))
        except FormatError:
            continue
        holes += file.holes()
        for frame in file.scan.frames:
            first = file.opened.header.first + frame.offset
            ids |= {(name.epoch, name.lane, name.uid, first + i) for i in range(frame.n)}
    return ids, holes
