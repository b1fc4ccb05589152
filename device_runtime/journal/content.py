"""What stands in the frames of events, labels, holes and sketches: one JSON object each."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from device_runtime.errors import FormatError, JournalError
from device_runtime.format import canonical
from device_runtime.format.segment import Hole

MAX_RECORD = 1 << 20


def encode(monotonic: int, wall: int, value: Mapping[str, object]) -> bytes:
    """Return the content of a record's frame.

    Raises:
        JournalError: The value is no JSON (NaN, half a surrogate pair) or too large.
    """
    try:
        content = canonical.encode({"m": monotonic, "w": wall, **value})
    except (TypeError, ValueError) as error:
        raise JournalError(f"a record for the journal is no JSON value: {error}") from None
    if len(content) > MAX_RECORD:
        raise JournalError(f"a record for the journal has {len(content)} bytes")
    return content


def holes_json(holes: Iterable[Hole]) -> dict[str, object]:
    """Return the value of a HOLE record."""
    return {"holes": [hole.to_json() for hole in holes]}


def sketch_json(sketch: bytes, first: int, last: int) -> dict[str, object]:
    """Return the value of a SKETCH record."""
    return {"first": first, "last": last, "sketch": base64.b64encode(sketch).decode()}


def parse(content: bytes | memoryview) -> Any:
    """Read the JSON of one frame."""
    return canonical.decode(content, "a record of the journal", limit=MAX_RECORD)


def holes_of(value: Any) -> tuple[Hole, ...]:
    """Read what `holes_json` wrote.

    Raises:
        FormatError: It is no list of HOLEs.
    """
    try:
        return tuple(Hole.from_json(item) for item in value["holes"])
    except (KeyError, TypeError) as error:
        raise FormatError(f"not a record of holes: {error!r}") from None
