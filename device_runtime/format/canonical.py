"""Canonical JSON: one value, one sequence of bytes; and a bounded reader for hostile input.

Keys sorted by code point, no white space, UTF-8 unescaped, floats in Python's shortest form.
"""

from __future__ import annotations

import json
from typing import Any

from device_runtime.errors import FormatError, NotCanonicalError, TooLargeError

MAX_DEPTH = 32
MAX_BYTES = 8 << 20


def encode(value: object) -> bytes:
    """Return the canonical bytes of a JSON value; NaN and infinities are refused (ValueError)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


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
        value = json.loads(
            raw, object_pairs_hook=_no_twice, parse_constant=_no_constant, parse_float=_finite
        )
        # Escapes may spell half a character, which no file or log could ever hold.
        again = encode(value) if canonical or b"\\u" in raw else raw
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    if canonical and again != raw:
        raise NotCanonicalError(f"{what} is not canonical JSON")
    return value


def _check_depth(raw: bytes, what: str) -> None:
    depth = deepest = 0
    inside = escaped = False
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    for byte in raw:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                raise FormatError(f"{what} is nested deeper than {MAX_DEPTH}")
        elif byte in b"]}":
            depth -= 1


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
