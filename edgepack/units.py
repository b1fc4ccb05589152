"""Sizes and durations as people type them."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def size(value: Any) -> Any:
    """Return bytes for a size such as "512 MiB"; anything that is no text as it is.

    Raises:
        ValueError: A text that is no size.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]{1,20}|[0-9]{0,20}\.[0-9]{1,20})\s*([A-Za-z]*)\s*", value)
    if not found or found[2].upper() not in _UNITS:
        message = f"{value!r} is not a size such as 512 MiB"
        raise ValueError(message)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def is_duration(value: Any) -> bool:
    """Whether `seconds` would read it."""
    return isinstance(value, str) and _DURATION.fullmatch(value.strip()) is not None


def seconds(text: str) -> int:
    """Return the seconds of a duration such as "1d", "90 m", "13w".

    Raises:
        ValueError: It is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found:
        message = f"{text!r} is not a duration such as 1d"
        raise ValueError(message)
    return round(float(found[1]) * _SECONDS[found[2]])
