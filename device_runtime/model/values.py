"""One value and the column that it shall fit: the rules, in one place.

These functions are the reference. `check` calls them for few rows, and `bulk` for every value that
its faster ways do not take, so that both ways agree to the bit.

Text (CSV) is parsed; typed values (JSON, Python, numpy) must have the right type already. Nothing
is guessed: a number in quotes is no number in JSON, and `1e400` does not become infinity.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor, isnan
from typing import Any

from device_runtime.format.batch import Text
from device_runtime.format.schema import DTYPES, MISSING_TIME, Column

MAX_TEXT = 65_535  # bytes of one text value
SPACE = " \t"
EXACT = 2**53  # from here on a float no longer holds every whole number

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_NO_VALUE = frozenset(("", "nan", "na", "n/a", "nat", "null", "none"))
_TRUTH = {"true": 1, "false": 0, "1": 1, "0": 0}
_INTEGERS = {
    name: (-(2 ** (8 * size - 1)) if name[0] == "i" else 0, 2 ** (8 * size - (name[0] == "i")) - 1)
    for name, (_, size) in DTYPES.items()
    if "int" in name
}
_LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}


class UnfitError(Exception):
    """A value does not fit its column; the message says what is wrong, without the column."""


class Rule:
    """What one column accepts.

    Attributes:
        column: The column.
        code: Type code of `array` for its values; "" for strings.
        low: Smallest accepted value, never None: the column's or the type's.
        high: Largest accepted value.
        empty: What stands in the typed column for a missing value; None for strings.
        known: The categories, or None.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self.code = DTYPES[column.dtype][0]
        self.known = None if column.categories is None else frozenset(column.categories)
        self.low: float = 0
        self.high: float = 0
        self.empty: float | None = None
        self._typed: Callable[[Any], Any]
        self._parse: Callable[[str], Any]
        kind = column.dtype
        if kind in _LARGEST:
            self._set_range(-_LARGEST[kind], _LARGEST[kind], column.low, column.high)
            self.empty, self._typed, self._parse = float("nan"), _typed_float, _parse_float
        elif kind == "string":
            self._typed, self._parse = _typed_string, _typed_string
        else:
            # Bounds of whole numbers are whole, so that comparing needs no rounding.
            low = None if column.low is None else _bounded(ceil, column.low)
            high = None if column.high is None else _bounded(floor, column.high)
            if kind == "timestamp":
                self._set_range(MISSING_TIME + 1, 2**63 - 1, low, high)
                self.empty, self._typed, self._parse = MISSING_TIME, _typed_time, _parse_time
            elif kind == "bool":
                self._set_range(0, 1, low, high)
                self.empty, self._typed, self._parse = 0, _typed_bool, _parse_bool
            else:
                self._set_range(*_INTEGERS[kind], low, high)
                self.empty, self._typed, self._parse = 0, _typed_whole, _parse_whole

    def _set_range(self, least: float, most: float, low: float | None, high: float | None) -> None:
        self.least, self.most = least, most
        self.low = least if low is None else max(least, low)
        self.high = most if high is None else min(most, high)

    def value(self, given: Any, *, text: bool) -> Any:
        """Return the value as it is stored, or None where it is missing.

        Raises:
            UnfitError: It does not fit, or is missing and must not be.
        """
        if text and self.column.shape and given is not None:
            given, text = _from_json(given), False
        if self.column.shape:
            return self._tensor(given)
        value = None if given is None else self._parse(given) if text else self._typed(given)
        if value is None:
            if not self.column.missing:
                raise UnfitError("is missing")
            return None
        return self._judge(value)

    def quick(self, given: Sequence[Any], *, text: bool) -> Any:
        """Return the typed column of a few plain rows, or None if any value needs a closer look."""
        if self.column.shape:
            return None
        try:
            return self._quick_text(given) if text else self._quick_typed(given)
        except (TypeError, ValueError, OverflowError):
            return None

    def _quick_typed(self, given: Sequence[Any]) -> Any:
        if not self.code:
            return Text.of(given) if all(map(self._plain_text, given)) else None
        if self.column.dtype == "bool":
            return None
        plain = (float, int) if self.column.dtype in _LARGEST else (int,)
        if any(type(item) not in plain for item in given):
            return None
        return self._quick_array(given)

    def _quick_text(self, given: Sequence[str]) -> Any:
        if not self.code:
            return Text.of(given) if all(map(self._plain_text, given)) else None
        if self.column.dtype not in _LARGEST or not all(map(_NUMBER.fullmatch, given)):
            return None
        return self._quick_array([float(item) for item in given])

    def _quick_array(self, given: Sequence[float]) -> Any:
        found = array(self.code, given)
        # Compared as stored; NaN and infinity fail, and so does what only rounds into range.
        low, high, least, most = self.low, self.high, self.least, self.most
        fine = all(low <= value <= high for value in found)
        if fine and self.code == "f":
            fine = all(least <= value <= most for value in given)
        return found if fine else None

    def _plain_text(self, item: Any) -> bool:
        return (
            type(item) is str
            and 0 < len(item) < 256
            and item.isascii()
            and "\0" not in item
            and (not self.column.closed or self.known is None or item in self.known)
        )

    def _judge(self, value: Any) -> Any:
        if self.code:
            return self._in_range(value)
        if self.known is not None and self.column.closed and value not in self.known:
            raise UnfitError(f"{shown(value)} is not one of the {len(self.known)} known categories")
        return value

    def _in_range(self, value: float) -> float:
        if not self.least <= value <= self.most:
            raise UnfitError(f"{shown(value)} does not fit {self.column.dtype}")
        if self.code == "f":
            value = array("f", (value,))[0]  # compared as it will be stored
        if value < self.low:
            raise UnfitError(f"{shown(value)} is below {shown(self.column.low)}")
        if value > self.high:
            raise UnfitError(f"{shown(value)} is above {shown(self.column.high)}")
        return value

    def _tensor(self, given: Any) -> Any:
        """Return the flat list of a value with a shape; None where it is missing as a whole."""
        if given is None:
            if not self.column.missing:
                raise UnfitError("is missing")
            return None
        if hasattr(given, "tolist"):
            given = given.tolist()
        found = []
        for item in _flat(given, self.column.shape):
            value = None if item is None else self._typed(item)
            if value is None:
                if not self.column.missing:
                    raise UnfitError("holds a missing value")
                value = self.empty
            else:
                value = self._judge(value)
            found.append(value)
        return found


def _bounded(whole: Callable[[float], int], bound: float) -> float:
    return bound if bound in (float("inf"), float("-inf")) else whole(bound)


def shown(value: Any, limit: int = 60) -> str:
    """Return a value as a person may see it: quoted where it is text, never long, on one line."""
    text = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


def _flat(given: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    if not shape:
        yield given
        return
    if not isinstance(given, (list, tuple)) or len(given) != shape[0]:
        size = f"{len(given)} values" if isinstance(given, (list, tuple)) else shown(given)
        raise UnfitError(f"has {size} where {shape[0]} were wanted")
    for item in given:
        yield from _flat(item, shape[1:])


def _from_json(text: str) -> Any:
    if text.strip(SPACE).casefold() in _NO_VALUE:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnfitError(f"{shown(text)} is not a list of numbers") from None


# --- text --------------------------------------------------------------------------------------


def _parse_float(text: str) -> float | None:
    stripped = text.strip(SPACE)
    if _NUMBER.fullmatch(stripped):
        value = float(stripped)
        if value in (float("inf"), float("-inf")):
            raise UnfitError(f"{shown(text)} does not fit float64")
        return value
    if stripped.casefold() in _NO_VALUE:
        return None
    raise UnfitError(f"{shown(text)} is not a number")


def _parse_whole(text: str) -> int | None:
    stripped = text.strip(SPACE)
    if _WHOLE.fullmatch(stripped):
        return int(stripped)
    value = _parse_float(text)
    return None if value is None else _whole(value, text)


def _whole(value: float, given: Any) -> int:
    if value != int(value):
        raise UnfitError(f"{shown(given)} is not a whole number")
    if abs(value) >= EXACT:
        raise UnfitError(f"{shown(given)} is too large to be exact; write it without a point")
    return int(value)


def _parse_bool(text: str) -> int | None:
    word = text.strip(SPACE).casefold()
    if word in _TRUTH:
        return _TRUTH[word]
    if word in _NO_VALUE:
        return None
    raise UnfitError(f"{shown(text)} is not true or false")


def _parse_time(text: str) -> int | None:
    from datetime import datetime

    stripped = text.strip(SPACE)
    if stripped.casefold() in _NO_VALUE:
        return None
    try:
        return _microseconds(datetime.fromisoformat(stripped))
    except (ValueError, OverflowError):
        raise UnfitError(f"{shown(text)} is not a time such as 2026-01-31T12:00:00Z") from None


def _microseconds(moment: Any) -> int:
    """Return microseconds since 1970-01-01 UTC; a time without a zone is UTC."""
    from datetime import UTC, datetime, timedelta

    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


# --- typed -------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return a numpy scalar as Python's own; NaN as None."""
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        value = value.item()
    return None if isinstance(value, float) and isnan(value) else value


def _typed_float(value: Any) -> float | None:
    if type(value) not in (float, int):
        value = _plain(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnfitError(f"{shown(value)} is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise UnfitError(f"{shown(value)} does not fit float64") from None
    if isnan(number):
        return None
    if number in (float("inf"), float("-inf")):
        raise UnfitError("is not a finite number")
    return number


def _typed_whole(value: Any) -> int | None:
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnfitError(f"{shown(value)} is {_kind(value)}, not a whole number")
    if isinstance(value, float):
        if value in (float("inf"), float("-inf")):
            raise UnfitError("is not a finite number")
        return _whole(value, value)
    return value


def _typed_bool(value: Any) -> int | None:
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return int(value)
    raise UnfitError(f"{shown(value)} is {_kind(value)}, not true or false")


def _typed_string(value: Any) -> str | None:
    value = _plain(value) if not isinstance(value, str) else value
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UnfitError(f"{shown(value)} is {_kind(value)}, not text")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise UnfitError(f"{shown(value)} is not valid Unicode") from None
    if "\0" in value:
        raise UnfitError("holds a NUL byte")
    if size > MAX_TEXT:
        raise UnfitError(f"is longer than {MAX_TEXT} bytes")
    return value


def _typed_time(value: Any) -> int | None:
    if isinstance(value, str):
        return _parse_time(value)
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        if value.dtype.kind == "M":
            number = int(value.astype("datetime64[us]").astype("int64"))
            return None if number == MISSING_TIME else number
        value = value.item()
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return None if value == MISSING_TIME else value
    if hasattr(value, "isoformat") and hasattr(value, "tzinfo"):
        try:
            return _microseconds(value)
        except (ValueError, OverflowError, TypeError):
            return None  # pandas' NaT
    raise UnfitError(f"{shown(value)} is {_kind(value)}, not a time such as 2026-01-31T12:00:00Z")


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
