"""Counts rows into the bins of a profile.

Batches up to `SMALL` rows are counted without numpy; both ways give the same counts.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from device_runtime.format.batch import MISSING_CODE, Answers, Batch, SingleRow, Text
from device_runtime.format.schema import MISSING_TIME, Column, Schema
from device_runtime.format.sketch import RATES, Histogram, Profile, Sketch
from device_runtime.record import NamedTuple

SMALL = 32


class _Plan(NamedTuple):
    """How one column is counted."""

    name: str
    edges: tuple[float, ...]
    column: Column
    lookup: Callable[[str], int]


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
        self._plans = [
            _Plan(item.name, item.edges, schema.column(item.name), _lookup(item, schema))
            for item in profile.columns
            if item.name in names
        ]
        self._scalars = [plan for plan in self._plans if _is_scalar(plan.column)]
        self._others = [plan for plan in self._plans if not _is_scalar(plan.column)]
        self._numbers = tuple(plan.name for plan in self._scalars)
        self._given = frozenset(self._numbers)
        listed = profile.prediction.values if profile.prediction is not None else ()
        slot = {value: index for index, value in enumerate(listed)}
        self._slots = [slot.get(name, len(slot)) for name in schema.output.names]

    def add(self, sketch: Sketch, batch: Batch, answers: Answers | None, flags: Any) -> None:
        """Count the valid rows of a batch.

        Args:
            sketch: Where to add; must come from the same profile.
            batch: n rows that passed the check.
            answers: What the model said about them, or None.
            flags: uint16 per row (buffer with `tolist`), as journaled.
        """
        self._add(sketch, batch, answers, flags, self._plans)

    def takes(self, batch: Batch) -> bool:
        """Whether a batch is one row that `add_rows` can count."""
        row = batch.columns
        return type(row) is SingleRow and row.form.places.keys() >= self._given

    def add_rows(self, sketch: Sketch, rows: Sequence[tuple[Batch, Answers | None, Any]]) -> None:
        """Count rows that came one by one, column by column: twice as fast as row by row.

        Args:
            sketch: As for `add`.
            rows: What `add` would be given; `takes` said yes to each batch.
        """
        ones: list[Any] = [batch.columns for batch, _, _ in rows]
        values = zip(*(row.pick(self._numbers) for row in ones), strict=True)
        for plan, column in zip(self._scalars, values, strict=True):
            _count_small(sketch.counts[plan.name], plan.edges, column)
        for batch, answers, flags in rows:
            self._add(sketch, batch, answers, flags, self._others)

    def _add(
        self, sketch: Sketch, batch: Batch, answers: Answers | None, flags: Any, plans: list[_Plan]
    ) -> None:
        small, given = batch.n <= SMALL, batch.columns
        for name, edges, column, lookup in plans:
            data = given.get(name)
            if data is None:
                continue
            counts = sketch.counts[name]
            if column.dtype == "string":
                _count_text(counts, data, lookup)
            elif not small:
                _count_many(counts, edges, column, data, batch.n)
            elif column.shape or column.dtype == "timestamp":
                _count_small(counts, edges, _row_values(data, column, batch.n))
            else:
                _count_small(counts, edges, data)
        if answers is not None:
            self._add_answers(sketch, answers)
        if batch.n > 1 or flags[0]:
            for bits, rows in Counter(flags.tolist()).items():
                for name, bit in RATES:
                    if bits & bit:
                        sketch.flags[name] += rows
        sketch.n += batch.n

    def _add_answers(self, sketch: Sketch, answers: Answers) -> None:
        profile, slots = self.profile, self._slots
        if profile.prediction is not None and profile.prediction.kind == "text":
            counts = sketch.counts["prediction"]
            labels = flat(answers.label)
            found = Counter(labels).items() if len(labels) > 1 else [(labels[0], 1)]
            for label, rows in found:
                counts[slots[label] if 0 <= label < len(slots) else -2] += rows
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
        values = flat(answers.scores)
        if k == 1:
            return array("d", [max(score, 1.0 - score) for score in values])
        return array("d", [max(values[row * k : row * k + k]) for row in range(n)])
    import numpy as np

    table = _numpy_scores(schema, answers).astype(np.float64)
    return np.maximum(table[:, 0], 1.0 - table[:, 0]) if k == 1 else table.max(axis=1)


def first(answers: Answers) -> Any:
    """Return the first score of every row: the value that a regression answers."""
    if answers.scores is None:
        return array("d")
    return array("d", flat(answers.scores)[:: answers.k])


# --- counting ---


def _is_scalar(column: Column) -> bool:
    """Whether a row has one number of it that is counted as it is."""
    return not column.shape and column.dtype not in {"timestamp", "string"}


def _lookup(item: Histogram, schema: Schema) -> Callable[[str], int]:
    column = schema.column(item.name)
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
        pairs = list(Counter(flat(codes)).items())
    for code, n in pairs:
        counts[-2 if code == MISSING_CODE else lookup(data.values[code])] += n


def _count_values(counts: list[int], edges: tuple[float, ...], values: Any) -> None:
    if len(values) <= SMALL:
        _count_small(counts, edges, flat(values))
    else:
        import numpy as np

        _count_numpy(counts, edges, np.asarray(values, dtype=np.float64))


def _count_small(counts: list[int], edges: tuple[float, ...], values: Iterable[float]) -> None:
    for value in values:
        counts[bisect_right(edges, value) if value == value else -2] += 1  # noqa: PLR0124 (NaN)


def _count_many(
    counts: list[int], edges: tuple[float, ...], column: Column, data: Any, n: int
) -> None:
    _count_numpy(counts, edges, numpy_rows(data, column, n))


def _count_numpy(counts: list[int], edges: tuple[float, ...], values: Any) -> None:
    import numpy as np

    here = values[~np.isnan(values)]
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), here, side="right")
    for index, rows in enumerate(np.bincount(bins, minlength=len(edges) + 1).tolist()):
        counts[index] += rows
    counts[-2] += len(values) - len(here)


def _row_values(data: Any, column: Column, n: int) -> list[float]:
    values: list[float] = flat(data)
    if column.dtype == "timestamp":
        return [math.nan if value == MISSING_TIME else float(value) for value in values]
    size = column.count
    return [math.fsum(values[row * size : row * size + size]) / size for row in range(n)]


def numpy_rows(data: Any, column: Column, n: int) -> Any:
    """Return one float64 per row of a number column, NaN where it is missing."""
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


def flat(data: Any) -> list[Any]:
    """Return the flat Python values of an `array`, ctypes array, memoryview or numpy array."""
    if hasattr(data, "ravel"):
        return list(data.ravel().tolist())
    return list(data.tolist()) if hasattr(data, "tolist") else list(data)
