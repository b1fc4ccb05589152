"""SimpleImputer: over numbers with its missing indicator, which skl2onnx leaves out; over text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgepack.convert.graph import Graph
from edgepack.convert.words import MISSING_TEXT, ML
from edgepack.errors import ConversionError
from edgepack.fitted import is_missing


def is_ours(model: Any, kind: Any) -> bool:
    """Whether a fitted imputer is one that is converted here: over numbers."""
    text = "String" in type(kind).__name__
    return not text and isinstance(model.missing_values, (int, float))


def shapes(operator: Any) -> None:
    """Set the type of the imputer's output: kept columns, then indicators."""
    model = operator.raw_operator
    kind = operator.inputs[0].type
    if not is_ours(model, kind):
        from skl2onnx.shape_calculators.imputer import calculate_sklearn_imputer_output_shapes

        calculate_sklearn_imputer_output_shapes(operator)
        return
    width = len(_kept(model)) + len(_indicated(model))
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = type(kind)([rows, width])


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes: Where(missing(x), filling, x), and missing(x) of the indicated columns."""
    model = operator.raw_operator
    kind = operator.inputs[0].type
    if not is_ours(model, kind):
        if getattr(model, "add_indicator", False):
            raise ConversionError(
                "SimpleImputer with an indicator is converted for numbers only",
                next="leave add_indicator out, or impute in rows()",
            )
        if "String" in type(kind).__name__:
            _words(Graph(scope, container), operator)
            return
        _theirs()(scope, operator, container)
        return
    graph = Graph(scope, container)
    double = "Double" in type(kind).__name__
    dtype: Any = np.float64 if double else np.float32
    x = operator.inputs[0].full_name
    kept = graph.constant(_kept(model), np.int64)
    chosen = graph.node("Gather", [x, kept], version=13, axis=1)
    gone = _gone(graph, model, chosen, dtype)
    filling = np.asarray(model.statistics_, np.float64)[_kept(model)]
    filled = graph.node(
        "Where", [gone, graph.constant(filling.reshape(1, -1), dtype), chosen], version=9
    )
    parts = [filled]
    if len(_indicated(model)):
        at = graph.constant(_indicated(model), np.int64)
        flags = _gone(graph, model, graph.node("Gather", [x, at], version=13, axis=1), dtype)
        parts.append(graph.node("Cast", [flags], version=13, to=11 if double else 1))
    graph.node("Concat", parts, operator.outputs[0].full_name, version=13, axis=1)


def _gone(graph: Graph, model: Any, x: str, dtype: Any) -> str:
    if is_missing(model.missing_values):
        return graph.node("IsNaN", [x], version=13)
    return graph.node("Equal", [x, graph.constant([model.missing_values], dtype)], version=13)


def _words(graph: Graph, operator: Any) -> None:
    """Add the nodes of an imputer over text: a missing one becomes the word of its column."""
    model = operator.raw_operator
    gone = MISSING_TEXT if is_missing(model.missing_values) else str(model.missing_values)
    names = [item.full_name for item in operator.inputs]
    x = names[0] if len(names) == 1 else graph.node("Concat", names, version=13, axis=1)
    flags = graph.node(
        "LabelEncoder",
        [x],
        domain=ML,
        version=2,
        keys_strings=[gone],
        values_int64s=[1],
        default_int64=0,
    )
    where = graph.node("Cast", [flags], version=13, to=9)
    filling = graph.constant(np.asarray(model.statistics_, object).reshape(1, -1), str)
    graph.node("Where", [where, filling, x], operator.outputs[0].full_name, version=9)


def _kept(model: Any) -> list[int]:
    """Return the columns that are not dropped for having no value at all in training."""
    statistics = np.asarray(model.statistics_, np.float64)
    if getattr(model, "keep_empty_features", False):
        return list(range(len(statistics)))
    return [int(i) for i in np.flatnonzero(~np.isnan(statistics))]


def _indicated(model: Any) -> list[int]:
    indicator = getattr(model, "indicator_", None)
    return [] if indicator is None else [int(i) for i in indicator.features_]


def _theirs() -> Callable[..., Any]:
    from skl2onnx.operator_converters.imputer_op import convert_sklearn_imputer

    found: Callable[..., Any] = convert_sklearn_imputer
    return found
