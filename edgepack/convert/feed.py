"""Data frame → what the device would see: a `Batch`, or the tensors of the graph; and back.

The official binding of onnxruntime runs here; the device's own session is `device_runtime.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.batch import MISSING_CODE, Batch, Text
from device_runtime.format.schema import DTYPES, MISSING_TIME, Column, Schema
from device_runtime.model.answers import label_index
from edgepack.errors import ConversionError, DataError

if TYPE_CHECKING:
    import pandas as pd

ROWS = 8192
CLASSED = ("binary", "classes")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model said about n rows.

    Attributes:
        label: int16 [n], index into the output's names; -1 where the model gives no label.
        scores: float [n, k]; None if it gives labels only.
    """

    label: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any] | None


def batch_of(schema: Schema, frame: pd.DataFrame, first_row: int = 0) -> Batch:
    """Return the given columns of a frame as the device would hold them.

    Raises:
        DataError: A column is missing or cannot hold its values.
    """
    columns: dict[str, Any] = {}
    for column in schema.given:
        if column.name not in frame.columns:
            raise DataError(f"the rows have no column {column.name}")
        columns[column.name] = column_of(column, frame[column.name])
    return Batch(len(frame), columns, first_row)


def column_of(column: Column, values: pd.Series[Any]) -> Any:
    """Return one column as `Text` or as a little-endian numpy array of the schema's dtype."""
    import pandas as pd

    if column.shape:
        stacked = np.stack([np.asarray(item) for item in values])
        return np.ascontiguousarray(stacked, numpy_dtype(column)).reshape(-1, *column.shape)
    if column.dtype == "string":
        codes, words = pd.factorize(values.to_numpy(object), use_na_sentinel=True)
        filled = np.where(codes < 0, MISSING_CODE, codes).astype(np.uint32)
        return Text(filled, tuple(str(word) for word in words))
    if column.dtype == "timestamp":
        return _microseconds(values)
    try:
        return np.ascontiguousarray(values.to_numpy(), numpy_dtype(column))
    except (TypeError, ValueError):
        raise DataError(f"column {column.name} does not hold {column.dtype} only") from None


def numpy_dtype(column: Column) -> np.dtype[Any]:
    """Return the numpy dtype of a column that is not a string."""
    return np.dtype("<" + DTYPES[column.dtype][0]) if column.dtype != "bool" else np.dtype("u1")


def _microseconds(values: pd.Series[Any]) -> np.ndarray[Any, Any]:
    import pandas as pd

    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    times = values.to_numpy("datetime64[us]")
    return np.where(np.isnat(times), MISSING_TIME, times.astype("<i8"))


def feeds(schema: Schema, frame: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Return one array per input tensor of the graph."""
    tensors = {}
    for tensor in schema.inputs:
        parts = []
        for name in tensor.columns:
            column = schema.column(name)
            values = frame[name]
            if tensor.dtype == "string":
                text = values.to_numpy(object).copy()
                text[values.isna().to_numpy()] = tensor.missing_text
                parts.append(text.reshape(-1, 1))
            elif column.shape:
                stacked = np.stack([np.asarray(item) for item in values])
                parts.append(stacked.reshape(-1, *column.shape).astype(tensor.dtype))
            else:
                parts.append(values.to_numpy(tensor.dtype).reshape(-1, 1))
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        tensors[tensor.tensor] = np.ascontiguousarray(whole)
    return tensors


def official_session(model: bytes, threads: int = 1) -> Any:
    """Return a session of the official binding; `threads` within one operator.

    Raises:
        ConversionError: onnxruntime does not take the model.
    """
    from device_runtime.model.ortlib import no_telemetry

    no_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, and told in one line
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = _one_line(error)
        if "StringNormalizer::Locale" in text:
            raise ConversionError(
                "the model makes small letters by a locale that this machine lacks",
                why="a device may lack it, too",
                next="give lowercase=False to the vectorizer",
            ) from error
        raise ConversionError(
            f"onnxruntime does not take the model: {text}",
            next="use another estimator (docs/MODELS.md)",
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:240]


def run_official(session: Any, schema: Schema, frame: pd.DataFrame) -> Scored:
    """Run a frame through the official binding, in batches of 8192 rows.

    Raises:
        ConversionError: The model failed on these rows.
    """
    wanted = [name for name in (schema.output.label, schema.output.scores) if name]
    parts = []
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        try:
            said = session.run(wanted, feeds(schema, part))
        except Exception as error:
            raise ConversionError(
                f"the ONNX model fails on rows that the trained one takes: {_one_line(error)}",
                next="use another estimator (docs/MODELS.md)",
            ) from error
        answers = dict(zip(wanted, said, strict=True))
        parts.append(read_answers(schema, answers, len(part)))
    labels = np.concatenate([part.label for part in parts]) if parts else np.empty(0, np.int16)
    if schema.output.scores is None:
        return Scored(labels, None)
    width = len(schema.output.names)
    scores = [part.scores for part in parts if part.scores is not None]
    empty = np.empty((0, width), schema.output.scores_dtype)
    return Scored(labels, np.concatenate(scores) if scores else empty)


def read_answers(schema: Schema, answers: Mapping[str, Any], n: int) -> Scored:
    """Turn the graph's outputs into label indexes and scores, by the rules of the device."""
    output = schema.output
    scores = None
    if output.scores is not None:
        scores = np.asarray(answers[output.scores]).reshape(n, -1)
    if schema.task not in CLASSED:
        return Scored(np.full(n, -1, np.int16), scores)
    label = _labels(schema, answers, scores, n)
    if scores is not None:
        label[np.isnan(scores).any(axis=1)] = -1
    return Scored(label, scores)


def _labels(
    schema: Schema, answers: Mapping[str, Any], scores: Any, n: int
) -> np.ndarray[Any, Any]:
    output = schema.output
    by_label = output.label is not None and (schema.task != "binary" or schema.threshold == 0.5)
    if schema.task == "binary" and scores is not None and not by_label:
        return np.asarray(scores[:, -1] >= schema.threshold).astype(np.int16)
    if output.label is not None:
        index = label_index(schema)
        raw = np.asarray(answers[output.label]).reshape(n).tolist()
        return np.array([index.get(item, -1) for item in raw], np.int16)
    return np.asarray(np.argmax(scores, axis=1), np.int16)
