"""Input of any kind → `RawBlock`s of at most `chunk_rows` rows, streaming, in constant memory.

A reader never judges a value; `model.check` does. It reports what makes a row no row at all
(wrong number of fields, broken quotes, not UTF-8, a NUL byte, too long) as a fault of that row, and
goes on with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from device_runtime.format.schema import Schema
from device_runtime.record import NamedTuple, Protocol, dataclass, field

CHUNK = 4 << 20  # bytes that are read at once
NO_OBJECT = "is not an object of column names and values"
MAX_RECORD = 1 << 20  # bytes of one row, as CSV or JSON
TOO_LONG = f"is longer than {MAX_RECORD} bytes"


class ByteStream(Protocol):
    """What is read: a file opened for bytes, a pipe, `io.BytesIO`."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


class Fault(NamedTuple):
    """Why a row is no row."""

    reason: str
    raw: str = ""  # how it begins, as far as it can be read


@dataclass(frozen=True, slots=True)
class RawBlock:
    """n rows as they came, column by column, nothing checked yet.

    Attributes:
        n: Number of rows.
        columns: Given column → its n values: a list (text from CSV, or JSON values), a numpy
            array (`.npy`), or `fields.Fields` (slices of a chunk of CSV). Columns that the input
            does not have are left out.
        first_row: 0-based number of the first row in the input.
        faults: Position → why that row is no row; its values are None.
        text: Whether values are text that still has to be parsed (CSV).
        checked: Who checked it already, and what was found.
    """

    n: int
    columns: Mapping[str, Any]
    first_row: int = 0
    faults: Mapping[int, Fault] = field(default_factory=dict)
    text: bool = False
    checked: tuple[Any, Any] = (None, None)


@dataclass(frozen=True, slots=True)
class Reader:
    """An input whose header was read; iterate over it once to get its blocks.

    Attributes:
        blocks: The blocks, read as they are asked for.
        ignored: Columns of the input that the schema does not know, in order.
    """

    blocks: Iterator[RawBlock]
    ignored: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[RawBlock]:
        return self.blocks


def from_rows(rows: Sequence[Any], schema: Schema, *, first_row: int = 0) -> RawBlock:
    """Return Python rows (one mapping each) as one block; absent and None mean missing."""
    faults = {
        place: Fault(NO_OBJECT) for place, row in enumerate(rows) if not isinstance(row, Mapping)
    }
    if faults:
        rows = [{} if place in faults else row for place, row in enumerate(rows)]
    columns = {c.name: [row.get(c.name) for row in rows] for c in schema.given}
    return RawBlock(len(rows), columns, first_row, faults)


def from_columns(columns: Mapping[str, Any], n: int, *, first_row: int = 0) -> RawBlock:
    """Return columns (lists or numpy arrays of n values) as one block."""
    return RawBlock(n, columns, first_row)


class Cutter:
    """Says where blocks begin and end, so that a resumed run finds the same blocks again.

    Args:
        chunk_rows: Rows per block at most.
        skip: Rows to pass over.
        first_rows: Rows of the first block at most; 0 = as the others.
    """

    def __init__(self, chunk_rows: int, skip: int = 0, first_rows: int = 0) -> None:
        self._most, self._skip, self._first = chunk_rows, skip, first_rows
        self._row = 0

    def cut(self, n: int) -> Iterator[tuple[slice, int]]:
        """Yield (rows of a part, number of its first row) for the next n rows that were read."""
        base, self._row = self._row, self._row + n
        at = min(max(0, self._skip - base), n)
        while at < n:
            end = min(n, at + (self._first or self._most))
            self._first = 0
            yield slice(at, end), base + at
            at = end


def readable(line: bytes | None, limit: int = 200) -> str:
    """Return how a broken row begins, as text."""
    return "" if line is None else line[: 4 * limit].decode("utf-8", "replace")[:limit]


def portions(stream: ByteStream) -> Iterator[tuple[bytes, bool]]:
    """Yield (bytes, whether they are the last): whole chunks of a file, what is there of a pipe."""
    waits = _waits(stream)
    while True:
        chunk = read_some(stream)
        final = not chunk or (not waits and len(chunk) < CHUNK)
        yield chunk, final
        if final:
            return


def read_some(stream: ByteStream) -> bytes:
    """Return the next chunk."""
    if _waits(stream) and hasattr(stream, "read1"):
        return bytes(stream.read1(CHUNK))
    return stream.read(CHUNK)


def _waits(stream: ByteStream) -> bool:
    """Whether a short read does not mean the end: a pipe, or what we do not know."""
    seekable = getattr(stream, "seekable", None)
    return not (seekable and seekable())


def open_input(
    stream: ByteStream,
    schema: Schema,
    *,
    name: str = "",
    chunk_rows: int = 65_536,
    skip: int = 0,
    first_rows: int = 0,
) -> Reader:
    """Read CSV, NDJSON or `.npy`: told by the suffix of `name`, or (stdin) by the first bytes.

    Args:
        stream: Opened for bytes; need not be seekable.
        schema: Names the columns; others are ignored and named once.
        name: File name, or only its suffix.
        chunk_rows: Rows per block at most.
        skip: Rows to pass over, for `--resume`: the first block begins right behind them.
        first_rows: Size of the first block at most; 0 = as the others.

    Raises:
        InputError: The input's head does not fit the schema.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in ("csv", "tsv", "ndjson", "jsonl", "npy"):
        head = read_some(stream)
        stream = Rest(head, stream)
        kind = "npy" if head[:6] == b"\x93NUMPY" else "csv"
        if head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] == b"{":
            kind = "ndjson"
    cutter = Cutter(chunk_rows, skip, first_rows)
    if kind == "npy":
        from device_runtime.model.npy import npy_blocks

        return Reader(*npy_blocks(stream, schema, cutter))
    if kind in ("ndjson", "jsonl"):
        from device_runtime.model.ndjson import ndjson_blocks

        return Reader(ndjson_blocks(stream, schema, cutter))
    from device_runtime.model.csvs import CsvSource

    source = CsvSource(stream, schema)
    return Reader(source.blocks(cutter), source.ignored)


class Rest:
    """A stream of which the head was read already."""

    def __init__(self, head: bytes, stream: ByteStream) -> None:
        self._head, self._stream = head, stream

    def seekable(self) -> bool:
        """Whether a short read means the end."""
        return not _waits(self._stream)

    def read(self, size: int, /) -> bytes:
        """Return the head first, then what follows."""
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head
        return read_some(self._stream) if size == CHUNK else self._stream.read(size)


def template(schema: Schema, example: Mapping[str, Any] | None = None) -> str:
    """Return a CSV header of all given columns and, with `example`, one row of real values."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in schema.given])
    if example is not None:
        writer.writerow([_cell(column.dtype, example.get(column.name)) for column in schema.given])
    return out.getvalue()


def _cell(dtype: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if dtype == "timestamp" and isinstance(value, int):
        from datetime import UTC, datetime, timedelta

        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return json.dumps(value)
    return str(value)
