"""One segment, verified, decrypted and read through to its last record: what it brings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from device_runtime.crypt import PublicIdentity
from device_runtime.format.batch import Text
from device_runtime.format.segment import Header, Hole
from device_runtime.journal.reader import HoleRecord, LabelRecord, RowBlock, open_segment
from edgepack.registry import Span
from edgepack.spans import normal


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a segment holds.

    Attributes:
        header: What it says about itself.
        hash: Its hash, hex.
        size: Its bytes.
        sequences: Every record in it.
        rows: The sequences that are rows.
        labels: ... that are labels.
        holes: Losses that it declares.
    """

    header: Header
    hash: str
    size: int
    sequences: list[Span]
    rows: list[Span]
    labels: list[Span]
    holes: list[tuple[int, Hole]] = field(default_factory=list)


def parse(data: bytes, secrets: Mapping[str, bytes], device: PublicIdentity) -> Parsed:
    """Read a segment whole; what this returns can be acknowledged once it is archived.

    Raises:
        SegmentError: Hash, signature, device or content do not hold.
        UndecryptableError: No key at hand.
        UnsupportedVersionError: A newer format.
        FormatError: Not a segment.
    """
    reader = open_segment(data, secrets=secrets, device=device)
    rows: list[Span] = []
    labels: list[Span] = []
    others: list[Span] = []
    holes: list[tuple[int, Hole]] = []
    for record in reader.records():
        if isinstance(record, RowBlock):
            rows += _runs(record.columns["_sequence"])
            continue
        span = (record.sequence, record.sequence)
        (labels if isinstance(record, LabelRecord) else others).append(span)
        if isinstance(record, HoleRecord):
            holes += [(record.sequence, hole) for hole in record.holes]
    return Parsed(
        header=reader.header,
        hash=reader.hash,
        size=len(data),
        sequences=normal([*rows, *labels, *others]),
        rows=normal(rows),
        labels=normal(labels),
        holes=holes,
    )


def _runs(sequences: Any) -> list[Span]:
    import numpy as np

    values = np.asarray(sequences, dtype=np.int64)
    if not len(values):
        return []
    breaks = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate(([0], breaks + 1))]
    lasts = values[np.concatenate((breaks, [len(values) - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def digests(
    data: bytes, secrets: Mapping[str, bytes], device: PublicIdentity, spans: Iterable[Span]
) -> dict[int, bytes]:
    """Return sequence → digest of a record's content, for the records in `spans`.

    Two forms of one segment (sealed, salvaged) give the same digests.
    """
    wanted = list(spans)
    result: dict[int, bytes] = {}
    for record in open_segment(data, secrets=secrets, device=device).records():
        if isinstance(record, RowBlock):
            sequences = [int(value) for value in record.columns["_sequence"]]
            cells = {name: _cells(column, record.n) for name, column in record.columns.items()}
            for place, sequence in enumerate(sequences):
                if _inside(sequence, wanted):
                    parts = [(name, cells[name][place]) for name in sorted(cells)]
                    result[sequence] = hashlib.sha256(repr(parts).encode()).digest()
        elif _inside(record.sequence, wanted):
            result[record.sequence] = hashlib.sha256(repr(record).encode()).digest()
    return result


def _cells(column: Any, n: int) -> list[Any]:
    import numpy as np

    if isinstance(column, Text):
        return list(column.strings())
    array = np.ascontiguousarray(column)
    return [array[row].tobytes() for row in range(n)]


def _inside(sequence: int, spans: Iterable[Span]) -> bool:
    return any(first <= sequence <= last for first, last in spans)
