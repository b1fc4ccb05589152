"""Drift: did the inputs change since training? It never says that the model is wrong.

PSI (population stability index, natural logarithm) with the part that chance alone explains and an
interval; KS (Kolmogorov-Smirnov distance) with its p-value; missing values; unseen categories; the
predictions; the flags. Each row is held against the reference of the bundle that made its
prediction. Devices that send sketches instead of rows count the same bins, so both add up.

A few days are not the months of training, though nothing changed: the profile says how far days of
training lay from their whole, and that much is no change (`rhythm`). It shrinks with the days that
are looked at, however many rows each of them brought.

A bundle carries histograms of its training rows, not the rows: KS against them is the distance at
the edges of the bins, a lower bound. Between two files (`learn.files`) it is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.segment import Lane
from device_runtime.format.sketch import Histogram, Profile, Sketch
from edgepack.learn.counting import Array, Counting, Counts, as_counts, numbers
from edgepack.learn.reference import Reference
from edgepack.learn.survey import month_codes
from edgepack.registry import SegmentRow
from edgepack.store.view import View

CHANGED, CHANGED_MUCH = 0.1, 0.25  # usual reading of PSI, beyond chance
FEW = 200  # rows below which nothing is said
_Z = 1.959964  # normal quantile of .975


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
    ks, p = _distance(item.kind, before, now)
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


def psi_interval(before: Array, now: Array) -> tuple[float, float, float]:
    """Return PSI and its 95 % interval by the delta method over both multinomials.

    Half a row is added to each slot, as `format.sketch.psi` does.
    """
    if not before.sum() or not now.sum():
        return 0.0, 0.0, 0.0
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    ratio = np.log(q / p)
    psi = float(((q - p) * ratio).sum())
    to_q, to_p = ratio + 1 - p / q, -ratio + 1 - q / p
    spread = math.sqrt(_variance(q, to_q) / now.sum() + _variance(p, to_p) / before.sum())
    return psi, max(0.0, psi - _Z * spread), psi + _Z * spread


def _variance(share: Array, slope: Array) -> float:
    return float((share * slope**2).sum() - (share * slope).sum() ** 2)


def _distance(kind: str, before: Array, now: Array) -> tuple[float, float | None]:
    first, second = before[:-2], now[:-2]
    if kind == "text":
        first, second = np.delete(before, -2), np.delete(now, -2)
    rows, n = first.sum(), second.sum()
    if not rows or not n:
        return 0.0, None
    if kind == "text":
        return float(np.abs(first / rows - second / n).sum() / 2), None
    ks = float(np.abs(np.cumsum(first) / rows - np.cumsum(second) / n).max())
    return ks, ks_p(ks, int(rows), int(n))


def ks_p(ks: float, rows: int, n: int) -> float:
    """Return the asymptotic p-value of a two-sample KS distance (Smirnov 1939)."""
    x = ks * math.sqrt(rows * n / (rows + n))
    if x < 0.2:  # 1 but for less than 1e-12
        return 1.0
    if x < 1:  # the same series by Jacobi's identity: converges fast where the other does not
        odd = (math.exp(-((k * math.pi) ** 2) / (8 * x * x)) for k in (1, 3, 5, 7))
        return 1 - math.sqrt(2 * math.pi) / x * sum(odd)
    return 2 * sum(math.exp(-2 * (k * x) ** 2) * (1 if k % 2 else -1) for k in range(1, 8))


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


# --- over the table --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """Which rows: all of a bundle name, one device, from a time on, before a time."""

    device: str | None = None
    since_us: int | None = None
    until_us: int | None = None


def of_table(
    view: View, refs: Sequence[Reference], piece: Slice, *, by: Sequence[str] = ()
) -> dict[tuple[str, ...], Drift]:
    """Return the drift of the returned rows.

    Args:
        view: The table.
        refs: Known bundles; rows of an unknown one are left out.
        piece: Which rows.
        by: Also apart by `device` and `month` (in this order).

    Returns:
        (bundle version, *parts of `by`) → drift.
    """
    result = {}
    for ref in refs:
        for group, counts in sorted(count_table(view, ref, piece, by).items()):
            name = f"{ref.row.name} {ref.row.version}"
            key = (str(ref.row.version), *group)
            said, density = " ".join(group) or "all", ref.rows_per_day
            result[key] = compare(ref.profile, counts, said, name, rows_per_day=density)
    return result


def count_table(
    view: View, ref: Reference, piece: Slice, by: Sequence[str] = ()
) -> dict[tuple[str, ...], Counts]:
    """Count the rows and sketches that one bundle's predictions left, by group."""
    counting = Counting(ref.profile, ref.schema)
    time = ref.schema.time.name if ref.schema.time else None
    where = ds.field("_bundle") == ref.row.digest
    if piece.device is not None:
        where &= ds.field("_device") == piece.device
    there = view.columns()
    time = time if time in there else None  # before a row is home no column of the user is there
    if piece.since_us is not None and time is not None:
        where &= ds.field(time) >= pa.scalar(piece.since_us, pa.timestamp("us", "UTC"))
    if piece.until_us is not None and time is not None:
        where &= ds.field(time) < pa.scalar(piece.until_us, pa.timestamp("us", "UTC"))
    answers = [name for name in there if name.startswith("_score_") or name == "_label"]
    names = [*counting.columns(), *answers, "_flags", "_device", *([time] if time else [])]
    result: dict[tuple[str, ...], Counts] = {}
    if "_bundle" in there:
        for batch in view.batches([n for n in dict.fromkeys(names) if n in there], where):
            for group, rows in _groups(batch, by, time):
                result.setdefault(group, Counts()).merge(counting.count(rows))
    _add_sketches(view, ref, piece, by, result)
    return result


def _groups(
    batch: pa.RecordBatch, by: Sequence[str], time: str | None
) -> list[tuple[tuple[str, ...], pa.RecordBatch]]:
    if not by or not batch.num_rows:
        return [((), batch)]
    names: list[list[str]] = []
    mixed = np.zeros(batch.num_rows, np.int64)
    for part in by:
        words, codes = _part(batch, part, time)
        names.append(words)
        mixed = mixed * len(words) + codes
    distinct = np.unique(mixed)
    result = []
    for number in distinct.tolist():
        rest, parts = number, []
        for words in reversed(names):
            rest, place = divmod(rest, len(words))
            parts.append(words[place])
        rows = batch if len(distinct) == 1 else batch.filter(pa.array(mixed == number))
        result.append((tuple(reversed(parts)), rows))
    return result


def _part(batch: pa.RecordBatch, part: str, time: str | None) -> tuple[list[str], Array]:
    if part == "device":
        coded = batch.column("_device").dictionary_encode()
        return coded.dictionary.to_pylist(), numbers(coded.indices, np.int64)
    words, codes = month_codes(batch, time)
    return words, codes.astype(np.int64)


def _add_sketches(
    view: View,
    ref: Reference,
    piece: Slice,
    by: Sequence[str],
    result: dict[tuple[str, ...], Counts],
) -> None:
    """Add what devices counted themselves. A sketch has no row times: no window, no month.

    A device sends a sketch of each BULK segment that it seals, in case its quota evicts the rows.
    It counts only while none of these rows is home.
    """
    if piece.since_us is not None or piece.until_us is not None:
        return
    where = (ds.field("kind") == "sketch") & (ds.field("_bundle") == ref.row.digest)
    if piece.device is not None:
        where &= ds.field("_device") == piece.device
    home: dict[tuple[str, str], list[SegmentRow]] | None = None
    for batch in view.batches(["_device", "_epoch", "data"], where, what="events"):
        for device, epoch, data in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            try:
                told = canonical.decode(data.encode(), "a sketch")
                sketch = Sketch.from_json(told["sketch"])
                first, last = int(told["first"]), int(told["last"])
            except (FormatError, KeyError, TypeError, ValueError):
                continue
            home = _bulk_home(view) if home is None else home
            here = home.get((device, epoch), ())
            if any(row.first <= last and first <= row.last for row in here if first >= 0):
                continue
            group = tuple(device if part == "device" else "undated" for part in by)
            result.setdefault(group, Counts()).add_sketch(sketch, ref.profile)


def _bulk_home(view: View) -> dict[tuple[str, str], list[SegmentRow]]:
    """Return the BULK segments that are home, by device and epoch."""
    result: dict[tuple[str, str], list[SegmentRow]] = {}
    for row in view.registry.segments():
        if row.lane == Lane.BULK and row.rows:
            result.setdefault((row.device, row.epoch), []).append(row)
    return result
