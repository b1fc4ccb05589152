"""What a block of rows was answered: as columns, as lines of the output file, as mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from device_runtime.format.batch import Text, flag_text
from device_runtime.format.schema import MISSING_TIME, Column, Schema
from device_runtime.record import dataclass

_MARKS = (",", '"', "\n", "\r")
_SCORE_MARK = {"binary": "_p_", "classes": "_p_", "labels": "_p_", "quantiles": "_q_"}


@dataclass(frozen=True, slots=True)
class Predicted:
    """The answers to one block of n rows.

    Attributes:
        schema: Of the bundle that answered.
        n: Number of rows.
        first_row: Number of the first row in the input.
        records: Record id per row; empty where nothing was journaled.
        keys: Key column → one text per row.
        answers: Answer per row as text; empty for invalid rows.
        scores: k values per row, None for invalid rows and models that give none.
        flags: Flags per row, see `format.batch`.
        issues: Position → what is wrong with that row.
    """

    schema: Schema
    n: int
    first_row: int
    records: list[str]
    keys: dict[str, list[str]]
    answers: list[str]
    scores: list[list[float] | None]
    flags: list[int]
    issues: Mapping[int, tuple[str, ...]]

    def lines(self, start: int = 0) -> bytes:
        """Return the rows from `start` on as CSV, columns as `header` names them."""
        texts = {flags: flag_text(flags) for flags in set(self.flags)}
        columns = [
            self.records,
            *map(csv_cells, self.keys.values()),
            csv_cells(self.answers),
            *self._score_cells(),
            [texts[flags] for flags in self.flags],
        ]
        return csv_lines(columns, start)

    def _score_cells(self) -> list[list[str]]:
        """Return all scores of each row as one text, separators and all; nothing without scores."""
        names = score_columns(self.schema)
        if not names:
            return []
        digits = "%.7g" if self.schema.output.scores_dtype == "float32" else "%.17g"
        style = ",".join([digits] * len(names))
        blank = "," * (len(names) - 1)
        return [[blank if row is None else style % tuple(row) for row in self.scores]]

    def dicts(self) -> list[dict[str, Any]]:
        """Return one mapping per row; numbers as numbers, issues where there are any."""
        names = score_columns(self.schema)
        target = target_name(self.schema)
        result = []
        for at in range(self.n):
            row: dict[str, Any] = {"record": self.records[at]}
            row.update((name, values[at]) for name, values in self.keys.items())
            row[target] = self.answers[at]
            scores = self.scores[at]
            if scores is not None and names:
                row.update(zip(names, scores, strict=True))
            row["flag"] = flag_text(self.flags[at])
            if at in self.issues:
                row["issues"] = list(self.issues[at])
            result.append(row)
        return result

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.dicts())

    def __len__(self) -> int:
        return self.n


def target_name(schema: Schema) -> str:
    """Return the name of the answer: the target column's, or `answer`."""
    targets = schema.by_role("target")
    return targets[0].name if targets else "answer"


def score_columns(schema: Schema) -> tuple[str, ...]:
    """Return the names of the score columns of the output; none for plain regression."""
    names = schema.output.names
    if schema.output.scores is None or (schema.task == "regression" and len(names) == 1):
        return ()
    return tuple(target_name(schema) + _SCORE_MARK.get(schema.task, "_s_") + name for name in names)


def header(schema: Schema) -> tuple[str, ...]:
    """Return the column names of the output file."""
    keys = (column.name for column in schema.by_role("key"))
    return ("record", *keys, target_name(schema), *score_columns(schema), "flag")


def column_text(column: Column, data: Any, n: int) -> list[str]:
    """Return one text per row of a key column; empty where it is missing or was not given."""
    if data is None:
        return [""] * n
    if isinstance(data, Text):
        return [string or "" for string in data.strings()]
    if column.dtype == "timestamp":
        return ["" if value == MISSING_TIME else str(value) for value in data.tolist()]
    if column.count > 1:
        return [""] * n
    return ["" if value != value else str(value) for value in data.tolist()]  # noqa: PLR0124 (NaN)


def csv_cells(texts: Sequence[str]) -> Sequence[str]:
    """Return texts quoted where CSV (RFC 4180) needs it."""
    whole = "".join(texts)
    if not any(mark in whole for mark in _MARKS):
        return texts
    return [
        '"' + text.replace('"', '""') + '"' if any(mark in text for mark in _MARKS) else text
        for text in texts
    ]


def csv_lines(columns: Sequence[Sequence[str]], start: int = 0) -> bytes:
    """Return columns of ready cells as lines; the module `csv` is not imported for it."""
    lines = list(islice(map(",".join, zip(*columns, strict=True)), start, None))
    return "\n".join([*lines, ""]).encode()
