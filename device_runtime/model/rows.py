"""What readers of CSV, NDJSON and `.npy` share: blocks of raw rows, chunks of bytes, faults.

A reader never judges a value; `model.check` does. It reports what makes a row no row at all
(wrong number of fields, broken quotes, not UTF-8, a NUL byte, too long) as a fault of that row, and
goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
