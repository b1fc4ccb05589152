"""Rows → a fitted estimator: the split by time, the check for leaks, the fit itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.errors import DataError, RecipeError
from edgepack.fitted import (
    CLASSED,
    Fitted,
    class_text,
    flat,
    is_tensor,
    names_of,
)
from edgepack.recipe import Recipe
from edgepack.tables import inputs_of

if TYPE_CHECKING:
    import pandas as pd


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


def target_values(recipe: Recipe, frame: pd.DataFrame) -> Any:
    """Return the target: a Series, or [n, k] where it holds tensors or has several columns."""
    if len(recipe.target) == 1:
        values = frame[recipe.target[0]]
        return flat(values) if is_tensor(values) else values
    return frame[list(recipe.target)]


def split(recipe: Recipe, frame: pd.DataFrame) -> Split:
    """Part the rows: `split(frame)` of recipe.py, else by time, else by order.

    A random split is never made: it leaks wherever rows resemble their neighbours in time or
    place.

    Raises:
        DataError: One side would be empty.
    """
    if recipe.function("split") is not None:
        side = np.asarray(recipe.call("split", frame))
        if side.shape != (len(frame),) or side.dtype.kind not in "bi":
            raise RecipeError("split() must give 1 (held out), 0 (train) or -1 (neither) per row")
        return _parted(recipe, frame, side.astype(int), "by split() of recipe.py")
    if recipe.time is None:
        side = (np.arange(len(frame)) >= round(len(frame) * (1 - recipe.test))).astype(int)
        return _parted(recipe, frame, side, "by order of the rows (the recipe names no time)")
    times = frame[recipe.time]
    cut = times.iloc[min(round(len(frame) * (1 - recipe.test)), len(frame) - 1)]
    side = (times >= cut).to_numpy().astype(int)
    return _parted(recipe, frame, side, f"by time, newest from {cut}")


def _parted(recipe: Recipe, frame: pd.DataFrame, side: Any, how: str) -> Split:
    train, test = frame[side == 0], frame[side == 1]
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
    from edgepack.train.metrics import auc

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
        area = auc(known, values[there].to_numpy(float))
        if max(area, 1 - area) > 0.995:
            found.append(f"{name} alone tells {recipe.target[0]} (AUC {max(area, 1 - area):.3f})")
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
