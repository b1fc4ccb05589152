"""Encoders of categories: a table per column, written down by asking the fitted encoder itself.

Whatever an encoder was told (`drop`, `min_frequency`, `encoded_missing_value`), it is asked once
for each word or number, for a missing one and for one that it never saw. skl2onnx takes a missing
text for a word that nobody knows, and knows whole numbers only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from edgepack.convert.graph import Graph
from edgepack.errors import ConversionError
from edgepack.fitted import is_missing

ML = "ai.onnx.ml"
MISSING_TEXT = "\u2063missing"  # what a text tensor holds where there is no text
UNSEEN = "\u2063never seen"  # an invisible separator: no real word begins with it

Array = np.ndarray[Any, Any]
Pair = tuple[Callable[..., Any], Callable[..., Any]]


def table(numbers: str) -> dict[type, Pair]:
    """Return encoder class → (converter, shape calculator) for numeric columns of this type."""
    from sklearn import preprocessing

    double = numbers == "float64"
    encoders = (
        preprocessing.OneHotEncoder,
        preprocessing.OrdinalEncoder,
        preprocessing.TargetEncoder,
    )
    return dict.fromkeys(encoders, (_converter(double), _shapes(double)))


def _is_text(operator: Any) -> bool:
    """Whether all columns are text; else all are numbers.

    Raises:
        ConversionError: Some are, or the fitted encoder holds categories of another kind.
    """
    kinds = {"String" in type(item.type).__name__ for item in operator.inputs}
    (text,) = kinds if len(kinds) == 1 else (None,)
    known = [word for words in operator.raw_operator.categories_ for word in words]
    if text is None or any(isinstance(word, str) != text for word in known if not is_missing(word)):
        raise ConversionError(
            f"one {type(operator.raw_operator).__name__} encodes numbers and words",
            next="give the numbers an encoder of their own",
        )
    return text


def _shapes(double: bool) -> Callable[..., Any]:
    def shapes(operator: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

        width = sum(_widths(operator.raw_operator))
        kind = DoubleTensorType if double else FloatTensorType
        operator.outputs[0].type = kind([operator.inputs[0].get_first_dimension(), width])

    return shapes


def _converter(double: bool) -> Callable[..., Any]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Graph(scope, container)
        model = operator.raw_operator
        dtype = np.float64 if double else np.float32
        kind = str if _is_text(operator) else dtype
        parts = [
            _column(graph, name, kind, *_answers(model, place, text=kind is str), dtype)
            for place, name in enumerate(_columns(graph, operator, kind))
        ]
        graph.node("Concat", parts, operator.outputs[0].full_name, version=13, axis=1)

    return convert


def _columns(graph: Graph, operator: Any, kind: Any) -> list[str]:
    """Return the name of each column [n, 1]; numbers in the one type of the graph."""
    names = []
    for item in operator.inputs:
        name, width = item.full_name, item.type.shape[1]
        if kind is not str:
            name = graph.node("Cast", [name], version=13, to=11 if kind is np.float64 else 1)
        if width == 1:
            names.append(name)
            continue
        for place in range(width):
            at = graph.constant([place], np.int64)
            names.append(graph.node("Gather", [name, at], version=13, axis=1))
    return names


def _widths(model: Any) -> list[int]:
    """Return how many columns each input column becomes."""
    outs = getattr(model, "_n_features_outs", None)
    if outs is not None:
        return [int(count) for count in outs]
    encodings = getattr(model, "encodings_", model.categories_)
    return [len(encodings) // len(model.categories_)] * len(model.categories_)


def _answers(model: Any, place: int, *, text: bool) -> tuple[list[Any], Array]:
    """Return the words of a column, a missing one last, and what each becomes [words + 1, k].

    The last row is that of one never seen; NaN where the encoder refuses.
    """
    known = list(model.categories_[place])
    gone = next((word for word in known if is_missing(word)), np.nan)
    words = [word for word in known if not is_missing(word)]
    unseen: Any = UNSEEN if text else 2.0 * max([abs(float(word)) for word in words], default=0) + 1
    asked = [_ask(model, place, words)] if words else []
    asked += [_ask(model, place, [gone]), _ask(model, place, [unseen])]
    return [*words, MISSING_TEXT if text else np.nan], np.concatenate(asked)


def _ask(model: Any, place: int, words: list[Any]) -> Array:
    rows = np.empty((len(words), len(model.categories_)), object)
    for column, known in enumerate(model.categories_):
        rows[:, column] = known[0]
    rows[:, place] = words
    widths = _widths(model)
    start = sum(widths[:place])
    with warnings.catch_warnings():  # of the names of columns, of unknown words
        warnings.simplefilter("ignore")
        try:
            said = model.transform(rows)
        except ValueError:
            return np.full((len(words), widths[place]), np.nan)
    dense = said.toarray() if hasattr(said, "toarray") else np.asarray(said)
    return dense[:, start : start + widths[place]].astype(np.float64)


def _column(graph: Graph, name: str, kind: Any, words: list[Any], rows: Array, dtype: Any) -> str:
    """Add the lookup of one column."""
    codes = _word_codes if kind is str else _number_codes
    width = rows.shape[1]
    if width > 1 and set(np.unique(rows)) <= {0.0, 1.0} and rows.sum(axis=1).max() <= 1:
        hot = np.where(rows.any(axis=1), rows.argmax(axis=1), -1)
        code = codes(graph, name, words, hot, dtype)
        each = graph.constant(np.arange(width).reshape(1, -1), np.int64)
        same = graph.node("Equal", [code, each], version=13)
        return graph.node("Cast", [same], version=13, to=11 if dtype is np.float64 else 1)
    code = codes(graph, name, words, np.arange(len(rows)), dtype)
    flat = graph.node("Reshape", [code, graph.constant([-1], np.int64)], version=14)
    return graph.node("Gather", [graph.constant(rows, dtype), flat], version=13, axis=0)


def _word_codes(graph: Graph, name: str, words: list[str], numbers: Array, _dtype: Any) -> str:
    """Return the number of each word [n, 1], the last one for all others."""
    return graph.node(
        "LabelEncoder",
        [name],
        domain=ML,
        version=2,
        keys_strings=words,
        values_int64s=[int(item) for item in numbers[:-1]],
        default_int64=int(numbers[-1]),
    )


def _number_codes(graph: Graph, name: str, known: list[Any], numbers: Array, dtype: Any) -> str:
    """Return the number of each category that is a number [n, 1], the last one for all others."""
    keys = np.array(known[:-1]).astype(dtype).reshape(1, -1)
    if len(np.unique(keys)) < keys.size:
        raise ConversionError(
            f"categories differ by less than {np.dtype(dtype).name} can tell",
            next="make text of them: [categories] in bundle.toml",
        )
    same = graph.node("Equal", [name, graph.constant(keys, dtype)], version=13)
    gone = graph.node("IsNaN", [name], version=13)
    hits = [graph.node("Cast", [item], version=13, to=11) for item in (same, gone)]
    steps = (numbers[:-1] - numbers[-1]).reshape(-1, 1)  # at most one of them is hit
    matrix = graph.node("Concat", hits, version=13, axis=1)
    moved = graph.node("MatMul", [matrix, graph.constant(steps, np.float64)], version=13)
    code = graph.node("Add", [moved, graph.constant([numbers[-1]], np.float64)], version=14)
    return graph.node("Cast", [code], version=13, to=7)
