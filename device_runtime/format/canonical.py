"""Canonical JSON: one value, one sequence of bytes; and a bounded reader for hostile input.

Keys sorted by code point, no white space, UTF-8 unescaped, floats in Python's shortest form.
"""

from __future__ import annotations

import json
import re
from typing import Any

from device_runtime.errors import (
    FormatError,
    NotCanonicalError,
    TooLargeError,
    UnsupportedVersionError,
)

MAX_DEPTH = 32
MAX_BYTES = 8 << 20
# One that is not closed ends with the data: a hostile file must not make this quadratic.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_ALIKE = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def encode(value: object) -> bytes:
    """Return the canonical bytes of a JSON value; NaN and infinities are refused (ValueError)."""
    return _ENCODER.encode(value).encode()


def decode(
    data: bytes | bytearray | memoryview,
    what: str,
    *,
    limit: int = MAX_BYTES,
    canonical: bool = False,
) -> Any:
    """Read JSON that somebody else may have written.

    Args:
        data: The bytes.
        what: What the bytes are, for the error: "the ack on the stick".
        limit: Largest size in bytes.
        canonical: Also refuse anything that `encode` would not have written.

    Raises:
        TooLargeError: More than `limit` bytes.
        NotCanonicalError: Valid JSON in another form, where `canonical` was asked.
        FormatError: Not JSON, a key twice, nested deeper than 32, NaN.
    """
    raw = bytes(data[: limit + 1])
    if len(raw) > limit:
        raise TooLargeError(f"{what} is larger than {limit} bytes")
    try:
        _check_depth(raw, what)
        value = _DECODER.decode(raw.decode())
        # Escapes may spell half a character, which no file or log could ever hold.
        again = encode(value) if canonical or b"\\u" in raw else raw
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    if canonical and again != raw:
        raise NotCanonicalError(f"{what} is not canonical JSON")
    return value


def expect(value: Any, name: str, version: int) -> None:
    """Check that a decoded object is of this format and version.

    Raises:
        UnsupportedVersionError: Of another version.
        FormatError: Of another format, without a version, or no object.
    """
    if not isinstance(value, dict) or value.get("format") != name or "version" not in value:
        raise FormatError(f"this is no {name}")
    if value["version"] != version:
        raise UnsupportedVersionError(f"the {name} has version {value['version']}")


def _check_depth(raw: bytes, what: str) -> None:
    """Refuse what is nested too deep, without a Python step per byte."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", raw).translate(_ALIKE, _OTHERS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise FormatError(f"{what} is nested deeper than {MAX_DEPTH}, or not closed")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        message = "a key stands twice"
        raise ValueError(message)
    return result


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        message = f"{text[:40]} is beyond every float"
        raise ValueError(message)
    return value


def _no_constant(name: str) -> float:
    message = f"{name} is not a JSON number"
    raise ValueError(message)


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_twice, parse_constant=_no_constant, parse_float=_finite
)
