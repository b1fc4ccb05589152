"""Bit-exact columnar codec: every dtype, text, NaN payloads, fixed-shape tensors.

Needs numpy; the path of a small request does not come here.
"""

from __future__ import annotations

from collections.abc import Sequence

from device_runtime.format.batch import ColumnData


def encode_columns(
    n: int, columns: Sequence[tuple[str, str, tuple[int, ...], ColumnData]]
) -> bytes:
    """Return the container of n rows: (name, dtype, shape of one row, data) per column."""
    raise NotImplementedError


def decode_columns(
    data: bytes | bytearray | memoryview,
    *,
    max_rows: int = 1 << 20,
    max_bytes: int = 256 << 20,
) -> tuple[int, dict[str, ColumnData], list[tuple[str, str, tuple[int, ...]]]]:
    """Return (n, name → numpy array [n, *shape] or Text, [(name, dtype, shape)]).

    Raises:
        TooLargeError: More rows or decoded bytes than allowed.
        FormatError: Anything else that does not follow docs/FORMAT-journal.md.
    """
    raise NotImplementedError
