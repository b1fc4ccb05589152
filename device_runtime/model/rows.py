"""Input of any kind → `RawBlock`s of at most `chunk_rows` rows, streaming, in constant memory.

A reader never judges a value; `model.check` does. It reports what makes a row no row at all
(wrong number of fields, broken quotes, not UTF-8, a NUL byte, too long) as a fault of that row, and
goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from device_runtime.format.schema import Schema

SMALL = 32
"""Blocks of up to this many rows never need numpy."""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """n rows as they came, column by column, nothing checked yet.

    Attributes:
        n: Number of rows.
        columns: Given column → its n values: a list (text from CSV, or JSON values), a numpy
            array (`.npy`), or `bulk.Fields` (slices of a chunk of CSV). Columns that the input
            does not have are left out.
        first_row: 0-based number of the first row in the input.
        faults: Position → why that row is no row; its values are None.
        text: Whether values are text that still has to be parsed (CSV).
    """

    n: int
    columns: Mapping[str, Any]
    first_row: int = 0
    faults: Mapping[int, str] = field(default_factory=dict)
    text: bool = False


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


def from_rows(rows: Sequence[Mapping[str, Any]], schema: Schema, *, first_row: int = 0) -> RawBlock:
    """Return Python rows (one mapping each) as one block; absent and None mean missing."""
    raise NotImplementedError


def from_columns(columns: Mapping[str, Any], n: int, *, first_row: int = 0) -> RawBlock:
    """Return columns (lists or numpy arrays of n values) as one block."""
    raise NotImplementedError


def read_csv(
    stream: BinaryIO, schema: Schema, *, chunk_rows: int = 65_536, skip: int = 0
) -> Reader:
    """Read CSV (RFC 4180; UTF-8, a byte order mark of UTF-8 or UTF-16 is understood).

    Args:
        stream: Opened for bytes; need not be seekable.
        schema: Names the columns; others are ignored and named once.
        chunk_rows: Rows per block at most.
        skip: Data rows to pass over, for `--resume`.

    Raises:
        InputError: The header lacks a column, names one twice, or there is none.
    """
    raise NotImplementedError


def read_ndjson(
    stream: BinaryIO, schema: Schema, *, chunk_rows: int = 65_536, skip: int = 0
) -> Reader:
    """Read one JSON object a line. Blank lines are passed over and are no rows."""
    raise NotImplementedError


def read_npy(
    stream: BinaryIO, schema: Schema, *, chunk_rows: int = 65_536, skip: int = 0
) -> Reader:
    """Read a `.npy` array: structured by column name, or [n, columns] in the order of `fed`.

    Raises:
        InputError: Not such an array, pickled, or its shape does not fit the schema.
    """
    raise NotImplementedError


def open_input(
    stream: BinaryIO, schema: Schema, *, name: str = "", chunk_rows: int = 65_536, skip: int = 0
) -> Reader:
    """Choose the reader by the suffix of `name`, or (stdin) by the first bytes."""
    raise NotImplementedError


def template(schema: Schema, example: Mapping[str, Any] | None = None) -> str:
    """Return a CSV header of all given columns and, with `example`, one row of real values."""
    raise NotImplementedError


def _unused(_: Iterable[int]) -> None: ...
