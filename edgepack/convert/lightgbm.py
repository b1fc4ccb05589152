"""LightGBM: its own dump of trees → one exact ensemble, and a bare Booster as a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from edgepack.convert.forest import Tree
from edgepack.errors import ConversionError

Array = np.ndarray[Any, Any]


class _Light(BaseEstimator):  # type: ignore[misc]
    """What both kinds share.

    Attributes:
        booster_: The Booster.
        n_features_in_: How many columns it was trained on.
        feature_names_in_: Their names, unless LightGBM made them up.
    """

    def __init__(self, booster: Any = None) -> None:
        self.booster = self.booster_ = booster
        names = booster.feature_name() if booster is not None else []
        self.n_features_in_ = len(names)
        if names != [f"Column_{index}" for index in range(len(names))]:
            self.feature_names_in_ = np.array(names, object)


class LightClassifier(ClassifierMixin, _Light):  # type: ignore[misc]
    """A LightGBM Booster that classifies, with the methods of a fitted estimator.

    Attributes:
        classes_: Class numbers, 0 on.
    """

    def __init__(self, booster: Any = None, classes: int = 2) -> None:
        super().__init__(booster)
        self.classes = classes
        self.classes_ = np.arange(classes)

    def predict_proba(self, rows: Any) -> Array:
        """Return probabilities [n, k]."""
        said = np.asarray(self.booster_.predict(np.asarray(rows, np.float64)))
        return np.stack([1 - said, said], axis=1) if said.ndim == 1 else said

    def predict(self, rows: Any) -> Array:
        """Return class numbers."""
        return np.asarray(self.classes_[self.predict_proba(rows).argmax(axis=1)])


class LightDecision(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The decision function of a LGBMClassifier, as an estimator of its own.

    A calibrator asks for it, and skl2onnx's options know no such thing of LightGBM.
    """

    def __init__(self, model: Any = None) -> None:
        self.model = model
        self.booster_, self.classes_ = model.booster_, model.classes_


class LightRegressor(RegressorMixin, _Light):  # type: ignore[misc]
    """A LightGBM Booster that gives values, with the methods of a fitted estimator."""

    def predict(self, rows: Any) -> Array:
        """Return values."""
        return np.asarray(self.booster_.predict(np.asarray(rows, np.float64)))


def wrap(booster: Any) -> Any:
    """Return a Booster from a file as a fitted estimator."""
    dump = booster.dump_model()
    objective = str(dump.get("objective", "regression")).split()[0]
    if objective in ("binary", "cross_entropy"):
        return LightClassifier(booster)
    if objective in ("multiclass", "multiclassova"):
        return LightClassifier(booster, int(dump["num_class"]))
    return LightRegressor(booster)


# Where LightGBM parts zero from everything else. A value that is exactly -ZERO goes right, although
# the dump says that -ZERO is the threshold: there it parts one double below. At +ZERO it goes left.
ZERO = float(np.float32(1e-35))


def trees_of(model: Any) -> tuple[list[Tree], int, dict[str, Any]]:
    """Return (trees, targets, the dump's header) of an estimator with a Booster.

    Raises:
        ConversionError: Categorical splits, or zero counted as missing.
    """
    dump = model.booster_.dump_model()
    width = int(dump.get("num_tree_per_iteration", 1))
    trees = [
        _tree(info["tree_structure"], index % width) for index, info in enumerate(dump["tree_info"])
    ]
    return trees, width, dump


def _tree(root: Mapping[str, Any], target: int) -> Tree:
    nodes: list[tuple[int, float, int, int, bool, float]] = []

    def add(node: Mapping[str, Any]) -> int:
        here = len(nodes)
        if "split_feature" not in node:
            nodes.append((0, 0.0, -1, -1, False, float(node["leaf_value"])))
            return here
        nodes.append((0, 0.0, -1, -1, False, 0.0))
        threshold, missing = _split(node)
        if threshold == -ZERO:
            threshold = float(np.nextafter(threshold, -np.inf))
        left, right = add(node["left_child"]), add(node["right_child"])
        nodes[here] = (int(node["split_feature"]), threshold, left, right, missing, 0.0)
        return here

    add(root)
    columns = list(zip(*nodes, strict=True))
    return Tree(
        feature=np.array(columns[0], np.int64),
        threshold=np.array(columns[1], np.float64),
        left=np.array(columns[2], np.int64),
        right=np.array(columns[3], np.int64),
        missing_left=np.array(columns[4], bool),
        value=np.array(columns[5], np.float64).reshape(-1, 1),
        target=target,
    )


def _split(node: Mapping[str, Any]) -> tuple[float, bool]:
    """Return (threshold, whether a missing value goes left) of a split."""
    if node["decision_type"] != "<=":
        raise ConversionError(
            "LightGBM's categorical splits are not converted",
            next="train with categorical_feature='' on ordinal codes",
        )
    threshold = float(node["threshold"])
    if node["missing_type"] == "Zero":
        raise ConversionError(
            "LightGBM counted zero as missing, which ONNX cannot say",
            next="train with zero_as_missing=false",
        )
    if node["missing_type"] == "NaN":
        return threshold, bool(node["default_left"])
    return threshold, threshold >= 0.0  # "None": NaN is taken for 0
