from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from edgepack.sim.actors import lab_ring
from edgepack.sim.parts import Step
from edgepack.sim.schedule import fast_folder
from edgepack.sim.world import World


@pytest.fixture(scope="session")
def ring():
    """Keys of the base: drawing them costs more than using them."""
    return lab_ring()


class Script:
    """A world, and a short way to write a schedule: `play("row 0/1; dsync 0/0")`.

    A step is `name device/variant`, and `@fuse:kind` where it is cut off.
    """

    def __init__(self, world):
        self.world = world

    def play(self, schedule):
        for text in schedule.replace("\n", ";").split(";"):
            if text.strip():
                step = parse(text)
                self.world.do(step)
                self.world.check(text.strip())
        return self

    def fill(self, words="row 0/1; seal 0/0", evictions=3):
        """Journal until the quota has evicted segments."""
        for _ in range(200):
            for text in words.split(";"):
                self.world.do(parse(text))
            journal = self.world.machines[0].device.journal
            if journal is not None and journal.usage().evicted >= evictions:
                break
        self.world.check("fill")
        return self

    def finish(self):
        self.world.finish()
        return self

    def __getattr__(self, name):
        return getattr(self.world, name)


def parse(text):
    words = text.split()
    a, _, b = (words[1] if len(words) > 1 and "@" not in words[1] else "0/0").partition("/")
    cut = next((word for word in words if word.startswith("@")), "")
    fuse, _, kind = cut[1:].partition(":")
    return Step(
        words[0], int(a), int(b or 0), seed=1, fuse=int(fuse) if fuse else None,
        kind=kind or "power",
    )  # fmt: skip


@pytest.fixture
def folder():
    """Where the base of a world lies: in memory where that is possible, for it syncs a lot."""
    with tempfile.TemporaryDirectory(prefix="edgepack-faults-", dir=fast_folder()) as path:
        yield Path(path)


@pytest.fixture
def play(folder, ring):
    """Play one schedule from start to finish in a world with both devices accepted."""
    made = []

    def run(schedule, *, devices=2, finish=True):
        world = World(folder / f"world-{len(made)}", 1, devices, ring)
        made.append(world)
        script = Script(world)
        for number in range(devices):
            script.play(f"dsync {number}/0")
        script.play("bsync 0/0; accept 0/0; accept 0/0; bsync 0/0")
        script.play(schedule)
        return script.finish() if finish else script

    return run
