"""When the next model is due: what `[retrain] due` says, held against what came home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.clock import Clock
from edgepack.learn.drift import Drift
from edgepack.learn.quality import Quality
from edgepack.learn.reference import Reference
from edgepack.recipe import Recipe

DAY_NS = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class DueNow:
    """Whether to retrain.

    Attributes:
        name: Bundle name.
        due: Whether at least one limit is reached.
        reasons: One line for each limit that is reached.
        left: One line for each that is not.
    """

    name: str
    due: bool
    reasons: tuple[str, ...]
    left: tuple[str, ...]


def due(
    recipe: Recipe,
    newest: Reference | None,
    quality: Quality | None,
    drifts: Sequence[Drift],
    clock: Clock,
    *,
    new_labels: int,
) -> DueNow:
    """Hold the limits of a recipe against what came home.

    Args:
        recipe: `[retrain] due`.
        newest: The newest signed bundle; None: nothing is out yet.
        quality: From labels.
        drifts: Of the newest bundle that has rows.
        clock: The base's.
        new_labels: Labelled rows that no signed bundle was trained on.
    """
    limits = recipe.due
    reasons: list[str] = []
    left: list[str] = []
    if newest is None:
        return DueNow(recipe.name, False, (), ("nothing is signed yet",))

    def hold(reached: bool, text: str) -> None:
        (reasons if reached else left).append(text)

    if limits.days is not None:
        age = (clock.wall_ns() - newest.row.issued * 1_000_000_000) / DAY_NS
        hold(age >= limits.days, f"the model is {age:.0f} days old (limit {limits.days})")
    if limits.labels is not None:
        hold(
            new_labels >= limits.labels,
            f"{new_labels:,} new labelled rows are home (limit {limits.labels:,})",
        )
    if limits.psi is not None:
        sure = (d.worst for d in drifts if d.worst and d.worst.sure)
        worst = max(sure, key=lambda c: c.excess, default=None)
        if worst is not None:
            text = f"{worst.name} moved by PSI {worst.psi:.2f} (limit {limits.psi:g})"
            hold(worst.excess >= limits.psi, text)
    if limits.quality is not None and quality is not None:
        fall = _fall(newest, quality, recipe.min_labels)
        if fall is not None:
            text = f"{quality.main} fell by {fall:.3f} since training"
            hold(fall >= limits.quality, f"{text} (limit {limits.quality:g})")
    return DueNow(recipe.name, bool(reasons), tuple(reasons), tuple(left))


def _fall(newest: Reference, quality: Quality, least: int) -> float | None:
    """Return how far the main figure fell below what it was at training; None for few labels."""
    score = quality.versions.get(newest.row.version)
    lineage = newest.json("lineage.json")
    metrics = lineage.get("metrics", {}) if isinstance(lineage, dict) else {}
    then = metrics.get(quality.main) if isinstance(metrics, dict) else None
    if score is None or score.value is None or score.n < least:
        return None
    if not isinstance(then, (int, float)):
        return None
    more = quality.main not in ("mae", "pinball")
    return float(then - score.value) if more else float(score.value - then)
