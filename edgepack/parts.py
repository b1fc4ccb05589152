"""What a fitted estimator is made of: every estimator inside it, by its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TREES = (
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreeClassifier",
    "ExtraTreeRegressor",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "XGBClassifier",
    "XGBRegressor",
    "XGBRFClassifier",
    "XGBRFRegressor",
)


def parts(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, estimator) of a fitted estimator and of everything inside it."""
    yield from _walk(type(estimator).__name__, estimator, set())


def thawed(estimator: Any) -> Any:
    """Return what scikit-learn's FrozenEstimator keeps from being fitted again; others as is."""
    return estimator.estimator if type(estimator).__name__ == "FrozenEstimator" else estimator


def _walk(path: str, estimator: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(estimator) in seen or estimator is None or isinstance(estimator, (str, int, float)):
        return
    seen.add(id(estimator))
    yield path, estimator
    for name, part in _inside(estimator):
        yield from _walk(f"{path}.{name}", part, seen)


def _inside(estimator: Any) -> Iterator[tuple[str, Any]]:
    for name, part in getattr(estimator, "steps", ()) or ():
        yield name, part
    for item in getattr(estimator, "transformers_", ()) or ():
        yield item[0], item[1]
    if hasattr(estimator, "transformer_list"):
        yield from estimator.transformer_list
    for attribute in ("estimator_", "final_estimator_", "classifier_", "regressor_", "init_"):
        part = getattr(estimator, attribute, None)
        if part is not None:
            yield attribute.rstrip("_"), part
    for attribute in ("estimators_", "calibrated_classifiers_"):
        found = getattr(estimator, attribute, None)
        if found is None or type(estimator).__name__ in TREES:
            continue
        for index, part in enumerate(found):
            inner = thawed(getattr(part, "estimator", part))
            if hasattr(inner, "get_params"):
                yield f"{attribute.rstrip('_')}[{index}]", inner
