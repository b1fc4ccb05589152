"""Hostile sticks: one line each, bounded, and nothing of them gets in."""

from __future__ import annotations

import hashlib
import os
import resource
from copy import copy

import pytest

from device_runtime.crypt import Identity
from device_runtime.format.header import TRAILER
from device_runtime.format.stick import (
    PackedSegment,
    PackHeader,
    decode_pack,
    pack_path,
    pack_prefix,
)
from edgepack.courier import quarantine
from edgepack.store.archive import Archive
from edgepack.store.upkeep import purge_device


@pytest.fixture
def carried(lab):
    """A stick with the packs of an accepted device, not yet imported."""
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(50)), sync=True)
    device.sync(stick)
    return device, stick


def packs(stick):
    return sorted(stick.glob("EDGEPACK/logs/*/*/*.segs"))


def content(path):
    data = path.read_bytes()
    index = decode_pack(data)
    return index, [
        data[offset : offset + item.size]
        for item, offset in zip(index.header.segments, index.offsets, strict=True)
    ]


def write_pack(stick, identity, device, epoch, lane, segments):
    """A pack that is well formed and signed; what lies in it is as given."""
    items = tuple(
        PackedSegment(number, digest, hashlib.sha256(data).hexdigest(), len(data))
        for number, digest, data in segments
    )
    header = PackHeader(device, epoch, lane, items)
    path = stick / "EDGEPACK" / pack_path(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [pack_prefix(header, identity.sign_both), *(data for _, _, data in segments)]
    path.write_bytes(b"".join(parts))
    return path


def assert_quarantined(lab, result, count=1):
    assert result.tally.quarantined == count, result.lines
    lines = [line for line in result.lines if line.startswith("quarantine: ")]
    assert len(lines) == count
    assert all("\n" not in line and len(line) < 400 for line in lines)
    assert len(list(lab.ws.quarantine.iterdir())) == count


def test_every_truncation_of_a_pack_is_refused(lab, carried):
    _, stick = carried
    path = packs(stick)[0]
    whole = path.read_bytes()
    step = max(1, len(whole) // 25)
    for count, length in enumerate(range(0, len(whole), step), 1):
        path.write_bytes(whole[:length])
        result = lab.sync(stick, dry_run=True)
        assert result.tally.quarantined == 1, length
        assert count


def test_flipped_bits_never_get_in(lab, carried):
    device, stick = carried
    path = packs(stick)[0]
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        result = lab.sync(stick, dry_run=True)
        assert result.tally.rows == 0
        assert result.tally.quarantined + len(result.lines) > 0, place
    path.write_bytes(whole)
    assert lab.sync(stick).tally.rows == 50
    assert device.durable <= lab.ids()


def test_a_bad_pack_leaves_the_stick_and_the_device_offers_again(lab, carried):
    device, stick = carried
    for path in packs(stick):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert_quarantined(lab, lab.sync(stick), 2)
    assert not packs(stick)
    device.sync(stick)
    assert lab.sync(stick).tally.rows == 50


def test_a_pack_signed_by_somebody_else_is_quarantined(lab, carried):
    _, stick = carried
    path = packs(stick)[0]
    index, segments = content(path)
    items = [(s.number, s.hash, d) for s, d in zip(index.header.segments, segments, strict=True)]
    path.unlink()
    h = index.header
    write_pack(stick, Identity.generate(), h.device, h.epoch, h.lane, items)
    assert_quarantined(lab, lab.sync(stick))


def test_a_segment_of_another_device_is_quarantined(lab):
    one, two, stick = lab.accepted("press-1"), lab.accepted("press-2"), lab.stick()
    one.rows([1], sync=True)
    one.sync(stick)
    index, segments = content(packs(stick)[0])
    for path in packs(stick):
        path.unlink()
    item = index.header.segments[0]
    write_pack(
        stick, two.identity, two.home.card.device_id, index.header.epoch, index.header.lane,
        [(item.number, item.hash, segments[0])],
    )  # fmt: skip
    assert_quarantined(lab, lab.sync(stick))


def test_a_segment_under_another_number_or_lane_is_quarantined(lab, carried):
    device, stick = carried
    index, segments = content(packs(stick)[0])
    item, h = index.header.segments[0], index.header
    for path in packs(stick):
        path.unlink()
    write_pack(stick, device.identity, h.device, h.epoch, h.lane, [(9, item.hash, segments[0])])
    write_pack(stick, device.identity, h.device, h.epoch, 1 - h.lane, [(1, item.hash, segments[0])])
    assert_quarantined(lab, lab.sync(stick), 2)


def test_a_captured_device_cannot_pass_off_noise_as_a_segment(lab, carried):
    device, stick = carried
    index, segments = content(packs(stick)[0])
    h = index.header
    noise = [os.urandom(10_000), b"", bytes(5000), segments[0][: -TRAILER.size] + bytes(104)]
    for path in packs(stick):
        path.unlink()
    for number, data in enumerate(noise, 50):
        write_pack(
            stick,
            device.identity,
            h.device,
            h.epoch,
            h.lane,
            [(number, os.urandom(32).hex(), data)],
        )
    assert_quarantined(lab, lab.sync(stick), len(noise))
    assert lab.ids() == lab.ids()


def test_a_device_that_never_enrolled_leaves_its_pack_where_it_is(lab):
    stick, stranger = lab.stick(), Identity.generate()
    path = write_pack(stick, stranger, stranger.public.id, "0" * 16, 1, [(1, "a" * 64, b"x")])
    result = lab.sync(stick)
    assert path.exists()
    assert not list(lab.ws.held.rglob("*.seg"))
    assert any("never enrolled" in line for line in result.lines)


def test_a_pack_of_a_newer_format_stays_on_the_stick(lab, carried):
    _, stick = carried
    path = packs(stick)[0]
    data = bytearray(path.read_bytes())
    data[15] = 2
    path.write_bytes(data)
    result = lab.sync(stick)
    assert path.exists()
    assert any("version 2" in line and "update edgepack" in line for line in result.lines)


def test_huge_claims_cost_nothing(lab, carried):
    _, stick = carried
    folder = packs(stick)[0].parent
    claims = {
        "bulk-00000001-00000001-00000001.segs": b"EDGEPACK-SEGS\x00\x00\x01\xff\xff\xff\xff",
        "bulk-00000001-00000001-00000002.segs": b"EDGEPACK-SEGS\x00\x00\x01\x00\x00\x20\x00",
        "bulk-00000001-00000001-00000003.segs": b"",
        "bulk-00000001-00000001-00000004.segs": b"MZ" + bytes(100),
    }
    for name, data in claims.items():
        (folder / name).write_bytes(data)
    with (folder / "bulk-00000001-00000001-00000005.segs").open("wb") as file:
        file.truncate(1 << 33)  # 8 GiB of nothing
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = lab.sync(stick, dry_run=True)
    assert result.tally.quarantined == 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_quarantine_is_bounded(lab, carried, monkeypatch):
    monkeypatch.setattr(quarantine, "MAX_BYTES", 10_000)
    _, stick = carried
    for path in packs(stick):
        with path.open("r+b") as file:
            file.write(b"X")
            file.truncate(5 << 20)
    lab.sync(stick)
    assert sum(path.stat().st_size for path in lab.ws.quarantine.iterdir()) <= 10_000 + (1 << 20)


@pytest.mark.parametrize(
    "name",
    [
        "reports/{id}-0000000000000000.json", "enrol/{id}.json", "acks/{id}/{id}.ack",
        "logs/{id}/0000000000000000/bulk-00000001-00000001-00000000.segs",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 5000, b'{"a":' * 100, b"\xff\xfe", bytes(3000)]
)
def test_nonsense_in_every_place_is_one_line_at_most(lab, name, data):
    device, stick = lab.accepted(), lab.stick()
    path = stick / "EDGEPACK" / name.format(id=device.home.card.device_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    result = lab.sync(stick)
    assert len(result.lines) <= 1
    report = device.sync(stick)
    assert len(report.notes) <= 1


def test_a_stick_full_of_rubbish_takes_time_that_grows_with_it_only(lab):
    device, stick = lab.accepted(), lab.stick()
    folder = stick / "EDGEPACK/logs" / device.home.card.device_id / ("0" * 16)
    folder.mkdir(parents=True)
    for number in range(150):
        (folder / f"bulk-{number:08d}-{number:08d}-00000000.segs").write_bytes(b"rubbish")
    result = lab.sync(stick)
    assert result.tally.quarantined == 150
    assert not list(folder.iterdir())


def test_what_no_key_opens_yet_is_held_unacknowledged_until_the_key_is_here(lab, carried):
    device, stick = carried
    ring, lab.ring = lab.ring, copy(lab.ring)
    lab.ring.secrets = {}
    before = lab.ids()
    assert lab.sync(stick).tally.held == 2
    assert lab.sync(stick).tally.held == 0, "it is held once"
    assert (lab.ids(), len(packs(stick))) == (before, 2)
    device.sync(stick)
    assert not device.home.generation().acked & {s.hash for s in device.start().sealed()[1:]}
    lab.ring = ring
    lab.sync(lab.stick("another"))
    assert device.durable <= lab.ids()
    assert not list(lab.ws.held.rglob("*.seg"))


def test_a_purge_takes_what_was_held_and_set_aside_of_a_device_too(lab, carried):
    device, stick = carried
    other = lab.accepted("press-2")
    other.rows([1, 2], sync=True)
    other.sync(stick)
    torn = next(path for path in packs(stick) if device.identity.public.id in str(path))
    torn.write_bytes(torn.read_bytes()[:-9])
    ring, lab.ring = lab.ring, copy(lab.ring)
    lab.ring.secrets = {}
    tally = lab.sync(stick).tally
    lab.ring = ring
    assert (tally.held, tally.quarantined) == (3, 1)
    archive = Archive(lab.ws.archive, lab.ws.disk)
    with lab.registry() as registry:
        kept = purge_device(lab.ws, registry, archive, lab.ring, "press-1", before=99)
        assert kept.aside == 0
        done = purge_device(lab.ws, registry, archive, lab.ring, "press-1")
        assert done.aside == 2
        left = {row.path for row in registry.held()}
    assert left == {str(path.relative_to(lab.ws.held)) for path in lab.ws.held.rglob("*.seg")}
    assert len(left) == 2
    assert not list(lab.ws.quarantine.iterdir())


def test_a_segment_of_a_newer_format_is_held_and_not_set_aside(lab, carried):
    device, stick = carried
    index, segments = content(packs(stick)[0])
    newer = segments[0][:8] + bytes([2]) + segments[0][9:]
    for path in packs(stick):
        path.unlink()
    h = index.header
    write_pack(stick, device.identity, h.device, h.epoch, h.lane, [(50, "ab" * 32, newer)])
    tally = lab.sync(stick).tally
    assert (tally.held, tally.quarantined, tally.segments) == (1, 0, 0)
