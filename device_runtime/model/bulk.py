"""Whole columns checked and typed with numpy: a faster way to what `values` says.

Whatever is not surely right goes through `values.Rule` one by one, so both ways agree to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from device_runtime.format.batch import MISSING_CODE, Text
from device_runtime.format.schema import MISSING_TIME
from device_runtime.model.fields import Fields, Mask, codes, numbers, times
from device_runtime.model.values import EXACT, Rule, UnfitError


def column(rule: Rule, given: Any, *, text: bool) -> tuple[Any, dict[int, str]]:
    """Check and type one column of many rows.

    Args:
        rule: What the column accepts.
        given: `Fields`, a list, or a numpy array.
        text: Whether values are text that has to be parsed.

    Returns:
        A numpy array (n x count values, flat) or `Text`, and position → issue. Where there is an
        issue the value is the column's empty one.
    """
    if text and not isinstance(given, Fields):
        given = Fields.of(given)
    if rule.column.shape:
        return _tensors(rule, given, text=text)
    if not rule.code or (text and rule.column.dtype == "bool"):
        return _by_vocabulary(rule, given, text=text)
    values, sure = _guess(rule, given)
    sure = _in_range(rule, values, sure)
    if rule.column.missing:
        blank = _blank(given, values)
        values, sure = np.where(blank, rule.empty, values), sure | blank
    return _settle(rule, given, values, sure, text=text)


def _blank(given: Any, values: Any) -> Any:
    """Where a numeric column has no value, as far as that is seen at once."""
    if isinstance(given, Fields):
        return given.ends == given.starts
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _guess(rule: Rule, given: Any) -> tuple[Any, Mask]:
    """Values of a numeric column and where they are sure, before ranges."""
    n, dtype = len(given), rule.column.dtype
    floats = dtype in ("float32", "float64")
    every = np.ones(n, bool)
    if isinstance(given, Fields):
        return times(given) if dtype == "timestamp" else numbers(given)
    if isinstance(given, np.ndarray) and given.ndim == 1:
        kind = given.dtype.kind
        if kind == "M" and dtype == "timestamp":
            given = given.astype("datetime64[us]").astype("int64")
            kind = "i"
        if kind == "i" and dtype == "timestamp":
            return given.astype("int64"), given != MISSING_TIME
        if kind in "iu" and dtype != "timestamp":
            return given, every  # whole numbers stay whole: an int64 has more digits than a double
        if kind == "f" and dtype not in ("timestamp", "bool"):
            return given.astype("float64"), every
        if kind == "b" and dtype == "bool":
            return given.astype("uint8"), every
    elif not isinstance(given, np.ndarray):
        kinds = set(map(type, given))
        try:
            if floats and kinds <= {float, int, type(None)}:
                return np.array(given, "float64"), every
            if not floats and dtype not in ("timestamp", "bool") and kinds <= {int}:
                return np.array(given, dtype), every
        except OverflowError:
            pass
    return np.zeros(n), np.zeros(n, bool)


def _in_range(rule: Rule, values: Any, sure: Any) -> Any:
    """Narrow `sure` to finite values within the column's bounds, compared as they are stored."""
    dtype = rule.column.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float32", "float64"):
            wide = values.astype("float64")
            stored = values.astype("float64").astype(dtype).astype("float64")
            return (
                sure & (wide >= rule.least) & (wide <= rule.most)
                & (stored >= rule.low) & (stored <= rule.high)
            )  # fmt: skip
        if values.dtype.kind == "f":
            sure = sure & (np.abs(values) < EXACT) & (values == np.floor(values))
    return sure & _at_least(values, rule.low) & _at_most(values, rule.high)


def _at_least(values: Any, bound: float) -> Any:
    if values.dtype.kind != "f":
        info = np.iinfo(values.dtype)
        if bound <= info.min or bound > info.max:
            return np.full(len(values), bound <= info.min)
        return values >= values.dtype.type(bound)
    return values >= bound


def _at_most(values: Any, bound: float) -> Any:
    if values.dtype.kind != "f":
        info = np.iinfo(values.dtype)
        if bound >= info.max or bound < info.min:
            return np.full(len(values), bound >= info.max)
        return values <= values.dtype.type(bound)
    return values <= bound


def _settle(
    rule: Rule, given: Any, values: Any, sure: Mask, *, text: bool
) -> tuple[Any, dict[int, str]]:
    """Store what is sure; ask the rule about everything else."""
    dtype = "int64" if rule.column.dtype == "timestamp" else rule.column.dtype
    dtype = "uint8" if dtype == "bool" else dtype
    issues: dict[int, str] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float32", "float64"):
            stored = values.astype("float64").astype(dtype)
        else:
            stored = np.where(sure, values, 0).astype(dtype)
    odd = np.flatnonzero(~sure)
    if len(odd):
        items = given.text(odd) if isinstance(given, Fields) else [given[at] for at in odd.tolist()]
        # numpy takes only what Python's `array` takes, so go through a list of plain values.
        found = []
        for at, item in zip(odd.tolist(), items, strict=True):
            try:
                value = rule.value(item, text=text)
            except UnfitError as problem:
                issues[at], value = str(problem), None
            found.append(rule.empty if value is None else value)
        stored[odd] = np.array(found, dtype)
    return stored, issues


def _by_vocabulary(rule: Rule, given: Any, *, text: bool) -> tuple[Any, dict[int, str]]:
    """Judge each distinct text once: string columns, and truth values written as text."""
    items: list[Any]
    if isinstance(given, Fields):
        found, items = codes(given)
    else:
        found, items = _distinct(given.tolist() if isinstance(given, np.ndarray) else given)
    issues: dict[int, str] = {}
    values = []
    for place, item in enumerate(items):
        value = None
        try:
            value = rule.value(item, text=text)
        except UnfitError as problem:
            issues.update(dict.fromkeys(np.flatnonzero(found == place).tolist(), str(problem)))
        values.append(value)
    if rule.code:
        table = np.array([rule.empty if value is None else value for value in values], "uint8")
        return table[found], issues
    kept: dict[str, int] = {}
    places = [MISSING_CODE if v is None else kept.setdefault(v, len(kept)) for v in values]
    return Text(np.array(places, "uint32")[found], tuple(kept)), issues


def _distinct(given: Sequence[Any]) -> tuple[Any, list[Any]]:
    seen: dict[Any, int] = {}
    items: list[Any] = []
    found = []
    for at, item in enumerate(given):
        key = item if type(item) is str or item is None else (at,)  # the odd one by itself
        place = seen.setdefault(key, len(items))
        if place == len(items):
            items.append(item)
        found.append(place)
    return np.array(found, "int64"), items


def _tensors(rule: Rule, given: Any, *, text: bool) -> tuple[Any, dict[int, str]]:
    """Check and type a column whose values have a shape."""
    column, n = rule.column, len(given)
    dtype = {"timestamp": "int64", "bool": "uint8"}.get(column.dtype, column.dtype)
    stored = np.full((n, column.count), rule.empty, dtype)
    sure = np.zeros(n, bool)
    if isinstance(given, np.ndarray) and given.shape[1:] == column.shape and given.size:
        values, fine = _guess(rule, given.reshape(-1))
        sure = _in_range(rule, values, fine).reshape(n, -1).all(axis=1)
        stored[sure] = values.reshape(n, -1)[sure].astype(dtype)
    odd = np.flatnonzero(~sure)
    items = given.text(odd) if isinstance(given, Fields) else [given[at] for at in odd.tolist()]
    issues: dict[int, str] = {}
    for at, item in zip(odd.tolist(), items, strict=True):
        try:
            found = rule.value(item, text=text)
        except UnfitError as problem:
            issues[at], found = str(problem), None
        if found is not None:
            stored[at] = np.array(found, dtype)
    return stored.reshape(-1), issues
