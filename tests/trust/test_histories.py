"""Any history of a base, its sticks and a device: the newest honest bundle always installs."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import EdgepackError, FormatError, VerificationError
from device_runtime.trust import quorum
from edgepack.keys import ceremony, roles
from edgepack.registry import Registry
from support.trustsim import DAY, NAME, Base, Device, pack, relink, unpack

steps = st.lists(
    st.one_of(
        st.just(("publish", 0)),
        st.tuples(st.just("install"), st.integers(0, 9)),
        st.tuples(st.just("install"), st.integers(0, 9)),
        st.tuples(st.just("rotate"), st.integers(0, 2)),
        st.tuples(st.just("revoke"), st.integers(0, 9)),
        st.tuples(st.just("fast-forward"), st.integers(0, 9)),
        st.tuples(st.just("sleep"), st.integers(1, 300)),
        st.just(("base clock was wrong", 0)),
    ),
    min_size=4,
    max_size=14,
)


class World:
    """A base, everything that it ever signed, and one device that meets any of it."""

    def __init__(self, folder: Path) -> None:
        self.base = Base.at(folder / "ws")
        self.device = self.base.device()
        self.files: list[Path] = [self.base.publish()]
        self.gone: set[Path] = set()  # revoked

    def step(self, name: str, number: int) -> None:
        base = self.base
        if name == "publish":
            self.files.append(base.publish(force_time=True))
        elif name == "install":
            self.offer(self.files[number % len(self.files)])
        elif name == "rotate":
            base.rotate(("root", "targets", "timestamp")[number])
        elif name == "revoke":
            self.revoke(self.files[number % len(self.files)])
        elif name == "fast-forward":
            self.fast_forward(self.files[number % len(self.files)])
        elif name == "sleep":
            base.clock.advance(number * DAY)
            self.device.clock = (self.device.clock * 7919 + number) % 2**33  # says anything
        else:
            self.wrong_clock()

    def offer(self, file: Path) -> None:
        """Any file that lies on a stick: installed or refused; what is trusted never goes back."""
        before = self.device.trusted
        try:
            bundle = self.device.install(file)
        except (FormatError, VerificationError):
            assert self.device.trusted.targets == before.targets
        else:
            assert file not in self.gone or not self.knows(bundle.digest)
        reset = quorum.root_facts(self.device.trusted.root).floor_reset
        assert self.device.trusted.floor >= min(before.floor, reset or before.floor)

    def knows(self, digest: str) -> bool:
        """Whether the device's root lists a digest as revoked."""
        return digest in quorum.root_facts(self.device.trusted.root).revoked_digests

    def revoke(self, file: Path) -> None:
        if file is self.files[-1]:
            return
        version = file.stem.removeprefix(f"{NAME}-")
        ceremony.revoke(self.base.ws, self.base.ring, f"{NAME}-{version}", clock=self.base.clock)
        self.gone.add(file)

    def fast_forward(self, file: Path) -> None:
        """A thief of the release key signs the largest version for a genuine bundle."""
        entries = unpack(file.read_bytes())
        relink(entries, self.base.ring.signers("release")[-1], 2**31)
        forged = file.with_name("forged.edgepack")
        forged.write_bytes(pack(entries))
        before = self.device.trusted.targets
        with contextlib.suppress(EdgepackError):
            self.device.install(forged)
        assert self.device.trusted.targets == before

    def wrong_clock(self) -> None:
        """The base signs a bundle in 2090, notices it, and recovers."""
        base, years = self.base, 64 * 365 * DAY
        base.clock.advance(years)
        base.rotate("root", force_time=True)
        self.files.append(base.publish(force_time=True))
        self.offer(self.files[-1])
        base.clock.advance(-years)
        base.clock.advance(DAY)
        ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
        self.gone.add(self.files[-1])
        self.files.append(base.publish())

    def newest_installs(self) -> None:
        """Whatever happened, an honest new bundle is accepted, by this device and a fresh one."""
        root = quorum.root_facts(roles.newest_root(self.base.ws))
        if root.issued > self.base.now:
            return
        newest = self.base.publish(force_time=True)
        for device in (self.device, self.base.device()):
            assert replace_install(device, newest) == self.highest()

    def highest(self) -> int:
        with Registry.open(self.base.ws.registry) as registry:
            return registry.highest_version(NAME)


def replace_install(device: Device, file: Path) -> int:
    copy = Device(replace(device.trusted), device.policy, clock=device.clock)
    return copy.install(file).version


@settings(max_examples=12)
@given(steps)
def test_the_newest_honest_bundle_always_installs(history: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for name, number in history:
            world.step(name, number)
        world.newest_installs()
