"""CalibratedClassifierCV by nodes of our own: any classifier inside, every method, in double.

Each of its classifiers comes first, with what scikit-learn asks it for: the decision function
where it has one, else its probabilities. What is here makes calibrated probabilities of these:
`sklearn.calibration._CalibratedClassifier.predict_proba`, node by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepack.convert.graph import Graph
from edgepack.convert.models import answer, declare, parse_inner
from edgepack.parts import thawed

DOUBLE = 11
_TINY = 1e-12  # scikit-learn adds it to a probability before its logarithm


def parse(scope: Any, model: Any, inputs: Sequence[Any], custom_parsers: Any = None) -> list[Any]:
    """Put the classifiers in front; of each only its scores are taken."""
    said = []
    for one in model.calibrated_classifiers_:
        inner = _inside(one)
        raw = hasattr(inner, "decision_function")
        said.append(parse_inner(scope, inner, inputs, custom_parsers, raw=raw)[1])
    return declare(scope, model, said, ("label", "probabilities"))


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Calibrate the scores of each classifier and take the mean."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    total = ""
    for scores, one in zip(operator.inputs, model.calibrated_classifiers_, strict=True):
        raw = graph.node("Cast", [scores.full_name], version=13, to=DOUBLE)
        chances = (
            _temperature(graph, one, raw) if one.method == "temperature" else _each(graph, one, raw)
        )
        total = graph.node("Add", [total, chances], version=14) if total else chances
    count = graph.constant([float(len(model.calibrated_classifiers_))], np.float64)
    answer(graph, operator, graph.node("Div", [total, count], version=14))


def _inside(one: Any) -> Any:
    """Return the classifier itself: it may be frozen, or chosen by a search.

    Of a LGBMClassifier its decision function, which skl2onnx's options cannot ask for.
    """
    from edgepack.convert.families import unwrap

    inner = unwrap(thawed(one.estimator))
    *steps, (name, last) = getattr(inner, "steps", None) or [("", inner)]
    if type(last).__name__ != "LGBMClassifier" or not _decides(one):
        return inner
    from sklearn.pipeline import Pipeline

    from edgepack.convert.lightgbm import LightDecision

    decision = LightDecision(last)
    return Pipeline([*steps, (name, decision)]) if steps else decision


def _decides(one: Any) -> bool:
    return hasattr(one.estimator, "decision_function")


def _each(graph: Graph, one: Any, raw: str) -> str:
    """Calibrate class by class: of two only the second; of more, bring the sum back to one."""
    count = len(one.classes)
    columns = [1] if count == 2 else range(len(one.calibrators))
    parts = []
    for column, calibrator in zip(columns, one.calibrators, strict=True):
        at = graph.constant([column], np.int64)
        score = graph.node("Gather", [raw, at], version=13, axis=1)
        curve = _sigmoid if one.method == "sigmoid" else _isotonic
        parts.append(curve(graph, calibrator, score))
    if count == 2:
        rest = graph.node("Sub", [graph.constant([1.0], np.float64), parts[0]], version=14)
        return graph.node("Concat", [rest, parts[0]], version=13, axis=1)
    # A fold may have seen fewer classes: those that it lacks have no chance.
    known = np.searchsorted(one.classes, one.estimator.classes_)
    spread = graph.constant(np.eye(count)[known], np.float64)
    chances = graph.node("Concat", parts, version=13, axis=1)
    chances = graph.node("MatMul", [chances, spread], version=13)
    axis = graph.constant([1], np.int64)
    total = graph.node("ReduceSum", [chances, axis], version=13, keepdims=1)
    none = graph.node("Equal", [total, graph.constant([0.0], np.float64)], version=13)
    safe = graph.node("Where", [none, graph.constant([1.0], np.float64), total], version=9)
    shares = graph.node("Div", [chances, safe], version=14)
    even = graph.constant(np.full((1, count), 1 / count), np.float64)
    return graph.node("Where", [none, even, shares], version=9)


def _sigmoid(graph: Graph, calibrator: Any, score: str) -> str:
    """Platt's curve, 1 / (1 + exp(a x + b)), of a column [n, 1]."""
    slope = graph.constant([-calibrator.a_], np.float64)
    shift = graph.constant([-calibrator.b_], np.float64)
    z = graph.node("Add", [graph.node("Mul", [score, slope], version=14), shift], version=14)
    # exp(min(z, 0)) / (1 + exp(-|z|)): the tiny values keep their ratio, which Sigmoid rounds to 0.
    zero, unit = graph.constant([0.0], np.float64), graph.constant([1.0], np.float64)
    above = graph.node("Exp", [graph.node("Min", [z, zero], version=13)], version=13)
    size = graph.node("Neg", [graph.node("Abs", [z], version=13)], version=13)
    below = graph.node("Add", [unit, graph.node("Exp", [size], version=13)], version=14)
    return graph.node("Div", [above, below], version=14)


def _isotonic(graph: Graph, calibrator: Any, score: str) -> str:
    """Straight lines between thresholds, constant beyond the first and the last, of [n, 1]."""
    x = np.asarray(calibrator.X_thresholds_, np.float64)
    y = np.asarray(calibrator.y_thresholds_, np.float64)
    if len(x) == 1:
        zero = graph.node("Mul", [score, graph.constant([0.0], np.float64)], version=14)
        return graph.node("Add", [zero, graph.constant(y, np.float64)], version=14)
    ends = [graph.constant([x[0]], np.float64), graph.constant([x[-1]], np.float64)]
    score = graph.node("Max", [score, ends[0]], version=13)
    score = graph.node("Min", [score, ends[1]], version=13)
    row = graph.constant(x[1:-1].reshape(1, -1), np.float64)
    passed = graph.node("Cast", [graph.node("Greater", [score, row], version=13)], version=13, to=7)
    axis = graph.constant([1], np.int64)
    place = graph.node("ReduceSum", [passed, axis], version=13, keepdims=1)
    start, base, slope = (
        graph.node("Gather", [graph.constant(values, np.float64), place], version=13, axis=0)
        for values in (x[:-1], y[:-1], np.diff(y) / np.diff(x))
    )
    beyond = graph.node("Sub", [score, start], version=14)
    return graph.node("Add", [graph.node("Mul", [slope, beyond], version=14), base], version=14)


def _temperature(graph: Graph, one: Any, raw: str) -> str:
    """One temperature for all classes: softmax of the scaled logits [n, classes]."""
    if not _decides(one):
        tiny = graph.constant([_TINY], np.float64)
        raw = graph.node("Log", [graph.node("Add", [raw, tiny], version=14)], version=13)
    beta = graph.constant([one.calibrators[0].beta_], np.float64)
    return graph.node("Softmax", [graph.node("Mul", [raw, beta], version=14)], version=13, axis=1)
