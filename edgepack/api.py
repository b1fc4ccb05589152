"""From a notebook: `edgepack.pack(fitted, samples=frame, name="gearbox")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.candidate.folder import Candidate
from edgepack.candidate.given import finish, prove_estimator
from edgepack.candidate.refused import explained
from edgepack.convert.loading import check_fitted
from edgepack.errors import DataError, RecipeError
from edgepack.fitted import CLASSED
from edgepack.recipe import Recipe, check_values
from edgepack.tables import prepare
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def pack(
    fitted: Any,
    *,
    samples: pd.DataFrame,
    name: str,
    task: str = "",
    target: str | Sequence[str] = (),
    key: str | None = None,
    time: str | None = None,
    device_class: str = "field",
    workspace: Workspace | Path | str | None = None,
    **more: Any,
) -> Candidate:
    """Prove a fitted estimator on real rows and write the same candidate as `edgepack train`.

    The estimator itself is never stored: its ONNX is.

    Args:
        fitted: Fitted scikit-learn estimator (XGBoost and LightGBM with the extra `boost`).
        samples: Real rows with its input columns in their order; with the truth, if `target`.
        name: Bundle name.
        task: Kind of answer; by default read off the estimator.
        target: Column(s) of `samples` with the truth: metrics.
        key: Column with your own id of a row: journaled, labels may come by it.
        time: Column that says when a row happened.
        device_class: A class of edgepack.toml.
        workspace: Where to; by default the workspace around the current folder.
        **more: Other fields of `edgepack.recipe.Recipe`: `confidence`, `threshold`, `ranges`, …

    Raises:
        RecipeError: The arguments contradict one another.
        DataError: The samples do not fit.
        ConversionError, ParityError: The model cannot be packed.
    """
    ws = workspace if isinstance(workspace, Workspace) else Workspace.find(workspace)
    check_fitted(fitted, "`fitted`")
    targets = (target,) if isinstance(target, str) else tuple(target)
    known: Any = task or task_of(fitted)
    try:
        recipe = Recipe(
            folder=ws.recipes / name,
            name=name,
            task=known,
            device_class=device_class,
            target=targets,
            key=key,
            time=time,
            model="(in memory)",
            samples="(in memory)",
            **more,
        )
    except TypeError as error:
        raise RecipeError(f"pack() does not take that: {error}") from None
    check_values(recipe)
    if not len(samples):
        raise DataError("samples has no rows", next="give real rows")
    runtime = ws.device_class(device_class).onnxruntime
    rows = prepare(recipe, samples)
    with explained(ws, name):
        proven = prove_estimator(recipe, fitted, rows, onnxruntime=runtime)
    with ws.lock():
        return finish(ws, recipe, proven, rows)


def task_of(fitted: Any) -> str:
    """Return the task that an estimator seems to be for."""
    classes = getattr(fitted, "classes_", None)
    if classes is not None:
        if isinstance(classes, list):
            return "labels"
        return CLASSED[0] if len(classes) == 2 else CLASSED[1]
    has_scores = hasattr(fitted, "score_samples") or hasattr(fitted, "decision_function")
    return "scores" if has_scores and not hasattr(fitted, "coef_") else "regression"
