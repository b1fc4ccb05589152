"""A stick pulled, a process killed, a power cut, an I/O error: at every single call of a visit."""

from __future__ import annotations

from itertools import count

import pytest


def cut_at_every_call(world, before, visit, disk):
    """Cut a visit off at its first call to a disk, at its second, ... until one comes through.

    Returns:
        How many calls it was cut off at.
    """
    for call in count():
        world.play(before)
        done = disk.calls
        world.play(visit.format(call))
        if disk.calls - done <= call:
            return call
    return 0


@pytest.mark.parametrize(
    ("kind", "calls"), [("pull", 25), ("power", 31), ("process", 31), ("eio", 31)]
)
def test_a_device_visit_may_end_at_any_call(play, kind, calls):
    """Each visit has acks to apply, segments to seal and to leave, a report to write."""
    world = play("", finish=False, devices=1)
    disk = world.sticks[0].disk if kind == "pull" else world.machines[0].disk
    loop = "row 0/1; label 0/0; dsync 0/0; bsync 0/0; row 0/1; label 0/0"
    assert cut_at_every_call(world, loop, f"dsync 0/0 @{{}}:{kind}", disk) >= calls
    world.finish()


@pytest.mark.parametrize(("kind", "calls"), [("pull", 21), ("process", 20)])
def test_a_base_visit_may_end_at_any_call(play, kind, calls):
    """Each visit has packs of two devices to import, acks to write, packs to remove."""
    world = play("", finish=False, devices=2)
    disk = world.sticks[0].disk if kind == "pull" else world.disk
    loop = "bsync 0/0; row 0/1; row 1/1; dsync 0/0; dsync 1/0"
    assert cut_at_every_call(world, loop, f"bsync 0/0 @{{}}:{kind}", disk) >= calls
    world.finish()


def test_a_disk_that_fills_up_and_is_freed_loses_nothing_undeclared(play):
    world = play("", finish=False, devices=1)
    for room in (1, 2, 4, 5, 7, 8):
        world.play(f"full 0/{room}")
        for _ in range(4):
            world.play("row 0/1; label 0/0; seal 0/0; dsync 0/0")
        world.play("full 0/0; bsync 0/0; dsync 0/0")
    world.finish()


def test_a_wall_clock_that_jumps_decides_nothing(play):
    world = play("", finish=False, devices=1)
    for number in range(6):
        world.play(f"clock 0/{number}; row 0/1; dsync 0/0; bsync 0/0; dsync 0/0; prune 0/0")
    world.finish()
