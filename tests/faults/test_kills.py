"""Processes killed at any moment on a real file system: writing, visiting a stick, importing."""

from __future__ import annotations

import random

import pytest

from device_runtime.disk import RealDisk
from edgepack.sim.ledger import at_base, declared, on_device, on_stick
from support.courierlab import Lab
from support.zygote import killed

ROUNDS = 50  # kills of one home before the next one: its books are read after each


class Loop:
    """A device, a stick and a base whose whole life is one process that gets killed."""

    def __init__(self, folder):
        self.lab = Lab(folder)
        self.device = self.lab.accepted(quota_bytes=4 << 20, keep_acked_days=0)
        self.device.crash()
        self.stick = self.lab.stick()
        self.told = set()
        self.lanes = {}
        self.number = 0

    def live(self, report):
        """Journal, carry and import for ever; say what was journaled once it is."""
        device, number = self.device, self.number
        while True:
            number += 1
            before = set(device.lane_of)
            device.rows([number * 4 + i for i in range(1 + number % 3)], sync=number % 2 == 0)
            if number % 4 == 0:
                device.label(number)
            report(" ".join(f"{i}:{device.lane_of[i]}" for i in set(device.lane_of) - before))
            if number % 3 == 0:
                device.sync(self.stick)
            if number % 6 == 0:
                self.lab.sync(self.stick)
            if number % 20 == 0:
                device.stop()

    def kill(self, seconds):
        for line in killed(self.live, seconds):
            for word in line.split():
                item, _, lane = word.rpartition(":")
                self.told.add(item)
                self.lanes[item] = int(lane)
        self.number += 1000

    def check(self):
        """Everything that was ever told is somewhere; nothing is twice (`at_base` sees to it)."""
        disk = RealDisk()
        with self.lab.registry() as registry:
            home, found = at_base(registry, self.lab.ws.held, disk)
        found.add(on_device(disk, self.device.root / "journal"))
        found.add(on_stick(disk, self.stick))
        missing = self.told - home - found.ids
        assert missing == declared(missing, self.lanes, found.holes)
        return len(home)

    def finish(self):
        """Run to the end once, unkilled: all of it comes home."""
        for _ in range(2):
            self.device.sync(self.stick)
            self.lab.sync(self.stick)
        with self.lab.registry() as registry:
            home, _ = at_base(registry, self.lab.ws.held, RealDisk())
            holes = registry.holes()
        assert self.told <= home, "a kill loses nothing that was told, and needs no HOLE"
        assert not [hole for hole in holes if hole.reason == "damaged"]
        self.device.crash()


def kills(folder, rounds, rng):
    loop = Loop(folder)
    for _ in range(rounds):
        loop.kill(rng.random() ** 2 * 0.3)
        loop.check()
    loop.finish()
    return len(loop.told)


def test_killed_anywhere_in_the_loop_nothing_is_lost_or_twice(tmp_path):
    assert kills(tmp_path / "loop", 6, random.Random(1)) > 0


@pytest.mark.soak
def test_soak_kills_anywhere_in_the_loop(tmp_path, soak_budget):
    done = records = 0
    while soak_budget.more(done * ROUNDS, 2_000):
        records += kills(tmp_path / str(done), ROUNDS, random.Random(done))
        done += 1
    print(f"{done * ROUNDS} kills of the whole loop, {records} records: 0 lost, 0 twice")
