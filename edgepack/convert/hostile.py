"""Rows made to break a conversion: real rows with one thing changed, and a few changed wholly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.schema import Column, Schema

if TYPE_CHECKING:
    import pandas as pd

UNSEEN = ("never seen before", "", " ", "Ünïcode ✓", "x" * 300)
BASE = 24  # real rows that each change is made to
THRESHOLDS = 100  # of a model's thresholds that are tried in a column, spread over all
MOST = 4000  # ... and in all columns together
FAR = 1000  # how many times the span of training an extreme lies outside

DENORMAL = {"float32": 1e-42, "float64": 5e-324}


def base_rows(frame: pd.DataFrame, rows: int = BASE) -> pd.DataFrame:
    """Return a few real rows, spread over the frame."""
    picked = np.unique(np.linspace(0, len(frame) - 1, min(rows, len(frame))).astype(int))
    return frame.iloc[picked].reset_index(drop=True)


def hostile_rows(
    schema: Schema, frame: pd.DataFrame, thresholds: Sequence[float] = ()
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (kind, column or "", rows) of everything that the schema lets a device feed.

    Args:
        schema: What is admitted: missing, unseen categories, ranges.
        frame: Real rows with the input columns.
        thresholds: Of the trees in the model; tried in every column that they lie in.
    """
    base = base_rows(frame)
    tried = max(3, min(THRESHOLDS, MOST // max(1, len(schema.fed))))
    for column in schema.fed:
        if column.shape:
            for value in (0, 1, 255):
                yield "constant tensors", column.name, _tensors(base, column, value)
            continue
        if column.missing:
            yield "missing", column.name, with_value(base, column, None)
        if column.dtype == "string":
            if not column.closed:
                for text in UNSEEN:
                    yield "unseen category", column.name, with_value(base, column, text)
            continue
        for kind, values in _numbers(column, frame[column.name], thresholds, tried):
            if values:
                yield kind, column.name, _each(base.iloc[:4], column, values)
    yield "constant rows", "", _stack([base.iloc[:1]] * 50)
    yield "one row", "", base.iloc[:1]
    if any(column.missing for column in schema.fed):
        gone = base.iloc[:3]
        for column in schema.fed:
            if column.missing:
                gone = with_value(gone, column, None)
        yield "all missing", "", gone


def with_value(rows: pd.DataFrame, column: Column, value: Any) -> pd.DataFrame:
    """Return the rows with one column set to one value (None: missing), its dtype kept."""
    import pandas as pd

    if column.dtype == "string":
        filled: Any = pd.Series([value] * len(rows), index=rows.index, dtype=object)
    else:
        kind: Any = rows[column.name].dtype
        filled = pd.Series(
            np.full(len(rows), np.nan if value is None else value).astype(kind), index=rows.index
        )
    return rows.assign(**{column.name: filled})


def _tensors(rows: pd.DataFrame, column: Column, value: int) -> pd.DataFrame:
    import pandas as pd

    like = np.asarray(rows[column.name].iloc[0])
    cells = pd.Series([np.full_like(like, value)] * len(rows), index=rows.index, dtype=object)
    return rows.assign(**{column.name: cells})


def _each(rows: pd.DataFrame, column: Column, values: list[Any]) -> pd.DataFrame:
    """Return the rows once per value, with one column set to it."""
    kind: Any = rows[column.name].dtype
    made = rows.iloc[np.tile(np.arange(len(rows)), len(values))].reset_index(drop=True)
    made[column.name] = np.repeat(np.array(values, kind), len(rows))
    return made


def _numbers(
    column: Column, values: pd.Series[Any], thresholds: Sequence[float], tried: int
) -> Iterator[tuple[str, list[Any]]]:
    known = values.dropna().to_numpy()
    if not len(known) or column.dtype == "bool":
        return
    low, high = float(known.min()), float(known.max())
    floats = column.dtype.startswith("float")
    span = max(high - low, 1.0)
    far = [low, high, low - span, high + span, low - FAR * span, high + FAR * span, 0]
    if not floats:
        info = np.iinfo(column.dtype)
        far = [int(np.clip(round(item), info.min, info.max)) for item in far]
    yield "extremes", _admitted(column, list(dict.fromkeys(far)))
    if floats:
        tiny = DENORMAL[column.dtype]
        yield "denormals", _admitted(column, [tiny, -tiny, -0.0])
    near = [item for item in thresholds if low <= item <= high]
    around: list[Any] = []
    for item in near[:: max(1, len(near) // tried)]:
        around += _ulps(column.dtype, item) if floats else [int(np.floor(item)), int(item) + 1]
    yield "thresholds ± 1 ulp", _admitted(column, sorted(set(around)))


def _ulps(dtype: str, value: float) -> list[Any]:
    """Return a value and its two neighbours in the column's own precision."""
    kind = np.dtype(dtype).type
    here = kind(value)
    return [here, np.nextafter(here, kind(-np.inf)), np.nextafter(here, kind(np.inf))]


def _admitted(column: Column, values: list[Any]) -> list[Any]:
    """Leave out what the schema's range would refuse on the device."""
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    return [item for item in values if low <= item <= high]


def _stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(list(parts), ignore_index=True)


def thresholds_of(model: bytes) -> list[float]:
    """Return the distinct thresholds of all tree ensembles in a model, ascending."""
    import onnx

    found: list[Any] = []
    for node in onnx.load_from_string(model).graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        modes: list[bytes] = []
        values: Any = ()
        for attribute in node.attribute:
            if attribute.name == "nodes_modes":
                modes = list(attribute.strings)
            elif attribute.name == "nodes_values":
                values = np.array(attribute.floats, np.float64)
            elif attribute.name == "nodes_values_as_tensor":
                values = onnx.numpy_helper.to_array(attribute.t).astype(np.float64)
        inner = np.array([mode != b"LEAF" for mode in modes], bool)
        found.append(np.asarray(values)[inner])
    if not found:
        return []
    whole = np.unique(np.concatenate(found))
    return [float(item) for item in whole[np.isfinite(whole)]]
