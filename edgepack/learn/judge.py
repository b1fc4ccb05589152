"""Champion against challenger on the same rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.schema import Schema
from edgepack.candidate import truth_of
from edgepack.errors import EvidenceError
from edgepack.learn.bootstrap import Array, Main, Paired, Statistic, main_of, paired, statistic
from edgepack.train.metrics import measure

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Side:
    """One model on the rows of the window.

    Attributes:
        metrics: Figure by name.
        value: The main figure as a function of the rows' weights.
        main: The main figure.
    """

    metrics: dict[str, float]
    value: Statistic
    main: Main


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is better.

    Attributes:
        main: Name of the figure that decides.
        champion: All figures of the champion.
        challenger: All figures of the challenger.
        paired: Their paired comparison.
    """

    main: str
    champion: dict[str, float]
    challenger: dict[str, float]
    paired: Paired

    @property
    def wins(self) -> bool:
        """Whether the whole 95 % interval of the gain lies above 0."""
        return self.paired.low > 0

    @property
    def text(self) -> str:
        """One line for a person."""
        p = self.paired
        return (
            f"{self.main} {p.champion:.4g} → {p.challenger:.4g} on {p.n:,} rows that neither had "
            f"seen; gain {p.gain:+.4f}, 95 % interval {p.low:+.4f} to {p.high:+.4f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "wins": self.wins, "text": self.text}


def side(schema: Schema, frame: pd.DataFrame, label: Array, scores: Array | None) -> Side:
    """Hold answers against the truth in `frame`.

    Args:
        schema: What the answers mean.
        frame: Rows with their truth.
        label: Answered class indexes [n], -1 for none.
        scores: [n, k] or None.

    Raises:
        EvidenceError: The task has no truth to compare by.
    """
    truth = np.asarray(truth_of(schema, frame))
    scores = None if scores is None else np.asarray(scores, np.float64)
    main = main_of(schema.task, scored=scores is not None)
    if main is None:
        raise EvidenceError(
            f"task {schema.task} has no figure to compare two models by",
            next="train and sign a new model by hand",
        )
    names = schema.output.names
    metrics = measure(schema.task, names, truth, label, scores)
    return Side(metrics, statistic(schema.task, truth, label, scores, names), main)


def judge(
    champion: Side, challenger: Side, n: int, seed: int, blocks: Array | None = None
) -> Verdict:
    """Compare two models on n rows; `blocks` are drawn together."""
    result = paired(
        champion.value, challenger.value, n, more=challenger.main.more, seed=seed, blocks=blocks
    )
    return Verdict(challenger.main.name, champion.metrics, challenger.metrics, result)


def part(statistic_: Statistic, rows: Array, n: int) -> float:
    """Return the main figure on some of the rows."""
    weights = np.zeros(n)
    weights[rows] = 1.0
    return statistic_(weights)
