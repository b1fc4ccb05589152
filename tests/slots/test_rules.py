"""The schedules that broke a first draft of the rules, each told on the real slots code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_runtime.errors import (
    AdmissionError,
    DigestMismatchError,
    ForkError,
    ModelLoadError,
    NoSlotError,
    RevokedError,
    SelfTestError,
    ThresholdError,
)
from device_runtime.policy import Policy
from device_runtime.slots import install as installer
from device_runtime.slots import slot
from device_runtime.slots.slot import load_model
from device_runtime.trust.token import Token
from support.slotworld import Bundle, Device, root_version


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def first(device: Device) -> Bundle:
    return device.good(Bundle(1))


def crash_out(device: Device, times: int = 3) -> None:
    for _ in range(times):
        assert device.start() is None


def test_a_trial_that_crashes_three_times_is_rejected_and_the_good_slot_runs(device, first):
    bad = Bundle(2, kind="crash")
    device.install(bad)
    crash_out(device)
    assert device.start().slot.version == 1
    assert device.record(bad).state == "rejected"
    assert bad.digest in device.generation.rejected


def test_two_crashes_do_not_reject(device, first):
    bad = Bundle(2, kind="crash")
    device.install(bad)
    crash_out(device, 2)
    bad.kind = "sound"
    assert device.start().slot.version == 2
    device.ripen()
    assert device.record(bad).state == "good"
    assert device.generation.attempts == 0


def test_bundle_3_during_trial_2_never_touches_the_last_good_slot(device, first):
    device.install(Bundle(2, kind="crash"))
    device.install(Bundle(3, kind="crash"))
    assert {s.version for s in device.generation.slots} == {1, 3}
    crash_out(device)
    assert device.start().slot.version == 1


def test_installs_of_crashing_bundles_one_after_another_leave_the_good_one(device, first):
    for version in (3, 5, 7):
        device.install(Bundle(version, kind="crash"))
    crash_out(device)
    assert device.start().slot.version == 1


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


def test_three_power_cuts_while_loading_burn_no_version(device, first):
    sound = Bundle(2)
    device.install(sound)
    for _ in range(3):
        device.begin_and_die("power")
    assert device.start().slot.version == 2
    assert device.generation.power_attempts == 3
    device.ripen()
    assert device.record(sound).state == "good"


def test_ten_power_cuts_while_loading_suspend_but_do_not_reject(device, first):
    device.install(Bundle(2))
    for _ in range(10):
        device.begin_and_die("power")
    assert device.start().slot.version == 1
    assert device.generation.rejected == frozenset()
    assert device.install(Bundle(2)).outcome == "installed"
    assert device.start().slot.version == 2


def test_kills_from_outside_while_loading_suspend_until_the_next_visit(device, first):
    sound = Bundle(2)
    device.install(sound)
    for _ in range(3):
        device.begin_and_die("kill")
    assert device.start().slot.version == 1
    assert device.record(sound).state == "suspended"
    assert sound.digest not in device.generation.rejected
    assert device.start().slot.version == 1  # not before the next visit
    assert device.install(sound).outcome == "installed"
    assert device.start().slot.version == 2


def test_a_kill_after_the_first_result_is_no_attempt(device, first):
    device.install(Bundle(2))
    for _ in range(5):
        assert device.start().slot.version == 2
        device.kill()
    assert device.generation.attempts == 0


@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_model_that_waits_for_its_first_rows_is_not_to_blame(device, first, how):
    device.install(Bundle(2))
    for _ in range(12):
        device._enter()
        load_model(device.home, device._open, load=device._load)
        # The kernel writes the line out long before somebody pulls the plug.
        for name in device.disk.list(device.home.run):
            node = device.disk._find(device.home.run / name)
            node.kept = bytes(node.seen)
        device.power() if how == "power" else device.kill()
    assert (device.generation.attempts, device.generation.power_attempts) == (0, 0)
    assert device.start().slot.version == 2


def test_an_orderly_end_before_the_first_result_is_no_attempt(device, first):
    device.install(Bundle(2))
    for _ in range(5):
        started = slot.begin_load(device.home, load=device._load)
        started.close()
    assert device.start().slot.version == 2
    assert device.generation.attempts == 0


def test_an_attempt_counts_once_though_the_power_goes_while_it_is_counted(device, first):
    device.install(Bundle(2, kind="crash"))
    assert device.start() is None
    for fuse in range(40):  # die at every step of the next start before it loads
        device.disk.fuse = fuse
        try:
            slot._settle(device.home)
        except BaseException:
            device.kill()
            continue
        break
    device.disk.revive()
    assert device.generation.attempts == 1


def test_ten_minutes_of_power_or_a_thousand_rows_make_it_good(device, first):
    second = Bundle(2)
    device.install(second)
    device.start()
    device.ripen(999)
    assert device.record(second).state == "trial"
    device.ripen(1)
    assert device.record(second).state == "good"
    third = Bundle(3)
    device.install(third)
    device.start()
    device.clock.advance(599)
    device.ripen(1)
    assert device.record(third).state == "trial"
    device.clock.advance(2)
    device.ripen(1)
    assert device.record(third).state == "good"
    assert device.record(third).ever_good


def test_a_trial_ripens_over_many_short_processes(device, first):
    second = Bundle(2)
    device.install(second)
    for _ in range(5):
        device.start()
        device.ripen(200)
        device._stop()
    assert device.record(second).state == "good"


def test_a_wall_clock_that_jumps_ripens_nothing(device, first):
    second = Bundle(2)
    device.install(second)
    device.start()
    device.clock.wall += 10**18
    device.ripen(1)
    assert device.record(second).state == "trial"


def test_of_two_good_slots_the_inactive_one_is_replaced(device, first):
    device.good(Bundle(2))
    device.install(Bundle(3))
    assert {s.version for s in device.generation.slots} == {2, 3}


def test_a_rejected_bundle_is_not_tried_again_by_itself(device, first):
    bad = Bundle(2, kind="badtest")
    with pytest.raises(SelfTestError):
        device.install(bad)
    assert device.install(bad).outcome == "rejected-before"
    bad.kind = "sound"
    assert device.install(bad).outcome == "rejected-before"
    assert device.install(bad, retry=True).outcome == "installed"
    assert device.start().slot.version == 2


def test_a_damaged_stick_burns_no_version(device, first):
    second = Bundle(2, kind="damaged")
    with pytest.raises(DigestMismatchError):
        device.install(second)
    assert device.start().slot.version == 1
    assert device.generation.trusted_version == 1
    second.kind = "sound"
    assert device.install(second).outcome == "installed"


def test_older_equal_and_forked_bundles(device, first):
    device.good(Bundle(3))
    assert device.install(Bundle(2)).outcome == "older"
    assert device.install(Bundle(2)).version == 2
    assert device.install(Bundle(3)).outcome == "already"
    with pytest.raises(ForkError):
        device.install(Bundle(3, digest="ff" * 32))


def test_a_good_slot_that_crashes_at_each_load_falls_back(device, first):
    second = device.good(Bundle(2))
    second.kind = "crash"
    crash_out(device)
    assert device.start().slot.version == 1
    assert device.record(second).state == "rejected"


def test_a_good_slot_whose_hashes_fail_falls_back_at_once_and_is_mended_by_the_stick(device, first):
    second = device.good(Bundle(2))
    device._stop()
    path = device.home.slot_dir(second.digest) / "model.onnx"
    device.disk._find(path).seen[:] = b"rotten"
    assert device.start().slot.version == 1
    assert second.digest not in device.generation.rejected
    assert device.install(second).outcome == "installed"
    assert device.start().slot.version == 2


def test_when_every_slot_is_damaged_it_says_so_and_the_stick_mends_it(device, first):
    path = device.home.slot_dir(first.digest) / "model.onnx"
    device.disk._find(path).seen[:] = b"rotten"
    with pytest.raises(DigestMismatchError):
        device.start()
    with pytest.raises(DigestMismatchError):
        device.start()
    device.install(first)
    assert device.start().slot.version == 1


def test_a_missing_slot_folder_is_damage(device, first):
    device.good(Bundle(2))
    device._stop()
    device.disk.rmtree(device.home.slot_dir(Bundle(2).digest))
    assert device.start().slot.version == 1


def test_a_first_bundle_without_predecessor_stays_selected_degraded(device):
    only = Bundle(1, kind="crash")
    device.install(only)
    crash_out(device, 4)
    assert device.generation.active == only.digest
    assert device.generation.degraded
    assert only.digest not in device.generation.rejected
    only.kind = "sound"
    assert device.start().degraded
    device.ripen()
    assert not device.generation.degraded
    assert device.record(only).state == "good"


def test_a_home_without_a_bundle_says_what_to_do(device):
    with pytest.raises(NoSlotError, match="no bundle"):
        device.start()


def test_a_model_that_does_not_open_falls_back_within_one_start(device, first):
    bad = Bundle(2, kind="error")
    device.install(bad)
    assert device.start().slot.version == 1
    assert device.record(bad).state == "rejected"


def test_an_only_model_that_does_not_open_raises_and_stays(device):
    device.install(Bundle(1, kind="error"))
    for _ in range(3):
        with pytest.raises(ModelLoadError):
            device.start()
    assert device.generation.degraded


def test_rollback_by_hand_goes_back_and_the_left_one_is_not_tried_again(device, first):
    second = device.good(Bundle(2))
    device._stop()
    assert slot.rollback(device.home).version == 1
    assert device.start().slot.version == 1
    assert device.install(second).outcome == "rejected-before"
    with pytest.raises(NoSlotError):
        slot.rollback(device.home)


def test_no_room_is_not_remembered(device, first):
    second = Bundle(2, kind="transient")
    with pytest.raises(AdmissionError):
        device.install(second)
    assert device.install(second).outcome == "installed"


def test_a_full_disk_while_committing_leaves_the_old_state(device, first):
    import errno

    for step in range(1, 60):
        device.disk.error = (device.disk.steps + step, errno.ENOSPC)
        try:
            device.install(Bundle(2))
        except OSError:
            device.disk.error = None
            assert device.start().slot.version in (1, 2)
            continue
        break
    device.disk.error = None
    assert device.start().slot.version == 2


def test_a_policy_in_a_bundle_cannot_loosen_trust(device, first):
    loose = replace(
        Policy("test"), control_flow=True, clock_trusted=True, operators=("x:*",), threads=4
    )
    device.good(Bundle(2, policy=loose))
    policy = device.generation.policy
    assert policy.threads == 4
    assert not policy.control_flow
    assert not policy.clock_trusted
    assert policy.operators == Policy("test").operators


def test_what_happened_is_committed_with_it(device, first):
    device.install(Bundle(2, kind="crash"))
    crash_out(device)
    device.start()
    kinds = [kind for kind, _ in device.generation.events]
    assert kinds.count("slot.attempt") == 3
    for kind in ("install.installed", "slot.good", "slot.fallback"):
        assert kind in kinds


def test_the_odometer_counts_power_not_the_wall_clock(device, first):
    begin = device.home.odometer_s()
    device.clock.advance(1000)
    device.clock.wall = 0
    device.home.tick()
    assert device.home.odometer_s() - begin == 1000
    device.power()
    device.clock.monotonic = 50 * 10**9
    device.home.recover()
    assert device.home.odometer_s() - begin == 1050
    device.disk._find(device.home.state / "odometer").seen[:] = b"\xff torn"
    assert device.home.odometer_s() >= device.generation.odometer_s


@pytest.mark.parametrize("state", ["good", "trial"])
def test_a_full_disk_keeps_no_model_from_running(device, first, state):
    if state == "trial":
        device.install(Bundle(2))
    device._stop()
    device.disk.full = True
    for _ in range(3):
        assert device.start().slot.version == (1 if state == "good" else 2)
        device.ripen()
        device.power()
        device.disk.full = True
    device.disk.full = False
    device.start()
    device.ripen()
    assert {s.state for s in device.generation.slots} == {"good"}


def test_a_full_disk_still_falls_back_from_a_damaged_slot(device, first):
    second = device.good(Bundle(2))
    device._stop()
    device.disk._find(device.home.slot_dir(second.digest) / "model.onnx").seen[:] = b"rotten"
    device.disk.full = True
    assert device.start().slot.version == 1


def test_a_fallback_begins_anew(device, first):
    device.install(Bundle(2, kind="crash"))
    device.clock.advance(500)
    crash_out(device)
    begin = device.home.odometer_s()
    device.start()
    now = device.generation
    assert (now.attempts, now.crashes, now.power_attempts, now.degraded) == (0, 0, 0, False)
    assert now.activated_s == begin
    device.clock.advance(100)
    device.install(Bundle(3))
    assert device.generation.activated_s == begin + 100


def test_each_trial_has_its_own_ten_minutes_and_thousand_rows(device, first):
    device.install(Bundle(2))
    device.start()
    device.clock.advance(590)
    device.ripen(900)
    third = Bundle(3)
    device.install(third)
    device.start()
    device.clock.advance(20)
    device.ripen(200)
    assert device.record(third).state == "trial"


def test_ten_minutes_are_counted_over_processes(device, first):
    second = Bundle(2)
    device.install(second)
    device.start()
    device.clock.advance(400)
    device.start()
    device.ripen(1)
    assert device.record(second).state == "trial"
    device.clock.advance(201)
    device.start()
    device.ripen(1)
    assert device.record(second).state == "good"


def test_a_slot_that_stays_for_want_of_another_counts_from_nought_again(device):
    only = Bundle(1, kind="crash")
    device.install(only)
    crash_out(device, 5)
    now = device.generation
    assert now.degraded
    assert (now.attempts, now.crashes) == (1, 1)  # three, forgiven, one; the fifth is not told yet
    only.kind = "sound"
    device.start()
    device.ripen()
    now = device.generation
    assert (now.attempts, now.crashes, now.power_attempts, now.degraded) == (0, 0, 0, False)


def test_good_work_clears_the_counters_of_a_good_slot(device, first):
    second = device.good(Bundle(2))
    for _ in range(3):
        second.kind = "crash"
        crash_out(device, 2)
        second.kind = "sound"
        assert device.start().slot.version == 2
        device.ripen()
        assert (device.generation.attempts, device.generation.crashes) == (0, 0)


def test_power_cuts_are_forgiven_by_good_work(device, first):
    second = device.good(Bundle(2))
    for _ in range(3):
        device.install(Bundle(2))
        for _ in range(4):
            device.begin_and_die("power")
            device.disk.revive()
        device.start()
        device.ripen()
    assert device.record(second).state == "good"
    assert device.generation.power_attempts == 0


def test_the_running_old_bundle_cannot_ripen_the_new_one(device, first):
    second, third = device.good(Bundle(2)), Bundle(3)
    old = device.start()
    device.put(third)
    installer.install(device.home, third.file, steps=device.steps)
    old.first_result()
    old.ripen(5000)
    old.close()
    assert device.record(third).state == "trial"
    assert device.generation.trial_rows == 0
    assert device.record(second).state == "good"


def test_a_bundle_on_trial_that_is_replaced_while_it_runs_ripens_nothing(device, first):
    second, third = Bundle(2), Bundle(3)
    device.install(second)
    old = device.start()
    device.put(third)
    installer.install(device.home, third.file, steps=device.steps)
    old.ripen(5000)
    old.close()
    assert device.record(third).state == "trial"
    assert device.record(second) is None


def test_what_comes_after_the_end_does_nothing(device, first):
    device.install(Bundle(2))
    started = device.start()
    started.close()
    before = device.generation
    started.asked()
    started.opened()
    started.first_result()
    started.close()
    assert device.generation == before


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


def test_revocations_reach_a_device_that_has_no_bundle_yet(device):
    bad = Bundle(2, root=2, kind="badtest", revokes=frozenset({Bundle(1).digest}))
    with pytest.raises(SelfTestError):
        device.install(bad)
    assert Bundle(1).digest in device.generation.revoked_digests


def order(device: Device, back: Bundle, frm: Bundle, name: str = "demo", issued: int = 1) -> bool:
    token = Token(name, frm.version, frm.digest, back.version, back.digest, issued)
    steps = replace(device.steps, read_token=lambda data, root, policy: token)
    device._stop()
    return installer.downgrade(device.home, b"", steps=steps)


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
