"""Drift: did the inputs change since training? It never says that the model is wrong.

PSI (population stability index, natural logarithm) with the part that chance alone explains and an
interval; KS (Kolmogorov-Smirnov distance) with its p-value; missing values; unseen categories; the
predictions; the flags. Which rows are counted is `learn.returned`'s part.

A few days are not the months of training, though nothing changed: the profile says how far days of
training lay from their whole, and that much is no change (`rhythm`). It shrinks with the days that
are looked at, however many rows each of them brought.

A bundle carries histograms of its training rows, not the rows: KS against them is the distance at
the edges of the bins, a lower bound. Between two files (`learn.files`) it is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from device_runtime.format.sketch import Histogram, Profile
from edgepack.learn.counting import Array, Counts, as_counts
from edgepack.learn.distance import ks_distance, psi_interval

CHANGED, CHANGED_MUCH = 0.1, 0.25  # usual reading of PSI, beyond chance
FEW = 200  # rows below which nothing is said


@dataclass(frozen=True, slots=True)
class Change:
    """How one column moved.

    Attributes:
        name: Column, `prediction` or `confidence`.
        kind: `number` or `text`.
        psi: PSI of now against the reference.
        low: Lower end of its 95 % interval (delta method).
        high: Upper end.
        noise: What PSI would be on average without any change, by chance.
        rhythm: What as many days of training show by themselves at most, beyond chance.
        ks: Largest distance of the cumulative shares; categories: total variation.
        p: P-value of `ks` (asymptotic), None for categories.
        n: Rows now.
        rows: Rows of the reference.
        missing: Share without a value (reference, now).
        unseen: Share of categories that training never saw.
        labels: Name of each bin.
        before: Reference counts per slot: bins, missing, unseen.
        now: Counts now.
        exact: Whether `ks` was taken over all values; else at the bins' edges, a lower bound.
    """

    name: str
    kind: str
    psi: float
    low: float
    high: float
    noise: float
    ks: float
    p: float | None
    n: int
    rows: int
    missing: tuple[float, float]
    unseen: float
    labels: tuple[str, ...]
    before: tuple[int, ...]
    now: tuple[int, ...]
    exact: bool = False
    rhythm: float = 0.0

    @property
    def excess(self) -> float:
        """PSI beyond what chance and rhythm give."""
        return max(0.0, self.psi - self.noise - self.rhythm)

    @property
    def beyond(self) -> tuple[float, float, float]:
        """`excess` and its interval: what words and limits go by, so what plots show."""
        usual = self.noise + self.rhythm
        return self.excess, max(0.0, self.low - usual), max(0.0, self.high - usual)

    @property
    def sure(self) -> bool:
        """Whether there are enough rows to tell: chance alone stays below the first limit."""
        return self.n >= FEW and self.rows >= FEW and self.noise < CHANGED

    @property
    def words(self) -> str:
        """What a person reads: `as in training`, `changed`, `changed much`, or too few rows."""
        if not self.sure:
            return "too few rows to tell"
        if self.excess < CHANGED:
            swings = self.psi - self.noise >= CHANGED
            return "within its rhythm" if swings else "as in training"
        return "changed" if self.excess < CHANGED_MUCH else "changed much"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "excess": self.excess, "words": self.words, "sure": self.sure}


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift of one group of rows against one reference.

    Attributes:
        group: Device, month, or `all`.
        bundle: `name version` of the reference, or its file.
        n: Rows now.
        columns: Inputs, as in the profile.
        answers: `prediction` and `confidence`.
        flags: Flag → (share at training or None, share now).
    """

    group: str
    bundle: str
    n: int
    columns: tuple[Change, ...]
    answers: tuple[Change, ...]
    flags: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)

    @property
    def worst(self) -> Change | None:
        """The input that moved most, beyond chance; of few rows only where nothing is sure."""
        return max(self.columns, key=lambda item: (item.sure, item.excess, item.psi), default=None)


def moved(item: Change) -> tuple[float, float]:
    """Sort by how far columns moved, the farthest first."""
    return -item.excess, -item.psi


def compare(
    profile: Profile, counts: Counts, group: str, bundle: str, *, rows_per_day: float | None = None
) -> Drift:
    """Hold counted rows against a reference.

    Args:
        profile: The reference.
        counts: Rows now.
        group: Which.
        bundle: Whose reference.
        rows_per_day: Of the reference; None: a row now stands for one of the reference.
    """
    span = float(counts.n)
    if rows_per_day is not None and counts.days:
        span = rows_per_day * len(counts.days) + counts.undated

    def changes(items: Iterable[Histogram | None]) -> tuple[Change, ...]:
        return tuple(
            change(
                item,
                as_counts(item),
                counts.columns[item.name],
                profile.rhythm.get(item.name, 0.0) / max(span, 1.0),
            )
            for item in items
            if item is not None and item.name in counts.columns
        )

    flags = {
        name: (profile.rates.get(name), rows / counts.rows if counts.rows else 0.0)
        for name, rows in counts.flags.items()
    }
    answers = changes((profile.prediction, profile.confidence))
    return Drift(group, bundle, counts.n, changes(profile.columns), answers, flags)


def change(item: Histogram, before: Array, now: Array, rhythm: float = 0.0) -> Change:
    """Compare two histograms over the same slots; `rhythm` is no change."""
    used = (before + now) > 0
    rows, n = int(before.sum()), int(now.sum())
    psi, low, high = psi_interval(before[used], now[used])
    noise = max(int(used.sum()) - 1, 0) * (1 / n + 1 / rows) if n and rows else 0.0
    ks, p = ks_distance(item.kind, before, now)
    return Change(
        name=item.name,
        kind=item.kind,
        psi=psi,
        low=low,
        high=high,
        noise=noise,
        ks=ks,
        p=p,
        n=n,
        rows=rows,
        missing=(_share(before, -2), _share(now, -2)),
        unseen=_share(now, -1),
        labels=bin_names(item),
        before=tuple(before.tolist()),
        now=tuple(now.tolist()),
        exact=item.kind == "text",
        rhythm=rhythm,
    )


def _share(counts: Array, slot: int) -> float:
    total = int(counts.sum())
    return float(counts[slot] / total) if total else 0.0


def bin_names(item: Histogram) -> tuple[str, ...]:
    """Return the name of each slot: a range or a category, `missing`, `unseen`."""
    if item.kind == "text":
        return (*item.values, "(others)", "missing", "unseen")
    if not item.edges:
        return ("any", "missing", "unseen")
    edges = [_nice(edge) for edge in item.edges]
    inner = [f"{a} to {b}" for a, b in itertools.pairwise(edges)]
    return (f"below {edges[0]}", *inner, f"from {edges[-1]}", "missing", "unseen")


def _nice(edge: float) -> str:
    return f"{edge:.4g}" if abs(edge) < 1e6 else f"{edge:.3e}"
