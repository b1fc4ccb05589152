"""Encoders over text: a table per column, written down by asking the fitted encoder itself.

Whatever an encoder was told (`drop`, `min_frequency`, `encoded_missing_value`), it is asked once
for each word, for a missing one and for one that it never saw. skl2onnx takes a missing
text for a word that nobody knows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from edgepack.convert.graph import Graph
from edgepack.fitted import is_missing

ML = "ai.onnx.ml"
MISSING_TEXT = "\u2063missing"  # what a text tensor holds where there is no text
UNSEEN = "\u2063never seen"  # an invisible separator: no real word begins with it

Array = np.ndarray[Any, Any]
Pair = tuple[Callable[..., Any], Callable[..., Any]]


def table(numbers: str) -> dict[type, Pair]:
    """Return encoder class → (converter, shape calculator) for numeric columns of this type."""
    from skl2onnx.operator_converters import one_hot_encoder, target_encoder
    from skl2onnx.shape_calculators import one_hot_encoder as one_hot_shapes
    from skl2onnx.shape_calculators import target_encoder as target_shapes
    from sklearn import preprocessing

    from edgepack.convert.codes import ordinal, ordinal_shape

    double = numbers == "float64"
    theirs: dict[type, Pair] = {
        preprocessing.OneHotEncoder: (
            one_hot_encoder.convert_sklearn_one_hot_encoder,
            one_hot_shapes.calculate_sklearn_one_hot_encoder_output_shapes,
        ),
        preprocessing.TargetEncoder: (
            target_encoder.convert_sklearn_target_encoder,
            target_shapes.calculate_sklearn_target_encoder_output_shapes,
        ),
        preprocessing.OrdinalEncoder: (ordinal(double), ordinal_shape(double)),
    }
    return {
        kind: (_converter(convert, double), _shapes(shape, double))
        for kind, (convert, shape) in theirs.items()
    }


def _is_ours(operator: Any) -> bool:
    """Whether all columns are text, and all words of the encoder."""
    kinds = {type(item.type).__name__ for item in operator.inputs}
    known = (word for words in operator.raw_operator.categories_ for word in words)
    return kinds == {"StringTensorType"} and all(
        isinstance(word, str) or is_missing(word) for word in known
    )


def _shapes(theirs: Callable[..., Any], double: bool) -> Callable[..., Any]:
    def shapes(operator: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

        if not _is_ours(operator):
            theirs(operator)
            return
        width = sum(_widths(operator.raw_operator))
        kind = DoubleTensorType if double else FloatTensorType
        operator.outputs[0].type = kind([operator.inputs[0].get_first_dimension(), width])

    return shapes


def _converter(theirs: Callable[..., Any], double: bool) -> Callable[..., Any]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        if not _is_ours(operator):
            theirs(scope, operator, container)
            return
        graph = Graph(scope, container)
        model = operator.raw_operator
        dtype = np.float64 if double else np.float32
        parts = [
            _column(graph, name, *_answers(model, place), dtype)
            for place, name in enumerate(_columns(graph, operator))
        ]
        graph.node("Concat", parts, operator.outputs[0].full_name, version=13, axis=1)

    return convert


def _columns(graph: Graph, operator: Any) -> list[str]:
    """Return the name of each text column [n, 1]."""
    names = []
    for item in operator.inputs:
        width = item.type.shape[1]
        if width == 1:
            names.append(item.full_name)
            continue
        for place in range(width):
            at = graph.constant([place], np.int64)
            names.append(graph.node("Gather", [item.full_name, at], version=13, axis=1))
    return names


def _widths(model: Any) -> list[int]:
    """Return how many columns each input column becomes."""
    outs = getattr(model, "_n_features_outs", None)
    if outs is not None:
        return [int(count) for count in outs]
    encodings = getattr(model, "encodings_", model.categories_)
    return [len(encodings) // len(model.categories_)] * len(model.categories_)


def _answers(model: Any, place: int) -> tuple[list[str], Array]:
    """Return the words of a column, and what each becomes [words + 1, k]; the last: an unseen one.

    NaN where the encoder refuses.
    """
    known = list(model.categories_[place])
    gone = next((word for word in known if is_missing(word)), np.nan)
    words = [word for word in known if not is_missing(word)]
    asked = [_ask(model, place, words)] if words else []
    asked += [_ask(model, place, [gone]), _ask(model, place, [UNSEEN])]
    return [*words, MISSING_TEXT], np.concatenate(asked)


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


def _column(graph: Graph, name: str, words: list[str], rows: Array, dtype: Any) -> str:
    """Add the lookup of one column."""
    width = rows.shape[1]
    if width > 1 and set(np.unique(rows)) <= {0.0, 1.0} and rows.sum(axis=1).max() <= 1:
        hot = np.where(rows.any(axis=1), rows.argmax(axis=1), -1)
        code = _codes(graph, name, words, hot)
        each = graph.constant(np.arange(width).reshape(1, -1), np.int64)
        same = graph.node("Equal", [code, each], version=13)
        return graph.node("Cast", [same], version=13, to=11 if dtype is np.float64 else 1)
    code = _codes(graph, name, words, np.arange(len(rows)))
    flat = graph.node("Reshape", [code, graph.constant([-1], np.int64)], version=14)
    return graph.node("Gather", [graph.constant(rows, dtype), flat], version=13, axis=0)


def _codes(graph: Graph, name: str, words: list[str], numbers: Array) -> str:
    return graph.node(
        "LabelEncoder",
        [name],
        domain=ML,
        version=2,
        keys_strings=words,
        values_int64s=[int(item) for item in numbers[:-1]],
        default_int64=int(numbers[-1]),
    )
