"""Quality: how good the answers were, from labels only, and where the model fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from device_runtime.format.schema import Schema
from edgepack.learn.bootstrap import Array, interval, main_of, statistic
from edgepack.learn.counting import numbers
from edgepack.learn.survey import Answered, Survey, answered, month_codes
from edgepack.store.labels import plain
from edgepack.train.metrics import measure

FEW = 30  # labelled rows below which no interval is drawn
BINS_OF_CALIBRATION = 10
SPOT_ROWS = 100  # fewest rows of a region that is named
SPOT_Z = 4.0  # a normal quantile far out: many regions are looked at


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
class Spot:
    """A region where the model fails more than elsewhere.

    Attributes:
        column: Input column, or `class` for a class of the truth.
        where: Category, range, or class.
        n: Labelled rows there.
        here: Error there: share of wrong answers, or mean absolute error.
        elsewhere: Error in all other rows.
    """

    column: str
    where: str
    n: int
    here: float
    elsewhere: float

    @property
    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.column} {self.where}: error {self.here:.3g} against {self.elsewhere:.3g} "
            f"elsewhere ({self.n:,} rows)"
        )


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
        coverage: Bundle version → (labelled, valid rows).
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
    coverage: dict[int, tuple[int, int]]
    delay_s: tuple[float, float] | None
    calibration: dict[int, Calibration]
    spots: tuple[Spot, ...]
    warnings: tuple[str, ...]

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
                str(v): {"labelled": some, "rows": rows}
                for v, (some, rows) in self.coverage.items()
            },
            "delay_s": self.delay_s,
            "calibration": {str(v): asdict(item) for v, item in self.calibration.items()},
            "spots": [{**asdict(spot), "text": spot.text} for spot in self.spots],
            "warnings": list(self.warnings),
        }


def quality(found: Survey, *, intervals: bool = True, now_ns: int | None = None) -> Quality:
    """Say how good the answers were.

    Args:
        found: Of the returned rows; with the input columns where spots are wanted.
        intervals: Whether to draw bootstrap intervals for versions and devices.
        now_ns: The base's clock: labels that are dated after it have no delay.
    """
    schema, table = found.schema, found.labelled
    rows = answered(table, schema)
    main = main_of(schema.task, scored=rows.scores is not None)
    name = main.name if main else ""
    version = np.asarray(table.column("_bundle_version").to_numpy(), np.int64)
    words, codes = month_codes(table, schema.time.name if schema.time else None)
    months = np.array(words, dtype=object)[codes]
    devices = np.array(table.column("_device").to_pylist(), dtype=object)

    def scored(mask: Array, wide: bool) -> Score:
        return score(rows.part(mask), schema, draw=wide and intervals)

    versions = {int(v): scored(version == v, True) for v in np.unique(version)}
    by_month = {
        (int(v), str(m)): scored((version == v) & (months == m), False)
        for v in np.unique(version)
        for m in sorted(set(months[version == v]))
    }
    each = sorted(set(devices))
    by_device = {str(d): scored(devices == d, len(each) > 1) for d in each}
    newest = version == max(versions, default=0)
    return Quality(
        task=schema.task,
        main=name,
        versions=versions,
        devices=by_device,
        months=by_month,
        coverage=_coverage(found, version),
        delay_s=_delay(table, now_ns),
        calibration={v: made for v in versions if (made := calibration(rows, version == v))},
        spots=weak_spots(table.filter(pa.array(newest)), rows.part(newest), schema),
        warnings=tuple(_warnings(found, version, now_ns)),
    )


def score(rows: Answered, schema: Schema, *, draw: bool = True) -> Score:
    """Return figures and, from `FEW` rows on, the interval of the main one."""
    n, names = len(rows.truth), schema.output.names
    main = main_of(schema.task, scored=rows.scores is not None)
    if not n or main is None or (rows.scores is None and schema.task not in ("binary", "classes")):
        return Score(n, {}, main.name if main else "", None, None)
    metrics = measure(schema.task, names, rows.truth, rows.label, rows.scores)
    low = high = None
    if draw and n >= FEW and main.name in metrics:
        value = statistic(schema.task, rows.truth, rows.label, rows.scores, names)
        low, high = interval(value, n, rounds=120)
    return Score(n, metrics, main.name, low, high)


def _coverage(found: Survey, version: Array) -> dict[int, tuple[int, int]]:
    rows: Counter[int] = Counter()
    for (number, _, _), n in found.totals.items():
        rows[number] += n
    return {v: (int((version == v).sum()), n) for v, n in sorted(rows.items())}


def _delay(table: pa.Table, now_ns: int | None) -> tuple[float, float] | None:
    seconds = numbers(table.column("_truth_delay_s").combine_chunks())
    said = numbers(table.column("_wall").combine_chunks()) / 1e9 + seconds
    seconds = seconds[~np.isnan(seconds) & ((now_ns is None) | (said <= (now_ns or 0) / 1e9 + 1))]
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


# --- where it fails --------------------------------------------------------------------------


def weak_spots(table: pa.Table, rows: Answered, schema: Schema, limit: int = 5) -> tuple[Spot, ...]:
    """Name the regions in which the error is far above the rest, worst first."""
    if len(rows.truth) < 2 * SPOT_ROWS:
        return ()
    wrong = errors_of(rows, schema)
    if wrong is None:
        return ()
    spots: list[tuple[float, Spot]] = []
    if schema.task in ("binary", "classes"):
        names = (*schema.output.names, "new")
        words = [names[place] for place in range(len(names))]
        spots += _spots("class", words, rows.truth % len(words), wrong)
    for column in schema.fed:
        if column.name in table.schema.names and not column.shape:
            words, codes = _regions(table.column(column.name).combine_chunks())
            spots += _spots(column.name, words, codes, wrong)
    return tuple(spot for _, spot in sorted(spots, key=lambda item: -item[0])[:limit])


def errors_of(rows: Answered, schema: Schema) -> Array | None:
    """Return one error per row: wrong (1) or not (0), or the absolute error."""
    if schema.task in ("binary", "classes"):
        return np.asarray(rows.truth != rows.label, np.float64)
    if rows.scores is None:
        return None
    if schema.task == "labels":
        return np.asarray((rows.truth.astype(bool) != (rows.scores >= 0.5)).mean(axis=1))
    if schema.task == "regression":
        return np.asarray(np.abs(rows.scores - rows.truth.reshape(rows.scores.shape)).mean(axis=1))
    if schema.task == "quantiles":
        middle = rows.scores[:, rows.scores.shape[1] // 2]
        return np.asarray(np.abs(middle - rows.truth))
    return None


def _regions(values: pa.Array) -> tuple[list[str], Array]:
    """Return names and one code per row: categories, or four ranges and missing."""
    if pa.types.is_string(values.type):
        coded = values.dictionary_encode()
        words = [*coded.dictionary.to_pylist(), "missing"]
        return words, numbers(coded.indices.fill_null(len(words) - 1), np.int64)
    if pa.types.is_list(values.type):
        return [], np.zeros(len(values), np.int64)
    plain = numbers(values)
    here = plain[~np.isnan(plain)]
    cuts = np.unique(np.quantile(here, [0.25, 0.5, 0.75])) if len(here) else np.zeros(0)
    codes = np.searchsorted(cuts, plain, side="right")
    codes[np.isnan(plain)] = len(cuts) + 1
    ends = [f"{cut:.4g}" for cut in cuts]
    words = [f"below {ends[0]}"] if ends else ["any"]
    words += [f"{low} to {high}" for low, high in zip(ends, ends[1:], strict=False)]  # noqa: RUF007
    words += [f"from {ends[-1]}"] if ends else []
    return [*words, "missing"], codes


def _spots(
    column: str, words: Sequence[str], codes: Array, wrong: Array
) -> Iterable[tuple[float, Spot]]:
    if not words:
        return
    n = np.bincount(codes, minlength=len(words))
    total = np.bincount(codes, wrong, len(words))
    squares = np.bincount(codes, wrong**2, len(words))
    for code in np.flatnonzero((n >= SPOT_ROWS) & (len(wrong) - n >= SPOT_ROWS)).tolist():
        inside, outside = int(n[code]), int(len(wrong) - n[code])
        here, rest = total[code] / inside, (total.sum() - total[code]) / outside
        spread = squares[code] / inside - here**2
        spread_rest = (squares.sum() - squares[code]) / outside - rest**2
        noise = np.sqrt(max(spread, 0) / inside + max(spread_rest, 0) / outside) or 1e-12
        if (here - rest) / noise > SPOT_Z and here > 1.1 * rest:
            weight = float((here - rest) * np.sqrt(inside))
            yield weight, Spot(column, plain(words[code], 60), inside, float(here), float(rest))


# --- what the figures do not show ------------------------------------------------------------


def _warnings(found: Survey, version: Array, now_ns: int | None) -> Iterable[str]:
    labels = found.labels
    if not found.rows:
        yield "no rows are home: nothing can be said"
        return
    if not labels.given:
        yield "no labels are home: quality is unknown, drift is all there is"
        return
    if labels.wrong:
        ref, value, why = labels.wrong[0]
        yield f"{len(labels.wrong):,} labels are not used: {value!r} for {ref} {why}"
    if labels.conflicts:
        one = labels.conflicts[0]
        yield (
            f"{len(labels.conflicts):,} rows have labels that contradict each other; the last "
            f"counts: {' / '.join(one.values)} for {one.ref}"
        )
    if found.held:
        yield f"{found.held:,} labels wait for rows that are not home"
    if found.early:
        yield f"{found.early:,} labels are dated before their rows: no delay is counted for them"
    ahead = int(np.count_nonzero(labels.observed > now_ns)) if now_ns is not None else 0
    if ahead:
        yield f"{ahead:,} labels are dated in the future: no delay is counted for them"
    if labels.new_classes:
        some = list(labels.new_classes.items())[:5]
        names = ", ".join(f"{plain(name, 60)} ({n:,})" for name, n in some)
        yield f"labels name classes that the model lacks: {names}"
    yield from _not_at_random(found)
    if len(np.unique(version)) and found.schema.task == "binary":
        truth = pc.count_distinct(found.labelled.column("_truth")).as_py()
        if truth == 1:
            yield "all labels name one class: AUC cannot be told"


def _not_at_random(found: Survey) -> Iterable[str]:
    """Warn where labels come from one kind of rows far more often than from another."""
    table = found.labelled
    if not table.num_rows:
        return
    label = (
        table.column("_label").to_pylist()
        if "_label" in table.schema.names
        else [""] * table.num_rows
    )
    marked: Counter[tuple[int, str, str]] = Counter(
        zip(
            table.column("_bundle_version").to_pylist(),
            table.column("_device").to_pylist(),
            [text or "" for text in label],
            strict=True,
        )
    )
    for place, what in ((2, "answered"), (1, "from device")):
        rows: Counter[str] = Counter()
        some: Counter[str] = Counter()
        for key, n in found.totals.items():
            rows[str(key[place])] += n
            some[str(key[place])] += marked.get(key, 0)
        shares = {name: some[name] / n for name, n in rows.items() if n >= SPOT_ROWS}
        if len(shares) < 2:
            continue
        low, high = min(shares, key=lambda k: shares[k]), max(shares, key=lambda k: shares[k])
        if shares[high] > 0.05 and shares[low] < 0.7 * shares[high]:
            yield (
                f"labels look missing not at random: {shares[high]:.0%} of rows {what} "
                f"{_name(high)} have one, {shares[low]:.0%} of rows {what} {_name(low)}; figures "
                "may not hold for the rest"
            )


def _name(text: str) -> str:
    return text[:8] if len(text) == 32 else text
