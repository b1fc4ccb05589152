"""Events, labels, holes and sketches, read back."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.frames import EVENT, HOLE, LABEL, SKETCH
from device_runtime.format.segment import Hole
from device_runtime.record import dataclass

MAX_RECORDS = 16 << 20


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """A truth that became known; `by` is `record` or `key` (hashed if the key is hashed)."""

    sequence: int
    monotonic_ns: int
    wall_ns: int
    ref: str
    by: str
    value: Any
    source: str
    observed_wall_ns: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened on the device."""

    sequence: int
    monotonic_ns: int
    wall_ns: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HoleRecord:
    """Declared losses."""

    sequence: int
    monotonic_ns: int
    wall_ns: int
    holes: tuple[Hole, ...]


@dataclass(frozen=True, slots=True)
class SketchRecord:
    """A sketch of the BULK rows first..last, opaque here: format.sketch reads it."""

    sequence: int
    monotonic_ns: int
    wall_ns: int
    first: int
    last: int
    sketch: bytes


SmallRecord = LabelRecord | EventRecord | HoleRecord | SketchRecord


def decode(sequence: int, type: int, value: Any) -> SmallRecord:
    """Read one record from its JSON value.

    Raises:
        FormatError: It does not follow docs/FORMAT-journal.md.
    """
    try:
        when = (sequence, int(value["m"]), int(value["w"]))
        if type == EVENT:
            return EventRecord(*when, str(value["kind"]), dict(value["data"]))
        if type == LABEL:
            by = str(value["by"])
            if by not in ("record", "key"):
                raise ValueError(by)
            ref, source = str(value["ref"]), str(value["source"])
            return LabelRecord(*when, ref, by, value["value"], source, int(value["observed"]))
        if type == HOLE:
            return HoleRecord(*when, tuple(Hole.from_json(item) for item in value["holes"]))
        if type == SKETCH:
            sketch = base64.b64decode(value["sketch"], validate=True)
            return SketchRecord(*when, int(value["first"]), int(value["last"]), sketch)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"a record of the journal is not valid: {error!r}") from None
    raise FormatError(f"a record of the journal has type {type}")


def join(records: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return the plain content of a RECORDS frame: [[sequence, type, value], ...].

    Args:
        records: Sequence, type, and the value as canonical JSON, as it stood in its own frame.
    """
    return b"[" + b",".join(b"[%d,%d,%s]" % record for record in records) + b"]"


def split(content: bytes) -> list[SmallRecord]:
    """Read what `join` wrote."""
    value = canonical.decode(content, "records of the journal", limit=MAX_RECORDS)
    if not isinstance(value, list):
        raise FormatError("records of the journal are no list")
    result: list[SmallRecord] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 3 or type(item[0]) is not int:
            raise FormatError("a record of the journal is not valid")
        result.append(decode(*item))
    return result
