"""Blocks of a journal as Arrow record batches: which column of the table has which type.

Delta Lake has no unsigned integers and narrows silently when it is handed some (uint16 became
int16), so every type is widened here, before the table sees it: uint8 → int16, uint16 → int32,
uint32 → int64, uint64 → decimal(20, 0). Missing values are nulls, also in floats.

Columns of the user keep their names; ours carry a leading underscore, which no recipe may use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from device_runtime.format.batch import MISSING_CODE, Text
from device_runtime.format.schema import MISSING_TIME
from device_runtime.format.segment import RAW, Layout
from device_runtime.journal.reader import RowBlock

MAX_ROWS = 131_072  # rows of one record batch: bounds memory between decoding and writing

_WIDER = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.int16(),
    "uint16": pa.int32(),
    "uint32": pa.int64(),
    "uint64": pa.decimal128(20, 0),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", "UTC"),
    "string": pa.string(),
}
_TEXT = pa.dictionary(pa.int32(), pa.string())
_IDS = [(name, pa.string()) for name in ("_device", "_epoch", "_uid")]

ROWS = pa.schema(  # what every row has, whatever the model
    [
        *_IDS,
        ("_sequence", pa.int64()),
        ("_lane", pa.int8()),
        ("_bundle_version", pa.int64()),
        ("_bundle", pa.string()),
        ("_serial", pa.int64()),
        ("_wall", pa.int64()),
        ("_monotonic", pa.int64()),
        ("_row", pa.int64()),
        ("_flags", pa.int32()),
        ("_unlike", pa.float32()),
        ("_latency_us", pa.int64()),
        (RAW, pa.string()),
    ]
)
LABELS = pa.schema(
    [
        *_IDS,
        *((name, pa.int64()) for name in ("_sequence", "_serial", "_wall")),
        *((name, pa.string()) for name in ("ref", "by", "value", "source")),
        ("observed", pa.int64()),
    ]
)
EVENTS = pa.schema(
    [
        *_IDS,
        *((name, pa.int64()) for name in ("_sequence", "_serial", "_wall", "_monotonic")),
        *((name, pa.string()) for name in ("_boot", "kind", "data", "_bundle")),
        ("_bundle_version", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of one segment come from: constant columns of the table."""

    device: str
    epoch: str
    uid: str
    lane: int
    bundle_version: int
    bundle: str
    serial: int


def arrow_type(dtype: str, shape: Sequence[int] = ()) -> pa.DataType:
    """Return the type of a journaled column in the table."""
    kind = _WIDER[dtype]
    return pa.list_(kind) if shape else kind


def to_batches(
    block: RowBlock, layout: Layout, origin: Origin, spans: Sequence[tuple[int, int]]
) -> Iterator[pa.RecordBatch]:
    """Turn the rows of a block that lie in `spans` into record batches.

    Args:
        block: As the journal's reader gives it; its sequences grow, but may have gaps.
        layout: Of the segment.
        origin: Of the segment.
        spans: (first, last) sequences that this segment is the first to bring.
    """
    whole: pa.RecordBatch | None = None
    sequences = np.asarray(block.columns["_sequence"])
    for first, last in spans:
        begin = int(np.searchsorted(sequences, first))
        end = int(np.searchsorted(sequences, last, side="right"))
        if begin >= end:
            continue
        whole = whole or _batch(block, layout, origin)
        for start in range(begin, end, MAX_ROWS):
            yield whole.slice(start, min(MAX_ROWS, end - start))


def _batch(block: RowBlock, layout: Layout, origin: Origin) -> pa.RecordBatch:
    n, columns = block.n, block.columns
    arrays: dict[str, pa.Array] = {
        "_device": _constant(origin.device, n),
        "_epoch": _constant(origin.epoch, n),
        "_uid": _constant(origin.uid, n),
        "_sequence": _number(columns["_sequence"], "int64", ()),
        "_lane": pa.repeat(pa.scalar(origin.lane, pa.int8()), n),
        "_bundle_version": pa.repeat(pa.scalar(origin.bundle_version, pa.int64()), n),
        "_bundle": _constant(origin.bundle, n),
        "_serial": pa.repeat(pa.scalar(origin.serial, pa.int64()), n),
        "_wall": _number(columns["_wall"], "int64", ()),
        "_monotonic": _number(columns["_monotonic"], "int64", ()),
        "_row": _number(columns["_row"], "int64", ()),
        "_flags": _number(columns["_flags"], "uint16", ()),
    }
    if layout.task in ("binary", "classes"):
        arrays["_label"] = _label(columns.get("_label"), layout.names, n)
    for name in score_names(layout.task, layout.names):
        place = layout.names.index(name) - len(layout.names)  # from the end: k may be 1
        arrays[f"_score_{name}"] = _score(columns.get("_scores"), place, layout.scores, n)
    arrays["_unlike"] = _optional(columns.get("_unlike"), "float32", n)
    arrays["_latency_us"] = _optional(columns.get("_latency"), "uint32", n)
    arrays[RAW] = column(columns.get(RAW), "string", (), n)
    for item in layout.fields:
        arrays[item.name] = column(columns.get(item.name), item.dtype, item.shape, n)
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def score_names(task: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names behind `_score_`: of two classes only the second."""
    return tuple(names[-1:]) if task == "binary" else tuple(names)


def column(data: Any, dtype: str, shape: Sequence[int], n: int) -> pa.Array:
    """Return one column of n rows; `None` (a block of rows that were never read) is all null."""
    if data is None:
        kind = _TEXT if dtype == "string" else arrow_type(dtype, shape)
        return pa.nulls(n, kind)
    if isinstance(data, Text):
        return _text(data)
    return _number(data, dtype, shape)


def _constant(value: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value]))


def _text(data: Text) -> pa.Array:
    codes = np.frombuffer(memoryview(data.codes).cast("B"), np.uint32)
    values = pa.array(data.values, pa.string())
    missing = codes == MISSING_CODE
    if missing.any():
        indices = pa.array(np.where(missing, 0, codes).astype(np.int32), mask=missing)
    else:
        indices = pa.array(codes.astype(np.int32))
    if not len(values):
        return pa.nulls(len(codes), _TEXT)
    return pa.DictionaryArray.from_arrays(indices, values)


def _number(data: Any, dtype: str, shape: Sequence[int]) -> pa.Array:
    values = np.asarray(data)
    if shape:
        size = int(np.prod(shape))
        flat = _number(values.reshape(-1), dtype, ())
        offsets = np.arange(0, len(flat) + 1, size, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), flat)
    if dtype == "timestamp":
        whole = values.astype(np.int64, copy=False)
        missing = whole == MISSING_TIME
        mask = missing if missing.any() else None
        return pa.array(whole, pa.int64(), mask=mask).cast(_WIDER[dtype])
    if dtype == "bool":
        return pa.array(values.astype(bool))
    if dtype == "uint64":
        return pc.cast(pa.array(values), _WIDER[dtype])
    return pa.array(values, from_pandas=True).cast(_WIDER[dtype])


def _optional(data: Any, dtype: str, n: int) -> pa.Array:
    return pa.nulls(n, arrow_type(dtype)) if data is None else _number(data, dtype, ())


def _label(data: Any, names: Sequence[str], n: int) -> pa.Array:
    if data is None or not names:
        return pa.nulls(n, _TEXT)
    codes = np.asarray(data).astype(np.int32)
    none = (codes < 0) | (codes >= len(names))
    indices = pa.array(np.where(none, 0, codes), mask=none) if none.any() else pa.array(codes)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _score(data: Any, place: int, dtype: str, n: int) -> pa.Array:
    if data is None:
        return pa.nulls(n, arrow_type(dtype))
    table = np.asarray(data).reshape(n, -1)
    return _number(np.ascontiguousarray(table[:, place]), dtype, ())


def stored(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return column → type as the table stores it: dictionaries and large types are unfolded."""
    return {item.name: _plain(item.type) for item in schema}


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or kind == pa.string_view():
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def fits(table: Mapping[str, pa.DataType], new: Mapping[str, pa.DataType]) -> bool:
    """Whether every column that both have is of the same type."""
    return all(table[name] == kind for name, kind in new.items() if name in table)
