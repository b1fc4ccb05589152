"""The shortest check of one row: what a request of one row pays most for.

All numbers are taken at once, by functions that run in C over the whole row. It only accepts what
is plainly right; where anything needs a closer look it says so, and `check` looks at the row by
the rules of `values`, column by column. Both ways give the same bytes (a property test).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter, le
from typing import Any

from device_runtime.format.batch import Form, SingleRow
from device_runtime.model.values import Rule

Row = Callable[[Mapping[str, Any]], SingleRow | None]
Single = Callable[[Any], Any]

_PLAIN = frozenset((float, int))
_GAP = frozenset((float, int, type(None)))
_NAN = float("nan")
_INFINITE = float("inf")
_LARGE = 3.4028232e38  # below the largest float32
_ABSENT = (None,)


def one_row(
    rules: Sequence[tuple[str, Rule]],
    single: Callable[[Rule], Single],
    spelled: Callable[[Rule], Single],
) -> Row:
    """Return a function from typed columns of one row to checked ones.

    Args:
        rules: Column name → what it accepts, in order.
        single: Makes the check of a column that is no plain number: one value in, the typed column
            out, or None if it does not fit.
        spelled: The same for a text, which comes with its `one_text`.

    Returns:
        A function that takes column name → one value each, and returns the checked columns, or None
        if the row must be looked at more closely.
    """
    texts = [(name, spelled(rule)) for name, rule in rules if not rule.code]
    codes = [_number_code(rule) for _, rule in rules]
    form = Form([name for name, _ in rules], codes, [name for name, _ in texts])
    numbers = [(name, rule) for name, rule in rules if _number_code(rule)]
    names = tuple(name for name, rule in numbers if _is_plain(rule))
    odd = [
        (place, name, single(rule))
        for place, (name, rule) in enumerate(numbers)
        if not _is_plain(rule)
    ]
    rest = [(name, single(rule)) for name, rule in rules if rule.code and rule.column.shape]
    lows, highs = zip(*(_bounds(rule) for _, rule in numbers), strict=True) if numbers else ((), ())
    gaps = [rule.column.missing for _, rule in numbers]
    get = itemgetter(*names) if len(names) > 1 else lambda columns: [columns[n] for n in names]
    pack, unpack = form.struct.pack, form.struct.unpack

    def check(columns: Mapping[str, Any]) -> SingleRow | None:
        others, words = dict[str, Any](), b""
        try:
            values = [item for (item,) in get(columns)]
            if not _PLAIN.issuperset(map(type, values)) and not _fill(values):
                return None
            for place, name, take in odd:  # ascending, so each comes to its place
                found = take(columns.get(name, _ABSENT))
                if found is None:
                    return None
                values.insert(place, found[0])
            packed = pack(*values)  # refuses a float for a whole number, and what does not fit
            for name, take in rest:
                others[name] = found = take(columns.get(name, _ABSENT))
                if found is None:
                    return None
            for name, take in texts:
                found = take(columns.get(name, _ABSENT))
                if found is None:
                    return None
                others[name], word = found
                words += word
        except (KeyError, TypeError, ValueError, OverflowError, struct.error):
            return None
        stored = unpack(packed)
        if not (all(map(le, lows, stored)) and all(map(le, stored, highs))):
            mended = _gaps_only(stored, lows, highs, gaps)
            if mended is None:
                return None
            stored, packed = mended, pack(*mended)
        return SingleRow(form, stored, packed, others, words)

    return check


def _number_code(rule: Rule) -> str:
    return "" if rule.column.shape else rule.code


def _is_plain(rule: Rule) -> bool:
    return rule.column.dtype not in {"bool", "timestamp"}


def _bounds(rule: Rule) -> tuple[float, float]:
    """Return what a stored value must lie between; at the very ends it is looked at closely."""
    if not _is_plain(rule):
        return -_INFINITE, _INFINITE  # judged already
    if rule.code == "f":  # what only rounds into the range of float32 does not fit
        return max(rule.low, -_LARGE), min(rule.high, _LARGE)
    return rule.low, rule.high


def _fill(values: list[Any]) -> bool:
    """Put NaN where nothing is; False if anything but numbers is there."""
    if not _GAP.issuperset(map(type, values)):
        return False
    values[:] = [_NAN if value is None else value for value in values]
    return True


def _gaps_only(
    stored: Sequence[Any], lows: Sequence[float], highs: Sequence[float], gaps: Sequence[bool]
) -> tuple[Any, ...] | None:
    """Return the values with one NaN for all, if nothing but allowed gaps is out of range."""
    found = []
    for value, low, high, gap in zip(stored, lows, highs, gaps, strict=True):
        fits = low <= value <= high
        if not fits and (not gap or value == value):  # noqa: PLR0124 (NaN)
            return None
        found.append(value if fits else _NAN)
    return tuple(found)
