"""Every signed bundle on the same rows: the newest labelled ones that none was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from edgepack.candidate import score_onnx
from edgepack.learn.bootstrap import Statistic, blocks_of, interval, paired, statistic
from edgepack.learn.reference import Reference
from edgepack.learn.survey import Survey, order_of, truth_of
from edgepack.train.metrics import MAIN, measure

MOST = 200_000  # rows that are scored: the newest
ROUNDS = 100


@dataclass(frozen=True, slots=True)
class SameRows:
    """The main figure of each bundle on the same rows.

    Attributes:
        main: Which figure.
        since: Time of the oldest row, as text; or where it stands in the order of arrival.
        until: Time of the newest row.
        rows: Number of rows.
        scores: Bundle version → figure.
        bands: Bundle version → its 95 % bootstrap interval.
        gain: Of the newest bundle over the one before, with its paired interval; None for one.
    """

    main: str
    since: str
    until: str
    rows: int
    scores: dict[int, float]
    bands: dict[int, tuple[float, float]]
    gain: tuple[float, float, float] | None

    @property
    def text(self) -> str:
        """One line for a person."""
        parts = ", ".join(f"bundle {v} {value:.3f}" for v, value in sorted(self.scores.items()))
        text = f"{self.main} on the same {self.rows:,} rows ({self.since} to {self.until}): {parts}"
        if self.gain is None:
            return text
        gain, low, high = self.gain
        return f"{text}; gain {gain:+.4f} ({low:+.4f} to {high:+.4f})"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; the figures stand under their name."""
        return {
            "since": self.since,
            "until": self.until,
            "rows": self.rows,
            "main": self.main,
            self.main: {str(version): value for version, value in sorted(self.scores.items())},
            "intervals": {str(version): band for version, band in sorted(self.bands.items())},
            "gain": self.gain,
        }


def same_rows(refs: Sequence[Reference], found: Survey) -> SameRows | None:
    """Score every bundle through its own ONNX; None where no common unseen row is labelled.

    Args:
        refs: Signed bundles, newest first.
        found: Survey with the input columns.
    """
    table, schema = found.labelled, found.schema
    if not table.num_rows or schema.task not in MAIN:
        return None
    order = order_of(table, schema, found.arrivals)
    unseen = np.ones(table.num_rows, bool)
    serial = np.asarray(table.column("_serial").to_numpy())
    for ref in refs:
        story = ref.json("lineage.json")
        if schema.time is not None:
            last = story.get("data", {}).get("last")
            if last is not None:
                unseen &= order > int(pd.Timestamp(last).timestamp() * 1_000_000)
        else:
            unseen &= serial > story.get("returned", {}).get("serial", 0)
    places = np.flatnonzero(unseen)
    if not len(places):
        return None
    places = places[np.argsort(order[places], kind="stable")][-MOST:]
    rows = table.take(pa.array(places))
    frame = frame_of(rows)
    main, more = MAIN[schema.task]
    values: dict[int, float] = {}
    exact: dict[int, Statistic] = {}
    for ref in refs:
        if any(c.name not in frame.columns for c in ref.schema.fed):
            continue
        label, scores = score_onnx(ref.model, ref.schema, _given(frame, ref))
        truth = truth_of(rows, ref.schema)
        figures = measure(ref.schema.task, ref.schema.output.names, truth, label, scores)
        if main in figures:
            values[ref.row.version] = figures[main]
            names = ref.schema.output.names
            exact[ref.row.version] = statistic(ref.schema.task, truth, label, scores, names)
    if not values:
        return None
    n = len(places)
    blocks = blocks_of(order[places], timed=schema.time is not None)
    bands = {v: interval(value, n, rounds=ROUNDS, blocks=blocks) for v, value in exact.items()}
    gain = None
    if len(exact) > 1:
        before, newest = sorted(exact)[-2:]
        found_gain = paired(
            exact[before], exact[newest], n, more=more, rounds=ROUNDS, blocks=blocks
        )
        gain = (found_gain.gain, found_gain.low, found_gain.high)
    since, until = (_when(order[places[end]], schema) for end in (0, -1))
    return SameRows(main, since, until, n, values, bands, gain)


def frame_of(rows: pa.Table) -> pd.DataFrame:
    """Return stored rows as a frame: text as `object` with None, times without a zone."""
    columns: dict[str, Any] = {}
    for name in rows.column_names:
        column = rows.column(name)
        if pa.types.is_string(column.type):
            columns[name] = pd.Series(np.array(column.to_pylist(), dtype=object), dtype=object)
        elif pa.types.is_timestamp(column.type):
            columns[name] = column.to_pandas().dt.tz_localize(None)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def _given(frame: pd.DataFrame, ref: Reference) -> pd.DataFrame:
    """Return the frame with every column that the schema's batch wants."""
    more = {
        column.name: pd.Series([None] * len(frame), dtype=object)
        for column in ref.schema.given
        if column.name not in frame.columns
    }
    return frame.assign(**more) if more else frame


def _when(order: int, schema: Any) -> str:
    if schema.time is None:
        return f"labelled row {order:,}"
    return str(pd.Timestamp(int(order), unit="us"))
