"""Converters of our own, where skl2onnx lacks one or is not exact: trees of every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgepack.convert import calibrated, impute, models, steps, words
from edgepack.convert.forest import Tree, attributes, histogram_tree, sklearn_tree
from edgepack.convert.graph import Graph, mirrored
from edgepack.errors import ConversionError

ML = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class Converters:
    """What skl2onnx is told beside its own.

    Attributes:
        convert: Estimator class → converter.
        shape: Estimator class → shape calculator.
        parse: Estimator class → parser, for classifiers that skl2onnx does not know at all.
    """

    convert: dict[type, Callable[..., Any]] = field(default_factory=dict)
    shape: dict[type, Callable[..., Any]] = field(default_factory=dict)
    parse: dict[type, Callable[..., Any]] = field(default_factory=dict)


def converters(numbers: str = "float64") -> Converters:
    """Return the converters of our own, for numeric inputs of this element type."""
    from sklearn import ensemble, tree
    from sklearn.base import ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV

    table = Converters()
    for kind in (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor):
        table.convert[kind] = _histogram
    for kind in (
        ensemble.RandomForestClassifier,
        ensemble.RandomForestRegressor,
        ensemble.ExtraTreesClassifier,
        ensemble.ExtraTreesRegressor,
        tree.DecisionTreeClassifier,
        tree.DecisionTreeRegressor,
        tree.ExtraTreeClassifier,
        tree.ExtraTreeRegressor,
    ):
        table.convert[kind] = _forest
    for kind in (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor):
        table.convert[kind] = _boosting
    for kind in table.convert:
        _declare(table, kind, classified=issubclass(kind, ClassifierMixin))
    from sklearn.impute import SimpleImputer

    table.convert[SimpleImputer] = impute.convert
    table.shape[SimpleImputer] = impute.shapes
    for step, (convert, shape) in steps.table().items():
        table.convert[step], table.shape[step] = convert, shape
    for model, (convert, shape, parse) in models.table().items():
        table.convert[model], table.shape[model] = convert, shape
        table.parse[model] = parse
    table.convert[ensemble.AdaBoostClassifier] = models.ada_boost
    table.convert[CalibratedClassifierCV] = calibrated.convert
    table.shape[CalibratedClassifierCV] = models.classifier_shapes
    table.parse[CalibratedClassifierCV] = calibrated.parse
    for encoder, (convert, shape) in words.table(numbers).items():
        table.convert[encoder], table.shape[encoder] = convert, shape
    _add_boosters(table)
    return table


def _add_boosters(table: Converters) -> None:
    """Add LightGBM (our own) and XGBoost (onnxmltools') where they are loaded."""
    from edgepack.convert.lightgbm import LightClassifier, LightDecision, LightRegressor

    def add(kind: type, convert: Callable[..., Any], *, classified: bool) -> None:
        table.convert[kind] = convert
        _declare(table, kind, classified=classified)

    lightgbm, xgboost = sys.modules.get("lightgbm"), sys.modules.get("xgboost")
    if lightgbm is not None:
        add(lightgbm.LGBMClassifier, _light, classified=True)
        add(lightgbm.LGBMRegressor, _light, classified=False)
        add(LightClassifier, _light, classified=True)
        add(LightDecision, _light, classified=True)
        add(LightRegressor, _light, classified=False)
    if xgboost is not None:
        for name in ("XGBClassifier", "XGBRFClassifier"):
            add(getattr(xgboost, name), _boosted, classified=True)
        for name in ("XGBRegressor", "XGBRFRegressor"):
            add(getattr(xgboost, name), _boosted, classified=False)


def _boosted(scope: Any, operator: Any, container: Any) -> None:
    """XGBoost by onnxmltools' converter, which wants columns without names of their own."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    booster = operator.raw_operator.get_booster()
    names, booster.feature_names = booster.feature_names, None
    x, double = _input(Graph(scope, container), operator)
    if double:  # its trees compare in float32
        x = Graph(scope, container).node("Cast", [x], version=13, to=1)
    try:
        convert_xgboost(scope, _Fed(operator, x), container)
    finally:
        booster.feature_names = names


class _Fed:
    """An operator of skl2onnx whose input is another tensor."""

    def __init__(self, operator: Any, name: str) -> None:
        self._operator = operator
        self.inputs = [self]
        self.full_name = name
        self.input_full_names = [name]
        self.type = operator.inputs[0].type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def _light(scope: Any, operator: Any, container: Any) -> None:
    """LightGBM: binary, multiclass and the regressions whose link is known."""
    from edgepack.convert.lightgbm import LightDecision, trees_of

    model = operator.raw_operator
    graph = Graph(scope, container)
    x, double = _input(graph, operator)
    trees, width, dump = trees_of(model)
    objective, *options = str(dump.get("objective", "regression")).split()
    settings = dict(item.split(":", 1) for item in options if ":" in item)
    raw = _sum(graph, x, trees, width, (), double)
    if dump.get("average_output"):
        count = graph.constant([float(len(trees) // width)], np.float32)
        raw = graph.node("Div", [raw, count], version=14)
    if isinstance(model, LightDecision):
        chances = raw if width > 1 else mirrored(graph, raw)
    elif objective in ("binary", "cross_entropy"):
        slope = graph.constant([float(settings.get("sigmoid", 1.0))], np.float32)
        scaled = graph.node("Mul", [raw, slope], version=14)
        chances = _both(graph, graph.node("Sigmoid", [scaled], version=13))
    elif objective == "multiclass":
        chances = graph.node("Softmax", [raw], version=13, axis=1)
    elif objective in ("poisson", "gamma", "tweedie"):
        _say(graph, operator.outputs[0], graph.node("Exp", [raw], version=13))
        return
    elif objective in ("regression", "regression_l1", "huber", "fair", "quantile", "mape"):
        if "sqrt" in options:
            raise ConversionError("LightGBM's reg_sqrt has no converter", next="leave it out")
        _say(graph, operator.outputs[0], raw)
        return
    else:
        raise ConversionError(f"LightGBM's objective {objective} has no converter")
    _classify(graph, operator, chances, model.classes_)


def _parse_classifier(
    scope: Any, model: Any, inputs: Sequence[Any], **_custom_parsers: Any
) -> list[Any]:
    """Declare a classifier's two outputs: its label and its probabilities, no ZipMap."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    return _declare_operator(
        scope, model, inputs, label=Int64TensorType(), probabilities=FloatTensorType()
    )


def _parse_value(
    scope: Any, model: Any, inputs: Sequence[Any], **_custom_parsers: Any
) -> list[Any]:
    """Declare a regression's one output."""
    from skl2onnx.common.data_types import FloatTensorType

    return _declare_operator(scope, model, inputs, variable=FloatTensorType())


def _declare_operator(scope: Any, model: Any, inputs: Sequence[Any], **outputs: Any) -> list[Any]:
    """Declare an estimator's operator with these outputs, by skl2onnx's name for it if any."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    known = sklearn_operator_name_map.get(type(model), f"Edgepack{type(model).__name__}")
    operator = scope.declare_local_operator(known, model)
    operator.inputs = list(inputs)
    operator.outputs.extend(
        [scope.declare_local_variable(name, kind) for name, kind in outputs.items()]
    )
    return list(operator.outputs)


def _declare(table: Converters, kind: type, *, classified: bool) -> None:
    """Answers of trees are float32, but double inside an estimator that reckons in double."""
    table.shape[kind] = _classifier_shapes if classified else _value_shapes
    table.parse[kind] = _parse_classifier if classified else _parse_value


def _kept_type(variable: Any) -> Any:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if isinstance(variable.type, DoubleTensorType) else FloatTensorType


def _value_shapes(operator: Any) -> None:
    """Set the type of a regression's output."""
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = _kept_type(operator.outputs[0])([rows, 1])


def _classifier_shapes(operator: Any) -> None:
    """Set the types of a classifier's two outputs."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    classes = np.asarray(operator.raw_operator.classes_)
    rows = operator.inputs[0].get_first_dimension()
    label = StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType
    operator.outputs[0].type = label([rows])
    operator.outputs[1].type = _kept_type(operator.outputs[1])([rows, len(classes)])


def _input(graph: Graph, operator: Any) -> tuple[str, bool]:
    """Return (name of the one input matrix, whether it is double); integers become float."""
    from onnx import TensorProto
    from skl2onnx.common import data_types

    if len(operator.inputs) != 1:
        raise ConversionError(f"{type(operator.raw_operator).__name__} wants one input matrix")
    name = operator.inputs[0].full_name
    kind = operator.inputs[0].type
    if isinstance(kind, data_types.DoubleTensorType):
        return name, True
    if not isinstance(kind, data_types.FloatTensorType):
        name = graph.node("Cast", [name], version=13, to=TensorProto.FLOAT)
    return name, False


def _sum(
    graph: Graph, x: str, trees: Sequence[Tree], targets: int, base: Sequence[float], double: bool
) -> str:
    """Add the ensemble; its answer is float32 [n, targets], whatever goes in."""
    return graph.node(
        "TreeEnsembleRegressor",
        [x],
        domain=ML,
        version=3 if double else 1,
        **attributes(trees, targets, base, double=double),
    )


def _classify(graph: Graph, operator: Any, chances: str, classes: Any) -> None:
    """Name the probabilities, and the label: the first of the largest, as `argmax` says it."""
    label = operator.outputs[0].full_name
    _say(graph, operator.outputs[1], chances)
    best = graph.node("ArgMax", [chances], version=13, axis=1, keepdims=0)
    text = np.asarray(classes).dtype.kind in "OUS"
    names = graph.constant(classes, str if text else np.int64)
    graph.node("Gather", [names, best], label, version=13, axis=0)


def _say(graph: Graph, variable: Any, answer: str) -> None:
    """Give an answer its name, in the type that was declared for it."""
    if "Double" in type(variable.type).__name__:
        graph.node("Cast", [answer], variable.full_name, version=13, to=11)
    else:
        graph.node("Identity", [answer], variable.full_name, version=13)


def _both(graph: Graph, positive: str) -> str:
    """Return [1 - p, p] of p [n, 1]."""
    one = graph.constant([1.0], np.float32)
    negative = graph.node("Sub", [one, positive], version=14)
    return graph.node("Concat", [negative, positive], version=13, axis=1)


def _histogram(scope: Any, operator: Any, container: Any) -> None:
    """HistGradientBoosting: classifier and regressor, missing values and categories included."""
    model = operator.raw_operator
    graph = Graph(scope, container)
    x, double = _input(graph, operator)
    base = np.ravel(model._baseline_prediction).tolist()  # noqa: SLF001
    width = len(model._predictors[0])  # noqa: SLF001
    if getattr(model, "is_categorical_", None) is not None:
        from edgepack.convert.categories import split_categories

        x, trees = split_categories(graph, model, x, double=double)
    else:
        trees = [
            histogram_tree(predictor.nodes, target)
            for stage in model._predictors  # noqa: SLF001
            for target, predictor in enumerate(stage)
        ]
    raw = _sum(graph, x, trees, width, base, double)
    if hasattr(model, "classes_"):
        _classify(graph, operator, _chances(graph, container, model, raw, width), model.classes_)
        return
    link = type(model._loss.link).__name__  # noqa: SLF001
    kinds = {"IdentityLink": "Identity", "LogLink": "Exp"}
    if link not in kinds:
        raise ConversionError(f"a {type(model).__name__} with {link} has no converter")
    _say(graph, operator.outputs[0], graph.node(kinds[link], [raw], version=13))


def _forest(scope: Any, operator: Any, container: Any) -> None:
    """Single trees and forests: classifier and regressor, trained with missing values or not."""
    from onnx import TensorProto

    model = operator.raw_operator
    graph = Graph(scope, container)
    x, double = _input(graph, operator)
    if double:  # scikit-learn's trees compare in float32 themselves
        x = graph.node("Cast", [x], version=13, to=TensorProto.FLOAT)
    members = list(getattr(model, "estimators_", [model]))
    if getattr(model, "n_outputs_", 1) != 1:
        raise ConversionError(
            f"a {type(model).__name__} with several targets is not converted",
            next="wrap it: MultiOutputClassifier or MultiOutputRegressor",
        )
    classified = hasattr(model, "classes_")
    trees = [sklearn_tree(one.tree_, _node_values(one.tree_, classified)) for one in members]
    if classified and len(model.classes_) == 2:
        trees = [sklearn_tree(one.tree_, _node_values(one.tree_, True)[:, 1:]) for one in members]
    width = trees[0].value.shape[1]
    total = _sum(graph, x, trees, width, (), double=False)
    count = graph.constant([float(len(members))], np.float32)
    mean = graph.node("Div", [total, count], version=14) if len(members) > 1 else total
    if classified:
        chances = _both(graph, mean) if width == 1 else mean
        _classify(graph, operator, chances, model.classes_)
    else:
        _say(graph, operator.outputs[0], mean)


def _boosting(scope: Any, operator: Any, container: Any) -> None:
    """GradientBoosting: a start, and trees that compare in float32."""
    from onnx import TensorProto

    model = operator.raw_operator
    graph = Graph(scope, container)
    x, double = _input(graph, operator)
    if double:
        x = graph.node("Cast", [x], version=13, to=TensorProto.FLOAT)
    if model.init_ != "zero" and not type(model.init_).__name__.startswith("Dummy"):
        raise ConversionError(
            f"a {type(model).__name__} that begins with another model has no converter",
            next="leave init out",
        )
    begin = model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))  # noqa: SLF001
    rate = model.learning_rate
    trees = [
        sklearn_tree(one.tree_, one.tree_.value[:, 0, :] * rate, target)
        for stage in model.estimators_
        for target, one in enumerate(stage)
    ]
    raw = _sum(graph, x, trees, len(begin[0]), begin[0].tolist(), double=False)
    if not hasattr(model, "classes_"):
        _say(graph, operator.outputs[0], raw)
        return
    slope = 2.0 if model.loss == "exponential" else 1.0
    chances = _chances(graph, container, model, raw, len(begin[0]), slope)
    _classify(graph, operator, chances, model.classes_)


def _chances(
    graph: Graph, container: Any, model: Any, raw: str, width: int, slope: float = 1.0
) -> str:
    """Return probabilities [n, classes] of raw scores; the scores where a calibrator wants them."""
    if container.get_options(model, {"raw_scores": False}, fail=False).get("raw_scores"):
        return raw if width > 1 else mirrored(graph, raw)
    if width > 1:
        return graph.node("Softmax", [raw], version=13, axis=1)
    if slope != 1.0:
        raw = graph.node("Mul", [raw, graph.constant([slope], np.float32)], version=14)
    return _both(graph, graph.node("Sigmoid", [raw], version=13))


def _node_values(tree: Any, classified: bool) -> np.ndarray[Any, Any]:
    values = np.asarray(tree.value[:, 0, :], np.float64)
    if not classified:
        return values
    totals = values.sum(axis=1, keepdims=True)
    return np.asarray(values / np.where(totals == 0, 1.0, totals))
