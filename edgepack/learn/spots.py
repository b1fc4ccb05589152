"""Where a model fails: classes and regions in which it errs far more than elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from device_runtime.format.schema import Schema
from edgepack.learn.bootstrap import Array
from edgepack.learn.counting import numbers
from edgepack.learn.survey import Answered
from edgepack.store.labels import plain

SPOT_ROWS = 100  # fewest rows of a region that is named
SPOT_Z = 4.0  # a normal quantile far out: many regions are looked at


@dataclass(frozen=True, slots=True)
class Spot:
    """A region where the model fails more than elsewhere.

    Attributes:
        column: Input column, or `class` for a class of the truth.
        where: Category, range, or class.
        n: Labelled rows there.
        here: Error there: share of wrong answers, or mean absolute error.
        elsewhere: Error in all other rows.
    """

    column: str
    where: str
    n: int
    here: float
    elsewhere: float

    @property
    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.column} {self.where}: error {self.here:.3g} against {self.elsewhere:.3g} "
            f"elsewhere ({self.n:,} rows)"
        )


def weak_spots(table: pa.Table, rows: Answered, schema: Schema, limit: int = 5) -> tuple[Spot, ...]:
    """Name the regions in which the error is far above the rest, worst first."""
    if len(rows.truth) < 2 * SPOT_ROWS:
        return ()
    wrong = errors_of(rows, schema)
    if wrong is None:
        return ()
    spots: list[tuple[float, Spot]] = []
    if schema.task in ("binary", "classes"):
        names = (*schema.output.names, "new")
        words = [names[place] for place in range(len(names))]
        spots += _spots("class", words, rows.truth % len(words), wrong)
    for column in schema.fed:
        if column.name in table.schema.names and not column.shape:
            words, codes = _regions(table.column(column.name).combine_chunks())
            spots += _spots(column.name, words, codes, wrong)
    return tuple(spot for _, spot in sorted(spots, key=lambda item: -item[0])[:limit])


def errors_of(rows: Answered, schema: Schema) -> Array | None:
    """Return one error per row: wrong (1) or not (0), or the absolute error."""
    if schema.task in ("binary", "classes"):
        return np.asarray(rows.truth != rows.label, np.float64)
    if rows.scores is None:
        return None
    if schema.task == "labels":
        return np.asarray((rows.truth.astype(bool) != (rows.scores >= 0.5)).mean(axis=1))
    if schema.task == "regression":
        return np.asarray(np.abs(rows.scores - rows.truth.reshape(rows.scores.shape)).mean(axis=1))
    if schema.task == "quantiles":
        middle = rows.scores[:, rows.scores.shape[1] // 2]
        return np.asarray(np.abs(middle - rows.truth))
    return None


def _regions(values: pa.Array) -> tuple[list[str], Array]:
    """Return names and one code per row: categories, or four ranges and missing."""
    if pa.types.is_string(values.type):
        coded = values.dictionary_encode()
        words = [*coded.dictionary.to_pylist(), "missing"]
        return words, numbers(coded.indices.fill_null(len(words) - 1), np.int64)
    if pa.types.is_list(values.type):
        return [], np.zeros(len(values), np.int64)
    plain = numbers(values)
    here = plain[~np.isnan(plain)]
    cuts = np.unique(np.quantile(here, [0.25, 0.5, 0.75])) if len(here) else np.zeros(0)
    codes = np.searchsorted(cuts, plain, side="right")
    codes[np.isnan(plain)] = len(cuts) + 1
    ends = [f"{cut:.4g}" for cut in cuts]
    words = [f"below {ends[0]}"] if ends else ["any"]
    words += [f"{low} to {high}" for low, high in zip(ends, ends[1:], strict=False)]  # noqa: RUF007
    words += [f"from {ends[-1]}"] if ends else []
    return [*words, "missing"], codes


def _spots(
    column: str, words: Sequence[str], codes: Array, wrong: Array
) -> Iterable[tuple[float, Spot]]:
    if not words:
        return
    n = np.bincount(codes, minlength=len(words))
    total = np.bincount(codes, wrong, len(words))
    squares = np.bincount(codes, wrong**2, len(words))
    for code in np.flatnonzero((n >= SPOT_ROWS) & (len(wrong) - n >= SPOT_ROWS)).tolist():
        inside, outside = int(n[code]), int(len(wrong) - n[code])
        here, rest = total[code] / inside, (total.sum() - total[code]) / outside
        spread = squares[code] / inside - here**2
        spread_rest = (squares.sum() - squares[code]) / outside - rest**2
        noise = np.sqrt(max(spread, 0) / inside + max(spread_rest, 0) / outside) or 1e-12
        if (here - rest) / noise > SPOT_Z and here > 1.1 * rest:
            weight = float((here - rest) * np.sqrt(inside))
            yield weight, Spot(column, plain(words[code], 60), inside, float(here), float(rest))
