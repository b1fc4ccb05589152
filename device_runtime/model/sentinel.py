"""Watches what comes in: a sliding sketch against the bundle's profile, alarms with hysteresis.

An alarm says that *inputs changed*, with PSI and the number of rows behind it; it never says that
the model is wrong. The window is the newest `WINDOW` rows or a little more, kept as a few sketches
of `BUCKET` rows or more each; all of it is a few KB of JSON that survive a restart. An alarm is
raised when PSI beyond chance exceeds its limit at two looks in a row (one look per bucket, from
`MIN_ROWS` on; one block of two buckets is two), and cleared when it stays below 0.8 of the limit.
"""

from __future__ import annotations

from typing import Any

from device_runtime.errors import EdgepackError
from device_runtime.format import canonical
from device_runtime.format.batch import Answers, Batch
from device_runtime.format.binner import Binner
from device_runtime.format.schema import Schema
from device_runtime.format.sketch import Profile, Psi, Sketch, compare
from device_runtime.record import dataclass

WINDOW = 4096
BUCKET = 512
TOGETHER = 32  # rows that come one by one are counted so many at a time
MIN_ROWS = 500
LOOKS = 2
CLEAR = 0.8
LEVELS = ("ok", "cooling", "cold")


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change of level of one watched thing: what is journaled as a PRIORITY event.

    Attributes:
        name: Column, `prediction` or `confidence`.
        level: `ok` (cleared), `cooling` or `cold`.
        psi: PSI beyond chance at this look.
        n: Rows behind it.
    """

    name: str
    level: str
    psi: float
    n: int

    def as_json(self) -> dict[str, object]:
        """Return the data of the event."""
        return {"name": self.name, "level": self.level, "psi": round(self.psi, 4), "n": self.n}


@dataclass(slots=True)
class _Watch:
    """Level of one histogram, and for how many looks another level was seen."""

    level: int = 0
    towards: int = 0
    looks: int = 0


class Sentinel:
    """The sketch of one bundle on one device.

    Args:
        profile: The bundle's profile.
        schema: The bundle's schema.
        limits: PSI beyond chance from which a column is `cooling` and `cold`.
    """

    def __init__(self, profile: Profile, schema: Schema, limits: tuple[float, float]) -> None:
        self.profile = profile
        self._binner = Binner(profile, schema)
        self._limits = limits
        self._window = [Sketch.empty(profile)]
        self._watches: dict[str, _Watch] = {}
        self.total = Sketch.empty(profile)
        self._untaken = Sketch.empty(profile)
        self._unseen_rows = 0  # since the last look
        self._rows: list[tuple[Batch, Answers | None, Any]] = []  # not counted yet

    def add(self, batch: Batch, answers: Answers | None, flags: Any) -> list[Alarm]:
        """Count valid rows; return the alarms that were raised or cleared by them."""
        newest = self._window[-1]
        if self._binner.takes(batch):
            self._rows.append((batch, answers, flags))
        else:
            self._binner.add(newest, batch, answers, flags)
        self._unseen_rows += batch.n
        full = newest.n + len(self._rows) >= BUCKET
        if full or len(self._rows) == TOGETHER:
            self._settle()
        if full:
            self._close_bucket()
        if self._unseen_rows < BUCKET:
            return []
        looks, self._unseen_rows = self._unseen_rows // BUCKET, 0
        return self._look(looks)

    def _settle(self) -> None:
        """Count the rows that came one by one; before anything reads the newest bucket."""
        rows, self._rows = self._rows, []
        if rows:
            self._binner.add_rows(self._window[-1], rows)

    def add_invalid(self, rows: int) -> None:
        """Count rows that did not pass the check."""
        self._window[-1].flags["invalid"] += rows

    def _close_bucket(self) -> None:
        rows = sum(sketch.n for sketch in self._window)
        while rows - self._window[0].n >= WINDOW:
            rows -= self._window.pop(0).n
        self.total.merge(self._window[-1])
        self._untaken.merge(self._window[-1])
        self._window.append(Sketch.empty(self.profile))

    def _look(self, looks: int) -> list[Alarm]:
        """Compare the window; a block of many rows counts as all the looks that it skipped."""
        found = []
        for item in compare(self.profile, self.window()):
            if item.n < MIN_ROWS:
                continue
            watch = self._watches.setdefault(item.name, _Watch())
            seen = self._level(item.excess, watch.level)
            if seen == watch.level:
                watch.looks = 0
                continue
            watch.looks = watch.looks + looks if seen == watch.towards else looks
            watch.towards = seen
            if watch.looks >= LOOKS:
                watch.level, watch.looks = seen, 0
                found.append(Alarm(item.name, LEVELS[seen], item.excess, item.n))
        return found

    def _level(self, excess: float, now: int) -> int:
        """Return the level of a PSI; going down needs a margin."""
        level = sum(excess >= limit for limit in self._limits)
        if level < now and excess >= CLEAR * self._limits[now - 1]:
            return now
        return level

    def window(self) -> Sketch:
        """Return one sketch of the whole window."""
        self._settle()
        merged = Sketch.empty(self.profile)
        for sketch in self._window:
            merged.merge(sketch)
        return merged

    def everything(self, counted: Sketch | None = None) -> Sketch:
        """Return a sketch of all rows since activation, or of these and the newest bucket."""
        self._settle()
        merged = Sketch.empty(self.profile)
        merged.merge(self.total if counted is None else counted)
        merged.merge(self._window[-1])
        return merged

    def take(self, least: int) -> Sketch | None:
        """Return a sketch of the rows since the last call; None if too few."""
        self._settle()
        if self._untaken.n + self._window[-1].n < max(least, 1):
            return None
        if self._window[-1].n:
            self._close_bucket()
        taken, self._untaken = self._untaken, Sketch.empty(self.profile)
        return taken

    def levels(self) -> dict[str, str]:
        """Return the columns that are not `ok`, with their level."""
        return {name: LEVELS[watch.level] for name, watch in self._watches.items() if watch.level}

    def state(self) -> dict[str, Any]:
        """Return what `status` shows."""
        window = self.window()
        moved = sorted(compare(self.profile, window), key=lambda item: -item.excess)
        shown = [item for at, item in enumerate(moved) if at < 8 or item.name in self.levels()]
        return {
            "rows": window.n,
            "rows_since_activation": self.everything().n,
            "levels": self.levels(),
            "shares": {name: rows / (window.n or 1) for name, rows in window.flags.items()},
            "reference": dict(self.profile.rates),
            "drift": [_drift(item) for item in shown],
        }

    # --- surviving restarts ---

    def to_bytes(self) -> bytes:
        """Return the file that `load` reads back."""
        self._settle()
        window = [Sketch.empty(self.profile)]
        for sketch in self._window:  # processes of a few rows each leave one bucket, not many
            if window[-1].n + sketch.n > BUCKET:
                window.append(Sketch.empty(self.profile))
            window[-1].merge(sketch)
        return canonical.encode(
            {
                "format": "edgepack-sentinel",
                "version": 1,
                "window": [_sparse(sketch) for sketch in window],
                "total": _sparse(self.everything()),
                "untaken": _sparse(self.everything(self._untaken)),
                "unseen_rows": self._unseen_rows,
                "watches": {
                    name: [watch.level, watch.towards, watch.looks]
                    for name, watch in self._watches.items()
                    if watch.level or watch.looks
                },
            }
        )

    @classmethod
    def load(
        cls, data: bytes | None, profile: Profile, schema: Schema, limits: tuple[float, float]
    ) -> Sentinel:
        """Return the sentinel that `to_bytes` wrote; a fresh one where there is none or it is torn.

        The file is this device's own note, never durable by itself: losing it costs a window of
        counts, so nothing is made of a damaged one.
        """
        sentinel = cls(profile, schema, limits)
        if not data:
            return sentinel
        try:
            value = canonical.decode(data, "the sentinel's sketch")
            window = [_dense(item, profile) for item in value["window"]]
            untaken = value.get("untaken", [0, {}, {}])
            counted = [_dense(item, profile) for item in (value["total"], untaken)]
            unseen_rows = int(value["unseen_rows"])
            watches = {str(k): _Watch(*map(int, v)) for k, v in value["watches"].items()}
        except (EdgepackError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            return sentinel
        sentinel._window = [*window, *sentinel._window]
        sentinel.total, sentinel._untaken = counted
        sentinel._unseen_rows = unseen_rows
        sentinel._watches = watches
        return sentinel


def _drift(item: Psi) -> dict[str, Any]:
    return {
        "name": item.name,
        "psi": round(item.excess, 4),
        "n": item.n,
        "missing": round(item.missing, 4),
        "unseen": round(item.unseen, 4),
    }


def _sparse(sketch: Sketch) -> list[Any]:
    """Return [n, flags, {name: counts}] without empty histograms: most buckets are small."""
    counts = {name: row for name, row in sketch.counts.items() if any(row)}
    return [sketch.n, sketch.flags, counts]


def _dense(value: Any, profile: Profile) -> Sketch:
    n, flags, counts = value
    sketch = Sketch.empty(profile)
    sketch.merge(Sketch.read(n, counts, flags))
    return sketch
