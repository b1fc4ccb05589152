"""Is this row one that the model was trained for? All issues of a row; good rows go on.

Nothing is guessed: a value that does not fit its column makes the row invalid and names the column,
the value and what was wanted. Blocks of up to 32 rows take the path of arrays, larger ones that of
numpy; both give the same bytes (a property test says so).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from device_runtime.errors import InputError
from device_runtime.format.batch import MISSING_CODE, SMALL, Batch, Text, one_text
from device_runtime.format.schema import Schema
from device_runtime.model.onerow import one_row
from device_runtime.model.rows import RawBlock
from device_runtime.model.values import Rule, UnfitError
from device_runtime.record import dataclass

_ONE = range(1)
_KNOWN, _SHORT = 512, 64  # texts of a column that are known, and their characters


@dataclass(frozen=True, slots=True)
class Invalid:
    """One row that the model never sees.

    Attributes:
        position: Its place in the block; the row number is `first_row + position`.
        issues: Everything that is wrong with it, one line each: `temp: 'warm' is not a number`.
        raw: Its values as they came, given columns only, each shortened to 200 characters; for a
            row that could not be cut into values, its beginning under the name "".
    """

    position: int
    issues: tuple[str, ...]
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """A block after the check.

    Attributes:
        whole: All n rows, typed; in an invalid row every value that did not fit is missing (NaN,
            None, `MISSING_TIME`, or 0 for integers). For the journal: one block, one record a row.
        batch: The good rows only, for the model. The very same object as `whole` if all are good.
        good: Positions of the good rows within the block, ascending.
        invalid: The others, by position.
        unseen: uint8 per row of `whole` (buffer): 1 where a category is one that training never
            saw; None if there is no such row.
    """

    whole: Batch
    batch: Batch
    good: Sequence[int]
    invalid: tuple[Invalid, ...]
    unseen: Any


def check(block: RawBlock, schema: Schema) -> Checked:
    """Check every row of a block against the schema; never raises because of a value.

    Raises:
        InputError: A column has another number of values than the block has rows.
    """
    return Checker(schema).check(block)


class Checker:
    """The rules of a schema, made once and used for every block."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._rules = [(column.name, Rule(column)) for column in schema.given]
        self._known = [item for item in self._rules if item[1].known is not None]
        self._one = one_row(self._rules, _alone, _spelled)

    def check(self, block: RawBlock) -> Checked:
        """Check every row of a block; see the function `check`."""
        if block.n == 1 and not block.text and not block.faults:
            row = self._one(block.columns)
            if row is not None:
                batch = Batch(1, row, block.first_row)
                strange = any(_unseen(rule, row.rest[name]) for name, rule in self._known)
                return Checked(batch, batch, _ONE, (), array("B", b"\1") if strange else None)
        small = block.n <= SMALL
        columns: dict[str, Any] = {}
        issues: dict[int, list[str]] = {at: [why.reason] for at, why in block.faults.items()}
        unseen: set[int] = set()
        for name, rule in self._rules:
            given = block.columns.get(name)
            if given is None:
                given, text = [None] * block.n, False
            else:
                text = block.text
            if len(given) != block.n:
                raise InputError(f"column {name} has {len(given)} values for {block.n} rows")
            if small:
                values, found = _small(rule, given, text=text)
            else:
                from device_runtime.model.bulk import column

                values, found = column(rule, given, text=text)
            columns[name] = values
            for at, issue in found.items():
                if at not in block.faults:
                    issues.setdefault(at, []).append(f"{name}: {issue}")
            if rule.known is not None:
                unseen |= _unseen(rule, values)
        return self._assemble(block, columns, issues, unseen)

    def _assemble(
        self,
        block: RawBlock,
        columns: dict[str, Any],
        issues: dict[int, list[str]],
        unseen: set[int],
    ) -> Checked:
        whole = Batch(block.n, columns, block.first_row)
        marks = None
        unseen -= block.faults.keys()
        if unseen:
            marks = array("B", bytes(block.n))
            for at in unseen:
                marks[at] = 1
        if not issues:
            return Checked(whole, whole, range(block.n), (), marks)
        good = [at for at in range(block.n) if at not in issues]
        invalid = tuple(
            Invalid(at, tuple(issues[at]), self._raw(block, at)) for at in sorted(issues)
        )
        return Checked(whole, take(whole, self.schema, good), good, invalid, marks)

    def _raw(self, block: RawBlock, at: int) -> dict[str, Any]:
        if at in block.faults:
            return {"": block.faults[at].raw}
        found = {}
        for name, _ in self._rules:
            values = block.columns.get(name)
            if values is None:
                continue
            value = values.text(slice(at, at + 1))[0] if hasattr(values, "text") else values[at]
            found[name] = _short(value)
        return found


def _short(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float)):
        return value if not isinstance(value, int) or abs(value) < 2**64 else str(value)[:200]
    return (value if isinstance(value, str) else repr(value))[:200]


def _alone(rule: Rule) -> Callable[[Any], Any]:
    """Return the check of one value of a column."""

    def typed(given: Any) -> Any:
        if len(given) != 1:
            return None
        values, found = _small(rule, given, text=False)
        return None if found else values

    return typed


def _spelled(rule: Rule) -> Callable[[Any], Any]:
    """Return the check of one text; those that came before are known with their `one_text`."""
    typed, known = _alone(rule), dict[Any, tuple[Text, bytes]]()

    def spelled(given: Any) -> tuple[Text, bytes] | None:
        (value,) = given
        plain = value.__class__ is str or value is None
        found = known.get(value) if plain else None
        if found is None:
            text = typed(given)
            if text is None:
                return None
            found = text, one_text(text)
            if plain and (value is None or len(value) <= _SHORT):
                if len(known) >= _KNOWN:
                    known.clear()
                known[value] = found
        return found

    return spelled


def _small(rule: Rule, given: Any, *, text: bool) -> tuple[Any, dict[int, str]]:
    """Check and type one column of a few rows; see `bulk.column`."""
    if hasattr(given, "text"):
        given = given.text()
    quick = rule.quick(given, text=text)
    if quick is not None:
        return quick, {}
    issues: dict[int, str] = {}
    found = []
    count = rule.column.count
    for at, item in enumerate(given):
        try:
            value = rule.value(item, text=text)
        except UnfitError as problem:
            issues[at], value = str(problem), None
        if not rule.code:
            found.append(value)
        elif rule.column.shape:
            found.extend([rule.empty] * count if value is None else value)
        else:
            found.append(rule.empty if value is None else value)
    return (array(rule.code, found) if rule.code else Text.of(found)), issues


def _unseen(rule: Rule, values: Text) -> set[int]:
    """Return the rows whose category training never saw."""
    known = rule.known or frozenset()
    strange = {code for code, value in enumerate(values.values) if value not in known}
    if not strange:
        return set()
    if isinstance(values.codes, array):
        return {at for at, code in enumerate(values.codes) if code in strange}
    import numpy as np

    return set(np.flatnonzero(np.isin(values.codes, sorted(strange))).tolist())


def take(batch: Batch, schema: Schema, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch, in the order given."""
    columns: dict[str, Any] = {}
    places: Any = None
    for name, values in batch.columns.items():
        if isinstance(values, Text):
            columns[name] = take_text(values, rows)
        elif isinstance(values, array):
            count = schema.column(name).count
            columns[name] = array(values.typecode)
            for at in rows:
                columns[name].extend(values[at * count : (at + 1) * count])
        else:
            count = schema.column(name).count
            if places is None:
                import numpy as np

                places = np.asarray(rows, "int64")
            columns[name] = values.reshape(-1, count).take(places, axis=0).reshape(-1)
    return Batch(len(rows), columns, batch.first_row)


def take_text(text: Text, rows: Sequence[int]) -> Text:
    """Return some rows of a text column, with only the strings that they need, in their order."""
    codes = text.codes
    if isinstance(codes, array):
        order: dict[int, int] = {}
        found = array("I")
        for code in (codes[at] for at in rows):
            missing = code == MISSING_CODE
            found.append(code if missing else order.setdefault(code, len(order)))
        return Text(found, tuple(text.values[code] for code in order))
    import numpy as np

    kept = np.asarray(codes)[np.asarray(rows, "int64")]
    used, first = np.unique(kept[kept != MISSING_CODE], return_index=True)
    used = used[np.argsort(first)]
    table = np.full(len(text.values) + 1, MISSING_CODE, "uint32")
    table[used] = np.arange(len(used), dtype="uint32")
    places = np.minimum(kept, len(text.values))
    return Text(table[places], tuple(text.values[code] for code in used.tolist()))
