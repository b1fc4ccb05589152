"""Which slot is replaced, rejected, mended or kept; what a full disk and a damaged stick do."""

from __future__ import annotations

import pytest

from device_runtime.errors import (
    AdmissionError,
    DigestMismatchError,
    ModelLoadError,
    NoSlotError,
    SelfTestError,
)
from device_runtime.slots import slot
from support.slotworld import Bundle


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


def test_revocations_reach_a_device_that_has_no_bundle_yet(device):
    bad = Bundle(2, root=2, kind="badtest", revokes=frozenset({Bundle(1).digest}))
    with pytest.raises(SelfTestError):
        device.install(bad)
    assert Bundle(1).digest in device.generation.revoked_digests
