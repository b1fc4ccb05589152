"""Strict fields of JSON that somebody else may have written: the value, or `FormatError`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from device_runtime.errors import FormatError

LANES = ("priority", "bulk")

_HEX = re.compile(r"[0-9a-f]+")


def hex_field(value: Any, digits: int) -> str:
    """Return `digits` lower-case hex characters, or raise `FormatError`."""
    if not isinstance(value, str) or not is_id(value, digits):
        raise FormatError(f"{str(value)[:80]!r} is not {digits} hex characters")
    return value


def count_field(value: Any, limit: int = 2**63 - 1) -> int:
    """Return a whole number from 0 to `limit`, or raise `FormatError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise FormatError(f"{str(value)[:80]!r} is not a number from 0 to {limit}")
    return value


def text_field(value: Any) -> str:
    """Return a printable text of at most 256 characters, or raise `FormatError`."""
    if not isinstance(value, str) or len(value) > 256 or not value.isprintable():
        raise FormatError(f"{str(value)[:80]!r} is not a short text")
    return value


def lane_field(value: Any) -> int:
    """Return a lane, 0 or 1, or raise `FormatError`."""
    return count_field(value, len(LANES) - 1)


def one_of_field(value: Any, allowed: Sequence[str]) -> str:
    """Return one of the allowed texts, or raise `FormatError`."""
    if value not in allowed:
        raise FormatError(f"{str(value)[:80]!r} is none of {', '.join(allowed)}")
    return str(value)


def generation_field(value: Any) -> tuple[int, str]:
    """Return a base generation (number, random hex), or raise `FormatError`."""
    number, random = value
    return count_field(number), hex_field(random, 16)


def is_id(text: str, digits: int = 32) -> bool:
    """Whether a name is `digits` lower-case hex characters."""
    return len(text) == digits and _HEX.fullmatch(text) is not None
