"""Drift of the rows that came home, by bundle, device and month.

Each row is held against the reference of the bundle that made its prediction. Devices that send
sketches instead of rows count the same bins, so both add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.segment import Lane
from device_runtime.format.sketch import Sketch
from edgepack.learn.counting import Array, Counting, Counts, numbers
from edgepack.learn.drift import Drift, compare
from edgepack.learn.reference import Reference
from edgepack.learn.survey import month_codes
from edgepack.registry import SegmentRow
from edgepack.store.view import View


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
