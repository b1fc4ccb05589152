"""Streams of 64-bit integers: the one thing that every column becomes before it is compressed.

A stream of m values says how it was made: constant, offset from the smallest value, difference to
the value before (zigzag), or index into a sorted dictionary. What is left is cut to the bytes it
needs, laid out byte plane by byte plane or value by value, and deflated. Arithmetic is modulo
2**64, so every value comes back bit for bit.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.errors import FormatError, TruncatedError

U64 = NDArray[np.uint64]

CONST, OFFSET, DELTA, DICT = 0, 1, 2, 3
STORE, ZLIB = 0, 1
_PLANES, _VALUES, _BITS1, _BITS2, _BITS4 = 0, 1, 2, 3, 4
_SAMPLE = 4096
_OFFSET_HEAD = struct.Struct("<QBBBI")  # smallest, bytes per value, layout, packing, bytes
_MAX_DEPTH = 4


class Reader:
    """Walks over bytes that somebody else may have written; never past their end."""

    def __init__(self, data: bytes | memoryview, budget: int) -> None:
        self.view = memoryview(data)
        self.at = 0
        self.budget = budget

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes."""
        end = self.at + size
        if size < 0 or end > len(self.view):
            raise TruncatedError("a block of columns ends too early")
        part = self.view[self.at : end]
        self.at = end
        return part

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """Return the next fixed record."""
        return form.unpack(self.take(form.size))

    def number(self) -> int:
        """Return the next u32."""
        return int.from_bytes(self.take(4), "little")

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def spend(self, size: int) -> None:
        """Count decoded bytes against what this container may grow to."""
        self.budget -= size
        if self.budget < 0:
            raise FormatError("a block of columns would grow beyond its limit")


# --- compression -----------------------------------------------------------------------------


def pack(data: bytes) -> tuple[int, bytes]:
    """Return (packing, bytes), stored where deflating does not pay.

    LZMA was measured: 7 % smaller on flights, three times slower to write (docs/adr).
    """
    if len(data) > 16:
        small = zlib.compress(data, 6)
        if len(small) < len(data):
            return ZLIB, small
    return STORE, data


def unpack(packing: int, data: memoryview, size: int) -> bytes:
    """Undo `pack`; the result has exactly `size` bytes or it is refused; memory is bounded."""
    if packing == STORE:
        result = bytes(data)
    elif packing == ZLIB:
        inflater = zlib.decompressobj()
        try:
            result = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise FormatError(f"a block of columns does not inflate: {error}") from None
    else:
        raise FormatError(f"a block of columns uses packing {packing}")
    if len(result) != size:
        raise FormatError("a block of columns has another size than it says")
    return result


# --- writing ---------------------------------------------------------------------------------


def encode(values: U64, *, dictionary: bool = True) -> bytes:
    """Return the stream of `values` (uint64; signed values are taken modulo 2**64)."""
    if len(values) == 0:
        return b""
    signed = values.view(np.int64)
    low, high = int(signed.min()), int(signed.max())
    if low == high:
        return bytes([CONST]) + int(values[0]).to_bytes(8, "little")
    offset = values - np.uint64(low & 0xFFFFFFFFFFFFFFFF)
    width = _width(high - low)
    candidates = [(_price(offset, width), 0)]
    zigzag = delta_of(values)
    delta_width = _width(int(zigzag.max()) if len(zigzag) else 0)
    if len(values) > 2:
        candidates.append((_price(zigzag, delta_width), 1))
    entries, codes = values, values
    table = dictionary_of(values) if dictionary and width > 1 else None
    if table is not None:
        entries, codes = table
        cost = _price(codes, _width(len(entries) - 1))
        candidates.append((cost + len(entries) * width * 0.6 * _share(len(values)), 2))
    choice = min(candidates)[1]
    if choice == 1:
        return bytes([DELTA]) + int(values[0]).to_bytes(8, "little") + encode_plain(zigzag)
    if choice == 2 and table is not None:
        head = bytes([DICT]) + len(entries).to_bytes(4, "little")
        return head + encode(entries, dictionary=False) + encode(codes, dictionary=False)
    return _offset(offset, low, width)


def encode_plain(values: U64) -> bytes:
    """Return the stream of `values` as offsets from the smallest."""
    low, high = int(values.min()), int(values.max())
    if low == high:
        return bytes([CONST]) + low.to_bytes(8, "little")
    return _offset(values - np.uint64(low), low, _width(high - low))


def delta_of(values: U64) -> U64:
    """Return zigzag differences of neighbours, one fewer than values, modulo 2**64."""
    delta = (values[1:] - values[:-1]).view(np.int64)
    return ((delta << np.int64(1)) ^ (delta >> np.int64(63))).view(np.uint64)


def dictionary_of(values: U64) -> tuple[U64, U64] | None:
    """Return (sorted distinct values, index per value), None if there are too many."""
    limit = min(65_536, len(values) // 4)
    sample = values[:: max(1, len(values) // 1024)]
    distinct = len(np.unique(sample))
    if limit < 2 or distinct > 0.8 * len(sample) > limit:
        return None
    if distinct > 0.9 * len(sample) > 0.9 * 512:
        return None
    entries, codes = np.unique(values, return_inverse=True)
    if len(entries) > limit:
        return None
    return entries, codes.astype(np.uint64)


def _width(span: int) -> int:
    return (span.bit_length() + 7) // 8


def _share(count: int) -> float:
    return min(1.0, _SAMPLE / count)


def _price(values: U64, width: int) -> float:
    """Estimate the compressed bytes of a sample."""
    if width == 0:
        return 0
    middle = max(0, (len(values) - _SAMPLE) // 2)
    return len(zlib.compress(_layout(values[middle : middle + _SAMPLE], width, _PLANES), 1))


def _layout(values: U64, width: int, layout: int) -> bytes:
    raw = values.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[:, :width]
    return raw.tobytes() if layout == _VALUES else raw.T.tobytes()


def _offset(values: U64, low: int, width: int) -> bytes:
    top = int(values.max())
    best: tuple[int, bytes] | None
    if width == 1:
        layout, data = _PLANES, values.astype(np.uint8).tobytes()
        if top < 16 and len(values) >= 32:
            layout, data = _bits(values, 1 if top < 2 else 2 if top < 4 else 4)
            best = pack(data)
            other = pack(values.astype(np.uint8).tobytes())
            if len(other[1]) <= len(best[1]):
                layout, best = _PLANES, other
        else:
            best = pack(data)
    else:
        middle = max(0, (len(values) - _SAMPLE) // 2)
        part = values[middle : middle + _SAMPLE]
        planes = len(zlib.compress(_layout(part, width, _PLANES), 6))
        valued = len(zlib.compress(_layout(part, width, _VALUES), 6))
        layout = _VALUES if valued < 0.98 * planes else _PLANES
        best = pack(_layout(values, width, layout))
    packing, body = best
    head = _OFFSET_HEAD.pack(low & 0xFFFFFFFFFFFFFFFF, width, layout, packing, len(body))
    return bytes([OFFSET]) + head + body


def _bits(values: U64, bits: int) -> tuple[int, bytes]:
    """Return (layout, bytes) with 1, 2 or 4 bits per value, first value in the lowest bits."""
    per = 8 // bits
    padded = np.zeros(-(-len(values) // per) * per, np.uint8)
    padded[: len(values)] = values
    parts = padded.reshape(-1, per)
    total = parts[:, 0].copy()
    for index in range(1, per):
        total |= parts[:, index] << np.uint8(index * bits)
    return {1: _BITS1, 2: _BITS2, 4: _BITS4}[bits], total.tobytes()


# --- reading ---------------------------------------------------------------------------------


def decode(reader: Reader, count: int, depth: int = 0) -> U64:
    """Read a stream of `count` values.

    Raises:
        FormatError: It does not follow docs/FORMAT-journal.md, or would grow beyond the budget.
    """
    if count == 0:
        return np.zeros(0, np.uint64)
    reader.spend(8 * count)
    if depth > _MAX_DEPTH:
        raise FormatError("a block of columns is nested too deep")
    kind = reader.byte()
    if kind == CONST:
        return np.full(count, int.from_bytes(reader.take(8), "little"), np.uint64)
    if kind == OFFSET:
        return _read_offset(reader, count)
    if kind == DELTA:
        first = int.from_bytes(reader.take(8), "little")
        zigzag = decode(reader, count - 1, depth + 1)
        delta = (zigzag >> np.uint64(1)) ^ (np.uint64(0) - (zigzag & np.uint64(1)))
        result = np.empty(count, np.uint64)
        result[0] = first
        np.cumsum(delta, out=result[1:])
        result[1:] += np.uint64(first)
        return result
    if kind == DICT:
        size = reader.number()
        if not 0 < size <= count:
            raise FormatError("a dictionary is larger than its column")
        entries = decode(reader, size, depth + 1)
        codes = decode(reader, count, depth + 1)
        return take(entries, codes)
    raise FormatError(f"a block of columns uses codec {kind}")


def take(entries: NDArray[Any], codes: U64) -> NDArray[Any]:
    """Return `entries[codes]` after checking every code."""
    if len(codes) and int(codes.max()) >= len(entries):
        raise FormatError("a code points outside its dictionary")
    return entries[codes.view(np.int64)]


def _read_offset(reader: Reader, count: int) -> U64:
    low, width, layout, packing, size = reader.unpack(_OFFSET_HEAD)
    body = reader.take(size)
    if not 1 <= width <= 8:
        raise FormatError("a block of columns has no valid width")
    if layout in (_BITS1, _BITS2, _BITS4):
        bits = {_BITS1: 1, _BITS2: 2, _BITS4: 4}[layout]
        per = 8 // bits
        raw = np.frombuffer(unpack(packing, body, -(-count // per)), np.uint8)
        parts = np.empty((len(raw), per), np.uint64)
        for index in range(per):
            parts[:, index] = (raw >> np.uint8(index * bits)) & np.uint8((1 << bits) - 1)
        result = parts.reshape(-1)[:count]
    elif layout in (_PLANES, _VALUES):
        raw = np.frombuffer(unpack(packing, body, count * width), np.uint8)
        result = _join(raw, count, width, planes=layout == _PLANES)
    else:
        raise FormatError(f"a block of columns uses layout {layout}")
    if low:
        result += np.uint64(low)
    return result


def _join(raw: NDArray[np.uint8], count: int, width: int, *, planes: bool) -> U64:
    if width == 1:
        return raw.astype(np.uint64)
    if not planes and width in (2, 4, 8):
        return raw.view(f"<u{width}").astype(np.uint64)
    result = np.zeros((count, 8), np.uint8)
    result[:, :width] = raw.reshape(width, count).T if planes else raw.reshape(count, width)
    return result.view("<u8").reshape(-1)
