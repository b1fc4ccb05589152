"""The base loses power at any call: what its registry names lies whole in the archive."""

from __future__ import annotations

import contextlib

import pytest

from device_runtime.disk import RealDisk
from edgepack.sim.disk import PowerCut, SimDisk
from edgepack.store.archive import Archive
from edgepack.workspace import Workspace
from support.courierlab import Lab


@pytest.fixture
def dark(tmp_path):
    """A lab whose archive, held and quarantine lie on a disk that forgets what was not synced."""
    lab = Lab(tmp_path, stick_disk=RealDisk())
    disk = SimDisk(7)
    lab.ws = Workspace(lab.ws.root, lab.ws.classes, disk)
    for folder in (lab.ws.archive, lab.ws.held, lab.ws.quarantine):
        disk.mkdir(folder)
    disk.flush()
    return lab, disk


def readable(lab, disk):
    with lab.registry() as registry:
        rows = registry.segments()
        for row in rows:
            Archive(lab.ws.archive, disk).read(row)
        for row in registry.held():
            assert disk.read(lab.ws.held / row.path)
    return len(rows)


@pytest.mark.parametrize("call", range(1, 26, 2))
def test_an_import_that_is_cut_off_leaves_nothing_half_registered(dark, call):
    lab, disk = dark
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(20)), sync=True)
    device.label(3)
    device.sync(stick)
    disk.rng.seed(call)
    disk.crash_after(call)
    with contextlib.suppress(PowerCut):
        lab.sync(stick)
    disk.power_cut()
    readable(lab, disk)
    lab.sync(stick)
    device.sync(stick)
    lab.sync(stick)
    assert readable(lab, disk) >= 3
    assert device.durable <= lab.ids()


@pytest.mark.parametrize("call", range(1, 12, 2))
def test_holding_that_is_cut_off_leaves_the_pack_on_the_stick(dark, call):
    lab, disk = dark
    device, stick = lab.device(), lab.stick()
    device.rows(list(range(20)), sync=True)
    device.sync(stick)
    disk.crash_after(call)
    with contextlib.suppress(PowerCut):
        lab.sync(stick)
    disk.power_cut()
    readable(lab, disk)
    lab.sync(stick)
    readable(lab, disk)
    lab.sync(stick, accept=["press-1"])
    assert device.durable <= lab.ids()
