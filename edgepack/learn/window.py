"""On which rows a challenger is judged: the newest labelled ones that neither model has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepack.errors import EvidenceError
from edgepack.fitted import CLASSED
from edgepack.learn.bootstrap import Array

RARE = 10  # fewest rows of a class in the window (binary)


@dataclass(frozen=True, slots=True)
class Window:
    """Returned rows, parted.

    Attributes:
        judge: Mask: rows in the window.
        learn: Mask: rows before it.
        begin: Order (µs, or rank) where it begins.
        end: Order of its newest row.
        late: Rows set aside: dated after the window, too few and too far off to judge by, or at a
            time that cannot be.
    """

    judge: Array
    learn: Array
    begin: int
    end: int
    late: int


def choose(
    order: Array,
    seen: Array,
    *,
    span_us: int | None,
    least: int,
    what: str,
    aside: Array | None = None,
) -> Window:
    """Choose the window.

    It ends with the newest row that has `least` rows in the span before it, so that a few rows
    with a time far in the future do not move it. At least half of the unseen rows stay for
    learning.

    Args:
        order: Of the labelled rows, ascending: µs or rank.
        seen: Mask: rows that the champion may have been trained on.
        span_us: Length in the unit of `order`; None: the newest third.
        least: Fewest rows of evidence.
        what: Name of the bundle, for the error.
        aside: Mask: rows at a time that cannot be: they neither teach nor judge.

    Raises:
        EvidenceError: Too few rows.
    """
    wrong = np.zeros(len(order), bool) if aside is None else aside
    unseen = ~seen & ~wrong
    times = order[unseen]
    if len(times) < 2 * least:
        raise EvidenceError(
            f"{len(times):,} labelled rows of {what} are newer than its model's training data; "
            f"{2 * least:,} are needed: {least:,} to judge by and as many to learn from",
            why=f"{int(wrong.sum()):,} rows are dated in the future by this base's clock"
            if wrong.any()
            else "",
        )
    span = span_us if span_us is not None else int(times[-1] - times[len(times) * 2 // 3])
    first = np.searchsorted(times, times - span, side="right")
    enough = np.flatnonzero(np.arange(len(times)) - first + 1 >= least)
    if not len(enough):
        raise EvidenceError(
            f"no window of {what} holds {least:,} labelled rows", next="widen [retrain] window"
        )
    last = int(enough[-1])
    middle = int(times[last // 2])
    begin, end = max(int(times[last]) - span + 1, middle), int(times[last])
    judge = unseen & (order >= begin) & (order <= end)
    learn = ((order < begin) | seen) & ~wrong
    if int(judge.sum()) < least or int((learn & unseen).sum()) < least:
        raise EvidenceError(
            f"the labelled rows of {what} lie too close together in time to part them",
            why=f"{int(judge.sum()):,} to judge by, {int((learn & unseen).sum()):,} to learn from",
        )
    return Window(judge, learn, begin, end, int((~learn & ~judge).sum()))


def check_classes(task: str, truth: Any, what: str) -> None:
    """Refuse a window in which one class is missing or rare.

    Raises:
        EvidenceError: Its figures would mean nothing.
    """
    if task not in CLASSED:
        return
    values, rows = np.unique(np.asarray(truth).astype(str), return_counts=True)
    if len(values) < 2:
        raise EvidenceError(f"the newest labels of {what} name one class only: {values[0]}")
    if task == "binary" and rows.min() < RARE:
        rare = values[int(np.argmin(rows))]
        raise EvidenceError(
            f"the newest labels of {what} name class {rare} only {int(rows.min())} times; "
            f"{RARE} are needed"
        )
