"""One pass over the returned rows: which are labelled, what they say, and how many are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from device_runtime.format.batch import FLAG_INVALID
from device_runtime.format.schema import Schema
from edgepack.errors import EvidenceError
from edgepack.learn.arrival import COLUMNS, Arrivals
from edgepack.learn.bootstrap import Array
from edgepack.learn.counting import numbers
from edgepack.progress import UNSEEN, Progress
from edgepack.store.arrow import ROWS, stored
from edgepack.store.labels import PLACE, Labels, attach
from edgepack.store.view import View

UNDATED = "undated"
_NO_TIME = -(2**63)  # what numpy calls NaT


@dataclass(frozen=True, slots=True)
class Survey:
    """What came home for one bundle name.

    Attributes:
        schema: Of the newest bundle.
        labelled: Valid rows with a truth: provenance, answers, time, key, wanted columns.
        totals: (version, device, answered label) → valid rows, labelled or not.
        months: Month → (valid rows, labelled rows).
        grid: (device, month) → valid rows.
        rows: All rows.
        invalid: Rows that did not fit the schema.
        used: Labels that found a row.
        waiting: Places of those that found none.
        early: Rows whose label is dated before them.
        labels: Every label.
        arrivals: In which order rows without a time were made; None where they have one.
    """

    schema: Schema
    labelled: pa.Table
    totals: Counter[tuple[int, str, str]]
    months: dict[str, tuple[int, int]]
    grid: Counter[tuple[str, str]]
    rows: int
    invalid: int
    used: int
    waiting: Array
    early: int
    labels: Labels
    arrivals: Arrivals | None

    @property
    def held(self) -> int:
        """Labels whose row is not home (yet)."""
        return len(self.labels) - self.used


def survey(
    view: View,
    labels: Labels,
    schema: Schema,
    columns: Sequence[str] = (),
    *,
    upto: int | None = None,
    progress: Progress = UNSEEN,
) -> Survey:
    """Walk once over the table in constant memory; keep the labelled rows.

    Args:
        view: The table.
        labels: Resolved labels.
        schema: Of the newest bundle.
        columns: More columns of the user to keep.
        upto: Only imports up to this serial.
        progress: Hears of the rows.
    """
    there = view.columns() or stored(ROWS)
    key = schema.key.name if schema.key else None
    time = schema.time.name if schema.time else None
    answers = [name for name in there if name.startswith("_score_")]
    names = [*PLACE, "_serial", "_wall", "_flags", "_bundle", "_bundle_version", "_label", *answers]
    names += [name for name in (key, time, *columns) if name]
    names += COLUMNS if time is None else ()
    names = [name for name in dict.fromkeys(names) if name in there]
    kept: list[pa.Table] = []
    totals: Counter[tuple[int, str, str]] = Counter()
    grid: Counter[tuple[str, str]] = Counter()
    rows = invalid = early = 0
    used = np.zeros(len(labels), bool)
    where = None if upto is None else ds.field("_serial") <= upto
    progress.begin("walking over the rows", view.count(), "rows")
    for returned in view.batches(names, where):
        rows += returned.num_rows
        progress.add(returned.num_rows)
        valid = numbers(returned.column("_flags"), np.int32) & FLAG_INVALID == 0
        invalid += int((~valid).sum())
        batch = returned if valid.all() else returned.filter(pa.array(valid))
        _count(batch, time, totals, grid)
        if len(labels):
            ways = labels.candidates(batch, key)
            for at in ways:
                used[at[at >= 0]] = True
            at = np.maximum.reduce(ways)
            hit = pa.table(batch).filter(pa.array(at >= 0))
            if hit.num_rows:
                kept.append(attach(hit, labels, key))
                said = labels.observed[at[at >= 0]]
                early += int(((said > 0) & (said < numbers(hit.column("_wall"), np.int64))).sum())
    months: Counter[str] = Counter()
    for (_, month), n in grid.items():
        months[month] += n
    labelled = pa.concat_tables(kept, promote_options="permissive") if kept else _none(there, names)
    words, codes = month_codes(labelled, time)
    marked = dict(zip(words, np.bincount(codes, minlength=len(words)).tolist(), strict=True))
    return Survey(
        schema=schema,
        labelled=labelled,
        totals=totals,
        months={month: (n, marked.get(month, 0)) for month, n in sorted(months.items())},
        grid=grid,
        rows=rows,
        invalid=invalid,
        used=int(used.sum()),
        waiting=np.flatnonzero(~used),
        early=early,
        labels=labels,
        arrivals=None if time else Arrivals.of(view.registry, upto),
    )


def labelled_in_order(
    view: View, labels: Labels, schema: Schema, columns: Sequence[str], upto: int
) -> Iterator[pa.Table]:
    """Yield the valid labelled rows with their truth, by import serial, in constant memory.

    Args:
        view: The table.
        labels: Resolved labels.
        schema: Of the newest bundle.
        columns: Columns of the user to bring along.
        upto: Only imports up to this serial.
    """
    there = view.columns()
    key = schema.key.name if schema.key else None
    names = list(dict.fromkeys([*PLACE, "_wall", "_flags", *COLUMNS, *columns]))
    names = [name for name in names if name in there]
    for table in view.in_order(names, upto):
        valid = numbers(table.column("_flags").combine_chunks(), np.int32) & FLAG_INVALID == 0
        hit = table.filter(pa.array(valid & (labels.join(table, key) >= 0)))
        if hit.num_rows:
            yield attach(hit, labels, key)


def unlabelled(view: View, labels: Labels) -> EvidenceError:
    """Return what to say when no row has a truth."""
    return EvidenceError(
        f"no labelled row of {view.name} is home",
        why=f"{view.count():,} rows and {labels.given:,} labels are",
        next="label rows (edgepack label queue says which), then repeat the command",
    )


def _none(there: dict[str, pa.DataType], names: Sequence[str]) -> pa.Table:
    empty = {name: pa.array([], there[name]) for name in names}
    extra = {"_truth": pa.string(), "_truth_source": pa.string(), "_truth_delay_s": pa.float64()}
    return pa.table({**empty, **{name: pa.array([], kind) for name, kind in extra.items()}})


def _count(
    batch: pa.RecordBatch,
    time: str | None,
    totals: Counter[tuple[int, str, str]],
    grid: Counter[tuple[str, str]],
) -> None:
    if not batch.num_rows:
        return
    label = batch.column("_label") if "_label" in batch.schema.names else None
    parts = [batch.column("_bundle_version"), batch.column("_device")]
    parts.append(label if label is not None else pa.nulls(batch.num_rows, pa.string()))
    months, codes = month_codes(batch, time)
    table = pa.table(dict(zip(("v", "d", "l", "m"), [*parts, pa.array(codes)], strict=True)))
    for row in table.group_by(["v", "d", "l", "m"]).aggregate([([], "count_all")]).to_pylist():
        totals[row["v"], row["d"], row["l"] or ""] += row["count_all"]
        grid[row["d"], months[row["m"]]] += row["count_all"]


def month_codes(batch: pa.RecordBatch | pa.Table, time: str | None) -> tuple[list[str], Array]:
    """Return the months of the rows' own time, and one code per row; `undated` without a time."""
    if time is None or time not in batch.schema.names:
        return [UNDATED], np.zeros(batch.num_rows, np.int64)
    distinct, codes = np.unique(_months(batch, time), return_inverse=True)
    return [UNDATED if np.isnat(month) else str(month) for month in distinct], codes


def _months(batch: pa.RecordBatch | pa.Table, time: str) -> Array:
    column = batch.column(time).cast(pa.int64())
    whole = pc.fill_null(column, _NO_TIME).to_numpy(**_copy(column))
    return np.asarray(whole).astype("datetime64[us]").astype("datetime64[M]")


def _copy(column: pa.Array | pa.ChunkedArray) -> dict[str, bool]:
    return {} if isinstance(column, pa.ChunkedArray) else {"zero_copy_only": False}


def order_of(table: pa.Table, schema: Schema, arrivals: Arrivals | None) -> Array:
    """Return what rows are ordered by, int64: their own time in µs, else their place by arrival."""
    time = schema.time.name if schema.time else None
    if time is not None and time in table.schema.names:
        return np.asarray(pc.fill_null(table.column(time).cast(pa.int64()), 0).to_numpy())
    if not table.num_rows:  # no row is home: the table may have no column of the user yet
        return np.zeros(0, np.int64)
    if arrivals is None:
        raise ValueError("rows without a time need to know when they arrived")
    return arrivals.order(table)


@dataclass(frozen=True, slots=True)
class Answered:
    """Truth and answers of labelled rows, as `train.metrics.measure` takes them.

    Attributes:
        truth: Class indexes (-1 = unknown to the model), values, or 0/1 [n, k].
        label: Answered class indexes, -1 for none.
        scores: [n, k] or None.
    """

    truth: Array
    label: Array
    scores: Array | None

    def part(self, rows: Array) -> Answered:
        """Return some of the rows (mask or places)."""
        scores = None if self.scores is None else self.scores[rows]
        return Answered(self.truth[rows], self.label[rows], scores)


def answered(table: pa.Table, schema: Schema) -> Answered:
    """Read truth and the device's answers of labelled rows."""
    names = schema.output.names
    label = np.full(table.num_rows, -1, np.int64)
    if "_label" in table.schema.names:
        label = indices(table.column("_label"), names)
    return Answered(truth_of(table, schema), label, scores_in(table, schema))


def truth_of(table: pa.Table, schema: Schema) -> Array:
    """Return the truth of labelled rows; see `Answered`."""
    names = schema.output.names
    column = table.column("_truth")
    if schema.task in ("binary", "classes"):
        return indices(column, names)
    if schema.task == "labels":
        texts = [set((text or "").replace("|", "+").split("+")) for text in column.to_pylist()]
        return np.array([[name in text for name in names] for text in texts], np.int64)
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def indices(column: pa.ChunkedArray, names: Sequence[str]) -> Array:
    """Return the index of each text in `names`, -1 where it is none of them."""
    found = pc.fill_null(pc.index_in(column, value_set=pa.array(names, pa.string())), -1)
    return np.asarray(found.to_numpy(), np.int64)


def scores_in(table: pa.Table, schema: Schema) -> Array | None:
    """Return the scores [n, k] that the device journaled; None where a class lacks one."""
    names = schema.output.names
    wanted = names[-1:] if schema.task == "binary" else names
    columns: list[Any] = []
    for name in wanted:
        if f"_score_{name}" not in table.schema.names:
            return None
        columns.append(np.asarray(table.column(f"_score_{name}").to_numpy(), np.float64))
    if schema.task == "binary":
        columns.insert(0, 1 - columns[0])
    scores = np.stack(columns, axis=1) if columns else None
    return None if scores is None or np.isnan(scores).all() else scores
