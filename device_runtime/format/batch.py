"""Rows in memory, column by column: what moves from the reader of input to the journal.

A numeric column is anything that gives its raw little-endian bytes through the buffer protocol
(`array.array` for a few rows, a numpy array for many): C-contiguous, n x count values of the
schema's dtype. A text column is `Text`: a vocabulary and one code per row. Both forms give the
same bytes, so the path of a small request needs no numpy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from device_runtime.record import dataclass

MISSING_CODE = 0xFFFFFFFF
SMALL = 32  # rows; up to this many take the path without numpy


@dataclass(frozen=True, slots=True)
class Text:
    """One text column of n rows.

    Attributes:
        codes: uint32 per row (buffer protocol), an index into `values`, or `MISSING_CODE`.
        values: The distinct strings, in order of first appearance.
    """

    codes: Any
    values: tuple[str, ...]

    @classmethod
    def of(cls, strings: Iterable[str | None]) -> Text:
        """Build from one string (or None) per row."""
        seen: dict[str, int] = {}
        codes = array("I")
        for string in strings:
            codes.append(MISSING_CODE if string is None else seen.setdefault(string, len(seen)))
        return cls(codes, tuple(seen))

    def strings(self) -> list[str | None]:
        """Return one string (or None) per row."""
        values = self.values
        return [None if code == MISSING_CODE else values[code] for code in self.codes]


ColumnData = Any
"""`Text` for dtype `string`, else an object with the buffer protocol."""


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows.

    Attributes:
        n: Number of rows.
        columns: Column name → `ColumnData`, n rows each.
        first_row: 0-based number of the first row in the user's input: journaled, so that a
            killed `predict` can be resumed without a row twice.
    """

    n: int
    columns: Mapping[str, ColumnData]
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model said about n rows.

    Attributes:
        n: Number of rows.
        label: int16 per row (buffer): index into the output's names, -1 where there is none.
        scores: n x k values of `scores_dtype` (buffer); None if the model gives labels only.
        k: Scores per row.
    """

    n: int
    label: Any
    scores: Any
    k: int


FLAG_UNLIKE = 1  # unlike the training data (score above the bundle's limit)
FLAG_ABSTAINED = 2  # less confident than the recipe's limit
FLAG_INVALID = 4  # does not fit the schema; never shown to the model
FLAG_UNSEEN = 8  # at least one category that training never saw
FLAG_NAMES = ((FLAG_UNLIKE, "unlike"), (FLAG_ABSTAINED, "abstained"), (FLAG_INVALID, "invalid"))


def flag_text(flags: int) -> str:
    """Return `ok`, or the names of the flags joined by `+`."""
    return "+".join(name for bit, name in FLAG_NAMES if flags & bit) or "ok"
