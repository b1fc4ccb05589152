"""Profiles and sketches: what the inputs looked like at training, and what they look like now.

A *profile* (profile.json, signed with the bundle) holds one reference histogram per given input
column, one of the predictions and one of the confidence. A *sketch* counts live rows into the same
bins. Both are a few KB, merge by addition, and compare by PSI, the population stability index:
sum over bins of (q - p) * ln(q / p). It says that *inputs changed*, never that the model is wrong.

The slots of a histogram are its bins, then `missing`, then `unseen` (a category that training
never saw), so that both count as change like any other bin.

Batches up to `SMALL` rows are counted without numpy; both ways give the same counts.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from device_runtime.errors import FormatError, UnsupportedVersionError
from device_runtime.format.batch import (
    FLAG_ABSTAINED,
    FLAG_INVALID,
    FLAG_UNLIKE,
    FLAG_UNSEEN,
    MISSING_CODE,
    Answers,
    Batch,
    Text,
)
from device_runtime.format.schema import MISSING_TIME, Column, Schema

VERSION = 1
SMALL = 32
MAX_VALUES = 256
CONFIDENCE_EDGES = tuple(step / 20 for step in range(1, 20))
RATES = (
    ("unlike", FLAG_UNLIKE),
    ("abstained", FLAG_ABSTAINED),
    ("invalid", FLAG_INVALID),
    ("unseen", FLAG_UNSEEN),
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Reference counts of one column.

    Attributes:
        name: Column name, or `prediction` or `confidence`.
        kind: `number` (a value v falls into bin `bisect_right(edges, v)`) or `text` (one bin per
            listed value, then one for all other known values).
        edges: Inner edges, ascending; empty for text.
        values: Listed values of a text column, most frequent first; empty for numbers.
        counts: Rows per slot: the bins, then missing, then unseen.
    """

    name: str
    kind: Literal["number", "text"]
    edges: tuple[float, ...]
    values: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Number of counts: bins + missing + unseen."""
        return len(self.edges) + len(self.values) + 3


@dataclass(frozen=True, slots=True)
class Profile:
    """The whole of profile.json.

    Attributes:
        rows: Reference rows that were counted.
        columns: One histogram per input column that can be counted, in schema order.
        prediction: Of the answered label (text) or value (number); None where there is none.
        confidence: Of the probability of the answered label; None where there is none.
        rates: Share of reference rows per flag name: `unlike`, `abstained`.
    """

    rows: int
    columns: tuple[Histogram, ...]
    prediction: Histogram | None
    confidence: Histogram | None
    rates: Mapping[str, float]

    def all(self) -> tuple[Histogram, ...]:
        """Return every histogram: the columns, then prediction and confidence if present."""
        extra = tuple(item for item in (self.prediction, self.confidence) if item is not None)
        return self.columns + extra


@dataclass(frozen=True, slots=True)
class Psi:
    """How far one histogram moved.

    Attributes:
        name: Column name, `prediction` or `confidence`.
        value: PSI, natural logarithm, unitless.
        n: Live rows behind it.
        noise: What PSI would be on average without any change, for this n and number of bins.
        missing: Share of live rows without a value.
        unseen: Share of live rows with a category that training never saw.
    """

    name: str
    value: float
    n: int
    noise: float
    missing: float
    unseen: float

    @property
    def excess(self) -> float:
        """PSI beyond what chance alone gives; never below 0."""
        return max(0.0, self.value - self.noise)


@dataclass(slots=True)
class Sketch:
    """Counts of live rows in the bins of a profile. Mutable; merges by addition.

    Attributes:
        n: Rows counted, invalid ones left out.
        counts: Histogram name → counts per slot.
        flags: Flag name (`unlike`, `abstained`, `invalid`, `unseen`) → rows that carry it.
    """

    n: int
    counts: dict[str, list[int]]
    flags: dict[str, int]

    @classmethod
    def empty(cls, profile: Profile) -> Sketch:
        """Return a sketch of no rows."""
        counts = {item.name: [0] * item.slots for item in profile.all()}
        return cls(0, counts, {name: 0 for name, _ in RATES})

    def merge(self, other: Sketch) -> None:
        """Add another sketch of the same profile.

        Raises:
            FormatError: It was made with another profile.
        """
        for name, theirs in other.counts.items():
            mine = self.counts.get(name)
            if mine is None or len(mine) != len(theirs):
                raise FormatError(f"sketches of different profiles do not merge ({name})")
        for name, theirs in other.counts.items():
            self.counts[name] = [a + b for a, b in zip(self.counts[name], theirs, strict=True)]
        for name, rows in other.flags.items():
            self.flags[name] = self.flags.get(name, 0) + rows
        self.n += other.n

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a sketch."""
        return {
            "format": "edgepack-sketch",
            "version": VERSION,
            "n": self.n,
            "counts": {name: list(counts) for name, counts in self.counts.items()},
            "flags": dict(self.flags),
        }

    @classmethod
    def from_json(cls, value: Any) -> Sketch:
        """Read what `to_json` wrote.

        Raises:
            UnsupportedVersionError: Written by a newer edgepack.
            FormatError: It is not a sketch.
        """
        _expect(value, "edgepack-sketch")
        try:
            counts = {str(name): [_count(c) for c in row] for name, row in value["counts"].items()}
            flags = {str(name): _count(rows) for name, rows in value["flags"].items()}
            return cls(_count(value["n"]), counts, flags)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"not a sketch: {error!r}") from None


class Binner:
    """Counts batches into sketches of one profile.

    Args:
        profile: The bundle's profile.
        schema: The bundle's schema: which columns there are and which categories are known.
    """

    def __init__(self, profile: Profile, schema: Schema) -> None:
        self.profile = profile
        self._schema = schema
        names = {column.name for column in schema.columns}
        self._columns = [
            (item, schema.column(item.name), _lookup(item, schema.column(item.name)))
            for item in profile.columns
            if item.name in names
        ]

    def add(self, sketch: Sketch, batch: Batch, answers: Answers | None, flags: Any) -> None:
        """Count the valid rows of a batch.

        Args:
            sketch: Where to add; must come from the same profile.
            batch: n rows that passed the check.
            answers: What the model said about them, or None.
            flags: uint16 per row (buffer with `tolist`), as journaled.
        """
        small = batch.n <= SMALL
        for histogram, column, lookup in self._columns:
            data = batch.columns.get(column.name)
            if data is None:
                continue
            counts = sketch.counts[histogram.name]
            if isinstance(data, Text):
                _count_text(counts, data, lookup)
            elif small:
                _count_small(counts, histogram.edges, _row_values(data, column, batch.n))
            else:
                _count_many(counts, histogram.edges, column, data, batch.n)
        if answers is not None:
            self._add_answers(sketch, answers)
        for name, bit in RATES:
            sketch.flags[name] += sum(1 for value in flags.tolist() if value & bit)
        sketch.n += batch.n

    def _add_answers(self, sketch: Sketch, answers: Answers) -> None:
        profile, names = self.profile, self._schema.output.names
        if profile.prediction is not None and profile.prediction.kind == "text":
            counts = sketch.counts["prediction"]
            slot = {value: index for index, value in enumerate(profile.prediction.values)}
            for label, rows in Counter(_list(answers.label)).items():
                known = 0 <= label < len(names)
                counts[slot.get(names[label], len(slot)) if known else -2] += rows
        elif profile.prediction is not None:
            _count_values(sketch.counts["prediction"], profile.prediction.edges, first(answers))
        if profile.confidence is not None:
            values = confidence(self._schema, answers)
            if values is not None:
                _count_values(sketch.counts["confidence"], profile.confidence.edges, values)


def confidence(schema: Schema, answers: Answers) -> Any:
    """Return the probability of the answered label per row, or None where the model gives none.

    Args:
        schema: Of the bundle.
        answers: n answers.

    Returns:
        `array('d')` for small n, float64 numpy array for more; the largest score of each row, for
        one score s of a binary model max(s, 1 - s).
    """
    if answers.scores is None or schema.task not in ("binary", "classes"):
        return None
    n, k = answers.n, answers.k
    if n <= SMALL:
        flat = _list(answers.scores)
        if k == 1:
            return array("d", [max(score, 1.0 - score) for score in flat])
        return array("d", [max(flat[row * k : row * k + k]) for row in range(n)])
    import numpy as np

    table = _numpy_scores(schema, answers).astype(np.float64)
    return np.maximum(table[:, 0], 1.0 - table[:, 0]) if k == 1 else table.max(axis=1)


def first(answers: Answers) -> Any:
    """Return the first score of every row: the value that a regression answers."""
    if answers.scores is None:
        return array("d")
    return array("d", _list(answers.scores)[:: answers.k])


def psi(reference: Sequence[int], live: Sequence[int]) -> float:
    """Return the PSI of two histograms over the same slots; half a row is added to each slot.

    Slots that are empty on both sides do not count.
    """
    pairs = [(r, q) for r, q in zip(reference, live, strict=True) if r or q]
    rows_r, rows_q = sum(r for r, _ in pairs), sum(q for _, q in pairs)
    if not rows_r or not rows_q:
        return 0.0
    half = 0.5 * len(pairs)
    total = 0.0
    for r, q in pairs:
        share_r, share_q = (r + 0.5) / (rows_r + half), (q + 0.5) / (rows_q + half)
        total += (share_q - share_r) * math.log(share_q / share_r)
    return total


def compare(profile: Profile, sketch: Sketch) -> list[Psi]:
    """Return how far each histogram of a sketch moved from its profile, in profile order."""
    result = []
    for item in profile.all():
        live = sketch.counts.get(item.name)
        if live is None or len(live) != item.slots:
            continue
        n = sum(live)
        used = sum(1 for r, q in zip(item.counts, live, strict=True) if r or q)
        rows = sum(item.counts)
        noise = (used - 1) * (1 / n + 1 / rows) if n and rows and used else 0.0
        share = (live[-2] / n, live[-1] / n) if n else (0.0, 0.0)
        result.append(Psi(item.name, psi(item.counts, live), n, noise, *share))
    return result


# --- profile.json ----------------------------------------------------------------------------


def to_json(profile: Profile) -> dict[str, Any]:
    """Return the JSON object of a profile; `from_json` reads it back equal."""

    def one(item: Histogram | None) -> dict[str, Any] | None:
        if item is None:
            return None
        shape = {"edges": list(item.edges)} if item.kind == "number" else {"values": item.values}
        return {"name": item.name, "kind": item.kind, "counts": list(item.counts), **shape}

    return {
        "format": "edgepack-profile",
        "version": VERSION,
        "rows": profile.rows,
        "columns": [one(item) for item in profile.columns],
        "prediction": one(profile.prediction),
        "confidence": one(profile.confidence),
        "rates": dict(profile.rates),
    }


def from_json(value: Any) -> Profile:
    """Read profile.json after its digest was verified.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    _expect(value, "edgepack-profile")
    try:
        return Profile(
            rows=_count(value["rows"]),
            columns=tuple(_histogram(item) for item in value["columns"]),
            prediction=_histogram(value["prediction"]) if value["prediction"] else None,
            confidence=_histogram(value["confidence"]) if value["confidence"] else None,
            rates={str(name): float(rate) for name, rate in value["rates"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"profile.json does not follow its format: {error!r}") from None


def _histogram(item: Any) -> Histogram:
    edges = tuple(float(edge) for edge in item.get("edges", ()))
    values = tuple(str(one) for one in item.get("values", ()))
    counts = tuple(_count(one) for one in item["counts"])
    result = Histogram(str(item["name"]), item["kind"], edges, values, counts)
    rising = all(a < b for a, b in itertools.pairwise(edges))
    if item["kind"] not in ("number", "text") or len(counts) != result.slots or not rising:
        raise FormatError(f"profile.json: histogram {result.name} is not valid")
    return result


def _expect(value: Any, name: str) -> None:
    if not isinstance(value, dict) or value.get("format") != name:
        raise FormatError(f"not an {name}")
    if value.get("version") != VERSION:
        raise UnsupportedVersionError(f"{name} has version {value.get('version')}")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError("a count is not a whole number")
    return value


# --- building a profile at the base (numpy) --------------------------------------------------


def build_profile(
    schema: Schema,
    batch: Batch,
    answers: Answers | None,
    *,
    bins: int = 10,
    rates: Mapping[str, float] | None = None,
) -> Profile:
    """Count the reference rows of a new bundle.

    Numeric columns get up to `bins` bins of about equal size; a column with a shape is counted by
    the mean of its values in each row; free text (no categories) is left out.

    Args:
        schema: Of the candidate.
        batch: Reference rows, all valid: those that the model was trained on, or held-out ones of
            the same time. Numpy arrays (n or n x count values) and `Text`.
        answers: What the ONNX model says about these rows, or None.
        bins: Most bins of a numeric column.
        rates: Share of reference rows that were flagged: `unlike`, `abstained`.
    """
    blank = []
    for column in schema.by_role("input"):
        data = batch.columns[column.name]
        if isinstance(data, Text):
            if column.categories is None:
                continue
            frequent = [code for code, _ in Counter(_list(data.codes)).most_common(MAX_VALUES + 1)]
            known = [data.values[code] for code in frequent if code != MISSING_CODE]
            values = tuple(value for value in known if value in column.categories)[:MAX_VALUES]
            blank.append(Histogram(column.name, "text", (), values, ()))
        else:
            edges = _quantile_edges(_numpy_rows(data, column, batch.n), bins)
            blank.append(Histogram(column.name, "number", edges, (), ()))
    prediction = confident = None
    if answers is not None:
        if schema.task in ("binary", "classes"):
            prediction = Histogram("prediction", "text", (), schema.output.names, ())
            if confidence(schema, answers) is not None:
                confident = Histogram("confidence", "number", CONFIDENCE_EDGES, (), ())
        elif schema.task in ("regression", "quantiles"):
            edges = _quantile_edges(first(answers), bins)
            prediction = Histogram("prediction", "number", edges, (), ())
    shell = Profile(batch.n, tuple(blank), prediction, confident, dict(rates or {}))
    sketch = Sketch.empty(shell)
    Binner(shell, schema).add(sketch, batch, answers, array("H", bytes(2 * batch.n)))

    def filled(item: Histogram | None) -> Histogram | None:
        if item is None:
            return None
        counts = tuple(sketch.counts[item.name])
        return Histogram(item.name, item.kind, item.edges, item.values, counts)

    columns = tuple(one for one in map(filled, blank) if one is not None)
    return Profile(batch.n, columns, filled(prediction), filled(confident), shell.rates)


def _quantile_edges(values: Any, bins: int) -> tuple[float, ...]:
    import numpy as np

    table = np.asarray(values, dtype=np.float64)
    table = table[np.isfinite(table)]
    if not len(table):
        return ()
    distinct = np.unique(table)
    if len(distinct) <= bins:  # one bin per value: cut halfway between neighbours
        cuts = (distinct[1:] + distinct[:-1]) / 2
    else:
        cuts = np.unique(np.quantile(table, np.arange(1, bins) / bins))
        cuts = cuts[cuts > distinct[0]]
    return tuple(float(cut) for cut in np.unique(cuts))


# --- counting --------------------------------------------------------------------------------


def _lookup(item: Histogram, column: Column) -> Callable[[str], int]:
    slot = {value: index for index, value in enumerate(item.values)}
    known = frozenset(column.categories or ())
    other, unseen = len(slot), len(slot) + 2
    return lambda value: slot.get(value, other if value in known else unseen)


def _count_text(counts: list[int], data: Text, lookup: Callable[[str], int]) -> None:
    codes: Any = data.codes
    if len(codes) > SMALL:
        import numpy as np

        found, rows = np.unique(np.asarray(codes), return_counts=True)
        pairs = list(zip(found.tolist(), rows.tolist(), strict=True))
    else:
        pairs = list(Counter(_list(codes)).items())
    for code, n in pairs:
        counts[-2 if code == MISSING_CODE else lookup(data.values[code])] += n


def _count_values(counts: list[int], edges: tuple[float, ...], values: Any) -> None:
    if len(values) <= SMALL:
        _count_small(counts, edges, _list(values))
    else:
        import numpy as np

        _count_numpy(counts, edges, np.asarray(values, dtype=np.float64))


def _count_small(counts: list[int], edges: tuple[float, ...], values: Sequence[float]) -> None:
    for value in values:
        counts[bisect_right(edges, value) if value == value else -2] += 1  # noqa: PLR0124 (NaN)


def _count_many(
    counts: list[int], edges: tuple[float, ...], column: Column, data: Any, n: int
) -> None:
    _count_numpy(counts, edges, _numpy_rows(data, column, n))


def _count_numpy(counts: list[int], edges: tuple[float, ...], values: Any) -> None:
    import numpy as np

    here = values[~np.isnan(values)]
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), here, side="right")
    for index, rows in enumerate(np.bincount(bins, minlength=len(edges) + 1).tolist()):
        counts[index] += rows
    counts[-2] += len(values) - len(here)


def _row_values(data: Any, column: Column, n: int) -> list[float]:
    values: list[float] = _list(data)
    if column.dtype == "timestamp":
        return [math.nan if value == MISSING_TIME else float(value) for value in values]
    if column.count == 1:
        return [float(value) for value in values]
    size = column.count
    return [math.fsum(values[row * size : row * size + size]) / size for row in range(n)]


def _numpy_rows(data: Any, column: Column, n: int) -> Any:
    import numpy as np

    table = np.asarray(data)
    if column.dtype == "timestamp":
        whole = table.astype(np.int64)
        return np.where(whole == MISSING_TIME, np.nan, whole.astype(np.float64))
    if column.count > 1:
        return table.reshape(n, column.count).astype(np.float64).mean(axis=1)
    return table.reshape(n).astype(np.float64)


def _numpy_scores(schema: Schema, answers: Answers) -> Any:
    import numpy as np

    dtype = np.dtype(schema.output.scores_dtype)
    return np.frombuffer(memoryview(answers.scores).cast("B"), dtype=dtype).reshape(
        answers.n, answers.k
    )


def _list(data: Any) -> list[Any]:
    """Return the flat values of an `array`, a ctypes array, a memoryview or a numpy array."""
    if hasattr(data, "ravel"):
        return list(data.ravel().tolist())
    return list(data.tolist()) if hasattr(data, "tolist") else list(data)
