"""`.npy` arrays → `RawBlock`s, in constant memory. Pickled objects are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib import format as layout

from device_runtime.errors import InputError
from device_runtime.format.schema import Schema
from device_runtime.model.rows import CHUNK, Cutter, RawBlock

_NEXT = "save it with numpy.save as [rows, columns], or as a structured array with column names"


def npy_blocks(
    stream: Any, schema: Schema, cutter: Cutter
) -> tuple[Iterator[RawBlock], tuple[str, ...]]:
    """Read a `.npy` array: structured by column name, or [n, columns] in the order of `fed`.

    Returns:
        The blocks, and the ignored columns.

    Raises:
        InputError: Not such an array, pickled, or its shape does not fit the schema.
    """
    dtype, shape = _header(stream)
    wanted = [column.name for column in schema.given]
    if dtype.names is not None and len(shape) == 1:
        lacking = [column.name for column in schema.fed if column.name not in dtype.names]
        if lacking:
            raise InputError(
                f"the array has no field {', '.join(lacking)}",
                [f"column {name} is not there" for name in lacking],
            )
        ignored = tuple(name for name in dtype.names if name not in wanted)
        return _blocks(stream, schema, dtype, shape, cutter), ignored
    if dtype.names is not None or dtype.kind not in "biuf":
        raise InputError(f"an array of {dtype} is no table of numbers", next=_NEXT)
    fed = schema.fed
    rest = fed[0].shape if len(fed) == 1 and fed[0].shape else (len(fed),)
    if shape[1:] != rest and not (len(fed) == 1 and rest == (1,) and len(shape) == 1):
        raise InputError(
            f"the array has shape {shape}; {('n', *rest)} was wanted".replace("'", ""), next=_NEXT
        )
    return _blocks(stream, schema, dtype, shape, cutter), ()


def _header(stream: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        version = layout.read_magic(stream)
        read = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
        shape, columns_first, dtype = read(stream)
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"this is no .npy file: {reason}", next=_NEXT) from None
    if dtype.hasobject:
        raise InputError("the array holds pickled objects, which are never read", next=_NEXT)
    if columns_first and len(shape) > 1:
        raise InputError(
            "the array is stored column by column",
            next="save it with numpy.save(file, numpy.ascontiguousarray(array))",
        )
    if not shape or any(size < 0 for size in shape):
        raise InputError("the array has no rows", next=_NEXT)
    if dtype.itemsize * int(np.prod(shape[1:], dtype=object)) > 1 << 24:
        raise InputError("a row of the array is larger than 16 MiB", next=_NEXT)
    return dtype, shape


def _blocks(
    stream: Any, schema: Schema, dtype: np.dtype[Any], shape: tuple[int, ...], cutter: Cutter
) -> Iterator[RawBlock]:
    size = dtype.itemsize * int(np.prod(shape[1:], dtype=object))
    step = max(1, CHUNK // max(size, 1))
    for first in range(0, shape[0], step):
        n = min(step, shape[0] - first)
        data = _exactly(stream, n * size)
        whole = len(data) // size if size else 0
        if whole:
            rows = np.frombuffer(data[: whole * size], dtype).reshape(whole, *shape[1:])
            for part, first_row in cutter.cut(whole):
                yield RawBlock(part.stop - part.start, _columns(schema, rows[part]), first_row)
        if whole < n:
            raise InputError(f"the array ends after {first + whole} of {shape[0]} rows")


def _columns(schema: Schema, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
    if rows.dtype.names is not None:
        return {c.name: rows[c.name] for c in schema.given if c.name in rows.dtype.names}
    fed = schema.fed
    if len(fed) == 1:
        return {fed[0].name: rows.reshape(len(rows), *fed[0].shape)}
    return {column.name: rows[:, at] for at, column in enumerate(fed)}


def _exactly(stream: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = stream.read(min(size - len(data), 1 << 20))
        if not more:
            break
        data += more
    return bytes(data)
