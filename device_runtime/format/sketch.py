"""Profiles and sketches: what the inputs looked like at training, and what they look like now.

A *profile* (profile.json, signed with the bundle) holds one reference histogram per given input
column, one of the predictions and one of the confidence. A *sketch* counts live rows into the same
bins. Both are a few KB, merge by addition, and compare by PSI, the population stability index:
sum over bins of (q - p) * ln(q / p). It says that *inputs changed*, never that the model is wrong.

The slots of a histogram are its bins, then `missing`, then `unseen` (a category that training
never saw), so that both count as change like any other bin.

`format.binner` counts rows into sketches; the base builds the profile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import add
from typing import Any, Literal

from device_runtime.errors import FormatError
from device_runtime.format.batch import FLAG_ABSTAINED, FLAG_INVALID, FLAG_UNLIKE, FLAG_UNSEEN
from device_runtime.format.canonical import expect
from device_runtime.record import dataclass, field

VERSION = 1
_WHOLE = frozenset((int,))
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
        rhythm: Histogram name → PSI beyond chance that n consecutive reference rows may show, times
            n. Empty where reference rows have no order of time.
    """

    rows: int
    columns: tuple[Histogram, ...]
    prediction: Histogram | None
    confidence: Histogram | None
    rates: Mapping[str, float]
    rhythm: Mapping[str, float] = field(default_factory=dict)

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
        noise: What PSI would be without any change: on average by chance, for this n and number of
            bins, and by the rhythm of the reference rows.
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
            mine = self.counts[name]
            mine[:] = map(add, mine, theirs)
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
        expect(value, "edgepack-sketch", VERSION)
        try:
            return cls.read(value["n"], value["counts"], value["flags"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"not a sketch: {error!r}") from None

    @classmethod
    def read(cls, n: Any, counts: Any, flags: Any) -> Sketch:
        """Return the sketch of these parts of JSON; FormatError, TypeError if they are none."""
        found = {str(name): _counts(row) for name, row in counts.items()}
        return cls(_count(n), found, {str(name): _count(rows) for name, rows in flags.items()})


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
        noise += profile.rhythm.get(item.name, 0.0) / (n or 1)
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
        **({"rhythm": dict(profile.rhythm)} if profile.rhythm else {}),
    }


def from_json(value: Any) -> Profile:
    """Read profile.json after its digest was verified.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    expect(value, "edgepack-profile", VERSION)
    try:
        return Profile(
            rows=_count(value["rows"]),
            columns=tuple(_histogram(item) for item in value["columns"]),
            prediction=_histogram(value["prediction"]) if value["prediction"] else None,
            confidence=_histogram(value["confidence"]) if value["confidence"] else None,
            rates=_shares(value["rates"]),
            rhythm=_shares(value.get("rhythm", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"profile.json does not follow its format: {error!r}") from None


def _shares(value: Any) -> dict[str, float]:
    return {str(name): float(share) for name, share in value.items()}


def _histogram(item: Any) -> Histogram:
    edges = tuple(float(edge) for edge in item.get("edges", ()))
    values = tuple(str(one) for one in item.get("values", ()))
    counts = tuple(_counts(item["counts"]))
    result = Histogram(str(item["name"]), item["kind"], edges, values, counts)
    rising = all(a < b for a, b in itertools.pairwise(edges))
    if item["kind"] not in ("number", "text") or len(counts) != result.slots or not rising:
        raise FormatError(f"profile.json: histogram {result.name} is not valid")
    return result


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError("a count is not a whole number")
    return value


def _counts(row: Any) -> list[int]:
    """Return a list of counts; checked without a step per count."""
    if type(row) is not list or not _WHOLE.issuperset(map(type, row)) or min(row, default=0) < 0:
        raise FormatError("a count is not a whole number")
    return row
