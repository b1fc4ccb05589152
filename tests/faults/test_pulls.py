"""A stick pulled, a process killed, a power cut, an I/O error: at every single call of a visit."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("kind", ["pull", "power", "process", "eio"])
def test_a_device_visit_may_end_at_any_call(play, kind):
    world = play("", finish=False, devices=1)
    for call in range(0, 64, 1 if kind == "pull" else 3):
        world.play(f"row 0/1; label 0/0; dsync 0/0 @{call}:{kind}")
        if call % 16 == 15:
            world.play("bsync 0/0")
    world.finish()


@pytest.mark.parametrize("kind", ["pull", "process"])
def test_a_base_visit_may_end_at_any_call(play, kind):
    world = play("", finish=False, devices=2)
    for call in range(0, 40, 1 if kind == "pull" else 3):
        world.play(f"row 0/1; dsync 0/0; bsync 0/0 @{call}:{kind}")
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
