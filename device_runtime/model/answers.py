"""Output tensors → `Answers`: labels by threshold or label tensor, scores as they came.

`small` needs no numpy and `bulk` uses it; both give the same bytes. Comparisons are made in double.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import compress
from math import isnan
from typing import Any

from device_runtime.errors import RunError
from device_runtime.format.batch import Answers
from device_runtime.format.schema import DTYPES, Schema
from device_runtime.model.capi import Strings


def width(schema: Schema) -> int:
    """Return k, the scores per row of an answer; 0 if the model gives labels only."""
    if schema.output.scores is None and schema.task != "labels":
        return 0
    return len(schema.output.names)


def label_index(schema: Schema) -> dict[Any, int]:
    """Return what the label tensor holds → index into the output's names.

    An int64 label is looked up by value where all names are whole numbers, else it is the index.
    """
    names = schema.output.names
    if schema.output.label_dtype == "string":
        return {name: place for place, name in enumerate(names)}
    try:
        return {int(name): place for place, name in enumerate(names)}
    except ValueError:
        return {place: place for place in range(len(names))}


def small(
    schema: Schema,
    n: int,
    scores: array[Any] | None,
    label: Sequence[Any] | None,
    index: Mapping[Any, int] | None = None,
) -> Answers:
    """Read the answers of a few rows.

    Args:
        schema: How to read them.
        n: Rows.
        scores: n x k or (binary, one probability) n values; None if there is no such tensor.
        label: n values of the label tensor (n x k for several labels a row); None likewise.
        index: What `label_index` says, where it is known already.

    Raises:
        RunError: The tensors have another size.
    """
    k = width(schema)
    if scores is not None and schema.task == "binary" and len(scores) == n:
        scores = array(scores.typecode, [p for q in scores for p in (1.0 - q, q)])
    if schema.task == "labels" and scores is None and label is not None:
        scores = array(DTYPES[schema.output.scores_dtype][0], [float(value) for value in label])
    _check_sizes(schema, n, k, scores, label)
    found = array("h", _labels(schema, n, k, scores, label, index))
    return Answers(n, found, scores, k)


def _labels(
    schema: Schema, n: int, k: int, scores: Any, label: Any, index: Mapping[Any, int] | None
) -> list[int]:
    if schema.task not in ("binary", "classes"):
        return [-1] * n
    if label is not None and not _by_threshold(schema, scores):
        index = index or label_index(schema)
        found = [index.get(value, -1) for value in label]
    elif schema.task == "binary":
        found = [int(scores[place] >= schema.threshold) for place in range(1, 2 * n, 2)]
    else:
        rows = [list(scores[start : start + k]) for start in range(0, n * k, k)]
        found = [row.index(max(row)) for row in rows]
    if scores is not None:
        for row in range(n):
            if any(map(isnan, scores[row * k : row * k + k])):
                found[row] = -1
    return found


def _by_threshold(schema: Schema, scores: Any) -> bool:
    return schema.task == "binary" and scores is not None and schema.threshold != 0.5


def bulk(
    schema: Schema, n: int, scores: Any, label: Any, index: Mapping[Any, int] | None = None
) -> Answers:
    """Read the answers of many rows: numpy arrays in, numpy arrays out. Raises like `small`."""
    import numpy as np

    k = width(schema)
    if scores is not None:
        scores = scores.reshape(-1)
    if scores is not None and schema.task == "binary" and len(scores) == n:
        wide = np.stack([1.0 - scores.astype("float64"), scores.astype("float64")], axis=1)
        scores = wide.astype(scores.dtype).reshape(-1)
    if schema.task == "labels" and scores is None and label is not None:
        scores = np.asarray(label).reshape(-1).astype(schema.output.scores_dtype)
    _check_sizes(schema, n, k, scores, label)
    if schema.task not in ("binary", "classes"):
        return Answers(n, np.full(n, -1, "int16"), scores, k)
    if label is not None and not _by_threshold(schema, scores):
        found = _lookup(schema, label, index or label_index(schema))
    elif schema.task == "binary":
        found = (scores[1::2] >= np.float64(schema.threshold)).astype("int16")
    else:
        found = scores.reshape(n, k).argmax(axis=1).astype("int16")
    if scores is not None and np.isnan(scores).any():
        found[np.isnan(scores.reshape(n, k)).any(axis=1)] = -1
    return Answers(n, found, scores, k)


def _lookup(schema: Schema, label: Any, index: Mapping[Any, int]) -> Any:
    import numpy as np

    if schema.output.label_dtype != "string":
        values = np.asarray(label).reshape(-1)
        if all(value == place for value, place in index.items()):  # classes 0, 1, 2, …
            found = values.astype("int16")
            found[values.view("uint64") >= len(index)] = -1
            return found
        found = np.full(len(values), -1, "int16")
        for value, place in index.items():
            found[values == value] = place
        return found
    from device_runtime.model.fields import Fields, codes

    if isinstance(label, Strings):
        starts = np.frombuffer(label.starts, "int64")
        fields = Fields(np.frombuffer(label.text, "uint8"), starts[:-1], starts[1:])
    else:
        fields = Fields.of(label.reshape(-1).tolist())
    found, texts = codes(fields)
    return np.array([index.get(text, -1) for text in texts], "int16")[found]


def _check_sizes(schema: Schema, n: int, k: int, scores: Any, label: Any) -> None:
    if scores is not None and len(scores) != n * k:
        raise RunError(
            f"the model gave {len(scores)} scores for {n} rows; its schema names {k} a row"
        )
    if label is not None and schema.task != "labels":
        size = label.size if hasattr(label, "size") else len(label)
        if size != n:
            raise RunError(f"the model gave {size} labels for {n} rows")


def text(schema: Schema, answers: Answers) -> list[str]:
    """Return the answer of each row as text: the class, the labels joined by `|`, or the value.

    Empty where there is no answer. `quantiles` show their middle level, `scores` with several
    names the name of the highest.
    """
    names, k, n = schema.output.names, answers.k, answers.n
    if schema.task in ("binary", "classes"):
        found = answers.label.tolist() if hasattr(answers.label, "tolist") else answers.label
        return ["" if place < 0 else names[place] for place in found]
    values = answers.scores.tolist()
    rows = [values[start : start + k] for start in range(0, n * k, k)]
    if schema.task == "labels":
        chosen = [[p >= schema.threshold for p in row] for row in rows]
        return ["|".join(compress(names, row)) for row in chosen]
    if schema.task == "scores" and k > 1:
        return ["" if any(map(isnan, row)) else names[row.index(max(row))] for row in rows]
    middle = k // 2 if schema.task == "quantiles" else 0
    return ["" if isnan(row[middle]) else repr(row[middle]) for row in rows]
