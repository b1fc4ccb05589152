"""A trained estimator in memory, and how it is asked: what training hands to conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.errors import DataError, RecipeError
from edgepack.parts import parts
from edgepack.recipe import Recipe

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
        rows = estimator_rows(frame, self.inputs, missing_text(self.estimator))
        found = scores_of(self.estimator, self.recipe.task, rows)
        if found is None:
            raise RecipeError(f"the model of {self.recipe.name} gives no probabilities")
        return found


def is_tensor(values: Any) -> bool:
    """Whether a column of a frame holds an array of fixed shape in each row."""
    return bool(
        values.dtype == object
        and len(values)
        and isinstance(values.iloc[0], (list, tuple, np.ndarray))
    )


def is_missing(value: Any) -> bool:
    """Whether a value of a text column stands for none: None or NaN."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def missing_text(estimator: Any) -> Any:
    """Return what a missing text is to an estimator, fitted or not: NaN as pandas has it, or None.

    None only where it says so itself: an encoder that learnt it, an imputer that looks for it.
    """
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    if any(name.endswith("missing_values") and value is None for name, value in params.items()):
        return None
    for _, part in parts(estimator):
        for words in getattr(part, "categories_", ()):
            if any(word is None for word in words):
                return None
    return np.nan


def estimator_rows(frame: pd.DataFrame, inputs: Sequence[str], missing: Any = np.nan) -> Any:
    """Return what an estimator is given: a frame, or [n, values] of the one column of tensors.

    Args:
        frame: Rows.
        inputs: Columns that it is given, in order.
        missing: What a missing text is; see `missing_text`.

    Raises:
        DataError: A column of tensors stands beside other inputs, or its shapes differ.
    """
    tensors = [name for name in inputs if is_tensor(frame[name])]
    if not tensors:
        rows = frame[list(inputs)]
        return rows.assign(**{name: _texts(rows[name], missing) for name in _gaps(rows)})
    if len(inputs) > 1:
        raise DataError(
            f"column {tensors[0]} holds tensors and must be the only input",
            next="put every number of a row into the tensor, or none",
        )
    return flat(frame[tensors[0]])


def _gaps(rows: pd.DataFrame) -> list[str]:
    return [str(n) for n in rows.columns if rows[n].dtype == object and rows[n].isna().any()]


def _texts(values: Any, missing: Any) -> Any:
    found = values.to_numpy(object).copy()
    found[values.isna().to_numpy()] = missing
    return type(values)(found, index=values.index, dtype=object)


def flat(values: Any) -> np.ndarray[Any, Any]:
    """Return a column of tensors as [n, values of one row]."""
    try:
        return np.stack([np.asarray(item) for item in values]).reshape(len(values), -1)
    except ValueError:
        raise DataError(f"the tensors of column {values.name} differ in shape") from None


def class_text(value: Any) -> str:
    """Return the name of a class as it stands in answers and labels: `true`, `3`, `wheat`."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def names_of(recipe: Recipe, estimator: Any) -> tuple[str, ...]:
    """Return the names of what the estimator answers, in the order of its scores.

    Raises:
        DataError: It classifies where the task wants values, or the other way round; a label of
            several is not yes or no.
    """
    free = recipe.task in ("labels", "scores")
    if not free and (recipe.task in CLASSED) != hasattr(estimator, "classes_"):
        kind = "classifies" if hasattr(estimator, "classes_") else "gives values, not classes"
        raise DataError(
            f"the model {kind}, but the task is {recipe.task}", next="correct task in bundle.toml"
        )
    if recipe.task in CLASSED:
        classes: Sequence[Any] = estimator.classes_
        return tuple(class_text(item) for item in classes)
    if recipe.task == "labels":
        names = recipe.names or recipe.target
        _check_yes_or_no(names, getattr(estimator, "classes_", None))
        return names
    if recipe.function("names") is not None:
        return tuple(str(item) for item in recipe.call("names"))
    if recipe.task == "quantiles":
        return tuple(f"{level:g}" for level in recipe.quantiles)
    return recipe.names or recipe.target or ("score",)


def _check_yes_or_no(names: Sequence[str], classes: Any) -> None:
    """Refuse labels whose last class is no `yes`: its probability is what is answered."""
    for name, kinds in zip(names, classes if isinstance(classes, list) else [], strict=False):
        known = {class_text(item) for item in kinds}
        if known in ({"false", "true"}, {"0", "1"}):
            continue
        if known < {"false", "true", "0", "1"}:
            raise DataError(
                f"the label {name} was {known.pop()} in every row of the training",
                next="leave it out of target until there are rows of both",
            )
        listed = ", ".join(sorted(known)[:5])
        raise DataError(
            f"the label {name} has the classes {listed}: it must be true or false",
            next="make 0 and 1 of it in rows()",
        )


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
        for name in ("decision_function", "score_samples", "predict"):
            if hasattr(estimator, name):
                return np.asarray(getattr(estimator, name)(rows)).reshape(len(rows), -1)
    return np.asarray(estimator.predict(rows)).reshape(len(rows), -1)
