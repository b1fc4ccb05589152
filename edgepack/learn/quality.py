"""Quality: how good the answers were, from labels only, and where the model fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from device_runtime.format.schema import Schema
from edgepack.learn.bootstrap import Array, blocks_of, interval, main_of, statistic
from edgepack.learn.labelled import Coverage, coverage, delays, queued, warnings
from edgepack.learn.spots import Spot, weak_spots
from edgepack.learn.survey import Answered, Survey, answered, month_codes, order_of
from edgepack.train.metrics import measure

FEW = 30  # labelled rows below which no interval is drawn
BINS_OF_CALIBRATION = 10


@dataclass(frozen=True, slots=True)
class Score:
    """How good one group of rows was answered.

    Attributes:
        n: Labelled rows.
        metrics: Figure by name, see `train.metrics`.
        main: Name of the main figure; empty where there is none.
        low: Lower end of its 95 % bootstrap interval; None below `FEW` rows.
        high: Upper end.
    """

    n: int
    metrics: dict[str, float]
    main: str
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """The main figure; None where these rows do not allow it."""
        return self.metrics.get(self.main)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often the second class (binary) or the answered class came true, by confidence.

    Attributes:
        said: Mean probability of each bin.
        came: Share that came true.
        n: Rows of each bin.
        error: Expected calibration error: mean gap, weighted by rows.
    """

    said: tuple[float, ...]
    came: tuple[float, ...]
    n: tuple[int, ...]
    error: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Everything that labels say about one bundle name.

    Attributes:
        task: Of the bundle.
        main: Main figure.
        versions: Bundle version → score.
        devices: Device id → score.
        months: (bundle version, month) → score.
        coverage: Labelled and valid rows by bundle version, device and month, with their delay.
        by_chance: The newest version on rows that the queue drew by chance; None without any.
        delay_s: Median and 90 % quantile of the labels' delay, seconds; None without clocks.
        calibration: Bundle version → calibration.
        spots: Where the newest labelled version fails, worst first.
        warnings: What these figures do not show.
    """

    task: str
    main: str
    versions: dict[int, Score]
    devices: dict[str, Score]
    months: dict[tuple[int, str], Score]
    coverage: tuple[Coverage, ...]
    by_chance: Score | None
    delay_s: tuple[float, float] | None
    calibration: dict[int, Calibration]
    spots: tuple[Spot, ...]
    warnings: tuple[str, ...]

    def rows_of(self, version: int) -> tuple[int, int]:
        """Return (labelled, valid rows) of a bundle version."""
        for item in self.coverage:
            if (item.what, item.group) == ("bundle", str(version)):
                return item.labelled, item.rows
        return 0, 0

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "task": self.task,
            "main": self.main,
            "versions": {str(v): score.as_json() for v, score in self.versions.items()},
            "devices": {device: score.as_json() for device, score in self.devices.items()},
            "months": [
                {"version": version, "month": month, **score.as_json()}
                for (version, month), score in self.months.items()
            ],
            "coverage": {
                item.group: {"labelled": item.labelled, "rows": item.rows}
                for item in self.coverage
                if item.what == "bundle"
            },
            "labels": [asdict(item) for item in self.coverage],
            "by_chance": self.by_chance.as_json() if self.by_chance else None,
            "delay_s": self.delay_s,
            "calibration": {str(v): asdict(item) for v, item in self.calibration.items()},
            "spots": [{**asdict(spot), "text": spot.text} for spot in self.spots],
            "warnings": list(self.warnings),
        }


def quality(
    found: Survey,
    *,
    intervals: bool = True,
    now_ns: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Quality:
    """Say how good the answers were.

    Args:
        found: Of the returned rows; with the input columns where spots are wanted.
        intervals: Whether to draw bootstrap intervals for versions and devices.
        now_ns: The base's clock: labels that are dated after it have no delay.
        names: Device id → name, for what people read.
    """
    schema, table = found.schema, found.labelled
    rows = answered(table, schema)
    main = main_of(schema.task, scored=rows.scores is not None)
    name = main.name if main else ""
    version = np.asarray(table.column("_bundle_version").to_numpy(), np.int64)
    words, codes = month_codes(table, schema.time.name if schema.time else None)
    months = np.array(words, dtype=object)[codes]
    devices = np.array(table.column("_device").to_pylist(), dtype=object)

    order = order_of(table, schema, found.arrivals)

    def scored(mask: Array, wide: bool) -> Score:
        return score(rows.part(mask), schema, order[mask], draw=wide and intervals)

    versions = {int(v): scored(version == v, True) for v in np.unique(version)}
    by_month = {
        (int(v), str(m)): scored((version == v) & (months == m), False)
        for v in np.unique(version)
        for m in sorted(set(months[version == v]))
    }
    each = sorted(set(devices))
    by_device = {str(d): scored(devices == d, len(each) > 1) for d in each}
    newest = version == max(versions, default=0)
    drawn = newest & queued(found, "random")
    return Quality(
        task=schema.task,
        main=name,
        versions=versions,
        devices=by_device,
        months=by_month,
        coverage=coverage(found, now_ns),
        by_chance=scored(drawn, True) if drawn.any() else None,
        delay_s=_delay(table, now_ns),
        calibration={v: made for v in versions if (made := calibration(rows, version == v))},
        spots=weak_spots(table.filter(pa.array(newest)), rows.part(newest), schema),
        warnings=tuple(warnings(found, now_ns, names or {})),
    )


def score(rows: Answered, schema: Schema, order: Array, *, draw: bool = True) -> Score:
    """Return figures and, from `FEW` rows on, the interval of the main one."""
    n, names = len(rows.truth), schema.output.names
    main = main_of(schema.task, scored=rows.scores is not None)
    if not n or main is None or (rows.scores is None and schema.task not in ("binary", "classes")):
        return Score(n, {}, main.name if main else "", None, None)
    metrics = measure(schema.task, names, rows.truth, rows.label, rows.scores)
    low = high = None
    if draw and n >= FEW and main.name in metrics:
        value = statistic(schema.task, rows.truth, rows.label, rows.scores, names)
        blocks = blocks_of(order, timed=schema.time is not None)
        low, high = interval(value, n, rounds=120, blocks=blocks)
    return Score(n, metrics, main.name, low, high)


def _delay(table: pa.Table, now_ns: int | None) -> tuple[float, float] | None:
    seconds = delays(table, now_ns)
    seconds = seconds[~np.isnan(seconds)]
    if not len(seconds):
        return None
    middle, late = np.quantile(seconds, [0.5, 0.9])
    return float(middle), float(late)


def calibration(rows: Answered, mask: Array) -> Calibration | None:
    """Return how probabilities and truth agree; None without probabilities or with few rows."""
    part = rows.part(mask)
    if part.scores is None or part.truth.ndim != 1 or len(part.truth) < FEW or rows.label.max() < 0:
        return None
    if part.scores.shape[1] == 2:
        said, came = part.scores[:, 1], (part.truth == 1).astype(float)
    else:
        said, came = part.scores.max(axis=1), (part.truth == part.label).astype(float)
    bins = np.minimum((said * BINS_OF_CALIBRATION).astype(int), BINS_OF_CALIBRATION - 1)
    n = np.bincount(bins, minlength=BINS_OF_CALIBRATION)
    used = np.flatnonzero(n)
    mean = np.bincount(bins, said, BINS_OF_CALIBRATION)[used] / n[used]
    share = np.bincount(bins, came, BINS_OF_CALIBRATION)[used] / n[used]
    error = float((np.abs(mean - share) * n[used]).sum() / n.sum())
    return Calibration(
        tuple(map(float, mean)), tuple(map(float, share)), tuple(map(int, n[used])), error
    )
