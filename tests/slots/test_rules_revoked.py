"""Revocation, roots and downgrades: what a quorum says reaches a slot, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_runtime.errors import (
    AdmissionError,
    ForkError,
    RevokedError,
    SelfTestError,
    ThresholdError,
)
from device_runtime.policy import Policy
from device_runtime.slots import install as installer
from device_runtime.trust.token import Token
from support.slotworld import Bundle, Device, crash_out, root_version


def order(device: Device, back: Bundle, frm: Bundle, name: str = "demo", issued: int = 1) -> bool:
    token = Token(name, frm.version, frm.digest, back.version, back.digest, issued)
    steps = replace(
        device.steps,
        claimed_token=lambda data: token,
        read_token=lambda data, root, policy: token,
    )
    device._stop()
    return installer.downgrade(device.home, b"", steps=steps)


def test_the_last_good_slot_is_kept_though_it_is_revoked(device, first):
    device.install(Bundle(3, kind="crash", revokes=frozenset({first.digest})))
    device.install(Bundle(5, kind="crash", revokes=frozenset({first.digest, Bundle(3).digest})))
    assert device.record(first) is not None
    crash_out(device)
    started = device.start()
    assert started.slot.version == 1
    assert started.degraded


def test_a_revoked_slot_is_passed_over_while_another_runs(device, first):
    second = device.good(Bundle(2))
    late = Bundle(3, root=2, revokes=frozenset({second.digest}), kind="transient")
    with pytest.raises(AdmissionError):
        device.install(late)
    assert device.start().slot.version == 1
    assert not device.started.degraded


def test_a_fresh_trial_does_not_end_the_last_resort_but_a_good_one_does(device, first):
    new = Bundle(2, revokes=frozenset({first.digest}))
    device.install(new)
    assert device.start().slot.version == 2
    new.kind = "crash"
    crash_out(device)
    assert device.start().slot.version == 1  # degraded last resort
    assert device.started.degraded
    third = device.good(Bundle(3))
    third.kind = "crash"
    crash_out(device, 4)
    assert device.generation.active == third.digest  # the revoked one has had its day
    assert device.generation.degraded


def test_stop_ends_both(device, first):
    bad = Bundle(2, root=2, kind="badtest", stops=frozenset({first.digest}))
    with pytest.raises(SelfTestError):
        device.install(bad)
    with pytest.raises(RevokedError):
        device.start()


def test_a_revoked_digest_is_never_installed(device, first):
    third = Bundle(3, root=2, kind="badtest", revokes=frozenset({Bundle(2).digest}))
    with pytest.raises(SelfTestError):
        device.install(third)
    with pytest.raises(RevokedError):
        device.install(Bundle(2, root=2))
    with pytest.raises(RevokedError):
        device.install(Bundle(2, root=2), retry=True)


def test_a_bundle_of_a_revoked_key_is_never_installed_and_its_slot_is_passed_over(device, first):
    stolen = device.good(Bundle(2, signers=("aa",)))
    with pytest.raises(SelfTestError):
        device.install(Bundle(4, root=2, kind="badtest", revokes_keys=frozenset({"aa"})))
    assert device.start().slot.version == 1
    assert device.generation.is_revoked(device.record(stolen))
    with pytest.raises(RevokedError):
        device.install(Bundle(3, root=2, signers=("aa", "bb")))


def test_a_verified_root_is_not_forgotten_when_the_self_test_fails(device, first):
    with pytest.raises(SelfTestError):
        device.install(Bundle(5, root=2, kind="badtest"))
    assert root_version(device.generation.trusted.root) == 2
    with pytest.raises(ThresholdError):
        device.install(Bundle(2, root=1))
    assert device.generation.trusted_version == 1  # timestamp, snapshot, targets: with the slot


def test_keys_rotated_in_bundle_2_whose_trial_crashes_slot_1_runs(device, first):
    device.install(Bundle(2, root=2, kind="crash"))
    crash_out(device)
    assert device.start().slot.version == 1
    assert not device.started.degraded


def test_older_equal_and_forked_bundles(device, first):
    device.good(Bundle(3))
    assert device.install(Bundle(2)).outcome == "older"
    assert device.install(Bundle(2)).version == 2
    assert device.install(Bundle(3)).outcome == "already"
    with pytest.raises(ForkError):
        device.install(Bundle(3, digest="ff" * 32))


def test_a_policy_in_a_bundle_cannot_loosen_trust(device, first):
    loose = replace(
        Policy("test"),
        control_flow=True,
        clock_trusted=True,
        operators=("x:*",),
        threads=4,
        notify="touch /told",
    )
    device.good(Bundle(2, policy=loose))
    policy = device.generation.policy
    assert policy.threads == 4
    assert not policy.control_flow
    assert not policy.clock_trusted
    assert policy.operators == Policy("test").operators
    assert policy.notify == ""  # bundles bring models, never commands


def test_what_happened_is_committed_with_it(device, first):
    device.install(Bundle(2, kind="crash"))
    crash_out(device)
    device.start()
    kinds = [kind for kind, _ in device.generation.events]
    assert kinds.count("slot.attempt") == 3
    for kind in ("install.installed", "slot.good", "slot.fallback"):
        assert kind in kinds


def test_before_the_first_good_slot_the_inactive_or_the_revoked_one_is_replaced(device):
    device.install(Bundle(1))
    device.install(Bundle(2))
    device.install(Bundle(3))
    assert {s.version for s in device.generation.slots} == {2, 3}
    bad = Bundle(4, root=2, kind="badtest", revokes=frozenset({Bundle(3).digest}))
    with pytest.raises(SelfTestError):
        device.install(bad)
    assert device.generation.active == Bundle(2).digest  # 3 is passed over at once
    device.install(Bundle(5, root=2))
    assert {s.version for s in device.generation.slots} == {2, 5}


def test_a_downgrade_token_goes_back_and_rejects_what_it_left(device, first):
    second = device.good(Bundle(2))
    assert order(device, first, second)
    now = device.generation
    assert (now.active, now.trusted_version) == (first.digest, 2)
    assert device.record(second).state == "rejected"
    assert second.digest in now.rejected
    assert device.start().slot.version == 1


def test_a_downgrade_token_acts_once_even_after_a_retry_by_hand(device, first):
    second = device.good(Bundle(2))
    assert order(device, first, second)
    assert not order(device, first, second)
    assert device.install(second, retry=True).outcome == "installed"
    assert second.digest not in device.generation.rejected
    assert not order(device, first, second)
    assert order(device, first, second, issued=2)  # another order is another order


def test_a_downgrade_token_for_something_else_does_nothing(device, first):
    second = device.good(Bundle(2))
    assert not order(device, first, second, name="other")
    assert not order(device, first, Bundle(3))
    assert not order(device, first, replace(second, digest="ee" * 32))
    assert not order(device, replace(first, digest="ee" * 32), second)
    assert not order(device, replace(first, version=9), second)
    assert not order(device, second, second)
    assert device.generation.active == second.digest


def test_a_downgrade_token_leads_to_no_revoked_and_no_unproven_slot(device, first):
    second = Bundle(2, kind="crash")
    device.install(second)
    crash_out(device)
    device.start()
    third = Bundle(3)
    device.install(third)
    assert not order(device, second, third)
    fourth = device.good(Bundle(4, root=2, revokes=frozenset({first.digest})))
    assert not order(device, first, fourth)


def test_a_downgrade_acts_though_the_bad_bundle_has_lost_its_slot(device, first):
    second = device.good(Bundle(2))
    device._stop()
    gone = tuple(s for s in device.generation.slots if s.digest == first.digest)
    device.home.commit(replace(device.generation, slots=gone))
    assert order(device, first, second)
    assert device.start().slot.version == 1
