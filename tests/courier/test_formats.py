"""Packs, acks, reports, enrolments: what is written is read; what is not canonical is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.errors import FormatError, UnsupportedVersionError
from device_runtime.format import receipt, stick
from device_runtime.format.receipt import Ack, DeviceReport, Enrolment, Fact, SlotLine
from device_runtime.format.stick import PackedSegment, PackHeader
from edgepack import spans

SIGNATURE = b"s" * receipt.SIGNATURE_BYTES
HASH = st.binary(min_size=32, max_size=32).map(bytes.hex)
EPOCH = st.binary(min_size=8, max_size=8).map(bytes.hex)
ID = st.binary(min_size=16, max_size=16).map(bytes.hex)
COUNT = st.integers(0, 2**63 - 1)
NUMBER = st.integers(1, 200)
FACT = st.builds(Fact, EPOCH, st.integers(0, 1), NUMBER, HASH)
ACK = st.builds(
    Ack, ID, ID, st.tuples(COUNT, EPOCH), st.sampled_from(["archive", "backup"]),
    st.lists(FACT, max_size=40).map(lambda facts: tuple(sorted(set(facts)))),
)  # fmt: skip
LANES = st.dictionaries(st.sampled_from(["0", "1"]), st.tuples(COUNT, HASH))
TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=40)
REPORT = st.builds(
    DeviceReport, ID, TEXT, EPOCH, COUNT, TEXT, TEXT, COUNT, TEXT,
    st.lists(st.builds(SlotLine, COUNT, TEXT, TEXT), max_size=2).map(tuple), COUNT, COUNT,
    st.dictionaries(ID, st.tuples(COUNT, EPOCH)), st.dictionaries(EPOCH, LANES),
    st.dictionaries(EPOCH, st.dictionaries(st.sampled_from(["0", "1"]), COUNT)),
    st.lists(TEXT, max_size=3).map(tuple), st.dictionaries(TEXT, COUNT),
)  # fmt: skip
SEGMENT = st.builds(PackedSegment, COUNT, HASH, HASH, st.integers(0, 1000))
PACK = st.builds(
    PackHeader, ID, EPOCH, st.integers(0, 1), st.lists(SEGMENT, min_size=1, max_size=20).map(tuple)
)


def sign(_message):
    return SIGNATURE


@given(ACK)
def test_acks_round_trip(ack):
    read, signed = receipt.decode_ack(receipt.encode_ack(ack, sign))
    assert read == ack
    assert signed.signature == SIGNATURE


@given(REPORT)
def test_reports_round_trip(report):
    read, _ = receipt.decode_report(receipt.encode_report(report, sign))
    assert read == report


@given(ID, TEXT, st.binary(min_size=32, max_size=32), st.binary(min_size=1952, max_size=1952))
def test_enrolments_round_trip(device, text, ed25519, mldsa65):
    item = Enrolment(device, text, text, text, text, ed25519, mldsa65)
    assert receipt.decode_enrolment(receipt.encode_enrolment(item, sign))[0] == item


@given(PACK)
def test_pack_tables_round_trip(header):
    index = stick.decode_pack(stick.pack_prefix(header, sign))
    assert index.header == header
    assert index.signature == SIGNATURE
    assert index.size == index.offsets[-1] + header.segments[-1].size
    assert (
        stick.is_pack_name(stick.pack_path(header).rsplit("/", 1)[1])
        or max(item.number for item in header.segments) >= 10**19
    )


@given(st.binary(max_size=300))
def test_noise_is_refused_as_noise(data):
    for read in (
        receipt.decode_ack,
        receipt.decode_report,
        receipt.decode_enrolment,
        stick.decode_pack,
    ):
        with pytest.raises(FormatError):
            read(data)


@given(ACK, st.data())
def test_every_flipped_bit_of_an_ack_is_refused_or_changes_the_message(ack, data):
    raw = bytearray(receipt.encode_ack(ack, sign))
    _, good = receipt.decode_ack(bytes(raw))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        _, other = receipt.decode_ack(bytes(raw))
    except FormatError:
        return
    assert (other.message, other.signature) != (good.message, good.signature)


def envelope(**change):
    body = {"base": "b" * 32, "custody": "archive", "device": "d" * 32, "facts": [],
            "generation": [1, "0" * 16]}  # fmt: skip
    value = {"body": {**body, **change.pop("body", {})}, "format": "edgepack-ack",
             "signature": SIGNATURE.hex(), "version": 1, **change}  # fmt: skip
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "edgepack-report"}, {"signature": "00"}, {"body": {"base": "x" * 32}},
        {"body": {"generation": [-1, "0" * 16]}}, {"body": {"generation": [True, "0" * 16]}},
        {"body": {"custody": "somewhere"}}, {"body": {"facts": [{}]}}, {"body": {"facts": 7}},
        {"body": {"facts": [{"epoch": "0" * 16, "lane": 0, "ranges": [[1, 9**9]], "hashes": []}]}},
        {"body": {"facts": [{"epoch": "0" * 16, "lane": 2, "ranges": [], "hashes": []}]}},
        {"body": {"facts": [{"epoch": "0" * 16, "lane": 0, "ranges": [], "hashes": ["a" * 64]}]}},
    ],
)  # fmt: skip
def test_acks_that_do_not_follow_the_format_are_refused(change):
    with pytest.raises(FormatError):
        receipt.decode_ack(envelope(**change))


def test_a_newer_version_is_told_from_damage():
    with pytest.raises(UnsupportedVersionError):
        receipt.decode_ack(envelope(version=2))


def test_packs_hold_one_lane_and_at_most_64_mib():
    big = [
        ("d" * 32, "e" * 16, lane, PackedSegment(n, "a" * 64, "b" * 64, 30 << 20))
        for lane in (0, 1)
        for n in (1, 2, 3)
    ]
    packs = stick.plan_packs(big)
    assert [(p.lane, len(p.segments)) for p in packs] == [(0, 2), (0, 1), (1, 2), (1, 1)]
    assert len({stick.pack_path(p).casefold() for p in packs}) == 4


def test_names_are_safe_on_every_file_system():
    assert stick.safe_name("Präs/../se 1") == "pr_s____se_1"
    assert stick.parse_bundle_name("flight-delays-12.edgepack") == ("flight-delays", 12)
    for name in ("a.edgepack", "A-1.edgepack", "-1.edgepack", "a-1.edgepack.part", "a-x.edgepack"):
        assert stick.parse_bundle_name(name) is None


# --- sets of sequences ----------------------------------------------------------------------------

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def numbers(some):
    return {n for first, last in some for n in range(first, last + 1)}


@given(SPANS, SPANS)
def test_spans_behave_like_sets(one, other):
    assert numbers(spans.normal(one)) == numbers(one)
    assert numbers(spans.subtract(one, other)) == numbers(one) - numbers(other)
    assert numbers(spans.intersect(one, other)) == numbers(one) & numbers(other)
    assert spans.count(spans.normal(one)) == len(numbers(one))
