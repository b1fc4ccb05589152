"""What a comparison found: figures by kind of row, the first differences, the verdict."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from device_runtime.format.schema import Schema
from edgepack.convert.feed import Scored
from edgepack.errors import ConversionError

SHOWN = 20  # differences that a report lists

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that is not the same.

    Attributes:
        kind: `held-out`, or what was done to the row.
        column: Which column was changed; "" for none.
        row: Number of the row within its kind.
        name: Which score or label.
        expected: The trained model's.
        got: The ONNX model's.
    """

    kind: str
    column: str
    row: int
    name: str
    expected: float | str
    got: float | str


@dataclass(slots=True)
class Group:
    """Figures of one kind of rows.

    Attributes:
        rows: Compared.
        refused: Rows that the trained model itself refused: nothing to compare.
        different: Rows that differ beyond the tolerance.
        ties: Labels that differ where the scores are equal within the tolerance.
        worst: Largest difference of a score: absolute, relative where the score is above 1.
    """

    rows: int = 0
    refused: int = 0
    different: int = 0
    ties: int = 0
    worst: float = 0.0


@dataclass(slots=True)
class Report:
    """The whole of parity.json.

    Attributes:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in units of `spread`.
        spread: How far each score spreads; empty: 1. A value of 1e-9 is not proven by 1e-5.
        against: `the trained model`, `expected columns of the samples`, or `both engines only`.
        numbers: Element type of the numeric inputs.
        groups: Kind → figures; `held-out` is the real rows.
        device_rows: Rows on which the device's session was compared with the official binding.
        device_different: ... and differed in a single bit.
        differences: The first of them.
        step: Step of the pipeline where the outputs part, if it was looked for.
        notes: What was decided because of what was found.
    """

    rtol: float
    atol: float
    against: str
    numbers: str
    groups: dict[str, Group] = field(default_factory=dict)
    device_rows: int = 0
    device_different: int = 0
    differences: list[Difference] = field(default_factory=list)
    step: str = ""
    notes: list[str] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    @property
    def slack(self) -> Array:
        """Absolute tolerance of each score."""
        return self.atol * np.asarray(self.spread or [1.0])

    @property
    def ok(self) -> bool:
        """Whether the model may be signed."""
        return not self.device_different and not any(g.different for g in self.groups.values())

    @property
    def rows(self) -> int:
        """Real rows compared."""
        return self.groups["held-out"].rows if "held-out" in self.groups else 0

    @property
    def hostile(self) -> int:
        """Hostile rows compared."""
        return sum(group.rows for kind, group in self.groups.items() if kind != "held-out")

    @property
    def ties(self) -> int:
        """Ties that fell the other way."""
        return sum(group.ties for group in self.groups.values())

    @property
    def worst(self) -> float:
        """Largest difference of a score on real rows."""
        return self.groups["held-out"].worst if "held-out" in self.groups else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "format": "edgepack-parity",
            "version": 1,
            "ok": self.ok,
            "rows": self.rows,
            "hostile_rows": self.hostile,
            "ties": self.ties,
            "worst": self.worst,
            **asdict(self),
        }

    def line(self) -> str:
        """Return the report in one line."""
        return (
            f"{self.rows:,} real and {self.hostile:,} hostile rows, largest difference "
            f"{self.worst:.1g}, {self.ties} ties, against {self.against}"
        )


def judge(
    schema: Schema,
    want: Scored,
    got: Scored,
    where: tuple[str, str, int],
    group: Group,
    report: Report,
) -> None:
    """Compare two answers to the same rows; fill the group and list the first differences."""
    kind, column, first = where
    bad = np.zeros(len(want.label), bool)
    if want.scores is not None and got.scores is not None:
        a, b = want.scores.astype(np.float64), got.scores.astype(np.float64)
        if a.shape != b.shape:
            raise ConversionError(
                f"the ONNX model gives {b.shape[1]} scores a row, the trained one {a.shape[1]}"
            )
        close = np.isclose(b, a, rtol=report.rtol, atol=report.slack, equal_nan=True)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(a - b) / np.maximum(1.0, np.abs(a))
        gap = gap[np.isfinite(gap)]
        group.worst = max(group.worst, float(gap.max()) if gap.size else 0.0)
        bad |= ~close.all(axis=1)
        for row, index in np.argwhere(~close)[: SHOWN - len(report.differences)]:
            name = schema.output.names[index] if index < len(schema.output.names) else str(index)
            pair = float(a[row, index]), float(b[row, index])
            report.differences.append(Difference(kind, column, first + int(row), name, *pair))
    wrong = want.label != got.label
    tied = wrong & ties(schema, want, report.atol + report.rtol)
    group.ties += int(tied.sum())
    for row in np.flatnonzero(wrong & ~tied)[: max(0, SHOWN - len(report.differences))]:
        names = (*schema.output.names, "?")
        pair_text = names[want.label[row]], names[got.label[row]]
        report.differences.append(Difference(kind, column, first + int(row), "label", *pair_text))
    group.different += int((bad | (wrong & ~tied)).sum())


def ties(schema: Schema, scored: Scored, slack: float) -> Array:
    """Return, per row, whether the label hangs on less than the tolerance."""
    if scored.scores is None:
        return np.zeros(len(scored.label), bool)
    if schema.task == "binary":
        near: Array = np.abs(scored.scores[:, -1] - schema.threshold) <= slack
        return near
    if schema.task != "classes" or scored.scores.shape[1] < 2:
        return np.zeros(len(scored.label), bool)
    top = np.sort(scored.scores, axis=1)
    return np.asarray(top[:, -1] - top[:, -2] <= 2 * slack)


def spread_of(scores: Array) -> list[float]:
    """Return the standard deviation of each score; never nothing beside the largest value."""
    finite = np.where(np.isfinite(scores), scores, np.nan).astype(np.float64)
    if not finite.size or np.isnan(finite).all():
        return [1.0] * scores.shape[1]
    least = max(1e-9 * float(np.nanmax(np.abs(finite))), np.finfo(np.float64).tiny)
    with warnings.catch_warnings():  # of a score that is never finite
        warnings.simplefilter("ignore")
        found = np.nanstd(finite, axis=0)
    return [max(float(item), least) if item == item else 1.0 for item in found]  # noqa: PLR0124
