"""Trial, attempts and counters: what an attempt is, who is to blame, when a slot is good."""

from __future__ import annotations

import pytest

from device_runtime.slots import install as installer
from device_runtime.slots import slot
from device_runtime.slots.slot import load_model
from support.slotworld import Bundle, crash_out


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


def test_a_good_slot_that_crashes_at_each_load_falls_back(device, first):
    second = device.good(Bundle(2))
    second.kind = "crash"
    crash_out(device)
    assert device.start().slot.version == 1
    assert device.record(second).state == "rejected"


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
