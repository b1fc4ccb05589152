"""Row frames to numpy columns, and row blocks to the columnar content of a sealed segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.errors import FormatError, TruncatedError
from device_runtime.format import columns as codec
from device_runtime.format.batch import ColumnData, Text
from device_runtime.format.rowframe import (
    HEAD,
    LABEL_BIT,
    PARTIAL,
    RAW_BIT,
    ROWS_BIT,
    SCORES_BIT,
    UNLIKE_BIT,
    code_bytes,
)
from device_runtime.format.segment import RAW, Field, Layout

MAX_BLOCK_ROWS = 65_536
MAX_DECODED = 256 << 20
_ALL_BITS = LABEL_BIT | SCORES_BIT | UNLIKE_BIT | PARTIAL | RAW_BIT | ROWS_BIT
Block = tuple[int, dict[str, ColumnData]]  # rows, columns
Part = tuple[int, int, bytes]  # sequence of the first row, rows, content


class _Shape:
    """What the rows of a frame are made of: layout, bits, scores per row, given fields."""

    def __init__(self, layout: Layout, bits: int, k: int, present: bytes) -> None:
        if bits & ~_ALL_BITS:
            raise FormatError("a frame of rows has bits that this version does not know")
        mask = int.from_bytes(present, "little") if bits & PARTIAL else -1
        given = [field for index, field in enumerate(layout.fields) if mask >> index & 1]
        fixed: list[tuple[str, str, tuple[int, ...]]] = [("_flags", "uint16", ())]
        if bits & LABEL_BIT:
            fixed.append(("_label", "int16", ()))
        if bool(bits & SCORES_BIT) != (k > 0):
            raise FormatError("a frame of rows counts its scores wrongly")
        if k:
            fixed.append(("_scores", layout.scores, (k,)))
        if bits & UNLIKE_BIT:
            fixed.append(("_unlike", "float32", ()))
        if bits & ROWS_BIT:
            fixed.append(("_row", "int64", ()))
        fixed += [(f.name, f.dtype, f.shape) for f in given if f.dtype != "string"]
        self.fixed = fixed
        self.texts = [field.name for field in given if field.dtype == "string"]
        if bits & RAW_BIT:
            self.texts.append(RAW)
        self.row = np.dtype([(name, codec.NUMPY[dtype], shape) for name, dtype, shape in fixed])
        self.start = HEAD.size + len(present)


class Gatherer:
    """Collects the rows of many frames by shape and hands them out as blocks.

    One row per frame is the common case and is decoded all at once.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._mask_bytes = (len(layout.fields) + 7) // 8
        self._open: dict[bytes, list[Part]] = {}
        self._rows: dict[bytes, int] = {}

    def add(self, sequence: int, n: int, content: bytes) -> Iterator[Block]:
        """Take one frame; yield a block whenever one is full."""
        if len(content) < HEAD.size:
            raise TruncatedError("a frame of rows ends in its head")
        key = content[HEAD.size - 4 : HEAD.size]
        if key[2] & PARTIAL:
            key = content[HEAD.size - 4 : HEAD.size + self._mask_bytes]
        parts = self._open.setdefault(key, [])
        parts.append((sequence, n, content))
        total = self._rows[key] = self._rows.get(key, 0) + n
        if total >= MAX_BLOCK_ROWS:
            yield from self._flush(key)

    def rest(self) -> Iterator[Block]:
        """Yield what is left, in the order in which the shapes first came."""
        for key in list(self._open):
            yield from self._flush(key)

    def _flush(self, key: bytes) -> Iterator[Block]:
        parts = self._open.pop(key)
        self._rows.pop(key)
        k, bits = int.from_bytes(key[:2], "little"), int.from_bytes(key[2:4], "little")
        shape = _Shape(self._layout, bits, k, key[4:])
        if len(parts) > 8 and all(n == 1 for _, n, _ in parts):
            yield len(parts), _single_rows(shape, parts)
        else:
            yield sum(n for _, n, _ in parts), _many_rows(shape, parts)


def _heads(parts: Sequence[Part]) -> dict[str, NDArray[Any]]:
    """Return the columns that stand once per frame."""
    heads = np.frombuffer(
        b"".join([content[:28] for _, _, content in parts]),
        np.dtype([("m", "<i8"), ("w", "<i8"), ("r", "<i8"), ("l", "<u4")]),
    )
    counts = np.array([n for _, n, _ in parts])
    firsts = np.array([sequence for sequence, _, _ in parts], np.int64)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    row = np.repeat(heads["r"], counts)
    return {
        "_sequence": np.repeat(firsts, counts) + inside,
        "_monotonic": np.repeat(heads["m"], counts),
        "_wall": np.repeat(heads["w"], counts),
        "_row": np.where(row < 0, row, row + inside),
        "_latency": np.repeat(heads["l"], counts),
    }


def _single_rows(shape: _Shape, parts: Sequence[Part]) -> dict[str, ColumnData]:
    columns: dict[str, ColumnData] = dict(_heads(parts))
    end = shape.start + shape.row.itemsize
    if any(len(content) < end for _, _, content in parts):
        raise TruncatedError("a frame of rows ends too early")
    table = np.frombuffer(b"".join([c[shape.start : end] for _, _, c in parts]), shape.row)
    for name in shape.row.names or ():
        columns[name] = np.ascontiguousarray(table[name])
    if not shape.texts:
        if any(len(content) != end for _, _, content in parts):
            raise FormatError("a frame of rows has more bytes than it needs")
        return columns
    known: dict[bytes, list[str | None]] = {}
    rows: list[list[str | None]] = []
    for _, _, content in parts:
        tail = content[end:]
        found = known.get(tail)
        if found is None:
            found = [text.strings()[0] for text in _read_texts(tail, 1, len(shape.texts))]
            known[tail] = found
        rows.append(found)
    for index, name in enumerate(shape.texts):
        columns[name] = Text.of(row[index] for row in rows)
    return columns


def _many_rows(shape: _Shape, parts: Sequence[Part]) -> dict[str, ColumnData]:
    columns: dict[str, ColumnData] = dict(_heads(parts))
    pieces: dict[str, list[Any]] = {name: [] for name, _, _ in shape.fixed}
    texts: list[list[Text]] = [[] for _ in shape.texts]
    for _, n, content in parts:
        at = shape.start
        if len(content) < at + n * shape.row.itemsize:
            raise TruncatedError("a frame of rows ends too early")
        for name, dtype, dims in shape.fixed:
            kind = np.dtype(codec.NUMPY[dtype])
            count = n * int(np.prod(dims, dtype=np.int64))
            pieces[name].append(np.frombuffer(content, kind, count, at).reshape(n, *dims))
            at += count * kind.itemsize
        for column, text in zip(texts, _read_texts(content[at:], n, len(texts)), strict=True):
            column.append(text)
    for name, arrays in pieces.items():
        columns[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    for name, column in zip(shape.texts, texts, strict=True):
        columns[name] = join_texts(column)
    return columns


def join_texts(texts: Sequence[Text]) -> Text:
    """Return one text column out of consecutive ones."""
    if len(texts) == 1:
        return texts[0]
    seen: dict[str, int] = {}
    codes: list[NDArray[np.uint32]] = []
    for text in texts:
        table = np.array(
            [seen.setdefault(value, len(seen)) for value in text.values] + [0xFFFFFFFF], np.uint32
        )
        codes.append(table[np.minimum(text.codes, len(text.values))])
    return Text(np.concatenate(codes), tuple(seen))


def _read_texts(data: bytes, n: int, count: int) -> list[Text]:
    """Read `count` text columns of n rows, which must fill `data`."""
    view, at = memoryview(data), 0
    result: list[Text] = []
    for _ in range(count):
        if at + 4 > len(view):
            raise TruncatedError("a text column ends too early")
        size = int.from_bytes(view[at : at + 4], "little")
        if size > n or at + 4 + 4 * size > len(view):
            raise FormatError("a text column has more strings than rows")
        lengths = np.frombuffer(view, "<u4", size, at + 4).astype(np.int64)
        at += 4 + 4 * size
        width = code_bytes(size)
        if at + int(lengths.sum()) + n * width > len(view):
            raise TruncatedError("a text column ends too early")
        values: list[str] = []
        for length in lengths.tolist():
            try:
                values.append(str(view[at : at + length], "utf-8"))
            except UnicodeDecodeError:
                raise FormatError("a string is not UTF-8") from None
            at += length
        codes = np.frombuffer(view, f"<u{width}", n, at).astype(np.uint32)
        at += n * width
        missing = codes == (1 << 8 * width) - 1
        codes[missing] = 0xFFFFFFFF
        if (size == 0 and not missing.all()) or (codes[~missing] >= size).any():
            raise FormatError("a code points outside its strings")
        result.append(Text(codes, tuple(values)))
    if at != len(view):
        raise FormatError("a frame of rows has more bytes than it needs")
    return result


# --- sealed blocks ---------------------------------------------------------------------------

_DTYPES = {
    "_sequence": "int64",
    "_monotonic": "int64",
    "_wall": "int64",
    "_row": "int64",
    "_latency": "uint32",
    "_flags": "uint16",
    "_label": "int16",
    "_unlike": "float32",
    RAW: "string",
}


def encode_block(layout: Layout, n: int, columns: dict[str, ColumnData]) -> bytes:
    """Return the content of a BLOCK frame."""
    fields = {field.name: field for field in layout.fields}
    table: list[tuple[str, str, tuple[int, ...], ColumnData]] = []
    for name, data in columns.items():
        if name in fields:
            table.append((name, fields[name].dtype, fields[name].shape, data))
        elif name == "_scores":
            table.append((name, layout.scores, tuple(data.shape[1:]), data))
        else:
            table.append((name, _DTYPES[name], (), data))
    return codec.encode_columns(n, table)


def decode_block(layout: Layout, n: int, data: bytes | memoryview) -> dict[str, ColumnData]:
    """Read the content of a BLOCK frame of n rows.

    Raises:
        FormatError: Columns, dtypes or rows differ from the header of the segment.
    """
    count, columns, specs = codec.decode_columns(
        data, max_rows=4 * MAX_BLOCK_ROWS, max_bytes=MAX_DECODED
    )
    fields: dict[str, Field] = {field.name: field for field in layout.fields}
    if count != n:
        raise FormatError("a block has another number of rows than its frame says")
    for name, dtype, shape in specs:
        if name in fields:
            good = (dtype, shape) == (fields[name].dtype, fields[name].shape)
        elif name == "_scores":
            good = dtype == layout.scores and len(shape) == 1
        else:
            good = _DTYPES.get(name) == dtype and shape == ()
        if not good:
            raise FormatError(f"a block has a column {name!r} that its segment does not announce")
    for name in ("_sequence", "_monotonic", "_wall", "_row", "_latency", "_flags"):
        if name not in columns:
            raise FormatError(f"a block lacks the column {name}")
    return columns
