"""A sealed or salvaged segment, read back: verify, decrypt, decode. The base imports this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from device_runtime.crypt import PublicIdentity
from device_runtime.format.batch import ColumnData
from device_runtime.format.segment import Header, Hole
from device_runtime.format.segment import read_header as read_header


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of one shape.

    Attributes:
        sequence0: Sequence of the first row.
        n: Rows.
        columns: Name → numpy array [n, *shape] or `Text`. Always: `_sequence`, `_monotonic`,
            `_wall`, `_row` (int64), `_flags` (uint16), `_latency` (uint32). Where the block has
            them: `_label` (int16), `_scores` (float32/64 [n, k]), `_unlike` (float32), `_raw`
            (Text), and the journaled columns that were given. `_sequence` grows, but may have
            gaps: rows of another shape, or labels, stand in another record.
    """

    sequence0: int
    n: int
    columns: Mapping[str, ColumnData]


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
    """A sketch of inputs, opaque here: format.sketch reads it."""

    sequence: int
    monotonic_ns: int
    wall_ns: int
    first: int
    last: int
    sketch: bytes


Record = RowBlock | LabelRecord | EventRecord | HoleRecord | SketchRecord


class SegmentReader:
    """One verified segment.

    Attributes:
        header: What it says about itself.
        hash: Its hash, hex: what an ack lists.
    """

    header: Header
    hash: str

    def records(self) -> Iterator[Record]:
        """Yield everything inside; row blocks may interleave with other records.

        Raises:
            SegmentError: A frame does not decrypt: the device did not write this.
            FormatError: What was decrypted does not follow docs/FORMAT-journal.md.
        """
        raise NotImplementedError


def open_segment(
    data: bytes | bytearray | memoryview,
    *,
    secrets: Mapping[str, bytes],
    device: PublicIdentity,
) -> SegmentReader:
    """Verify a sealed or salvaged segment and unwrap its key.

    Raises:
        SegmentError: Hash, signature or device do not hold.
        UndecryptableError: No secret fits: hold it.
        UnsupportedVersionError: Newer format: hold it.
        FormatError: Not a segment.
    """
    raise NotImplementedError
