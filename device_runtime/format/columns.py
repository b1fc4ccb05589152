"""Bit-exact columnar codec: every dtype, text, NaN payloads, fixed-shape tensors.

Each column becomes one or more streams of integers (`format.ints`). Floats that are decimal
numbers become scaled integers; two columns that say the same thing are written once: columns that
move together share one table of distinct tuples, and a pair of probabilities keeps only one.
Needs numpy; the path of a small request does not come here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.errors import FormatError, TooLargeError, UnsupportedVersionError
from device_runtime.format import ints
from device_runtime.format.batch import MISSING_CODE, ColumnData, Text
from device_runtime.format.ints import U64, Reader
from device_runtime.format.shared import shared_tables
from device_runtime.later import every

MAGIC = b"EPCOLS"
VERSION = 1
Spec = tuple[str, str, tuple[int, ...]]

DTYPE_CODES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "timestamp",
    "string",
)
NUMPY: dict[str, str] = {
    "bool": "u1",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float32": "<f4",
    "float64": "<f8",
    "timestamp": "<i8",
}
PLAIN, SCALED, COMPLEMENT, TEXT, SHARED = 0, 1, 2, 3, 4  # how a column is written

_HEAD = struct.Struct("<6sBBIII")  # magic, version, 0, rows, columns, shared tables
_MAX_DECIMALS = 6


def encode_columns(
    n: int, columns: Sequence[tuple[str, str, tuple[int, ...], ColumnData]]
) -> bytes:
    """Return the container of n rows.

    Args:
        n: Rows.
        columns: (name, dtype, shape of one row, data) each; data is `Text` or a buffer.

    Raises:
        ValueError: Data of another length than n rows.
    """
    raw = [_Column(n, *column) for column in columns]
    tables = shared_tables(n, raw) if n >= 256 else []
    parts = [_HEAD.pack(MAGIC, VERSION, 0, n, len(raw), len(tables))]
    written = every(lambda table: ints.encode(table.codes), tables, n)
    for table, codes in zip(tables, written, strict=True):
        parts += [len(table.first).to_bytes(4, "little"), codes]
    home = {member: index for index, table in enumerate(tables) for member in table.members}

    def encode(index: int) -> bytes:
        if index not in home:
            return raw[index].encode(None)
        head = bytes([SHARED]) + home[index].to_bytes(2, "little")
        return head + raw[index].encode(tables[home[index]].first)

    for column, body in zip(raw, every(encode, range(len(raw)), n), strict=True):
        name = column.name.encode()
        parts.append(
            struct.pack("<HBB", len(name), DTYPE_CODES.index(column.dtype), len(column.shape))
        )
        parts.append(name + struct.pack(f"<{len(column.shape)}I", *column.shape))
        parts.append(len(body).to_bytes(4, "little") + body)
    return b"".join(parts)


def decode_columns(
    data: bytes | bytearray | memoryview, *, max_rows: int = 1 << 20, max_bytes: int = 256 << 20
) -> tuple[int, dict[str, ColumnData], list[Spec]]:
    """Return (n, name → numpy array [n, *shape] or Text, [(name, dtype, shape)]).

    Raises:
        TooLargeError: More rows or decoded bytes than allowed.
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: Anything else that does not follow docs/FORMAT-journal.md.
    """
    reader = Reader(memoryview(data), 8 * max_bytes)
    magic, version, zero, n, count, shared = reader.unpack(_HEAD)
    if magic != MAGIC or zero:
        raise FormatError("these are not columns")
    if version != VERSION:
        raise UnsupportedVersionError(f"columns have version {version}; this reads {VERSION}")
    if n > max_rows or count > 65_536 or shared > count:
        raise TooLargeError(f"columns of {n} rows are more than is allowed here")
    tables: list[tuple[int, U64]] = []
    for _ in range(shared):
        size = reader.number()
        if size > n:
            raise FormatError("a shared table has more rows than its columns")
        tables.append((size, ints.decode(reader, n)))
    columns: dict[str, ColumnData] = {}
    specs: list[Spec] = []
    total = 0
    for _ in range(count):
        spec = _read_spec(reader)
        total += n * _size(spec)
        if total > max_bytes:
            raise TooLargeError(f"columns would need more than {max_bytes} bytes")
        if spec[0] in columns:
            raise FormatError("a column stands twice")
        block = Reader(reader.take(reader.number()), reader.budget)
        columns[spec[0]] = _decode_column(block, n, spec, tables)
        reader.budget = block.budget
        if block.at != len(block.view):
            raise FormatError("a column has more bytes than it needs")
        specs.append(spec)
    if reader.at != len(reader.view):
        raise FormatError("something stands behind the columns")
    return n, columns, specs


# --- writing ---------------------------------------------------------------------------------


class _Column:
    """One column on its way into bytes."""

    def __init__(
        self, n: int, name: str, dtype: str, shape: tuple[int, ...], data: ColumnData
    ) -> None:
        self.name, self.dtype, self.shape, self.n = name, dtype, shape, n
        self.text: Text | None = None
        if dtype == "string":
            self.text = data
            self.array: NDArray[Any] = np.asarray(data.codes, dtype=np.uint32)
        else:
            self.array = np.frombuffer(memoryview(data).cast("B"), NUMPY[dtype])
        if len(self.array) != n * int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"column {name} has not {n} rows")

    def bits(self) -> U64:
        """Return one uint64 per value that stands for it, bit for bit."""
        if self.array.dtype.kind == "f":
            return self.array.view(f"<u{self.array.dtype.itemsize}").astype(np.uint64)
        if self.array.dtype.kind == "i":
            return self.array.astype(np.int64).view(np.uint64)
        return self.array.astype(np.uint64)

    def encode(self, rows: NDArray[np.int64] | None) -> bytes:
        """Return the block of these rows (all if None)."""
        if self.text is not None:
            return _encode_text(self.text, self.array if rows is None else self.array[rows])
        array = self.array
        if rows is not None:
            array = array.reshape(self.n, -1)[rows].reshape(-1)
        if array.dtype.kind == "f":
            return _encode_floats(array, pair=self.shape == (2,))
        return bytes([PLAIN]) + ints.encode(_bits(array))


def _bits(array: NDArray[Any]) -> U64:
    if array.dtype.kind == "f":
        return array.view(f"<u{array.dtype.itemsize}").astype(np.uint64)
    if array.dtype.kind == "i":
        return array.astype(np.int64).view(np.uint64)
    return array.astype(np.uint64)


def _encode_text(text: Text, codes: NDArray[np.uint32]) -> bytes:
    """Write the strings in use, sorted, their lengths, and a code per row: 0 is missing."""
    used = np.unique(codes)
    used = used[used != MISSING_CODE]
    strings = [text.values[int(code)].encode() for code in used]
    order = sorted(range(len(strings)), key=strings.__getitem__)
    new = np.zeros(max(len(text.values), 1), np.uint64)
    new[used[order]] = np.arange(1, len(order) + 1, dtype=np.uint64)
    present = codes != MISSING_CODE
    mapped = np.where(present, new[np.where(present, codes, 0)], np.uint64(0))
    ordered = [strings[index] for index in order]
    blob = b"".join(ordered)
    packing, body = ints.pack(blob)
    lengths = np.fromiter((len(item) for item in ordered), np.uint64, len(ordered))
    head = struct.pack("<BIBII", TEXT, len(ordered), packing, len(blob), len(body))
    return head + body + ints.encode(lengths) + ints.encode(mapped)


def _encode_floats(array: NDArray[Any], *, pair: bool) -> bytes:
    if pair and len(array) >= 4:
        first, second = array[0::2], array[1::2]
        guess = (array.dtype.type(1) - second).astype(array.dtype)
        wrong = np.flatnonzero(_bits(np.ascontiguousarray(first)) != _bits(guess))
        if len(wrong) * 2 < len(first):
            inner = _encode_floats(np.ascontiguousarray(second), pair=False)
            distance = _bits(np.ascontiguousarray(first)) - _bits(guess)
            return bytes([COMPLEMENT]) + ints.encode(distance) + inner
    scaled = _encode_scaled(array) if len(array) >= 8 else None
    plain = bytes([PLAIN]) + ints.encode(_bits(array))
    return plain if scaled is None or len(plain) <= len(scaled) else scaled


def _encode_scaled(array: NDArray[Any]) -> bytes | None:
    """Write decimal numbers as integers; None if too few of them are decimal."""
    sample = array[:: max(1, len(array) // 512)]
    for decimals in range(_MAX_DECIMALS + 1):
        if _wrong(sample, _scale(sample, decimals), decimals).mean() <= 0.05:
            break
    else:
        return None
    whole = _scale(array, decimals)
    wrong = _wrong(array, whole, decimals)
    if len(wrong) and wrong.all():
        return None
    places = np.flatnonzero(wrong)
    right = np.flatnonzero(~wrong)
    if len(places) > len(array) // 2:
        return None
    if len(places):  # an exception takes over the value before it, which costs nothing
        before = np.maximum.accumulate(np.where(wrong, 0, np.arange(len(array))))
        whole = whole[np.where(before == 0, right[0], before)]
    head = struct.pack("<BBI", SCALED, decimals, len(places))
    holes = ints.encode(places.astype(np.uint64)) + ints.encode(_bits(array[places]))
    return head + holes + ints.encode(whole.view(np.uint64))


def _scale(array: NDArray[Any], decimals: int) -> NDArray[np.int64]:
    with np.errstate(all="ignore"):
        value = np.rint(array.astype(np.float64) * 10.0**decimals)
        return np.where(np.abs(value) < 2.0**53, value, 0).astype(np.int64)


def _unscale(whole: NDArray[np.int64], decimals: int, dtype: str) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return (whole.astype(np.float64) / 10.0**decimals).astype(dtype)


def _wrong(array: NDArray[Any], whole: NDArray[np.int64], decimals: int) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = _bits(_unscale(whole, decimals, array.dtype.str)) != _bits(array)
    return result


# --- reading ---------------------------------------------------------------------------------


def _read_spec(reader: Reader) -> Spec:
    size, code, dims = reader.unpack(struct.Struct("<HBB"))
    try:
        name = str(reader.take(size), "utf-8")
    except UnicodeDecodeError:
        raise FormatError("a column's name is not UTF-8") from None
    shape = tuple(reader.number() for _ in range(dims))
    if code >= len(DTYPE_CODES) or any(not 0 < item <= 1 << 24 for item in shape) or dims > 8:
        raise FormatError("a column has no valid dtype or shape")
    if DTYPE_CODES[code] == "string" and shape:
        raise FormatError("a column of strings has a shape")
    return name, DTYPE_CODES[code], shape


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for item in shape:
        total *= item
    return total


def _size(spec: Spec) -> int:
    """Bytes per row of a column in memory."""
    width = 4 if spec[1] == "string" else np.dtype(NUMPY[spec[1]]).itemsize
    return _count(spec[2]) * width


def _decode_column(reader: Reader, n: int, spec: Spec, tables: list[tuple[int, U64]]) -> ColumnData:
    kind = reader.byte()
    if kind == SHARED:
        index = int.from_bytes(reader.take(2), "little")
        if index >= len(tables):
            raise FormatError("a column points to a shared table that is not there")
        size, codes = tables[index]
        inner = _decode_plain(reader, size, spec, reader.byte())
        if isinstance(inner, Text):
            return Text(ints.take(inner.codes, codes), inner.values)
        return ints.take(inner, codes)
    return _decode_plain(reader, n, spec, kind)


def _decode_plain(reader: Reader, n: int, spec: Spec, kind: int) -> ColumnData:
    _, dtype, shape = spec
    if dtype == "string":
        if kind != TEXT:
            raise FormatError("a column of strings is written as numbers")
        return _decode_text(reader, n)
    target = np.dtype(NUMPY[dtype])
    result = _decode_numbers(reader, n * _count(shape), target, kind)
    return result.reshape(n, *shape)


def _decode_numbers(reader: Reader, count: int, target: np.dtype[Any], kind: int) -> NDArray[Any]:
    if kind == PLAIN:
        return _from_bits(ints.decode(reader, count), target)
    if kind == SCALED and target.kind == "f":
        decimals, size = reader.byte(), reader.number()
        if decimals > _MAX_DECIMALS or size > count:
            raise FormatError("a column of decimal numbers is not valid")
        places, values = ints.decode(reader, size), ints.decode(reader, size)
        whole = ints.decode(reader, count).view(np.int64)
        result = _unscale(whole, decimals, target.str)
        if size:
            if int(places.max()) >= count:
                raise FormatError("an exception lies outside its column")
            result[places.view(np.int64)] = _from_bits(values, target)
        return result
    if kind == COMPLEMENT and target.kind == "f" and count % 2 == 0:
        distance = ints.decode(reader, count // 2)
        inner = reader.byte()
        if inner == COMPLEMENT:
            raise FormatError("a pair of probabilities is nested")
        second = _decode_numbers(reader, count // 2, target, inner)
        with np.errstate(all="ignore"):
            guess = (target.type(1) - second).astype(target)
        both = np.empty((count // 2, 2), target)
        both[:, 0] = _from_bits(_bits(guess) + distance, target)
        both[:, 1] = second
        return both.reshape(-1)
    raise FormatError(f"a column uses codec {kind}")


def _from_bits(bits: U64, target: np.dtype[Any]) -> NDArray[Any]:
    if target.kind == "f":
        return bits.astype(f"<u{target.itemsize}").view(target)
    return bits.astype(target)


def _decode_text(reader: Reader, n: int) -> Text:
    size, packing, length, packed = reader.unpack(struct.Struct("<IBII"))
    if size > n:
        raise FormatError("a column has more strings than rows")
    reader.spend(length)
    blob = ints.unpack(packing, reader.take(packed), length)
    lengths = ints.decode(reader, size)
    if (size and int(lengths.max()) > length) or int(lengths.sum()) != length:
        raise FormatError("the strings of a column do not fit")
    values: list[str] = []
    position = 0
    try:
        for step in lengths.tolist():
            values.append(blob[position : position + step].decode())
            position += step
    except UnicodeDecodeError:
        raise FormatError("a string is not UTF-8") from None
    codes = ints.decode(reader, n)
    if n and int(codes.max()) > size:
        raise FormatError("a code points outside its strings")
    return Text(codes.astype(np.uint32) - np.uint32(1), tuple(values))
