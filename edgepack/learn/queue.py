"""Which rows should a person label? `label queue`.

Nearly half are the centres of k-means over everything returned (what is there at all?), as many the
centres among the least certain rows (what does the model not know?), and one in ten is drawn by
chance: only these measure accuracy without bias. Measured in docs/adr/0074.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from device_runtime.format.batch import FLAG_INVALID
from device_runtime.format.schema import Schema
from edgepack.errors import EvidenceError
from edgepack.learn.bootstrap import Array
from edgepack.learn.cluster import SAMPLE, kmeans, points
from edgepack.learn.counting import numbers
from edgepack.learn.survey import scores_in
from edgepack.store.labels import PLACE, Labels, record_ids
from edgepack.store.view import View

UNKNOWN = 4  # the least certain rows are taken from this many times those wanted


@dataclass(frozen=True, slots=True)
class Queue:
    """Rows to label.

    Attributes:
        table: `record`, key, time, `why`, `answer`, `confidence`, the inputs, an empty `value`.
        unlabelled: Rows without a label, in all.
    """

    table: pa.Table
    unlabelled: int


def queue(view: View, labels: Labels, schema: Schema, n: int, *, seed: int = 0) -> Queue:
    """Choose n unlabelled rows.

    Raises:
        EvidenceError: No row without a label is home.
    """
    rows, unlabelled = _unlabelled(view, labels, schema, seed)
    if not rows.num_rows:
        raise EvidenceError(
            f"every row of {view.name} that is home has a label, or none is home",
            next="sync a stick first",
        )
    n = min(n, rows.num_rows)
    table = points(rows, schema)
    sure = certainty(rows, schema)
    chance = max(1, n // 10)
    half = (n - chance) // 2
    why: dict[int, str] = {}
    rng = np.random.default_rng(seed)
    for place in rng.choice(rows.num_rows, chance, replace=False):
        why[int(place)] = "random"
    if half:
        doubtful = np.argsort(sure, kind="stable")[: UNKNOWN * half]
        _, centres = kmeans(table[doubtful], half, seed)
        for place in doubtful[centres]:
            why.setdefault(int(place), "unknown")
        _, centres = kmeans(table, n - chance - half, seed)
        for place in centres:
            why.setdefault(int(place), "spread")
    for place in rng.permutation(rows.num_rows):  # centres may coincide: fill up
        if len(why) >= n:
            break
        why.setdefault(int(place), "spread")  # drawn among the rest: not by chance alone
    return Queue(_table(rows, schema, why, sure), unlabelled)


def _unlabelled(view: View, labels: Labels, schema: Schema, seed: int) -> tuple[pa.Table, int]:
    """Return at most `SAMPLE` unlabelled valid rows, drawn evenly, and how many there are."""
    there = view.columns()
    key = schema.key.name if schema.key else None
    answers = [name for name in there if name.startswith("_score_")]
    names = [*PLACE, "_flags", "_label", "_unlike", *answers]
    names += [column.name for column in schema.given]
    total = view.count() if there else 0
    share = min(1.0, SAMPLE / max(total, 1))
    rng = np.random.default_rng(seed)
    kept: list[Any] = []
    count = 0
    for batch in view.batches([name for name in names if name in there]) if there else ():
        free = numbers(batch.column("_flags"), np.int32) & FLAG_INVALID == 0
        if len(labels):
            free &= labels.join(batch, key) < 0
        count += int(free.sum())
        if share < 1:
            free &= rng.random(batch.num_rows) < share
        kept.append(pa.table(batch).filter(pa.array(free)))
    if not kept:
        return pa.table({"_sequence": pa.array([], pa.int64())}), 0
    return pa.concat_tables(kept, promote_options="permissive").combine_chunks(), count


def certainty(rows: pa.Table, schema: Schema) -> Array:
    """Return how sure the model was of each row, 0 to 1; less where it looked unlike training."""
    scores = scores_in(rows, schema)
    sure = np.ones(rows.num_rows)
    if scores is not None and schema.task in ("binary", "classes"):
        sure = np.nan_to_num(scores.max(axis=1), nan=0.0)
    if "_unlike" in rows.schema.names:
        unlike = np.nan_to_num(np.asarray(rows.column("_unlike").to_numpy(), np.float64))
        sure = sure / (1 + np.maximum(unlike, 0))
    return np.asarray(sure)


def _table(rows: pa.Table, schema: Schema, why: dict[int, str], sure: Array) -> pa.Table:
    places = sorted(why)
    picked = rows.take(pa.array(places))
    columns: dict[str, Any] = {"record": record_ids(picked), "why": [why[p] for p in places]}
    if "_label" in picked.schema.names:
        columns["answer"] = picked.column("_label")
    columns["confidence"] = np.round(sure[places], 4)
    columns["value"] = pa.array([""] * len(places))
    for column in schema.given:
        if column.name in picked.schema.names and not column.shape and column.name not in columns:
            columns[column.name] = picked.column(column.name)
    return pa.table(columns)
