"""Devices that lie, that nobody accepted, that were taken: nothing follows from what they say."""

from __future__ import annotations

import pytest

from device_runtime.courier.report import make_report
from device_runtime.errors import UsageError
from device_runtime.format.receipt import SlotLine, encode_report
from device_runtime.format.segment import Hole, Lane
from device_runtime.record import replace
from edgepack.fleet.audit import audit
from edgepack.fleet.devices import compromise, retire
from edgepack.store.archive import Archive


def test_enrolments_that_do_not_hold_are_not_believed(lab):
    device, stick = lab.device(), lab.stick()
    device.sync(stick)
    (path,) = stick.glob("EDGEPACK/enrol/*.json")
    other = path.with_name("f" * 32 + ".json")
    other.write_bytes(path.read_bytes())
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"name":"press-1"', b'"name":"press-2"'))
    result = lab.sync(stick)
    assert not result.new_devices
    assert len(result.lines) >= 2


def test_a_report_of_somebody_else_changes_nothing(lab):
    device, stick = lab.accepted(), lab.stick()
    device.sync(stick)
    (path,) = stick.glob("EDGEPACK/reports/*.json")
    path.write_bytes(path.read_bytes().replace(b'"trusted_version":0', b'"trusted_version":9'))
    result = lab.sync(stick)
    assert any("signature does not hold" in line for line in result.lines)


def lie(lab, device, stick, **changes):
    """Let a device that was accepted sign a report that is not true."""
    report = replace(make_report(device.home, device.start(), {}), counter=10**9, **changes)
    identity = device.home.identity()
    name = f"{report.device}-{report.epoch}.json"
    path = stick / "EDGEPACK/reports" / name
    path.write_bytes(encode_report(report, identity.sign_both))
    return lab.sync(stick)


@pytest.mark.parametrize("what", ["version", "slot", "generation", "name"])
def test_a_device_that_lies_cannot_use_up_the_numbers_of_the_base(lab, what):
    device, stick = lab.accepted(), lab.stick()
    device.sync(stick)
    high = 2**63 - 1
    changes = {
        "version": {"trusted_version": high},
        "slot": {"slots": (SlotLine(high, "a" * 64, "good"),)},
        "generation": {"generations": {lab.ring.base.public.id: (high, "a" * 16)}},
        "name": {"bundle_name": "other", "trusted_version": 7},
    }[what]
    with lab.registry() as registry:
        before = registry.base_generation()
    result = lie(lab, device, stick, **changes)
    assert any("ignored" in line for line in result.lines)
    with lab.registry() as registry:
        assert registry.draw_version("sim") == 1
        assert registry.highest_version("other") == 0
        assert registry.base_generation() == before


def test_a_device_that_lies_about_numbers_cannot_stop_an_audit(lab):
    """Gaps are told in spans: ten thousand million numbers take no longer than two."""
    device, stick = lab.accepted(), lab.stick()
    journal = device.start()
    journal._shelf.top = lambda *_: 9_999_999_000
    journal._declare([Hole("evicted", journal.epoch.id, Lane.BULK, 5, first=0, last=9, upto=2**62)])
    device.rows([1], sync=True)
    device.sync(stick)
    lab.sync(stick)
    with lab.registry() as registry:
        row = registry.device(device.name)
        found = audit(registry, Archive(lab.ws.archive, lab.ws.disk), row, lab.ring.secrets)
    bulk = [gap.split("BULK ")[1] for gap in found.gaps if "BULK" in gap]
    assert bulk == ["1 to 4: not here yet", "5 to 9999999000: declared lost by the device"]


def test_a_device_that_nobody_accepted_is_not_let_in_by_retiring_it(lab):
    device, stick = lab.device(), lab.stick()
    device.rows([1], sync=True)
    device.sync(stick)
    lab.sync(stick)
    with lab.registry() as registry, pytest.raises(UsageError, match="words"):
        retire(registry, device.name, lab.clock)
    lab.sync(stick)
    assert not lab.ids()


def test_a_compromised_device_is_not_believed_again_by_retiring_it(lab):
    device = lab.accepted()
    with lab.registry() as registry:
        compromise(registry, device.name, None, lab.clock)
        with pytest.raises(UsageError, match="compromised"):
            retire(registry, device.name, lab.clock)


def test_what_a_compromised_device_reports_has_no_consequences(lab):
    device, stick = lab.accepted(), lab.stick()
    device.sync(stick)
    with lab.registry() as registry:
        compromise(registry, device.name, None, lab.clock)
        before = registry.base_generation()
    base = lab.ring.base.public.id
    lie(lab, device, stick, trusted_version=40, generations={base: (before[0], "a" * 16)})
    with lab.registry() as registry:
        assert registry.base_generation() == before
        assert registry.draw_version("sim") == 1
