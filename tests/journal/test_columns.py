"""Columns come back bit for bit, whatever they hold; hostile bytes end in a FormatError."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from device_runtime.errors import FormatError
from device_runtime.format import ints
from device_runtime.format.batch import Text
from device_runtime.format.columns import DTYPE_CODES, NUMPY, decode_columns, encode_columns

NUMERIC = [name for name in DTYPE_CODES if name != "string"]


def same(data, result):
    if isinstance(data, Text):
        return list(data.strings()) == result.strings()
    return np.ascontiguousarray(data).tobytes() == result.tobytes()


def round_trip(n, columns):
    blob = encode_columns(n, columns)
    count, result, specs = decode_columns(blob)
    assert count == n
    assert [(name, dtype, shape) for name, dtype, shape, _ in columns] == specs
    for name, dtype, shape, data in columns:
        assert same(data, result[name]), (name, dtype)
        if dtype != "string":
            assert result[name].shape == (n, *shape)
    return blob


@st.composite
def column(draw, n):
    dtype = draw(st.sampled_from(DTYPE_CODES))
    if dtype == "string":
        words = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
        return dtype, (), Text.of(draw(st.lists(words, min_size=n, max_size=n)))
    shape = draw(st.sampled_from([(), (1,), (2,), (3, 2)]))
    size = n * int(np.prod(shape, dtype=int))
    width = np.dtype(NUMPY[dtype]).itemsize
    style = draw(st.sampled_from(["bytes", "few", "steps", "decimal"]))
    if style == "bytes":  # any bit pattern: NaN payloads, signed zeros, denormals
        raw = draw(st.binary(min_size=size * width, max_size=size * width))
        return dtype, shape, np.frombuffer(raw, NUMPY[dtype])
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if style == "few":
        pool = np.frombuffer(rng.bytes(3 * width), NUMPY[dtype])
        return dtype, shape, rng.choice(pool, size)
    if style == "steps":
        values = np.cumsum(rng.integers(0, 5, size))
    else:
        values = rng.integers(-500, 500, size) / draw(st.sampled_from([1, 10, 100, 60]))
    with np.errstate(all="ignore"):
        return dtype, shape, values.astype(NUMPY[dtype])


@given(st.data())
@settings(max_examples=150)
def test_any_columns_come_back_bit_for_bit(data):
    n = data.draw(st.integers(0, 70))
    count = data.draw(st.integers(0, 4))
    drawn = [data.draw(column(n)) for _ in range(count)]
    round_trip(n, [(f"c{i}", *item) for i, item in enumerate(drawn)])


@given(
    hnp.arrays(np.uint64, st.integers(0, 300), elements=st.integers(0, 2**64 - 1))
    | hnp.arrays(np.uint64, st.integers(0, 300), elements=st.integers(0, 40))
    | hnp.arrays(np.uint64, st.integers(40, 300), elements=st.integers(2**63 - 2, 2**63 + 2))
)
def test_any_stream_of_integers_comes_back(values):
    blob = ints.encode(values)
    reader = ints.Reader(blob, 1 << 20)
    assert (ints.decode(reader, len(values)) == values).all()
    assert reader.at == len(blob)


def test_nan_payloads_and_signed_zeros_survive():
    bits = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x80000000, 0, 0x7F800000], np.uint32)
    round_trip(6, [("x", "float32", (), bits.view(np.float32))])
    many = np.tile(bits, 2000)
    round_trip(len(many), [("x", "float32", (), many.view(np.float32))])


def test_decimal_numbers_with_rare_exceptions_stay_small():
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 500, 20_000) / 10).astype(np.float32)
    values[::777] = np.nan
    values[1::777] = np.float32(1 / 3)
    blob = round_trip(len(values), [("x", "float32", (), values)])
    assert len(blob) < 1.35 * len(values)


def test_columns_that_move_together_are_written_once():
    rng = np.random.default_rng(2)
    hour = rng.integers(0, 300, 20_000)
    facts = rng.normal(size=(300, 6)).astype(np.float32)
    columns = [(f"w{i}", "float32", (), np.ascontiguousarray(facts[hour, i])) for i in range(6)]
    alone = sum(len(round_trip(len(hour), [item])) for item in columns)
    assert len(round_trip(len(hour), columns)) < 0.35 * alone


def test_a_pair_of_probabilities_costs_as_much_as_one():
    rng = np.random.default_rng(3)
    p = rng.random(10_000).astype(np.float32)
    pair = np.stack([1 - p, p], axis=1)
    assert len(round_trip(len(p), [("s", "float32", (2,), pair)])) < 1.05 * len(
        round_trip(len(p), [("s", "float32", (), p)])
    )
    pair[::3, 0] += np.float32(1e-6)
    round_trip(len(p), [("s", "float32", (2,), pair)])


def test_text_of_many_shapes():
    words = ["", "a", "ä" * 40, "0\x00", "𝄞", None]
    round_trip(6000, [("t", "string", (), Text.of(words * 1000))])
    unique = [f"{i:032x}" for i in range(3000)]
    round_trip(3000, [("t", "string", (), Text.of(unique)), ("u", "string", (), Text.of(unique))])
    round_trip(3, [("t", "string", (), Text.of([None, None, None]))])


def test_data_of_another_length_are_refused():
    with pytest.raises(ValueError, match="rows"):
        encode_columns(3, [("x", "int8", (), np.zeros(2, np.int8))])


# --- hostile bytes ---------------------------------------------------------------------------


def sample():
    rng = np.random.default_rng(4)
    n = 400
    hour = np.repeat(np.arange(8), 50)
    return encode_columns(
        n,
        [
            ("i", "int32", (), rng.integers(0, 9, n).astype(np.int32)),
            ("f", "float64", (), rng.normal(size=n)),
            ("d", "float32", (), (rng.integers(0, 90, n) / 10).astype(np.float32)),
            ("s", "float32", (2,), np.stack([1 - hour / 8, hour / 8], 1).astype(np.float32)),
            ("t", "string", (), Text.of([f"x{h}" for h in hour])),
            ("u", "float32", (), rng.random(8).astype(np.float32)[hour]),
            ("v", "float32", (), rng.random(8).astype(np.float32)[hour]),
        ],
    )


def test_every_truncation_is_refused():
    blob = sample()
    for size in range(0, len(blob), 7):
        with pytest.raises(FormatError):
            decode_columns(blob[:size])
    with pytest.raises(FormatError):
        decode_columns(blob + b"\0")


def test_no_flipped_bit_does_more_than_change_values():
    blob = sample()
    rng = np.random.default_rng(5)
    for position in rng.integers(0, len(blob) * 8, 1500):
        bad = bytearray(blob)
        bad[position // 8] ^= 1 << (position % 8)
        with contextlib.suppress(FormatError):
            decode_columns(bytes(bad), max_rows=1000, max_bytes=1 << 20)


def bomb(count, payload):
    """A container with one column whose stream says anything."""
    head = struct.pack("<6sBBIII", b"EPCOLS", 1, 0, count, 1, 0)
    spec = struct.pack("<HBB", 1, DTYPE_CODES.index("int64"), 0) + b"x"
    return head + spec + len(payload).to_bytes(4, "little") + payload


def test_decompression_bombs_stay_in_bounded_memory():
    huge = zlib.compress(bytes(200 << 20), 9)
    stream = bytes([0, 1]) + struct.pack("<QBBBI", 0, 8, 0, 1, len(huge)) + huge
    tracemalloc.start()
    for count in (1, 1000, 100_000):
        with pytest.raises(FormatError):
            decode_columns(bomb(count, stream), max_rows=1 << 20, max_bytes=1 << 20)
    with pytest.raises(FormatError):
        decode_columns(bomb(1 << 31, bytes(10)))
    deep = bytes([0]) + bytes([2]) + bytes(8) + (bytes([2]) + bytes(8)) * 50
    with pytest.raises(FormatError):
        decode_columns(bomb(100, deep))
    nested = bytes([0, 3]) + (2**31).to_bytes(4, "little")
    with pytest.raises(FormatError):
        decode_columns(bomb(100, nested))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_every_numpy_dtype_has_a_code():
    assert set(NUMERIC) == set(NUMPY)
