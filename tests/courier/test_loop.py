"""A whole visit, both ways, and what a person is told."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from device_runtime import health
from device_runtime.courier.report import make_report
from device_runtime.courier.stick import Stick
from device_runtime.crypt import generate_recipient
from device_runtime.disk import RealDisk
from device_runtime.errors import StickBusyError, StickFullError
from device_runtime.format.receipt import encode_report
from edgepack.courier import sync as base_side
from edgepack.courier.acks import read_reports
from edgepack.errors import DeviceUnknownError
from edgepack.fleet.overview import overview
from edgepack.sim.actors import SimDevice
from edgepack.sim.chance import chance, drawn_from
from edgepack.store.table import read
from support.watched import Watched


def packs(stick):
    return sorted(stick.glob("EDGEPACK/logs/*/*/*.segs"))


def test_rows_come_home_once_and_are_acknowledged(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows([1, 2, 3], sync=True)
    device.label(2)
    left = device.sync(stick)
    assert (left.left.rows, left.left.waiting) == (3, 0)
    result = lab.sync(stick)
    assert (result.tally.rows, result.tally.labels) == (3, 1)
    assert not packs(stick), "registered packs leave the stick"
    again = device.sync(stick)
    assert again.acked.marked >= 2
    assert device.durable <= lab.ids()


def test_two_lines_say_what_came_and_what_went(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(1000)), sync=True)
    device.sync(stick)
    result = lab.sync(stick)
    assert result.came() == "came: 1,000 rows in 2 segments from press-1"
    assert result.went().startswith("went: acks for 1 device; safe to remove")
    assert (stick / "EDGEPACK/LAST-SYNC-press-1.txt").read_text().startswith("press-1 ")


def test_a_new_device_is_held_until_its_words_were_compared(lab):
    device, stick = lab.device(), lab.stick()
    device.rows([1, 2], sync=True)
    device.sync(stick)
    first = lab.sync(stick)
    assert first.tally.rows == 0
    assert first.tally.held == 2
    assert [item.name for item in first.new_devices] == ["press-1"]
    assert len(first.new_devices[0].words.split()) == 8
    assert not list(stick.glob("EDGEPACK/acks/*/*"))
    shutil.rmtree(stick)  # what was held does not need the stick any more
    second = lab.sync(lab.stick(), accept=["press-1"])
    assert second.tally.rows == 2
    assert device.durable <= lab.ids()


def test_nobody_unknown_can_be_accepted(lab):
    with pytest.raises(DeviceUnknownError):
        lab.sync(lab.stick(), accept=["press-9"])


def test_one_kit_used_twice_is_flagged(lab):
    first, stick = lab.accepted(), lab.stick()
    twin = type(first)(
        "press-1", lab.folder / "twin", lab.kits["press-1"],
        disk=RealDisk(), clock=lab.clock, disk_id="e" * 16,
    )  # fmt: skip
    twin.sync(stick)
    result = lab.sync(stick)
    assert [item.name for item in result.new_devices] == ["press-1-2"]
    assert "used before" in result.new_devices[0].note
    with lab.registry() as registry:
        assert [alarm.kind for alarm in registry.alarms()] == ["kit"]


def test_many_devices_share_a_stick_and_a_device_has_many_sticks(lab):
    devices = [lab.accepted(f"press-{n}") for n in range(3)]
    sticks = [lab.stick("usb-a"), lab.stick("usb-b")]
    for turn in range(6):
        for number, device in enumerate(devices):
            device.rows([turn * 100 + number], sync=True)
            device.sync(sticks[(turn + number) % 2])
        if turn % 2:
            lab.sync(sticks[turn // 2 % 2])
    for stick in (*sticks, *sticks):
        for device in devices:
            device.sync(stick)
        lab.sync(stick)
    assert set().union(*(device.durable for device in devices)) <= lab.ids()


def test_a_second_sync_of_the_same_stick_changes_nothing(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows([1], sync=True)
    device.sync(stick)
    copy = shutil.copytree(stick, lab.folder / "copy")
    lab.sync(stick)
    before = lab.ids()
    for replay in (copy, stick, copy):
        result = lab.sync(replay)
        assert (result.tally.segments, result.tally.rows) == (0, 0)
    assert lab.ids() == before


def test_a_dry_run_writes_neither_here_nor_there(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows([1, 2], sync=True)
    device.sync(stick)
    files = {path: path.read_bytes() for path in stick.rglob("*") if path.is_file()}
    result = lab.sync(stick, dry_run=True)
    assert result.tally.rows == 2
    assert files == {path: path.read_bytes() for path in stick.rglob("*") if path.is_file()}
    assert lab.sync(stick).tally.rows == 2


def test_two_syncs_at_once_are_refused(lab):
    stick = lab.stick()
    with Stick.open(stick, RealDisk()), pytest.raises(StickBusyError):
        Stick.open(stick, RealDisk())


def test_what_did_not_fit_waits_for_the_next_stick(lab, tmp_path):
    class Small(RealDisk):
        room = 10_000

        def free_bytes(self, path):
            return self.room + (64 << 10)

    device = lab.accepted()
    device.disk = device.home.disk = Small()
    device.rows(list(range(5000)), sync=True)
    first = device.sync(lab.stick("small"))
    assert first.left.waiting >= 1
    assert first.error is not None
    assert first.error.code == "stick.full"
    Small.room = 10 << 20
    second = device.sync(lab.stick("large"))
    assert second.left.rows == 5000


def test_the_base_knows_which_journal_keys_are_still_needed(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows([1], sync=True)
    device.sync(stick)
    lab.sync(stick)
    with lab.registry() as registry:
        out = registry.recipients_out()
    assert out == {lab.ring.current[1].id: ["press-1"], lab.ring.recovery[1].id: ["press-1"]}


def test_a_key_that_only_salvaged_segments_need_is_reported(lab):
    """The outer header of a salvage names no key; after a rotation nothing else tells of it."""
    stick = lab.stick()
    device = lab.accepted(stick=stick, keep_acked_days=0)
    device.rows([1], sync=True)
    device.crash()
    device.start()
    new = generate_recipient()[1]
    policy = replace(device.home.generation().policy, recipients=(new.raw.hex(),))
    device.take_policy(policy)
    for _ in range(2):  # what was sealed under the old key is acknowledged and goes
        device.sync(stick)
    report = make_report(device.home, device.start(), {})
    assert {lab.ring.current[1].id, new.id} <= set(report.recipients)


def test_a_key_that_either_branch_of_a_copied_device_needs_is_kept(lab):
    device, stick = lab.accepted(), lab.stick()
    device.sync(stick)
    lab.sync(stick)
    with lab.registry() as registry:
        (known,) = registry.reports()
        other = replace(
            known, epoch="0" * 16, body={**known.body, "recipients": []}, received=2**62
        )
        registry.put_report(other)
        assert registry.recipients_out() == {}
        registry.alarm("fork", known.device, "", "it was copied", 0)
        assert lab.ring.current[1].id in registry.recipients_out()


def test_sticks_in_any_order_give_the_same_table(lab, tmp_path):
    device, sticks = lab.accepted(), []
    for turn in range(4):
        device.rows([turn * 10, turn * 10 + 1], sync=True)
        device.label(turn * 10)
        device.sync(lab.stick("carried"))
        sticks.append(shutil.copytree(lab.folder / "carried", lab.folder / f"copy-{turn}"))
    with lab.registry() as registry:
        row = registry.device("press-1")
    tables = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 3, 1, 0, 3])):
        other = type(lab)(tmp_path / f"base-{number}")
        with other.registry() as registry:
            registry.put_device(row)
        for turn in order:
            copy = shutil.copytree(
                sticks[turn], tmp_path / f"copy-{number}-{turn}", dirs_exist_ok=True
            )
            other.sync(copy, view=number != 0)
        other.sync(other.stick("empty"), view=True)
        rows = read(other.ws, "sim", ["_sequence", "row", "x"]).to_pylist()
        tables.append(sorted(tuple(sorted(item.items())) for item in rows))
        assert device.durable - lab.ids() <= other.ids()
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 8


def test_a_stick_without_room_for_an_ack_has_been_imported_and_says_so(lab, monkeypatch):
    device, stick = lab.accepted(), lab.stick()
    device.rows([1, 2, 3], sync=True)
    device.sync(stick)

    def full(*_):
        raise StickFullError("no room on the stick for an ack")

    monkeypatch.setattr(base_side, "write_acks", full)
    result = lab.sync(stick)
    assert result.error is not None
    assert result.error.code == "stick.full"
    assert "3 rows" in result.came()
    monkeypatch.undo()
    assert lab.sync(stick).error is None


def test_what_the_quota_took_is_told_by_the_device_and_not_counted_as_still_out(lab):
    stick = lab.stick()
    device = lab.accepted(stick=stick, quota_bytes=200_000, segment_bytes=1 << 15)
    for turn in range(60):
        device.rows(list(range(turn * 500, turn * 500 + 500)), sync=True)
        device.seal()
    said = health.status(device.home)["journal"]
    gone = 60 * 500 - said["rows_on_device"]
    assert gone > 0, "the case was not reached"
    lost = said["records_lost"]
    assert gone <= lost < gone + 100, "a few PRIORITY records went, too"

    def records(out):
        device.sync(out)
        report = make_report(device.home, device.start(), {"journal": said})
        path = out / "EDGEPACK" / f"reports/{report.device}-{report.epoch}.json"
        signed = replace(report, counter=report.counter + 1)
        path.write_bytes(encode_report(signed, device.identity.sign_both))
        with lab.registry() as registry, Stick.open(out, RealDisk(), write=False) as opened:
            read_reports(opened, registry, "", lab.clock)
            (view,) = overview(lab.ws, registry, lab.clock).devices
        return view.records

    before = records(stick)
    assert (before.home, before.out) == (0, said["rows_on_device"])
    lab.sync(stick, view=True)
    after = records(lab.stick("empty"))
    assert (after.home, after.out) == (said["rows_on_device"], 0)
    assert gone <= after.lost <= lost
    assert after.produced == after.home + after.lost


def test_two_records_under_one_id_are_kept_apart_and_alarm(lab):
    """A snapshot of a machine's memory, resumed twice, draws the same ids and keys twice."""
    first, stick = lab.accepted(), lab.stick()
    first.stop()
    root = shutil.copytree(first.root, lab.folder / "devices" / "twin", symlinks=True)
    twin = SimDevice(
        first.name, root, first.kit, disk=first.disk, clock=lab.clock, disk_id=first.disk_id,
        new=False,
    )  # fmt: skip
    for device, value in ((first, 1), (twin, 2)):
        with drawn_from(chance("memory")):
            device.rows([7, value], sync=True)
    with drawn_from(chance("afterwards")):
        for device in (first, twin):
            device.sync(stick)
            lab.sync(stick)
    with lab.registry() as registry:
        (conflict,) = registry.conflicts(first.home.card.device_id)
        assert conflict["sequence"] == 1, "the first row is the same in both"
        assert [alarm for alarm in registry.alarms() if alarm.kind == "conflict"]
        kept = registry.segment(conflict["kept"])
        assert registry.spans(kept.hash) == [(0, 1)], "what came first stays"
        assert registry.segment(conflict["other"]), "the other one is archived, too"
    assert lab.imported()


def test_a_sync_counts_every_byte_of_the_packs_also_of_one_that_is_refused(lab):
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(50)), sync=True)
    device.sync(stick)
    (whole, *_) = packs(stick)
    torn = whole.with_name("bulk-00000001-00000001-00000000.segs")
    torn.write_bytes(whole.read_bytes()[:100])
    size = sum(path.stat().st_size for path in packs(stick))
    seen = Watched()
    assert lab.sync(stick, progress=seen, view=True).tally.quarantined == 1
    assert seen.whole()["filling table sim"] == "bytes"
    assert seen.parts[0][:3] == ["reading packs", "bytes", size]
