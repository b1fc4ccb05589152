"""What `coverage_table` tries: every estimator, the ways to calibrate one, preprocessing steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import all_estimators

Case = tuple[str, Callable[[], Any]]
"""A name, and what makes the estimator anew."""

# What is no model for rows, or cannot be fitted without being told more.
SKIPPED = {
    "ClassifierChain": "several targets",
    "MultiOutputClassifier": "several targets: task = labels",
    "MultiOutputRegressor": "several targets",
    "RegressorChain": "several targets",
    "MultiTaskElasticNet": "several targets",
    "MultiTaskElasticNetCV": "several targets",
    "MultiTaskLasso": "several targets",
    "MultiTaskLassoCV": "several targets",
    "IsotonicRegression": "one input only",
    "FrozenEstimator": "a wrapper of something fitted",
}


def estimators(task: str) -> Iterator[Case]:
    """Yield (name, maker) of every scikit-learn classifier or regressor, and of the boosters."""
    family = "classifier" if task == "classes" else "regressor"
    for name, kind in all_estimators(type_filter=family):
        if name not in SKIPPED:
            yield name, _maker(kind)
    suffix = "Classifier" if task == "classes" else "Regressor"
    for module, prefix, more in (
        ("xgboost", "XGB", {"n_estimators": 20, "n_jobs": 1}),
        ("lightgbm", "LGBM", {"n_estimators": 20, "n_jobs": 1, "verbose": -1}),
    ):
        try:
            kind = getattr(__import__(module), prefix + suffix)
        except ImportError:
            continue
        yield prefix + suffix, _maker(kind, more)
    if task == "classes":
        yield from calibrators()


def calibrators() -> Iterator[Case]:
    """Yield (name, maker) of the other ways to calibrate a classifier."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.preprocessing import StandardScaler

    inner = make_pipeline(StandardScaler(), LogisticRegression())
    for name, more in (
        ("isotonic", {"method": "isotonic"}),
        ("temperature", {"method": "temperature"}),
        ("a pipeline", {"estimator": inner}),
    ):
        yield f"CalibratedClassifierCV({name})", _maker(CalibratedClassifierCV, more)


def _maker(kind: Any, more: dict[str, Any] | None = None) -> Callable[[], Any]:
    def make() -> Any:
        given = dict(more or {})
        names = kind.__init__.__code__.co_varnames
        wants = {"estimator": _inner(kind), "estimators": _several(kind), "n_estimators": 10}
        for name, value in wants.items():
            if name in names and name not in given:
                given[name] = value
        if kind.__name__ in ("CCA", "PLSCanonical", "PLSRegression"):
            given["n_components"] = 1
        if "random_state" in names:
            given["random_state"] = 0
        if "param_grid" in names:
            given["param_grid"] = {"C": [0.1, 1.0]}
        if "param_distributions" in names:
            given["param_distributions"] = {"C": [0.1, 1.0]}
        return kind(**given)

    return make


def _inner(kind: Any) -> Any:
    from sklearn.linear_model import LinearRegression

    return (
        LogisticRegression()
        if "Class" in kind.__name__
        or "SearchCV" in kind.__name__
        or (kind.__name__ in ("SelfTrainingClassifier", "CalibratedClassifierCV"))
        else LinearRegression()
    )


def _several(kind: Any) -> list[tuple[str, Any]]:
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.tree import DecisionTreeClassifier

    if "Classifier" in kind.__name__:
        return [("a", LogisticRegression()), ("b", DecisionTreeClassifier(random_state=0))]
    return [("a", LinearRegression()), ("b", Ridge())]


def preprocessors() -> Iterator[Case]:
    """Yield (name, maker) of the usual preprocessing, each in front of a logistic regression."""
    from sklearn import decomposition, feature_selection, impute, preprocessing

    steps: list[tuple[str, Callable[[], Any]]] = [
        (name, getattr(preprocessing, name))
        for name in (
            "StandardScaler",
            "MinMaxScaler",
            "MaxAbsScaler",
            "RobustScaler",
            "Normalizer",
            "PowerTransformer",
            "PolynomialFeatures",
            "KBinsDiscretizer",
            "SplineTransformer",
            "Binarizer",
        )
    ]
    steps += [
        ("QuantileTransformer", lambda: preprocessing.QuantileTransformer(n_quantiles=50)),
        ("PCA", lambda: decomposition.PCA(2)),
        ("TruncatedSVD", lambda: decomposition.TruncatedSVD(2)),
        ("SelectKBest", lambda: feature_selection.SelectKBest(k=2)),
        ("SimpleImputer", impute.SimpleImputer),
        ("SimpleImputer(add_indicator)", lambda: impute.SimpleImputer(add_indicator=True)),
        ("KNNImputer", impute.KNNImputer),
        ("MissingIndicator", lambda: _beside(impute.MissingIndicator(features="all"))),
        ("VarianceThreshold", feature_selection.VarianceThreshold),
        (
            "SelectFromModel",
            lambda: feature_selection.SelectFromModel(LogisticRegression(), max_features=2),
        ),
        ("FunctionTransformer(log1p)", lambda: preprocessing.FunctionTransformer(np.log1p)),
        ("FunctionTransformer(cbrt)", lambda: preprocessing.FunctionTransformer(np.cbrt)),
    ]
    for name, make in steps:
        yield name, _in_front(make)


def _in_front(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: make_pipeline(make(), LogisticRegression())


def _beside(step: Any) -> Any:
    """Return a step whose columns stand beside the imputed ones."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_union

    return make_union(SimpleImputer(), step)


def sections() -> Iterator[tuple[str, str, Iterator[Case]]]:
    """Yield (title, task, estimators)."""
    yield "Classifiers", "classes", estimators("classes")
    yield "Regressors", "regression", estimators("regression")
    yield "Preprocessing, in front of LogisticRegression", "classes", preprocessors()
