"""A model that is measured on rows it has not seen, then fitted again on all of them and proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_runtime.format.schema import Schema
from edgepack.candidate.folder import truth_of
from edgepack.convert.feed import Scored, official_session, run_official
from edgepack.convert.prove import Proven, prove
from edgepack.errors import RecipeError
from edgepack.fitted import CLASSED, Fitted
from edgepack.recipe import Recipe
from edgepack.train.fit import Split, fit, suspects
from edgepack.train.metrics import measure

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Made:
    """Everything that goes into the folder, still in memory.

    Attributes:
        proven: The model that ships, and its proof.
        metrics: Of the model that was measured.
        train: Rows that taught the shipped model.
        held: Rows that measured the measured one.
        held_answers: What the measured model said about them.
        seed: Of every random choice.
        how: How the rows were parted.
        notes: For the card.
        refit: Whether the shipped model was fitted again, on all rows.
        rows: Rows that taught it, where `train` is a sample of them; 0: it is all of them.
    """

    proven: Proven
    metrics: Mapping[str, Any]
    train: pd.DataFrame
    held: pd.DataFrame
    held_answers: Scored
    seed: int
    how: str
    notes: tuple[str, ...]
    refit: bool
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A model that was fitted on the older rows, and what it answered to the newer ones.

    Attributes:
        fitted: The estimator.
        proven: Its ONNX.
        metrics: Its figures on the held-out rows.
        answers: What its ONNX said about them.
        notes: For the card.
    """

    fitted: Fitted
    proven: Proven
    metrics: Mapping[str, Any]
    answers: Scored
    notes: tuple[str, ...]


def train(
    recipe: Recipe, parts: Split, whole: pd.DataFrame, *, seed: int | None, onnxruntime: str
) -> Made:
    """Fit, prove and measure; then fit on all rows (`whole`) and prove that."""
    found = measured(
        recipe, fit(recipe, parts.train, seed=seed), parts.train, parts.test, onnxruntime
    )
    return shipped(recipe, found, parts, whole, onnxruntime)


def measured(
    recipe: Recipe, fitted: Fitted, taught: pd.DataFrame, held: pd.DataFrame, onnxruntime: str
) -> Measured:
    """Convert a fitted model and measure it.

    Args:
        recipe: What was fitted.
        fitted: The model.
        taught: Rows (or a sample of those) that it was fitted on.
        held: Rows that it has not seen.
        onnxruntime: The oldest that must run it.
    """
    notes = tuple(f"suspect: {item}" for item in suspects(recipe, taught))
    proven = prove(fitted, taught, held, onnxruntime=onnxruntime, hostile=not recipe.refit)
    answers = score_rows(proven.onnx.model, proven.onnx.schema, held)
    figures = metrics_of(proven.onnx.schema, held, answers)
    if recipe.function("metrics") is not None:
        figures |= own_metrics(recipe, held, answers)
    return Measured(fitted, proven, figures, answers, notes)


def shipped(
    recipe: Recipe, found: Measured, parts: Split, whole: pd.DataFrame, onnxruntime: str
) -> Made:
    """Return what ships: the model fitted again on all rows, unless the recipe says otherwise."""
    if not recipe.refit:
        return made_of(recipe, found, found.proven, parts.train, parts)
    fitted = fit(recipe, whole, seed=found.fitted.seed)
    proven = prove(fitted, whole, parts.test, onnxruntime=onnxruntime)
    return made_of(recipe, found, proven, whole, parts)


def made_of(
    recipe: Recipe, found: Measured, proven: Proven, taught: pd.DataFrame, parts: Split
) -> Made:
    """Bring what ships and what was measured together."""
    notes = found.notes
    if recipe.task in CLASSED and proven.onnx.schema.output.names != found.fitted.names:
        notes += ("the newest rows hold classes that the measured model had not seen",)
    return Made(
        proven=proven,
        metrics=found.metrics,
        train=taught,
        held=parts.test,
        held_answers=found.answers,
        seed=found.fitted.seed,
        how=parts.how,
        notes=notes,
        refit=recipe.refit,
    )


def score_rows(model: bytes, schema: Schema, frame: pd.DataFrame) -> Scored:
    """Run rows through the official binding."""
    return run_official(official_session(model), schema, frame)


def metrics_of(schema: Schema, frame: pd.DataFrame, answers: Scored) -> dict[str, Any]:
    """Return the figures of answers to rows with truth; `rows` says how many."""
    if not schema.by_role("target"):
        return {"rows": len(frame)}
    truth = truth_of(schema, frame)
    figures = measure(schema.task, schema.output.names, truth, answers.label, answers.scores)
    return {"rows": len(frame), **figures}


def own_metrics(recipe: Recipe, frame: pd.DataFrame, answers: Scored) -> dict[str, float]:
    """Return what `metrics(frame, scores)` of recipe.py says.

    Raises:
        RecipeError: It failed, or gave something else than numbers by name.
    """
    found = recipe.call("metrics", frame, answers.scores)
    try:
        return {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError):
        raise RecipeError("metrics() of recipe.py must give numbers by name") from None
