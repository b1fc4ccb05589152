"""Wrong clocks, on devices and at the base; and many rotations between two visits."""

from __future__ import annotations

from pathlib import Path

from device_runtime.errors import (
    ExpiredError,
    RevokedError,
    RollbackError,
    RootChainError,
    VerificationError,
)
from device_runtime.trust import quorum
from edgepack.keys import ceremony, roles
from support import trustsim
from support.attacks import refused
from support.trustsim import DAY, NOW, Base, document, forge

YEAR = 365 * DAY


def test_expired_by_signed_time(base: Base) -> None:
    old = base.publish(days=10)
    base.clock.advance(20 * DAY)
    base.rotate("targets")
    device = base.device()
    refused(VerificationError, device, old)


def test_expired_with_a_trusted_clock(base: Base) -> None:
    device = base.device(clock_trusted=True)
    file = base.publish(days=10)
    device.clock = base.now + 9 * DAY
    device.verify(file)
    device.clock = base.now + 11 * DAY
    refused(ExpiredError, device, file)


def test_clock_1970_does_not_revive_an_expired_bundle(base: Base) -> None:
    device, old = base.device(), base.publish("pump", days=10)
    base.clock.advance(20 * DAY)
    base.rotate("root")
    newer = base.publish()
    device.install(newer)
    device.clock = 0
    refused(RollbackError, device, old)
    fresh = base.device()
    fresh.clock = 0
    refused(ExpiredError, fresh, old)


def test_clock_2099_does_not_refuse_a_fresh_bundle(base: Base) -> None:
    device, file = base.device(), base.publish()
    device.clock = NOW + 73 * YEAR
    device.install(file)
    assert device.trusted.floor == base.now  # and poisons nothing


def test_the_clock_of_a_device_never_raises_its_floor(base: Base) -> None:
    device = base.device(clock_trusted=True)
    device.clock = base.now + 30 * DAY
    device.install(base.publish())
    assert device.trusted.floor == base.now


def test_a_base_set_to_2099_cannot_lock_its_fleet(base: Base) -> None:
    device = base.device()
    base.clock.advance(73 * YEAR)
    base.rotate("root", force_time=True)  # the old one would expire first; its time is wrong too
    future = base.publish(force_time=True)
    device.install(future)
    base.clock.advance(-73 * YEAR)
    outcome = ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
    assert outcome.complete
    back = base.publish()
    assert device.install(back).version == 2
    assert device.trusted.floor == base.now
    fresh = base.device()
    refused(RevokedError, fresh, forge_roots(base, future))
    fresh.install(back)


def forge_roots(base: Base, file: Path) -> Path:
    """The future bundle as a stick may still carry it."""
    assert quorum.root_facts(roles.newest_root(base.ws)).revoked_digests
    return file


def test_a_floor_reset_counts_once_per_root(base: Base) -> None:
    device = base.device()
    ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
    reset = base.now
    base.clock.advance(30 * DAY)
    file = base.publish()
    device.install(file)
    assert device.trusted.floor == base.now
    device.install(file)  # the same root again
    assert device.trusted.floor == base.now > reset


def test_five_bundles_skipped_and_every_role_rotated(base: Base) -> None:
    device = base.device()
    device.install(base.publish())
    for role in ("root", "targets", "timestamp", "root", "targets"):
        base.rotate(role)
        newest = base.publish()
    assert device.install(newest).root_version == 6


def test_one_intermediate_root_missing(base: Base) -> None:
    device = base.device()
    base.rotate("root")
    base.rotate("root")
    bad = forge(base.publish(), lambda e: {k: v for k, v in e.items() if "2.root" not in k})
    error = refused(RootChainError, device, bad)
    assert "lacks root 2" in error.what


def test_more_rotations_than_the_policy_walks(base: Base) -> None:
    device = base.device(max_root_rotations=2)
    for _ in range(3):
        base.rotate("timestamp")
    refused(RootChainError, device, base.publish())


def test_three_hundred_rotations(base: Base) -> None:
    """ngclient alone stops at 256; the chain is made of real roots, signed by real keys."""
    previous = roles.newest_root(base.ws)
    chain = {1: previous}
    for version in range(2, 302):
        metadata = roles.new_root(previous, roles.Change({}), base.now)
        roles.sign_with(
            metadata, trustsim.ring_of(base.folder), roles.root_keyids(previous)["root"]
        )
        previous = chain[version] = roles.to_bytes(metadata)
    device = base.device()
    from device_runtime.trust.refresh import advance_root

    advanced = advance_root(chain, device.trusted, device.policy)
    assert quorum.root_facts(advanced.root).version == 301


def test_expired_intermediate_roots_do_not_matter(base: Base) -> None:
    device = base.device()
    base.rotate("root")
    base.clock.advance(11 * YEAR)
    base.rotate("root", force_time=True)
    base.clock.advance(DAY)
    assert device.install(base.publish(force_time=True)).root_version == 3


def test_a_tampered_old_root_is_noticed_although_nobody_needs_it(base: Base) -> None:
    base.rotate("root")
    device = base.device()

    def tamper(entries: dict[str, bytes]) -> None:
        value = document(entries, "1.root")
        value["signed"]["x-edgepack"]["issued"] += 1
        entries["metadata/1.root.json"] = trustsim.canonical.encode(value)

    refused(RootChainError, device, forge(base.publish(), tamper))
