"""Columns of a batch → input tensors in row-major order.

Two builders give the same bytes: `small` works on `array.array` and needs no numpy, `bulk` uses it.
Where a conversion rounds, both go through double (so an int64 becomes a float32 in two roundings).
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

from device_runtime.format.batch import MISSING_CODE, Batch, SingleRow, Text
from device_runtime.format.schema import DTYPES, MISSING_TIME, Column, ModelInput
from device_runtime.model.capi import Feed

_FLOATS = ("float32", "float64")


def fits(column: str, tensor: str) -> bool:
    """Whether values of a column's dtype may fill a tensor's dtype without losing their meaning."""
    if "string" in (column, tensor):
        return column == tensor
    column = "int64" if column == "timestamp" else column
    if tensor in _FLOATS or column == tensor:
        return tensor in _FLOATS or column not in _FLOATS
    if column in _FLOATS or tensor == "bool":
        return False
    if column == "bool":
        return True
    signed, wide = tensor[0] == "i", DTYPES[tensor][1] > DTYPES[column][1]
    return wide and (signed or column[0] == "u")


def shape_of(columns: Sequence[Column], n: int, rank: int) -> tuple[int, ...]:
    """Return the shape of a tensor for n rows; `rank` is what the graph declares."""
    if len(columns) == 1 and columns[0].shape:
        return (n, *columns[0].shape)
    return (n,) if rank == 1 and len(columns) == 1 else (n, len(columns))


def is_plain(item: ModelInput, columns: Sequence[Column]) -> bool:
    """Whether each column has one number a row that is taken as it is: for `one`."""
    scalar = all(not column.shape and column.dtype != "timestamp" for column in columns)
    return scalar and item.dtype != "string"


def one(item: ModelInput, row: SingleRow, shape: tuple[int, ...]) -> Feed:
    """Build one tensor of one row of plain numbers: as `small`, in one step."""
    return Feed(item.dtype, shape, array(DTYPES[item.dtype][0], row.pick(item.columns)))


def small(item: ModelInput, columns: Sequence[Column], batch: Batch, rank: int) -> Feed:
    """Build one tensor of a few rows, without numpy."""
    shape = shape_of(columns, batch.n, rank)
    data = [batch.columns[name] for name in item.columns]
    if item.dtype == "string":
        return _strings(item, data, shape)
    code, width = DTYPES[item.dtype]
    parts = [
        _convert(values, column, item.dtype) for column, values in zip(columns, data, strict=True)
    ]
    if len(parts) == 1:
        return Feed(item.dtype, shape, parts[0])
    tensor = array(code, bytes(width * batch.n * len(parts)))
    for place, part in enumerate(parts):
        tensor[place :: len(parts)] = part
    return Feed(item.dtype, shape, tensor)


def _convert(values: Any, column: Column, dtype: str) -> array[Any]:
    code = DTYPES[dtype][0]
    plain: array[Any] = array(DTYPES[column.dtype][0])
    plain.frombytes(memoryview(values).cast("B"))
    if plain.typecode == code and (column.dtype != "timestamp" or dtype == "int64"):
        return plain
    if column.dtype == "timestamp" and dtype in _FLOATS:
        nan = float("nan")
        return array(code, [nan if value == MISSING_TIME else value for value in plain])
    return array(code, plain)


def _strings(item: ModelInput, data: Sequence[Text], shape: tuple[int, ...]) -> Feed:
    """Addresses of the strings of a few rows: one block of text, one address per value."""
    starts: list[list[int]] = []
    blob = bytearray()
    for text in data:
        places = []
        for value in (*text.values, item.missing_text):
            places.append(len(blob))
            blob += value.encode() + b"\0"
        starts.append(places)
    memory = (ctypes.c_char * len(blob)).from_buffer(blob)
    base, width = ctypes.addressof(memory), len(data)
    tensor = array("Q", bytes(8 * shape[0] * width))
    for place, (text, places) in enumerate(zip(data, starts, strict=True)):
        tensor[place::width] = array(
            "Q", [base + places[-1 if code == MISSING_CODE else code] for code in text.codes]
        )
    return Feed("string", shape, tensor, keep=memory)


def bulk(item: ModelInput, columns: Sequence[Column], batch: Batch, rank: int) -> Feed:
    """Build one tensor of many rows, with numpy."""
    import numpy as np

    shape = shape_of(columns, batch.n, rank)
    data = [batch.columns[name] for name in item.columns]
    if item.dtype == "string":
        return _bulk_strings(item, data, shape)
    if len(columns) == 1:
        values = _bulk_convert(data[0], columns[0], item.dtype)
        # The C API wants a writable address; what came from a read-only buffer is copied.
        return Feed(item.dtype, shape, values if values.flags.writeable else values.copy())
    tensor = np.empty((batch.n, len(columns)), item.dtype)
    same = tensor.dtype
    for place, values in enumerate(data):
        if type(values) is not np.ndarray or values.dtype is not same:
            values = _bulk_convert(values, columns[place], item.dtype)  # noqa: PLW2901
        tensor[:, place] = values
    return Feed(item.dtype, shape, tensor)


def _bulk_convert(values: Any, column: Column, dtype: str) -> Any:
    import numpy as np

    plain = values
    if not isinstance(values, np.ndarray):
        plain = np.frombuffer(values, _numpy_dtype(column.dtype))
    plain = plain.reshape(-1)
    if plain.dtype == np.dtype(dtype):
        return plain
    with np.errstate(over="ignore"):
        if dtype == "float32" and plain.dtype.kind in "iu":
            wide = plain.astype("float64")
        elif dtype in _FLOATS:
            wide = plain.astype(dtype)
        else:
            return plain.astype(dtype)
        if column.dtype == "timestamp":
            wide[plain == MISSING_TIME] = np.nan
        return wide.astype(dtype, copy=False)


def _numpy_dtype(dtype: str) -> str:
    return "int64" if dtype == "timestamp" else dtype


def _bulk_strings(item: ModelInput, data: Sequence[Text], shape: tuple[int, ...]) -> Feed:
    """Addresses of the strings of many rows, looked up by code: no Python object per value."""
    import numpy as np

    tensor = np.empty((shape[0], len(data)), "uint64")
    keep = []
    for place, text in enumerate(data):
        parts = [value.encode() for value in (*text.values, item.missing_text)]
        blob = bytearray(b"\0".join(parts) + b"\0")
        memory = (ctypes.c_char * len(blob)).from_buffer(blob)
        keep.append(memory)
        sizes = np.fromiter((len(part) + 1 for part in parts), "uint64", len(parts))
        starts = np.uint64(ctypes.addressof(memory)) + np.cumsum(sizes) - sizes
        codes = np.frombuffer(text.codes, "uint32") if len(text.codes) else np.empty(0, "uint32")
        tensor[:, place] = starts[np.minimum(codes, len(text.values))]
    return Feed("string", shape, tensor, keep=keep)


def objects(item: ModelInput, columns: Sequence[Column], batch: Batch, rank: int) -> Any:
    """Build one tensor as a numpy array, for the official binding."""
    import numpy as np

    shape = shape_of(columns, batch.n, rank)
    if item.dtype != "string":
        return np.asarray(bulk(item, columns, batch, rank).data).reshape(shape)
    tensor = np.empty((batch.n, len(columns)), object)
    for place, name in enumerate(item.columns):
        strings = batch.columns[name].strings()
        tensor[:, place] = [item.missing_text if s is None else s for s in strings]
    return tensor.reshape(shape)
