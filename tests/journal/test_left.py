"""A segment that failed and could not be sealed is left to recovery: nothing of it is forgotten."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from device_runtime.errors import (
    JournalError,
)
from device_runtime.format.frames import scan
from device_runtime.format.header import open_header
from device_runtime.format.segment import Lane
from edgepack.sim.disk import SimDisk
from support import journalworld as jw
from support.journalworld import World, plain

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("then", ["row", "sync", "nothing"])
def test_a_hole_that_the_disk_refuses_costs_no_label_that_is_called_durable(kind, strict, then):
    for seed in range(12):
        policy = jw.policy(durability="group", strict=strict)
        world = World(disk=SimDisk(seed), policy=policy)
        journal = plain(world)
        journal.append_event("x", {"n": 0})
        journal.sync()
        for number in range(1, 5):
            journal.append_event("x", {"n": number})
        journal._lost += 1  # a row that no file took: a HOLE is owed
        journal._alarm()
        for start in range(2):
            world.disk.fail_at(1, errno.EIO, kinds=[kind])
            with suppress(JournalError):
                journal.append_rows(jw.single(start), BULK)
        if then == "row":
            journal.append_rows(jw.single(9), BULK)
        durable = journal.durable_upto(PRIORITY)
        if then == "sync":
            journal.sync()
            durable = 5
        world.disk.power_cut()
        world.open()
        found = {key[3] for key in world.everything() if key[1] == PRIORITY}
        assert set(range(durable)) <= found
        assert durable >= 1


def left_behind(strict):
    """A journal whose file of labels failed and was left: four labels, the first of them synced."""
    world = World(policy=jw.policy(durability="group", strict=strict))
    journal = plain(world)
    journal.append_event("x", {"n": 0})
    journal.sync()
    for number in range(1, 4):
        journal.append_event("x", {"n": number})
    left = journal._active[PRIORITY].name
    journal._lost += 1  # a row that no file took: a HOLE is owed
    journal._alarm()
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    with suppress(JournalError):
        journal.append_rows(jw.single(0), BULK)
    return world, journal, left


def test_what_a_file_that_was_left_had_lost_is_declared():
    world, journal, left = left_behind(strict=False)
    journal._pay(BULK)  # goes into another file
    data = world.disk.read(jw.FOLDER / left.text())
    first = scan(data, open_header(data).end + 64).frames[0]
    world.disk.unlink(jw.FOLDER / left.text())
    world.disk.create(jw.FOLDER / left.text()).write(data[: first.end])  # what was synced
    journal.append_rows(jw.single(1), BULK)
    journal.close()
    holes = [hole for what in world.everything().values() if what[0] == "hole" for hole in what[1]]
    assert [(hole.first, hole.last) for hole in holes if hole.uid == left.uid] == [(1, 4)]


@pytest.mark.parametrize("strict", [False, True])
def test_a_sync_that_cannot_read_back_a_file_that_was_left_says_so(strict):
    world, journal, _ = left_behind(strict)
    with suppress(JournalError):
        journal._pay(BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["create"])
    if strict:
        with pytest.raises(JournalError, match="could not be made durable"):
            journal.sync()
    else:
        journal.sync()
    assert journal.durable_upto(PRIORITY) == 1
    world.disk.heal()
    journal.sync()
    world.disk.power_cut()
    world.open()
    assert {key[3] for key in world.everything() if key[1] == PRIORITY} >= set(range(4))
