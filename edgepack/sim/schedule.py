"""Schedules: drawn by a seed, played on a world, shrunk when they break it."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edgepack.progress import UNSEEN, Progress
from edgepack.sim.actors import SimRing, lab_ring
from edgepack.sim.parts import BrokenError, Step
from edgepack.sim.world import World

WEIGHTS: Mapping[str, float] = {
    "row": 22, "label": 4, "seal": 8, "dsync": 16, "bsync": 14, "prune": 4, "stop": 3, "kill": 4,
    "clone": 1, "image": 2, "irestore": 1, "lose": 0.4, "snew": 1, "scopy": 1.5, "slose": 1,
    "sbad": 1, "accept": 4, "rotate": 0.7, "dropkey": 0.3, "backup": 2, "brestore": 0.8,
    "purge": 0.8, "clock": 1, "full": 1,
}  # fmt: skip
FORKING = ("clone", "image", "irestore", "lose")
FEW = 12
CUTTABLE = ("row", "label", "seal", "dsync", "bsync", "stop", "prune", "backup")
"""Restore and purge are typed by a person who repeats them; the others must survive anything."""


def draw(
    seed: int,
    steps: int | None = None,
    boost: Mapping[str, float] | None = None,
    *,
    devices: int = FEW,
) -> list[Step]:
    """Return the schedule of a seed.

    Args:
        seed: Of everything.
        steps: How many; drawn from 15 to 45 when None.
        boost: Other weights for some steps.
        devices: In a fleet larger than `FEW` half of the steps go to a fifth of the devices.
    """
    rng = random.Random(seed)  # noqa: S311
    weights = {**WEIGHTS, **(boost or {})}
    if not boost and rng.random() < 0.4:
        weights = {name: 0 if name in FORKING else value for name, value in weights.items()}
    names, values = list(weights), list(weights.values())
    count = steps if steps is not None else rng.randint(15, 45)
    result = []
    for _ in range(count):
        what = rng.choices(names, values)[0]
        cut = what in CUTTABLE and rng.random() < 0.25
        fuse = int(2 ** rng.uniform(0, 6.5)) - 1 if cut else None
        kind = rng.choice(["power", "process", "pull", "eio"])
        a = rng.randrange(FEW) if devices <= FEW else int(devices * rng.random() ** 2)
        result.append(Step(what, a, rng.randrange(12), rng.randrange(1 << 30), fuse, kind))
    return result


def play(
    schedule: Sequence[Step], *, seed: int = 0, devices: int = 2, ring: SimRing | None = None
) -> str:
    """Play a schedule in a world of its own; return what broke, an empty text if nothing did."""
    with tempfile.TemporaryDirectory(prefix="edgepack-sim-", dir=fast_folder()) as folder:
        world = World(Path(folder), seed, devices, ring)
        try:
            for step in schedule:
                world.do(step)
                world.check(step.what)
            world.finish()
        except BrokenError as error:
            return str(error)
    return ""


def fast_folder() -> str | None:
    """Return a memory file system where there is one: the laboratory's base syncs a lot."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108


def shrink(
    schedule: list[Step], still: Callable[[list[Step]], bool], *, tries: int = 200
) -> list[Step]:
    """Return a shorter schedule for which `still` holds."""
    size = max(1, len(schedule) // 2)
    while size and tries > 0:
        start = 0
        while start < len(schedule) and tries > 0:
            shorter = schedule[:start] + schedule[start + size :]
            tries -= 1
            if still(shorter):
                schedule = shorter
            else:
                start += size
        size //= 2
    return schedule


def run_worlds(
    first: int,
    worlds: int,
    *,
    devices: int = 3,
    trips: int | None = None,
    progress: Progress = UNSEEN,
    ring: SimRing | None = None,
) -> dict[str, object]:
    """Play the worlds of several seeds.

    Returns:
        Counts: worlds, steps, broken, and the first broken seed with what it showed.
    """
    ring = ring or lab_ring()
    steps = 0
    broken: list[tuple[int, str]] = []
    progress.begin("playing", worlds, "worlds")
    for seed in range(first, first + worlds):
        schedule = draw(seed, trips, devices=devices)
        steps += len(schedule)
        problem = play(schedule, seed=seed, devices=devices, ring=ring)
        if problem:
            broken.append((seed, problem))
        progress.add(1)
    return {
        "worlds": worlds,
        "devices": devices,
        "steps": steps,
        "broken": len(broken),
        "first_seed": broken[0][0] if broken else None,
        "problem": broken[0][1] if broken else None,
    }


def text(schedule: Iterable[Step]) -> str:
    """Return a schedule as one line for a person."""
    return "; ".join(
        f"{step.what} {step.a}/{step.b}"
        + (f" cut@{step.fuse}:{step.kind}" if step.fuse is not None else "")
        for step in schedule
    )
