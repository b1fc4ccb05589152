"""Random schedules: installs, starts, crashes, power cuts and revocations, cut off at any step.

After every operation, on what processes see and on what a power cut would leave: a slot can run;
no sound version is burnt; the trusted version and the root never go back.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import pytest

from device_runtime.errors import EdgepackError
from device_runtime.home import open_home
from device_runtime.trust.token import Token
from edgepack.sim.clock import FixedClock
from support.slotworld import ROOT, Bundle, Dead, Device, can_run, root_version


@dataclass
class Step:
    op: str
    version: int
    fuse: int | None
    power: bool
    seed: int


class BrokenError(AssertionError):
    pass


def schedule(seed: int) -> tuple[dict[int, Bundle], list[Step]]:
    rng = random.Random(seed)
    bundles, root = {}, 1
    for version in range(2, 6):
        root += rng.random() < 0.35
        revokes = (
            frozenset(Bundle(v).digest for v in range(1, version) if rng.random() < 0.25)
            if rng.random() < 0.4
            else frozenset()
        )
        kind = rng.choice(["sound", "sound", "crash", "error", "badtest", "transient", "damaged"])
        bundles[version] = Bundle(version, root, kind, revokes)
    ops = ["install", "start", "ripen", "power", "kill", "down", "retry", "cut"]
    steps = []
    for _ in range(rng.randint(6, 30)):
        op = rng.choices(ops, [9, 12, 5, 3, 2, 1, 1, 1])[0]
        fuse = rng.randint(0, 60) if rng.random() < 0.35 else None
        steps.append(Step(op, rng.randint(2, 5), fuse, rng.random() < 0.5, rng.getrandbits(32)))
    return bundles, steps


def coin(seed: int):
    rng = random.Random(seed)
    return lambda: rng.random() < 0.5


class Player:
    def __init__(self, bundles: dict[int, Bundle]) -> None:
        self.bundles = copy.deepcopy(bundles)
        self.device = Device()
        self.device.good(Bundle(1))
        self.left: set[str] = set()  # left on purpose: by a token
        self.highest = self.root = 1

    def play(self, steps: list[Step]) -> None:
        for step in steps:
            device = self.device
            device.disk.fuse = step.fuse
            try:
                self.act(step)
            except Dead:
                device.power(coin(step.seed)) if step.power else device.kill()
            device.disk.fuse = None
            self.check(step.op)
        for _ in range(8):
            self.device.start()
            self.check("final start")
        if self.device.running == 0:
            raise BrokenError("nothing runs at the end")

    def act(self, step: Step) -> None:
        device, bundle = self.device, self.bundles[step.version]
        if step.op in ("install", "retry"):
            self.install(bundle, retry=step.op == "retry")
        elif step.op == "start":
            device.start()
        elif step.op == "ripen":
            device.ripen()
        elif step.op == "kill":
            device.kill()
        elif step.op == "power":
            device.power(coin(step.seed))
        elif step.op == "cut":
            device.begin_and_die("power" if step.power else "kill")
        elif step.op == "down":
            self.downgrade(step.version)

    def install(self, bundle: Bundle, *, retry: bool) -> None:
        try:
            outcome = self.device.install(bundle, retry=retry).outcome
        except EdgepackError:
            outcome = ""
        finally:
            if bundle.kind == "damaged":
                bundle.kind = "sound"  # the next stick is a better one
        if outcome == "installed" and bundle.root < self.root:
            raise BrokenError("a bundle of a superseded root was accepted")
        # It came back with an answer, so the root that it showed must not be forgotten any more.
        self.root = max(self.root, bundle.root)

    def downgrade(self, version: int) -> None:
        from device_runtime.slots.install import Steps, downgrade

        ours, other = self.bundles[version], self.bundles.get(version - 1, Bundle(1))
        token = Token("demo", version, ours.digest, version - 1, other.digest, 7)
        steps = Steps(claimed_token=lambda data: token, read_token=lambda *_: token)
        self.left.add(ours.digest)
        self.device._enter()
        if downgrade(self.device.home, b"", steps=steps):
            self.device._stop()
            if self.device.generation.active != other.digest:
                raise BrokenError("the token did not lead to its version")
            if downgrade(self.device.home, b"", steps=steps):
                raise BrokenError("a replayed token acted")

    def check(self, after: str) -> None:
        device = self.device
        kept = device.disk.after_power_cut()
        for disk in (device.disk, kept, device.disk.after_power_cut(seed=1)):
            if not can_run(disk, device):
                raise BrokenError(f"zero runnable slots after {after}")
        now = device.generation
        for digest in now.rejected - self.left - now.revoked_digests:
            kind = next(b.kind for b in device.bundles.values() if b.digest == digest)
            if kind in ("sound", "transient"):
                raise BrokenError(f"a sound version was burnt after {after}")
        if now.trusted_version < self.highest:
            raise BrokenError(f"the trusted version went back after {after}")
        if root_version(now.trusted.root) < self.root:
            raise BrokenError(f"the root went back after {after}")
        # What a killed installer committed without the last sync may still be undone: nobody was
        # told of it.
        durable = open_home(ROOT, disk=kept, clock=FixedClock(), disk_id="d").generation()
        self.highest = max(self.highest, durable.trusted_version)
        self.root = max(self.root, root_version(durable.trusted.root))


def play(seed: int) -> None:
    bundles, steps = schedule(seed)
    try:
        Player(bundles).play(steps)
    except BrokenError as error:
        told = "; ".join(f"{s.op} {s.version} @{s.fuse} power={s.power}" for s in steps)
        kinds = {v: (b.kind, b.root, len(b.revokes)) for v, b in bundles.items()}
        pytest.fail(f"seed {seed}: {error}: {kinds}: {told}")


@pytest.mark.parametrize("block", range(4))
def test_random_schedules_never_leave_the_device_without_a_model(block):
    for seed in range(block * 20, block * 20 + 20):
        play(seed)


@pytest.mark.soak
def test_many_random_schedules(soak_budget):
    n = 0
    while soak_budget.more(n, 10_000):
        play(10_000 + n)
        n += 1
    print(f"{n} schedules")
