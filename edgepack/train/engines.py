"""How rows become a model: all at once in memory, or streamed in constant memory.

An engine is one function over a recipe; a cluster could be one more.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.disk import CHUNK
from edgepack.errors import DataError, RecipeError
from edgepack.fitted import estimator_rows, missing_text
from edgepack.recipe import Recipe
from edgepack.tables import size_of
from edgepack.threads import fitting

if TYPE_CHECKING:
    import pandas as pd

# Measured peaks of scikit-learn over the size of a float64 table: the frame, its copy as one
# array, and what an estimator adds (bins, residuals, sorted copies).
COPIES = 4.0
BASE = 300 << 20


def fit_memory(recipe: Recipe, frame: pd.DataFrame, target: Any, seed: int) -> Any:
    """Fit `model(seed)` of recipe.py on all rows at once.

    Raises:
        DataError: The estimate says that the rows will not fit into memory, or the fit failed.
        RecipeError: model(seed) is not there, or gave no estimator.
    """
    estimator = recipe.call("model", seed)
    if not hasattr(estimator, "fit"):
        raise RecipeError(f"model() of {recipe.name} gave a {type(estimator).__name__}, no model")
    if hasattr(target, "to_numpy"):
        target = target.to_numpy()
    rows = estimator_rows(frame, list(frame.columns), missing_text(estimator))
    check_memory(recipe, len(rows), rows.shape[1])
    try:
        with np.errstate(all="ignore"), fitting(rows.size):
            estimator.fit(rows, target)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        text = " ".join(str(error).split())[:300]
        empty = [str(name) for name in rows.columns if rows[name].isna().all()]
        raise DataError(
            f"the model of {recipe.name} cannot be fitted: {text}",
            why=f"without any value: {', '.join(empty)}" if empty else "",
            next="leave them out of inputs in bundle.toml" if empty else "",
        ) from error
    return estimator


def check_beforehand(recipe: Recipe) -> None:
    """Refuse, before a row is read, what would not fit; see `check_memory`."""
    found = size_of(recipe)
    if found is not None:
        check_memory(recipe, *found)


def check_memory(recipe: Recipe, rows: int, columns: int) -> None:
    """Refuse, before a byte is copied, what would not fit.

    Raises:
        DataError: The estimate is above `[training] memory`, the cap of this process, or what the
            machine has free.
    """
    need = estimate(rows, columns)
    have = recipe.memory_bytes or available()
    if need > have:
        raise DataError(
            f"training {rows:,} rows x {columns} columns in memory needs about "
            f"{need // CHUNK:,} MiB, there are {have // CHUNK:,} MiB",
            next='write engine = "stream" in [training] of bundle.toml',
        )


def estimate(rows: int, columns: int) -> int:
    """Return the peak bytes that training in memory is expected to need."""
    return int(BASE + COPIES * 8 * rows * columns)


def available() -> int:
    """Return the bytes this process may still use: machine, control group, resource limit."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:
        pass
    limits = [free]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits)


def check_stream(recipe: Recipe, rows: int, columns: int) -> None:
    """Refuse, before a row is read, more than XGBoost could hold; nothing else keeps rows.

    Args:
        recipe: Its `model(seed)` says what learns.
        rows: How many will be learned from.
        columns: Inputs.

    Raises:
        RecipeError: model(seed) failed.
        DataError: They are too many.
    """
    estimator = recipe.call("model", recipe.seed)
    if _external(estimator):
        from edgepack.train.external import check_room

        check_room(estimator, rows, columns, recipe.memory_bytes or available())


def _external(estimator: Any) -> bool:
    return type(estimator).__name__ in ("XGBClassifier", "XGBRegressor")


def fit_stream(recipe: Recipe, parts: Iterator[tuple[pd.DataFrame, Any]], seed: int) -> Any:
    """Fit in constant memory: `partial_fit` of the last step over batches of rows.

    A bare XGBoost model learns from external memory instead (`train.external`). The steps before
    the last are fitted on the first batch alone (the card says so), because a scaler or encoder
    must be known before the first row is learned.

    Args:
        recipe: Its `model(seed)` ends in an estimator with `partial_fit`.
        parts: (inputs, target) per batch.
        seed: Of every random choice.

    Raises:
        RecipeError: The model cannot learn in parts.
        DataError: There are no rows.
    """
    estimator = recipe.call("model", seed)
    if _external(estimator):
        from edgepack.train.external import fit_external

        return fit_external(estimator, parts, recipe.memory_bytes or available())
    steps = getattr(estimator, "steps", None)
    last = steps[-1][1] if steps else estimator
    if not hasattr(last, "partial_fit"):
        raise RecipeError(
            f"{type(last).__name__} cannot be trained in a stream (it has no partial_fit)",
            next="use an SGD, Perceptron, naive Bayes or MLP model, or a boosted one in [boost]",
        )
    before = estimator[:-1] if steps and len(steps) > 1 else None
    classes: Any = None
    seen = False
    for rows, target in parts:
        values = np.asarray(target)
        if not seen:
            if before is not None:
                before.fit(rows, values)
            classes = recipe.function("classes")
            classes = np.asarray(classes()) if classes else np.unique(values)
            if recipe.task in ("binary", "classes") and len(classes) < 2:
                raise DataError(
                    f"the first {len(values):,} rows have one class only: {classes[0]}",
                    next="let classes() in recipe.py return all of them, or raise batch_rows",
                )
            seen = True
        learned: Any = before.transform(rows) if before is not None else rows
        if recipe.task in ("binary", "classes"):
            new = set(np.unique(values)) - set(classes)
            if new:
                raise DataError(
                    f"class {min(new)} first comes after the first batch",
                    next="let classes() in recipe.py return all of them, or raise batch_rows",
                )
            last.partial_fit(learned, values, classes=classes)
        else:
            last.partial_fit(learned, values)
    if not seen:
        raise DataError(f"the data of {recipe.name} have no rows")
    return estimator
