"""The quota takes what is safe first, BULK before PRIORITY, and never without saying so."""

from __future__ import annotations

import errno

import pytest

from device_runtime.errors import JournalFullError
from device_runtime.format.segment import Hole, Lane
from device_runtime.journal.quota import MANY_HOLES, merge
from support import journalworld as jw
from support.journalworld import World

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


def fill(world, count, lane=BULK, start=0, rows=20):
    """Seal `count` segments of one lane."""
    for index in range(count):
        world.journal.append_rows(jw.rows(start + index * rows, rows), lane)
        world.journal._seal(lane, "size")


def holes(world):
    """All HOLEs that are readable on the device."""
    world.journal.seal("sync")
    return [hole for info in world.journal.sealed() for hole in info.header.holes]


@pytest.fixture
def world():
    world = World(policy=jw.policy(quota_bytes=120_000, reserve_bytes=30_000))
    world.open()
    return world


def test_acked_segments_go_before_anything_is_lost(world):
    fill(world, 10)
    world.journal.mark_acked({info.hash for info in world.journal.sealed()[:6]})
    fill(world, 8, start=1000)
    assert not holes(world)
    assert world.journal.usage().evicted == 0
    assert world.journal.usage().used <= 120_000


def test_the_oldest_bulk_goes_first_and_is_declared(world):
    fill(world, 2, lane=PRIORITY)
    fill(world, 40, start=1000)
    gone = [hole for hole in holes(world) if hole.reason == "evicted"]
    assert gone
    assert {hole.lane for hole in gone} == {BULK}
    assert sorted(hole.number for hole in gone) == list(range(1, len(gone) + 1))
    assert all(hole.count == 20 and len(hole.hash) == 64 for hole in gone)
    kept = {info.number for info in world.journal.sealed() if info.lane == BULK}
    assert kept == set(range(len(gone) + 1, 41))
    assert world.journal.usage().used <= 120_000


def test_evicting_holes_declares_them_again(world):
    fill(world, 20, start=0)
    first = {hole.number for hole in holes(world) if hole.lane == BULK}
    fill(world, 32, lane=PRIORITY, start=5000)
    seen = holes(world)
    assert first <= {hole.number for hole in seen if hole.lane == BULK}
    assert any(hole.lane == PRIORITY for hole in seen)
    numbers = [hole.number for hole in seen if hole.lane == PRIORITY]
    assert len(numbers) == len(set(numbers))


def test_the_newest_sealed_segment_of_a_lane_stays(world):
    fill(world, 3)
    everything = {info.hash for info in world.journal.sealed()}
    assert len(world.journal.prune(everything)) == 2
    assert [info.number for info in world.journal.sealed()] == [3]
    world.open()
    fill(world, 1, start=500)
    assert [info.number for info in world.journal.sealed()] == [3, 4]


def test_only_listed_hashes_are_pruned(world):
    fill(world, 4)
    infos = world.journal.sealed()
    assert world.journal.prune({infos[1].hash, "ab" * 32}) == [infos[1]]
    assert [info.number for info in world.journal.sealed()] == [1, 3, 4]


def test_a_strict_journal_says_when_nothing_may_go():
    world = World(policy=jw.policy(quota_bytes=40_000, reserve_bytes=8000))
    journal = world.open()
    with pytest.raises(JournalFullError):
        for start in range(2000):
            journal.append_rows(jw.rows(start), PRIORITY if start % 2 else BULK)
    assert journal.usage().used <= 40_000


def test_segments_of_an_old_epoch_go_first(world):
    fill(world, 3)
    world.epoch = world.journal.begin_epoch("test")
    fill(world, 30, start=1000)
    gone = [hole for hole in holes(world) if hole.reason == "evicted"]
    assert [hole.number for hole in gone if hole.epoch != world.epoch.id] == [1, 2, 3]


def test_the_reserve_lets_a_full_disk_seal():
    world = World(policy=jw.policy(reserve_bytes=50_000))
    journal = world.open()
    world.disk.capacity = 400_000
    journal.tick()
    assert "reserve" in world.disk.list(jw.FOLDER)
    journal.append_rows(jw.rows(0, 30), BULK)
    used = sum(world.disk.size(jw.FOLDER / name) for name in world.disk.list(jw.FOLDER))
    world.disk.capacity = used + 50
    journal.seal("sync")
    assert len(world.everything()) == 30
    assert "reserve" not in world.disk.list(jw.FOLDER)


def test_a_hole_that_cannot_be_written_keeps_the_segment(world):
    fill(world, 12)
    before = {info.hash for info in world.journal.sealed()}
    world.disk.fail_at(1, errno.EIO, times=10_000, kinds=["sync"])
    with pytest.raises(Exception, match="journal"):
        for start in range(400):
            world.journal.append_rows(jw.rows(9000 + start, 5), BULK)
    world.disk.heal()
    world.open()
    assert before <= {info.hash for info in world.journal.sealed()}


def test_many_holes_become_few():
    found = merge(
        Hole("evicted", "ab" * 8, BULK, number, f"{number:016x}", "", number, number, 1)
        for number in range(1, 2 * MANY_HOLES)
    )
    (hole,) = found
    assert (hole.number, hole.upto, hole.first, hole.last) == (1, 1023, 1, 1023)
    assert hole.count == 2 * MANY_HOLES - 1
