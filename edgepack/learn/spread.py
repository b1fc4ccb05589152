"""`copy_new_classes`: a label spreads to its cluster only if it is a class that the model lacks.

Copying every label to its neighbours was good on one data set and ruinous on another; copying new
classes only was good or harmless on both (docs/adr/0074). The comparison with the champion must
confirm it all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from device_runtime.format.batch import FLAG_INVALID
from device_runtime.format.schema import Schema
from edgepack.learn.arrival import COLUMNS, Arrivals
from edgepack.learn.bootstrap import Array
from edgepack.learn.cluster import SAMPLE, kmeans, points
from edgepack.learn.counting import numbers
from edgepack.learn.dataset import Dataset, as_frame
from edgepack.learn.survey import order_of
from edgepack.recipe import Recipe
from edgepack.store.labels import PLACE, Labels, attach
from edgepack.store.view import View

if TYPE_CHECKING:
    import pandas as pd


def spread_new_classes(
    view: View,
    labels: Labels,
    schema: Schema,
    recipe: Recipe,
    data: Dataset,
    learn: Array,
    *,
    until: int,
    upto: int,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return unlabelled rows before the window that lie in a cluster of one new class.

    With them goes every device whose rows or labels had a part in what they are taken for: all
    that were clustered, as each row moves the centres.

    Args:
        view: Returned rows.
        labels: All labels.
        schema: Of the champion: its classes are not new.
        recipe: What is trained.
        data: Labelled rows: how many clusters there are, and the form of a row.
        learn: Mask: labelled rows that may teach.
        until: Rows from this place in the order of labelled ones on are left alone.
        upto: Imports after this serial are left alone.
    """
    nothing = data.original.iloc[:0], ()
    if recipe.task != "classes" or not labels.new_classes or not learn.any():
        return nothing
    rows = _rows(view, labels, schema, upto)
    rows = rows.filter(pa.array(_before(view, rows, schema, until, upto)))
    if not rows.num_rows:
        return nothing
    rows = rows.take(pa.array(_sample(rows, recipe.seed)))
    cluster, _ = kmeans(points(rows, schema), int(learn.sum()), recipe.seed)
    truth = rows.column("_truth").combine_chunks()
    known = np.asarray(pc.is_valid(truth))
    names = np.array(truth.to_pylist(), dtype=object)
    given: dict[int, set[str]] = {}
    for place in np.flatnonzero(known):
        given.setdefault(int(cluster[place]), set()).add(str(names[place]))
    new = {
        number: next(iter(words))
        for number, words in given.items()
        if len(words) == 1 and not words & set(schema.output.names)
    }
    word = np.array([new.get(int(number)) for number in cluster], dtype=object)
    chosen = np.flatnonzero((word != np.array(None)) & ~known)
    if not len(chosen):
        return nothing
    picked = rows.take(pa.array(chosen))
    place = picked.schema.get_field_index("_truth")
    picked = picked.set_column(place, "_truth", pa.array(word[chosen].tolist(), pa.string()))
    devices = sorted(map(str, rows.column("_device").unique().to_pylist()))
    return as_frame(recipe, schema, picked, data.original), tuple(devices)


def _rows(view: View, labels: Labels, schema: Schema, upto: int) -> pa.Table:
    there = view.columns()
    key = schema.key.name if schema.key else None
    names = dict.fromkeys([*PLACE, *COLUMNS, "_flags", *(c.name for c in schema.given)])
    rows = view.read([name for name in names if name in there], ds.field("_serial") <= upto)
    valid = numbers(rows.column("_flags").combine_chunks(), np.int32) & FLAG_INVALID == 0
    return attach(rows.filter(pa.array(valid)), labels, key)


def _before(view: View, rows: pa.Table, schema: Schema, until: int, upto: int) -> Array:
    """Return which rows lie before the window, and before every row that is judged."""
    if schema.time is not None:
        return np.asarray(order_of(rows, schema, None) < until)
    arrivals = Arrivals.of(view.registry, upto)
    order, known = arrivals.order(rows), pc.is_valid(rows.column("_truth"))
    judged = order[np.asarray(known)][arrivals.order(rows.filter(known)) >= until]
    return np.asarray(order < judged.min()) if len(judged) else order >= 0


def _sample(rows: pa.Table, seed: int) -> Array:
    """Return every labelled row and at most `SAMPLE` others, in order."""
    known = np.asarray(pc.is_valid(rows.column("_truth")))
    others = np.flatnonzero(~known)
    if len(others) > SAMPLE:
        others = np.random.default_rng(seed).choice(others, SAMPLE, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(known), others]))
