"""Estimators that skl2onnx lacks, each a few nodes: linear labels, constants, codes, wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepack.convert.graph import FUNCTIONS, Graph, apply, has_form, matrix, mirrored
from edgepack.errors import ConversionError

INT64, DOUBLE = 7, 11
LABELLED = ("LinearSVC", "RidgeClassifier", "RidgeClassifierCV")  # of these only the label is kept


def table() -> dict[type, tuple[Any, Any, Any]]:
    """Return class → (converter, shape calculator, parser)."""
    from sklearn import (
        compose,
        discriminant_analysis,
        dummy,
        ensemble,
        linear_model,
        naive_bayes,
        svm,
    )

    classified = (classifier_shapes, parse_classifier)
    return {
        svm.LinearSVC: (linear_labels, *classified),
        linear_model.RidgeClassifier: (linear_labels, *classified),
        linear_model.RidgeClassifierCV: (linear_labels, *classified),
        discriminant_analysis.LinearDiscriminantAnalysis: (linear_chances, *classified),
        dummy.DummyClassifier: (constant_class, *classified),
        naive_bayes.CategoricalNB: (codes, *classified),
        ensemble.VotingClassifier: (vote, classifier_shapes, parse_vote),
        dummy.DummyRegressor: (constant_value, value_shapes, parse_value),
        compose.TransformedTargetRegressor: (transformed, value_shapes, parse_transformed),
    }


# --- how skl2onnx is told --------------------------------------------------------------------


def classifier_shapes(operator: Any) -> None:
    """Set the types of label and double scores."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType

    classes = np.asarray(operator.raw_operator.classes_)
    rows = operator.inputs[0].get_first_dimension()
    kind = StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType
    operator.outputs[0].type = kind([rows])
    operator.outputs[1].type = DoubleTensorType([rows, len(classes)])


def parse_classifier(
    scope: Any, model: Any, inputs: Sequence[Any], **_custom_parsers: Any
) -> list[Any]:
    """Declare a classifier's two outputs: its label and its scores, no ZipMap."""
    return declare(scope, model, inputs, ("label", "probabilities"))


def parse_value(scope: Any, model: Any, inputs: Sequence[Any], **_custom_parsers: Any) -> list[Any]:
    """Declare the one output of a regression."""
    return declare(scope, model, inputs, ("variable",))


def parse_vote(
    scope: Any, model: Any, inputs: Sequence[Any], custom_parsers: Any = None
) -> list[Any]:
    """Put the voters in front: each gives its label and its probabilities."""
    said: list[Any] = []
    for part in model.estimators_:
        said += parse_inner(scope, part, inputs, custom_parsers)[:2]
    return declare(scope, model, said, ("label", "probabilities"))


def parse_transformed(
    scope: Any, model: Any, inputs: Sequence[Any], custom_parsers: Any = None
) -> list[Any]:
    """Put the inner regression in front."""
    said = parse_inner(scope, model.regressor_, inputs, custom_parsers)
    return declare(scope, model, said[:1], ("variable",))


def value_shapes(operator: Any) -> None:
    """Set the type of a double value."""
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), 1])


def declare(scope: Any, model: Any, inputs: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Declare an operator of our own with these outputs, in double but for the label."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType

    operator = scope.declare_local_operator(f"Edgepack{type(model).__name__}", model)
    operator.inputs = list(inputs)
    for name in names:
        kind = Int64TensorType() if name == "label" else DoubleTensorType()
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return list(operator.outputs)


def parse_inner(
    scope: Any, part: Any, inputs: Sequence[Any], custom_parsers: Any, *, raw: bool = False
) -> list[Any]:
    """Parse an estimator inside another one, without a ZipMap behind it.

    `raw` asks a classifier for its decision function instead of probabilities.
    """
    from skl2onnx._parse import _parse_sklearn

    last = part.steps[-1][1] if getattr(part, "steps", None) else part
    if hasattr(last, "classes_"):
        asked = {"raw_scores": True} if raw else {}
        if type(last) not in (custom_parsers or {}):  # our own never make a ZipMap
            asked["zipmap"] = False
        scope.add_options(id(last), {} if type(last).__name__ in LABELLED else asked)
    return list(_parse_sklearn(scope, part, list(inputs), custom_parsers=custom_parsers))


# --- the nodes -------------------------------------------------------------------------------


def _name(graph: Graph, operator: Any, index: str, scores: str) -> None:
    """Give the class of each row its name; `index` is int64 [n]."""
    classes = operator.raw_operator.classes_
    label, said = (item.full_name for item in operator.outputs[:2])
    text = np.asarray(classes).dtype.kind in "OUS"
    names = graph.constant(classes, str if text else np.int64)
    graph.node("Gather", [names, index], label, version=13, axis=0)
    graph.node("Identity", [scores], said, version=13)


def answer(graph: Graph, operator: Any, scores: str) -> None:
    """Give scores [n, classes] as the answer; the label is the first largest, as numpy's argmax."""
    best = graph.node("ArgMax", [scores], version=13, axis=1, keepdims=0)
    _name(graph, operator, best, scores)


def _decision(graph: Graph, operator: Any) -> str:
    """Return `decision_function` of a linear model: one column for two classes, else one each."""
    model = operator.raw_operator
    planes = np.atleast_2d(np.asarray(model.coef_, np.float64))
    count = len(model.classes_)
    if isinstance(model.classes_, list) or len(planes) != (1 if count == 2 else count):
        raise ConversionError(f"a {type(model).__name__} with several targets is not converted")
    x, _ = matrix(graph, operator)
    shift = graph.constant(np.ravel(model.intercept_).astype(np.float64), np.float64)
    moved = graph.node("MatMul", [x, graph.constant(planes.T, np.float64)], version=13)
    return graph.node("Add", [moved, shift], version=14)


def linear_chances(scope: Any, operator: Any, container: Any) -> None:
    """LinearDiscriminantAnalysis: the decisions as probabilities."""
    graph = Graph(scope, container)
    raw = _decision(graph, operator)
    several = len(operator.raw_operator.classes_) > 2
    asked = container.get_options(operator.raw_operator, {"raw_scores": False}, fail=False)
    if asked.get("raw_scores"):
        chances = raw if several else mirrored(graph, raw)
    elif several:
        chances = graph.node("Softmax", [raw], version=13, axis=1)
    else:
        second = graph.node("Sigmoid", [raw], version=13)
        one = graph.constant([1.0], np.float64)
        both = [graph.node("Sub", [one, second], version=14), second]
        chances = graph.node("Concat", both, version=13, axis=1)
    answer(graph, operator, chances)


def ada_boost(scope: Any, operator: Any, container: Any) -> None:
    """AdaBoostClassifier by skl2onnx, which takes false and true for texts."""
    from skl2onnx.operator_converters.ada_boost import convert_sklearn_ada_boost_classifier

    model = operator.raw_operator
    classes = model.classes_
    if classes.dtype == bool:
        model.classes_ = classes.astype(np.int64)
    try:
        convert_sklearn_ada_boost_classifier(scope, operator, container)
    finally:
        model.classes_ = classes


def linear_labels(scope: Any, operator: Any, container: Any) -> None:
    """The side of a plane, or the highest of several: `decision_function` in double."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    raw = _decision(graph, operator)
    if len(model.classes_) > 2:
        answer(graph, operator, raw)
        return
    above = graph.node("Greater", [raw, graph.constant([0.0], np.float64)], version=13)
    index = graph.node("Cast", [above], version=13, to=INT64)
    flat = graph.node("Reshape", [index, graph.constant([-1], np.int64)], version=14)
    _name(graph, operator, flat, mirrored(graph, raw))


def _repeated(graph: Graph, operator: Any, row: Any, dtype: Any) -> str:
    """Return a constant row once for each row of the input."""
    shape = graph.node("Shape", [operator.inputs[0].full_name], version=13)
    rows = graph.node("Gather", [shape, graph.constant([0], np.int64)], version=13, axis=0)
    width = graph.constant([np.size(row)], np.int64)
    size = graph.node("Concat", [rows, width], version=13, axis=0)
    values = graph.constant(np.reshape(row, (1, -1)), dtype)
    return graph.node("Expand", [values, size], version=13)


def constant_class(scope: Any, operator: Any, container: Any) -> None:
    """DummyClassifier: the same answer whatever comes."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    chances = np.asarray(model.class_prior_, np.float64)
    if model.strategy != "prior":
        at = int(chances.argmax())
        if model.strategy == "constant":
            at = int(np.flatnonzero(model.classes_ == np.ravel(model.constant)[0])[0])
        chances = np.eye(len(chances))[at]
    scores = _repeated(graph, operator, chances, np.float64)
    answer(graph, operator, scores)


def constant_value(scope: Any, operator: Any, container: Any) -> None:
    """DummyRegressor: the same value whatever comes."""
    graph = Graph(scope, container)
    value = np.ravel(operator.raw_operator.constant_)
    values = _repeated(graph, operator, value, np.float64)
    graph.node("Identity", [values], operator.outputs[0].full_name, version=13)


def codes(scope: Any, operator: Any, container: Any) -> None:
    """CategoricalNB: a table of log chances per column; a code that is none gives NaN."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    x, _ = matrix(graph, operator)
    total = _repeated(graph, operator, model.class_log_prior_, np.float64)
    for index, logs in enumerate(model.feature_log_prob_):
        at = graph.constant([index], np.int64)
        column = graph.node("Gather", [x, at], version=13, axis=1)
        code = graph.node("Cast", [column], version=13, to=INT64)
        low = graph.node("Less", [code, graph.constant([0], np.int64)], version=13)
        high = graph.node(
            "GreaterOrEqual", [code, graph.constant([logs.shape[1]], np.int64)], version=12
        )
        out = graph.node("Or", [low, high], version=7)
        none = graph.constant([logs.shape[1]], np.int64)
        row = graph.node("Where", [out, none, code], version=9)
        flat = graph.node("Reshape", [row, graph.constant([-1], np.int64)], version=14)
        padded = np.concatenate([logs.T, np.full((1, len(model.classes_)), np.nan)])
        chance = graph.node(
            "Gather", [graph.constant(padded, np.float64), flat], version=13, axis=0
        )
        total = graph.node("Add", [total, chance], version=14)
    chances = graph.node("Softmax", [total], version=13, axis=1)
    answer(graph, operator, chances)


def vote(scope: Any, operator: Any, container: Any) -> None:
    """VotingClassifier: the weighted mean of the chances, or the weighted count of the labels."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    weights = model._weights_not_none  # noqa: SLF001
    weights = np.ones(len(model.estimators_)) if weights is None else np.asarray(weights, float)
    total = ""
    for index, weight in enumerate(weights):
        label, chances = operator.inputs[2 * index], operator.inputs[2 * index + 1]
        if model.voting == "soft":
            said = graph.node("Cast", [chances.full_name], version=13, to=DOUBLE)
        else:  # the voters were trained on the numbers of the classes
            column = graph.node(
                "Reshape", [label.full_name, graph.constant([-1, 1], np.int64)], version=14
            )
            known = graph.constant(np.arange(len(model.classes_)).reshape(1, -1), np.int64)
            same = graph.node("Equal", [column, known], version=13)
            said = graph.node("Cast", [same], version=13, to=DOUBLE)
        part = graph.node("Mul", [said, graph.constant([weight], np.float64)], version=14)
        total = graph.node("Add", [total, part], version=14) if total else part
    mean = graph.node("Div", [total, graph.constant([weights.sum()], np.float64)], version=14)
    answer(graph, operator, mean)


def transformed(scope: Any, operator: Any, container: Any) -> None:
    """TransformedTargetRegressor: the inner answer, brought back to the target's own scale."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    x, _ = matrix(graph, operator)
    back = model.transformer_
    kind = type(back).__name__
    if kind == "FunctionTransformer":
        func = back.inverse_func
        if func is not None and not has_form(func):
            raise ConversionError(
                f"the target is brought back by {func.__name__}(), which has no ONNX form",
                next=f"use one of numpy's own: {', '.join(FUNCTIONS)}",
            )
        answer = x if func is None else apply(graph, func, x)
    elif kind in ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"):
        zero = np.ravel(back.inverse_transform([[0.0]]))
        slope = np.ravel(back.inverse_transform([[1.0]])) - zero
        if kind == "StandardScaler" and back.scale_ is not None:
            slope = np.ravel(back.scale_)
        grown = graph.node("Mul", [x, graph.constant(slope, np.float64)], version=14)
        answer = graph.node("Add", [grown, graph.constant(zero, np.float64)], version=14)
    else:
        raise ConversionError(
            f"the target is brought back by a {kind}, which has no converter",
            next="use func and inverse_func of numpy, or a StandardScaler",
        )
    graph.node("Identity", [answer], operator.outputs[0].full_name, version=13)
