"""Each rule of the write order is needed: without it, the books of some schedule do not balance."""

from __future__ import annotations

import errno
import random

import pytest

from device_runtime.format.segment import Lane
from device_runtime.journal import active, columnar, quota, recover, seal
from support import journalworld as jw
from support.journalplay import OPS, Play
from support.journalworld import World


def seal_without_folder_sync(patch):
    def commit(shelf, name, body, identity):
        real, shelf.disk = shelf.disk, Deaf(shelf.disk)
        try:
            return original(shelf, name, body, identity)
        finally:
            shelf.disk = real

    original = seal.commit
    patch.setattr(seal, "commit", commit)
    patch.setattr(columnar, "commit", commit)


class Deaf:
    """A disk whose folder syncs do nothing."""

    def __init__(self, disk):
        self._disk = disk

    def __getattr__(self, name):
        return getattr(self._disk, name)

    def fsync_dir(self, path):
        pass


def unlink_before_the_hole(patch):
    def evict(shelf, name, declare):
        holes = quota.holes_of(shelf, name)
        shelf.drop(name)
        shelf.disk.fsync_dir(shelf.folder)
        declare(holes)

    patch.setattr(quota, "evict", evict)


def hole_without_sync(patch):
    real = active.Active.declare

    def declare(self, content):
        real(self, content)
        self.durable = self.offset  # claims what it never did

    patch.setattr(active.Active, "declare", declare)


def holes_not_carried(patch):
    def holes_of(shelf, name):
        return [hole for hole in original(shelf, name) if hole.number == name.number]

    original = quota.holes_of
    patch.setattr(quota, "holes_of", holes_of)


def no_folder_sync_of_a_new_segment(patch):
    real = active.Active.sync

    def sync(self, shelf):
        self._listed = True
        real(self, shelf)

    patch.setattr(active.Active, "sync", sync)


def sync_again_after_a_failed_sync(patch):
    def sync(self, shelf):
        if self.durable == self.offset:
            return
        try:
            self._handle.sync()
        except OSError:
            self._handle.sync()  # the kernel reports lost pages once
        shelf.disk.fsync_dir(shelf.folder)
        self.durable = self.offset

    patch.setattr(active.Active, "sync", sync)


def damage_ignored(patch):
    def close(shelf, name, identity, result):
        shelf.drop(name)

    patch.setattr(recover, "_close", close)


RULES = [
    seal_without_folder_sync,
    unlink_before_the_hole,
    hole_without_sync,
    holes_not_carried,
    no_folder_sync_of_a_new_segment,
    damage_ignored,
]


def some_schedule_fails(tries):
    for seed in range(tries):
        quota_bytes, reserve = ((1 << 30, 0), (60_000, 24_000))[seed % 2]
        play = Play(seed, quota=quota_bytes, reserve=reserve)
        rng = random.Random(seed)
        try:
            play.run(40)
            for step in range(30):
                (op,) = rng.choices(list(OPS), list(OPS.values()))
                play.step(op)
                play.fork(step)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_without_this_rule_something_is_lost(rule, monkeypatch):
    rule(monkeypatch)
    assert some_schedule_fails(40)


def test_syncing_again_after_a_failed_sync_would_lie(monkeypatch):
    sync_again_after_a_failed_sync(monkeypatch)
    world = World()
    journal = world.open()
    for start in range(5):
        journal.append_rows(jw.rows(start), Lane.BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    journal.sync()
    assert journal.durable_upto(Lane.BULK) == 5
    world.disk.power_cut()
    world.open()
    assert len([what for what in world.everything().values() if what[0] == "row"]) < 5
