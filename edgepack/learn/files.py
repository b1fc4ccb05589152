"""Drift between two plain files of a person, a column at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from edgepack.errors import DataError
from edgepack.learn.counting import Counting, Counts, filled, numbers
from edgepack.learn.distance import ks_p
from edgepack.learn.drift import Change, Drift, compare
from edgepack.learn.reference import profile_of
from edgepack.store.label_files import read_file


def of_files(reference: Path, current: Path) -> tuple[Drift, list[str]]:
    """Compare two plain files (CSV, NDJSON, Parquet) column by column.

    Returns:
        The drift, and which columns were left out.

    Raises:
        DataError: A file cannot be read, has no rows, or they share no countable column.
    """
    before, now = read_file(reference), read_file(current)
    shared = [name for name in before.column_names if name in now.column_names]
    profile = profile_of(before, shared)
    for table, path in ((before, reference), (now, current)):
        if not table.num_rows:
            raise DataError(f"{path} has no rows", next="give a file with rows")
    if not profile.columns:
        raise DataError(
            f"{reference} and {current} share no column of numbers or words",
            next=f"the first has {', '.join(before.column_names[:12])}",
        )
    counting = Counting(profile, None)
    names = counting.columns()
    sides = []
    for table in (before, now):
        counts = Counts()
        for batch in _same_kinds(table.select(names), before.select(names)).to_batches(131_072):
            counts.merge(counting.count(batch))
        sides.append(counts)
    full = filled(profile, sides[0].columns)
    found = compare(full, sides[1], current.name, reference.name)
    columns = tuple(_exact(c, before.column(c.name), now.column(c.name)) for c in found.columns)
    notes = [
        f"{name} is left out: it holds neither numbers nor words"
        for name in shared
        if name not in names
    ]
    for one, other, path in ((before, now, current), (now, before, reference)):
        lacks = [name for name in one.column_names if name not in other.column_names]
        notes += [f"{path.name} has no column {', '.join(lacks[:12])}"] if lacks else []
    return replace(found, columns=columns), notes


def _exact(found: Change, before: pa.ChunkedArray, now: pa.ChunkedArray) -> Change:
    """Take KS over all values of both sides."""
    if found.exact:
        return found
    first, second = (np.sort(numbers(side.drop_null().combine_chunks())) for side in (before, now))
    first, second = (side[~np.isnan(side)] for side in (first, second))
    if not len(first) or not len(second):
        return replace(found, exact=True)
    every = np.concatenate([first, second])
    shares = (np.searchsorted(side, every, "right") / len(side) for side in (first, second))
    ks = float(np.abs(next(shares) - next(shares)).max())
    return replace(found, ks=ks, p=ks_p(ks, len(first), len(second)), exact=True)


def _same_kinds(table: pa.Table, like: pa.Table) -> pa.Table:
    arrays = []
    for name in like.column_names:
        column, kind = table.column(name), like.column(name).type
        if column.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowInvalid:
                raise DataError(
                    f"column {name} is {kind} in one file and {column.type} in the other",
                    next="give both files the same types",
                ) from None
        arrays.append(column)
    return pa.table(arrays, names=like.column_names)
