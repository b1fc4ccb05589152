"""Rows → a fitted estimator: the split by time, the check for leaks, the fit itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.errors import DataError, RecipeError
from edgepack.recipe import Recipe
from edgepack.tables import inputs_of

if TYPE_CHECKING:
    import pandas as pd

CLASSED = ("binary", "classes")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained estimator and the columns it was trained on; lives in memory only.

    Attributes:
        recipe: What it was made by.
        estimator: Fitted scikit-learn estimator over the raw input columns.
        inputs: Names of the input columns, in order.
        names: Class names as text, quantile levels, or names of scores.
        seed: Of every random choice.
        rows: Training rows.
    """

    recipe: Recipe
    estimator: Any
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    seed: int
    rows: int

    def predict_scores(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Return the estimator's own scores [n, k]; see `scores_of`."""
        found = scores_of(self.estimator, self.recipe.task, frame[list(self.inputs)])
        if found is None:
            raise RecipeError(f"the model of {self.recipe.name} gives no probabilities")
        return found


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on and rows to measure on.

    Attributes:
        train: Older rows.
        test: Newer rows.
        how: How they were parted, for the card.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    how: str


def class_text(value: Any) -> str:
    """Return the name of a class as it stands in answers and labels: `true`, `3`, `wheat`."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def target_values(recipe: Recipe, frame: pd.DataFrame) -> Any:
    """Return the target: a Series, or a frame where the recipe names several columns."""
    if len(recipe.target) == 1:
        return frame[recipe.target[0]]
    return frame[list(recipe.target)]


def split(recipe: Recipe, frame: pd.DataFrame) -> Split:
    """Part the rows: `split(frame)` of recipe.py, else by time, else by order.

    A random split is never made: it leaks wherever rows resemble their neighbours in time or
    place.

    Raises:
        DataError: One side would be empty.
    """
    if recipe.function("split") is not None:
        mask = np.asarray(recipe.call("split", frame), bool)
        if mask.shape != (len(frame),):
            raise RecipeError("split() must give one true (= held out) or false per row")
        return _parted(recipe, frame, mask, "by split() of recipe.py")
    if recipe.time is None:
        mask = np.arange(len(frame)) >= round(len(frame) * (1 - recipe.test))
        return _parted(recipe, frame, mask, "by order of the rows (the recipe names no time)")
    times = frame[recipe.time]
    cut = times.iloc[min(round(len(frame) * (1 - recipe.test)), len(frame) - 1)]
    return _parted(recipe, frame, (times >= cut).to_numpy(), f"by time, newest from {cut}")


def _parted(recipe: Recipe, frame: pd.DataFrame, held: Any, how: str) -> Split:
    train, test = frame[~held], frame[held]
    if not len(train) or not len(test):
        raise DataError(
            f"{len(frame)} rows of {recipe.name} cannot be parted into training and test",
            next="give more rows, or a later --until",
        )
    return Split(train.reset_index(drop=True), test.reset_index(drop=True), how)


def check_target(recipe: Recipe, frame: pd.DataFrame) -> None:
    """Refuse a target that cannot be learned.

    Raises:
        DataError: Missing values, one class only, or not the classes that the task needs.
    """
    for name in recipe.target:
        gone = int(frame[name].isna().sum())
        if gone:
            raise DataError(
                f"the target {name} is missing in {gone} of {len(frame)} rows",
                next="leave these rows out in rows()",
            )
    if recipe.task in CLASSED:
        classes = frame[recipe.target[0]].unique()
        if len(classes) < 2:
            raise DataError(
                f"the target {recipe.target[0]} has one class only: {class_text(classes[0])}",
                next="give rows of both classes: a later --until, or other data",
            )
        if recipe.task == "binary" and len(classes) > 2:
            raise DataError(
                f"the target {recipe.target[0]} has {len(classes)} classes, not 2",
                next='write task = "classes" in bundle.toml',
            )
    elif recipe.task in ("regression", "quantiles"):
        for name in recipe.target:
            if not np.issubdtype(np.asarray(frame[name]).dtype, np.number):
                raise DataError(f"the target {name} is not a number, but the task is {recipe.task}")


def suspects(recipe: Recipe, frame: pd.DataFrame) -> list[str]:
    """Name inputs that alone tell the answer: likely leaks (rank AUC above .995, binary only)."""
    if recipe.task != "binary" or len(frame) < 100:
        return []
    from sklearn.metrics import roc_auc_score

    sample = frame.sample(min(len(frame), 20_000), random_state=0)
    truth = sample[recipe.target[0]]
    high = max(truth.unique())
    found = []
    for name in inputs_of(recipe, frame):
        values = sample[name]
        if values.dtype == object:
            continue
        there = ~values.isna().to_numpy()
        known = (truth[there] == high).to_numpy()
        if len(set(known)) < 2:
            continue
        auc = roc_auc_score(known, values[there].to_numpy(float))
        if max(auc, 1 - auc) > 0.995:
            found.append(f"{name} alone tells {recipe.target[0]} (AUC {max(auc, 1 - auc):.3f})")
    return found


def fit(
    recipe: Recipe, frame: pd.DataFrame, *, seed: int | None = None, until: Any = None
) -> Fitted:
    """Fit the recipe's model on all rows of `frame` (before `until`, if given).

    Args:
        recipe: What to fit.
        frame: Rows as `tables.read_table` gives them.
        seed: Other than the recipe's.
        until: Leave out rows from this time on.

    Raises:
        DataError: The target cannot be learned.
        RecipeError: recipe.py failed.
    """
    from edgepack.tables import prepare
    from edgepack.train.engines import fit_memory

    if until is not None:
        frame = prepare(recipe, frame, until)
    check_target(recipe, frame)
    seed = recipe.seed if seed is None else seed
    inputs = inputs_of(recipe, frame)
    estimator = fit_memory(recipe, frame[inputs], target_values(recipe, frame), seed)
    return Fitted(recipe, estimator, tuple(inputs), names_of(recipe, estimator), seed, len(frame))


def names_of(recipe: Recipe, estimator: Any) -> tuple[str, ...]:
    """Return the names of what the estimator answers, in the order of its scores."""
    if recipe.task in CLASSED:
        classes: Sequence[Any] = estimator.classes_
        return tuple(class_text(item) for item in classes)
    if recipe.task == "labels":
        return recipe.names or recipe.target
    if recipe.task == "quantiles":
        return tuple(f"{level:g}" for level in recipe.quantiles)
    return recipe.names or recipe.target or ("score",)


def scores_of(estimator: Any, task: str, rows: Any) -> np.ndarray[Any, Any] | None:
    """Ask a fitted estimator for its scores [n, k] as the bundle's ONNX will answer them.

    Returns:
        Probabilities per class (`binary`, `classes`, `labels`), values (`regression`,
        `quantiles`), or scores; None where the estimator only gives labels.
    """
    if task in ("binary", "classes"):
        if not hasattr(estimator, "predict_proba"):
            return None
        return np.asarray(estimator.predict_proba(rows))
    if task == "labels":
        found = estimator.predict_proba(rows)
        if isinstance(found, list):  # one [n, 2] per label
            return np.stack([np.asarray(item)[:, -1] for item in found], axis=1)
        return np.asarray(found)
    if task == "scores":
        for name in ("score_samples", "decision_function", "predict"):
            if hasattr(estimator, name):
                return np.asarray(getattr(estimator, name)(rows)).reshape(len(rows), -1)
    return np.asarray(estimator.predict(rows)).reshape(len(rows), -1)
