"""Preprocessing that skl2onnx lacks or converts in float32 only; here all of it runs in double."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgepack.convert.graph import Graph, apply, has_form, matrix

Array = np.ndarray[Any, Any]
FLOAT, INT64, DOUBLE = 1, 7, 11


def table() -> dict[type, tuple[Any, Any]]:
    """Return class → (converter, shape calculator)."""
    from sklearn import preprocessing

    return {
        preprocessing.Binarizer: (binarizer, same_width),
        preprocessing.KBinsDiscretizer: (bins, bins_shape),
        preprocessing.SplineTransformer: (splines, splines_shape),
        preprocessing.FunctionTransformer: (function, function_shape),
    }


def _typed(operator: Any, width: int | None) -> None:
    """Set the type of the one output: double as soon as one input is."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    double = any(isinstance(item.type, DoubleTensorType) for item in operator.inputs)
    kind = DoubleTensorType if double else FloatTensorType
    operator.outputs[0].type = kind([operator.inputs[0].get_first_dimension(), width])


def _finish(graph: Graph, operator: Any, name: str) -> None:
    """Cast to the type of the output, under its name."""
    double = "Double" in type(operator.outputs[0].type).__name__
    graph.node(
        "Cast", [name], operator.outputs[0].full_name, version=13, to=DOUBLE if double else FLOAT
    )


def same_width(operator: Any) -> None:
    """As many columns out as in."""
    _typed(operator, int(operator.raw_operator.n_features_in_))


def binarizer(scope: Any, operator: Any, container: Any) -> None:
    """1 above the threshold, else 0."""
    graph = Graph(scope, container)
    x, double = matrix(graph, operator)
    limit = operator.raw_operator.threshold
    edge = graph.constant([limit if double else np.float32(limit)], np.float64)
    _finish(graph, operator, graph.node("Greater", [x, edge], version=13))


def function_shape(operator: Any) -> None:
    """As many columns out as in."""
    _typed(operator, sum(item.type.shape[1] for item in operator.inputs))


def function(scope: Any, operator: Any, container: Any) -> None:
    """FunctionTransformer of nothing, or of a function of numpy that ONNX has."""
    func = operator.raw_operator.func
    graph = Graph(scope, container)
    x, _ = matrix(graph, operator)
    _finish(graph, operator, apply(graph, func, x) if has_form(func) else x)


def bins_shape(operator: Any) -> None:
    """One column per feature, or per bin of each."""
    model = operator.raw_operator
    ordinal = model.encode == "ordinal"
    _typed(operator, len(model.n_bins_) if ordinal else int(sum(model.n_bins_)))


def bins(scope: Any, operator: Any, container: Any) -> None:
    """The number of inner edges at or below x, as a number or as one column per bin."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    x, _ = matrix(graph, operator)
    parts = []
    for index, edges in enumerate(model.bin_edges_):
        inner = np.asarray(edges, np.float64)[1:-1]
        column = graph.node("Gather", [x, graph.constant([index], np.int64)], version=13, axis=1)
        number = _count(graph, column, inner)
        if model.encode != "ordinal":
            known = graph.constant(np.arange(model.n_bins_[index], dtype=np.float64), np.float64)
            number = graph.node("Equal", [number, known], version=13)
            number = graph.node("Cast", [number], version=13, to=DOUBLE)
        parts.append(number)
    _finish(graph, operator, graph.node("Concat", parts, version=13, axis=1))


def _count(graph: Graph, column: str, edges: Array) -> str:
    """Return, as double [n, 1], how many edges are at or below x."""
    if not len(edges):
        return graph.node("Mul", [column, graph.constant([0.0], np.float64)], version=14)
    reached = graph.node(
        "GreaterOrEqual", [column, graph.constant(edges.reshape(1, -1), np.float64)], version=12
    )
    counted = graph.node("Cast", [reached], version=13, to=DOUBLE)
    return graph.node("ReduceSum", [counted, graph.constant([1], np.int64)], version=13, keepdims=1)


def splines_shape(operator: Any) -> None:
    """As many columns as the fitted transformer gives."""
    _typed(operator, int(operator.raw_operator.n_features_out_))


def splines(scope: Any, operator: Any, container: Any) -> None:
    """B-splines as a table of polynomials, one row per stretch between two knots."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    x, _ = matrix(graph, operator)
    parts = []
    for index, spline in enumerate(model.bsplines_):
        column = graph.node("Gather", [x, graph.constant([index], np.int64)], version=13, axis=1)
        parts.append(_spline(graph, column, model, spline))
    _finish(graph, operator, graph.node("Concat", parts, version=13, axis=1))


def _spline(graph: Graph, column: str, model: Any, spline: Any) -> str:
    edges, starts, powers = pieces(spline, model.extrapolation)
    missing = graph.node("IsNaN", [column], version=13)
    x = graph.node("Where", [missing, graph.constant([[edges[0]]], np.float64), column], version=9)
    if model.extrapolation == "periodic":
        x = _turned(graph, x, edges[0], edges[-1] - edges[0])
    number = graph.node("Cast", [_count(graph, x, edges)], version=13, to=INT64)
    row = graph.node("Reshape", [number, graph.constant([-1], np.int64)], version=14)
    base = graph.constant(starts.reshape(-1, 1), np.float64)
    away = graph.node("Sub", [x, graph.node("Gather", [base, row], version=13, axis=0)], version=14)
    answer = ""
    for coefficients in powers:
        values = graph.constant(coefficients, np.float64)
        here = graph.node("Gather", [values, row], version=13, axis=0)
        if answer:
            here = graph.node(
                "Add", [graph.node("Mul", [answer, away], version=14), here], version=14
            )
        answer = here
    if not model.include_bias:
        keep = graph.constant(np.arange(powers[0].shape[1] - 1), np.int64)
        answer = graph.node("Gather", [answer, keep], version=13, axis=1)
    return graph.node("Where", [missing, graph.constant([[0.0]], np.float64), answer], version=9)


def _turned(graph: Graph, x: str, first: float, period: float) -> str:
    """Return x brought into one period, as numpy's `%` does it."""
    start, whole = graph.constant([first], np.float64), graph.constant([period], np.float64)
    moved = graph.node("Sub", [x, start], version=14)
    rest = graph.node("Mod", [moved, whole], version=13, fmod=1)
    below = graph.node("Less", [rest, graph.constant([0.0], np.float64)], version=13)
    lifted = graph.node("Add", [rest, whole], version=14)
    inside = graph.node("Where", [below, lifted, rest], version=9)
    return graph.node("Add", [inside, start], version=14)


def pieces(spline: Any, outside: str) -> tuple[Array, Array, list[Array]]:
    """Return a B-spline as polynomials.

    Args:
        spline: scipy's, with one coefficient vector per basis function.
        outside: How scikit-learn goes on outside the range of training.

    Returns:
        The knots [p] at which a polynomial gives way to the next; where each of the p + 1
        polynomials has its zero; its coefficients [p + 1, basis functions] per power, the highest
        first. The first and last polynomials are those outside.
    """
    k = spline.k
    edges = np.unique(spline.t[k : len(spline.t) - k]).astype(np.float64)
    starts = edges[:-1]
    derived = [spline if m == 0 else spline.derivative(m) for m in range(k + 1)]
    powers = [d(starts, extrapolate=True) / math.factorial(m) for m, d in enumerate(derived)]
    if outside in ("continue", "periodic"):
        low, high, last = [item[0] for item in powers], [item[-1] for item in powers], starts[-1]
    else:
        kept = 2 if outside == "linear" else 1
        low, high = ([np.zeros(powers[0].shape[1])] * (k + 1) for _ in range(2))
        for m, d in enumerate(derived[:kept]):
            low[m], high[m] = d(edges[[0, -1]], extrapolate=True)
        last = edges[-1]
    joined = [
        np.concatenate([a[None], b, c[None]]) for a, b, c in zip(low, powers, high, strict=True)
    ]
    return edges, np.concatenate([edges[:1], starts, [last]]), joined[::-1]
