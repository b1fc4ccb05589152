"""Packed files: one complete standard .xz, of exactly the signed content, in bounded memory."""

from __future__ import annotations

import hashlib
import lzma
import random
import subprocess
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.errors import (
    DigestMismatchError,
    EdgepackError,
    FormatError,
    LengthMismatchError,
)
from device_runtime.trust.custom import Target
from device_runtime.trust.source import expand

DATA = bytes(range(256)) * 40


def target(data: bytes) -> Target:
    return Target(len(data), hashlib.sha256(data).hexdigest())


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return iter([data[at : at + size] for at in range(0, len(data), size)])


def unpacked(packed: bytes, expected: Target, size: int = 1 << 20) -> bytes:
    found: list[bytes] = []
    expand(pieces(packed, size), "x.xz", expected, found.append)
    return b"".join(found)


@given(data=st.binary(max_size=5000), size=st.integers(1, 700))
def test_what_was_packed_comes_out(data: bytes, size: int) -> None:
    assert unpacked(lzma.compress(data), target(data), size) == data


def test_the_xz_tool_packs_what_we_expand(tmp_path: object) -> None:
    done = subprocess.run(["xz", "-9e", "-c"], input=DATA, capture_output=True, check=True)
    assert unpacked(done.stdout, target(DATA)) == DATA


@given(data=st.binary(max_size=400))
def test_random_bytes_raise_our_errors(data: bytes) -> None:
    with pytest.raises(EdgepackError):
        unpacked(data, target(DATA))


def test_every_truncation_and_sampled_flips_raise_our_errors() -> None:
    good = lzma.compress(DATA)
    for size in range(len(good)):
        with pytest.raises(EdgepackError):
            unpacked(good[:size], target(DATA), 64)
    for position in random.Random(1).sample(range(len(good)), 100):
        bad = bytearray(good)
        bad[position] ^= 8
        with pytest.raises(EdgepackError):
            unpacked(bytes(bad), target(DATA))


@pytest.mark.parametrize("size", [7, 1 << 20])
@pytest.mark.parametrize(
    "packed",
    [
        lzma.compress(DATA) + b"\0",
        lzma.compress(DATA) + bytes(4),
        lzma.compress(DATA) * 2,
        lzma.compress(DATA, lzma.FORMAT_ALONE),
        zlib.compress(DATA),
        b"",
    ],
    ids=["a-byte-more", "stream-padding", "two-streams", "lzma-alone", "zlib", "nothing"],
)
def test_another_form_is_refused(packed: bytes, size: int) -> None:
    with pytest.raises(FormatError):
        unpacked(packed, target(DATA), size)


@pytest.mark.parametrize("other", [DATA + b"x", DATA[:-1]])
def test_more_or_less_than_was_signed_is_refused(other: bytes) -> None:
    with pytest.raises(LengthMismatchError):
        unpacked(lzma.compress(other), target(DATA))


def test_other_content_of_the_same_length_is_refused() -> None:
    with pytest.raises(DigestMismatchError):
        unpacked(lzma.compress(DATA[::-1]), target(DATA))


def test_a_bomb_stops_at_the_signed_length() -> None:
    bomb = lzma.compress(bytes(100 << 20))
    written = 0

    def count(data: bytes) -> None:
        nonlocal written
        written += len(data)

    tracemalloc.start()
    with pytest.raises(LengthMismatchError):
        expand(iter((bomb,)), "x.xz", Target(5 << 20, "0" * 64), count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written <= 5 << 20
    assert peak < 16 << 20  # 8 MiB of it is the dictionary of the packer


def test_a_decoder_that_wants_too_much_memory_is_refused() -> None:
    greedy = bytearray(lzma.compress(DATA))
    header = slice(12, 12 + 4 * (greedy[12] + 1))  # behind the stream header: of the one block
    block = greedy[header]
    assert block[2:4] == b"\x21\x01"  # LZMA2, one byte of properties: the dictionary
    block[4] = 37  # 1.5 GiB
    block[-4:] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    greedy[header] = block
    with pytest.raises(FormatError, match="emory"):
        unpacked(bytes(greedy), target(DATA))
