"""Flash rots: a damaged newest segment costs its own rows only, and nobody cries "copied"."""

from __future__ import annotations

import pytest

from device_runtime.format.segment import Lane
from support.courierlab import Lab


def newest(device, lane):
    folder = device.root / "journal"
    return max(folder.glob(f"*-{'pb'[lane]}-*.seg"))


def spoil(path, where):
    data = bytearray(path.read_bytes())
    if where == "cut":
        del data[40:]
    else:
        data[{"header": 40, "content": len(data) // 2, "trailer": -1}[where]] ^= 1
    path.write_bytes(bytes(data))


def alarms(lab):
    with lab.registry() as registry:
        return [alarm.text for alarm in registry.alarms()]


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("where", ["header", "content", "trailer", "cut"])
def test_a_newest_segment_that_rots_after_it_came_home_is_no_fork(tmp_path, where, lane):
    lab = Lab(tmp_path)
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(20)), sync=True)
    device.label(1)
    device.sync(stick)
    lab.sync(stick)
    device.stop()
    before = len(lab.ids())
    spoil(newest(device, lane), where)
    for turn in range(3):
        device.rows([100 + turn], sync=True)
        device.label(2)
        device.sync(stick)
        lab.sync(stick)
        device.stop()
    assert not alarms(lab)
    assert device.durable <= lab.ids()
    assert len(lab.ids()) > before


def test_numbers_do_not_come_twice_when_the_quota_takes_what_rotted(tmp_path):
    lab = Lab(tmp_path)
    device = lab.accepted(quota_bytes=300 << 10, keep_acked_days=0)
    stick = lab.stick()
    device.rows(list(range(20)), sync=True)
    device.sync(stick)
    lab.sync(stick)
    device.stop()
    spoil(newest(device, Lane.BULK), "header")
    journal = device.start()
    assert not [info for info in journal.sealed() if info.lane == Lane.BULK and info.first >= 0][1:]
    journal.free_room(290 << 10)  # all that may go goes
    device.stop()
    for turn in range(3):
        device.rows([100 + turn], sync=True)
        device.sync(stick)
        lab.sync(stick)
        device.stop()
    assert not alarms(lab)
    assert device.durable <= lab.ids()
