"""Durable means durable; a failing disk costs no row that was."""

from __future__ import annotations

import errno

import pytest

from device_runtime.disk import RealDisk
from device_runtime.errors import (
    JournalError,
    JournalFullError,
)
from device_runtime.format.batch import Batch
from device_runtime.format.segment import Lane
from device_runtime.journal.writer import Journal
from edgepack.sim.disk import SimDisk
from support import journalworld as jw
from support.journalworld import SIZES, World, block, plain

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


def test_durability_of_each_policy():
    for mode, expected in (("each", 1), ("group", 0), ("os", 0)):
        world = World(policy=jw.policy(durability=mode))
        journal = world.open()
        journal.append_rows(jw.rows(0), BULK)
        assert journal.durable_upto(BULK) == expected
        world.clock.advance(0.2)
        journal.append_rows(jw.rows(1), BULK)
        assert journal.durable_upto(BULK) == {"each": 2, "group": 2, "os": 0}[mode]
        journal.append_rows(jw.rows(2), BULK)
        world.clock.advance(0.2)
        journal.tick()
        assert journal.durable_upto(BULK) == {"each": 3, "group": 3, "os": 0}[mode]
        journal.sync()
        assert journal.durable_upto(BULK) == 3


def test_what_is_durable_survives_and_nothing_else_is_promised():
    for seed in range(60):
        world = World(disk=SimDisk(seed), policy=jw.policy(durability="group"))
        journal = world.open()
        prefix = ""
        for start in range(0, 30, 2):
            world.clock.advance(0.03)
            _, prefix = journal.append_rows(jw.rows(start, 2), BULK)
        durable = journal.durable_upto(BULK)
        world.disk.power_cut()
        world.open()
        found = {key[3] for key in world.everything() if key[1] == BULK}
        assert set(range(durable)) <= found <= set(range(30))
        assert all(prefix.split("/")[2] == key[2] for key in world.everything() if key[1] == BULK)


def test_a_wall_clock_that_jumps_is_on_record(world):
    world = World(policy=jw.policy(durability="group"))
    journal = world.open()
    world.clock.advance(1)
    journal.append_rows(jw.rows(0), BULK)
    world.clock.wall += 86_400 * 10**9
    world.clock.advance(1)
    journal.append_rows(jw.rows(1), BULK)
    journal.seal("sync")
    assert ("event", None) in world.everything().values()


def test_a_failed_sync_abandons_the_file_and_loses_nothing(world):
    for start in range(5):
        world.journal.append_rows(jw.rows(start), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    world.journal.sync()
    assert world.journal.durable_upto(BULK) == 5
    world.journal.append_rows(jw.rows(5), BULK)
    world.journal.seal("sync")
    world.disk.power_cut()
    world.open()
    assert sorted(world.everything().values()) == [("row", i) for i in range(6)]
    assert world.segments()[0][1].reason == "error"


def test_a_failed_write_moves_on_to_another_segment(world):
    world.journal.append_rows(jw.rows(0), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["write"])
    world.journal.append_rows(jw.rows(1), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", 0), ("row", 1)]
    assert len(world.segments()) == 2


def test_a_strict_journal_raises_and_a_lenient_one_declares():
    world = World()
    journal = world.open()
    journal.append_rows(jw.rows(0), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000)
    with pytest.raises(JournalError):
        journal.append_rows(jw.rows(1), BULK)
    world.disk.heal()
    lenient = World(policy=jw.policy(strict=False))
    journal = lenient.open()
    journal.append_rows(jw.rows(0), BULK)
    lenient.disk.fail_at(1, errno.EIO, times=1000)
    assert journal.append_rows(jw.rows(1, 3), BULK) == (-1, "")
    assert journal.append_event("x", {}) is None
    lenient.disk.heal()
    assert journal.append_rows(jw.rows(4), BULK)[0] >= 0
    journal.close()
    what = list(lenient.everything().values())
    holes = [hole for kind, value in what if kind == "hole" for hole in value]
    assert sum(hole.count for hole in holes if hole.reason == "unjournaled") == 4
    assert journal.usage().unjournaled == 4
    assert ("row", 0) in what
    assert ("row", 4) in what


def test_a_full_disk_shows_as_a_short_write_and_costs_nothing(world):
    world.journal.append_rows(jw.rows(0), BULK)
    used = sum(world.disk.size(jw.FOLDER / name) for name in world.disk.list(jw.FOLDER))
    world.disk.capacity = used + 100
    with pytest.raises(JournalFullError):
        world.journal.append_rows(jw.rows(1), BULK)
    world.disk.capacity = 1 << 40
    world.journal.append_rows(jw.rows(2), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", 0), ("row", 2)]


# --- what the base sees ----------------------------------------------------------------------


def test_it_works_on_a_real_disk(tmp_path):
    world = World(disk=RealDisk(), folder=tmp_path / "journal", policy=jw.policy(durability="each"))
    world.open()
    for start in range(10):
        world.journal.append_rows(jw.rows(start), BULK)
    world.open()
    assert world.journal.salvaged == 1
    world.journal.append_rows(jw.rows(10), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", i) for i in range(11)]
    assert isinstance(world.journal, Journal)
    assert Batch(0, {}).n == 0


@pytest.mark.parametrize("n", SIZES)
def test_a_failed_short_way_loses_nothing_and_reuses_no_nonce(n):
    world = World()
    journal = plain(world)
    for index in range(12):
        if index % 3 == 2:
            world.disk.fail_at(1, (errno.ENOSPC, errno.EIO)[index % 2], kinds=["write"])
        assert journal.append_rows(block(index, n), BULK)[0] >= 0
    journal.close()
    assert sorted(world.everything().values()) == [("row", i) for i in range(12 * n)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("mode", ["each", "group", "os"])
def test_the_short_way_is_as_durable_as_the_long_one(mode, n):
    world = World(policy=jw.policy(durability=mode))
    journal = plain(world)
    for index in range(4):
        journal.append_rows(block(index, n), BULK)
        assert journal.durable_upto(BULK) == (n * (index + 1) if mode == "each" else 0)
    world.clock.advance(0.2)
    journal.append_rows(block(4, n), BULK)
    assert journal.durable_upto(BULK) == (0 if mode == "os" else 5 * n)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("strict", [False, True])
def test_a_sync_that_fails_after_the_short_way_loses_nothing(strict, n):
    world = World(policy=jw.policy(durability="each", strict=strict))
    journal = plain(world)
    journal.append_rows(block(0, n), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    done = journal.append_rows(block(1, n), BULK)
    assert done[0] >= 0
    assert journal.durable_upto(BULK) == 2 * n
    assert journal.append_rows(block(2, n), BULK)[0] == 2 * n
    world.disk.power_cut()
    plain(world)
    assert sorted(v for v in world.everything().values() if v[0] == "row") == [
        ("row", i) for i in range(3 * n)
    ]


@pytest.mark.parametrize("n", SIZES)
def test_rows_of_the_short_way_that_no_file_takes_are_counted_one_by_one(n):
    """The disk syncs nothing and gives no second file: that many rows are missing, and said."""
    world = World(policy=jw.policy(durability="each", strict=False))
    journal = plain(world)
    journal.append_rows(block(0, n), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["sync", "create"])
    assert journal.append_rows(block(1, n), BULK) == (-1, "")
    assert journal.usage().unjournaled == n


def test_after_a_group_sync_rows_wait_for_the_next_one_in_every_segment():
    """Also in one that was begun meanwhile: a sync for each row would take the flash with it."""
    world = World(policy=jw.policy(durability="group"))
    journal = plain(world)
    appended = dict.fromkeys((BULK, PRIORITY), 0)
    for turn in range(4):
        for lane in (BULK, BULK, PRIORITY, PRIORITY):
            before = {lane: journal.durable_upto(lane) for lane in appended}
            journal.append_rows(jw.single(turn), lane)
            appended[lane] += 1
            assert {lane: journal.durable_upto(lane) for lane in appended} == before
        world.clock.advance(0.2)
        journal.append_rows(jw.single(turn), BULK)
        appended[BULK] += 1
        assert {lane: journal.durable_upto(lane) for lane in appended} == appended


@pytest.mark.parametrize("mode", ["each", "group", "os"])
def test_a_journal_whose_close_failed_goes_on_in_another_segment(mode):
    """No sequence twice, and what could not be sealed is recovered."""
    world = World(policy=jw.policy(durability=mode))
    journal = plain(world)
    journal.append_rows(jw.single(0), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["create"])
    with pytest.raises(JournalError):
        journal.close()
    world.disk.heal()
    for start in (1, 2, 3):
        sequence, _ = journal.append_rows(jw.single(start), BULK)
        assert sequence == start
    journal.close()
    rows = {key[3]: what for key, what in world.everything().items()}
    assert rows == {start: ("row", start) for start in range(4)}


def test_a_wall_clock_that_jumps_is_on_record_whatever_the_policy():
    for mode in ("each", "group", "os"):
        world = World(policy=jw.policy(durability=mode))
        journal = world.open()
        journal.append_rows(jw.rows(0), BULK)
        world.clock.wall += 86_400 * 10**9
        world.clock.advance(1)
        journal.tick()
        journal.seal("sync")
        assert ("event", None) in world.everything().values(), mode
