"""The chain of one device: everything that happened, from its own PRIORITY records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from device_runtime.errors import EdgepackError
from device_runtime.journal.reader import (
    EventRecord,
    HoleRecord,
    LabelRecord,
    open_segment,
)
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import DeviceRow, Registry, SegmentRow, Span
from edgepack.spans import intersect, subtract
from edgepack.store.archive import Archive


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an audit.

    Attributes:
        epoch: Journal epoch, 16 hex.
        sequence: Number of the record.
        wall_ns: What the device's clock said.
        monotonic_ns: Its monotonic clock.
        boot: Boot id.
        bundle: Version of the bundle in use.
        kind: `install`, `sync`, `label`, `hole`, ...
        data: What the record says.
        trusted: False for a compromised device from the named import on.
    """

    epoch: str
    sequence: int
    wall_ns: int
    monotonic_ns: int
    boot: str
    bundle: int
    kind: str
    data: Mapping[str, Any]
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Audit:
    """What is known of a device.

    Attributes:
        entries: In the order of its chain.
        gaps: Segments that are missing in the chain, and what is known of each.
        notes: Segments that could not be read.
    """

    entries: tuple[Entry, ...]
    gaps: tuple[str, ...]
    notes: tuple[str, ...]


def audit(
    registry: Registry,
    archive: Archive,
    device: DeviceRow,
    secrets: Mapping[str, bytes],
    progress: Progress = UNSEEN,
) -> Audit:
    """Read every PRIORITY segment of a device and what is missing between them."""
    notes: list[str] = []
    rows = registry.segments(device.device)
    chain = sorted((row for row in rows if row.lane == 0), key=lambda row: _order(rows, row))
    entries: list[Entry] = []
    progress.begin("reading the archive", len(chain), "segments")
    for row in chain:
        try:
            entries += _entries(registry, archive, device, row, secrets)
        except EdgepackError as error:
            notes.append(f"segment {row.hash[:12]}: {error.what}")
        progress.add(1)
    return Audit(tuple(entries), tuple(_gaps(registry, device)), tuple(notes))


def _order(rows: list[SegmentRow], row: SegmentRow) -> tuple[int, int, int]:
    first = min(other.serial for other in rows if other.epoch == row.epoch)
    return first, row.number, row.serial


def _entries(
    registry: Registry,
    archive: Archive,
    device: DeviceRow,
    row: SegmentRow,
    secrets: Mapping[str, bytes],
) -> Iterator[Entry]:
    own = registry.spans(row.hash)
    reader = open_segment(archive.read(row), secrets=secrets, device=device.public)
    trusted = device.since is None or row.serial < device.since
    for record in reader.records():
        if isinstance(record, EventRecord):
            kind, data = record.kind, dict(record.data)
        elif isinstance(record, LabelRecord):
            kind, data = "label", {"ref": record.ref, "value": record.value, "by": record.by}
        elif isinstance(record, HoleRecord):
            kind, data = "hole", {"holes": [hole.to_json() for hole in record.holes]}
        else:
            continue
        if any(first <= record.sequence <= last for first, last in own):
            yield Entry(
                row.epoch, record.sequence, record.wall_ns, record.monotonic_ns, row.boot,
                row.bundle_version, kind, data, trusted,
            )  # fmt: skip


def _gaps(registry: Registry, device: DeviceRow) -> Iterator[str]:
    """Say which numbers of a chain are not here: declared lost, or still on their way.

    In spans, never one by one: a device that lies can name numbers without end.
    """
    lanes: dict[tuple[str, int], list[Span]] = {}
    for row in registry.segments(device.device, state=None):
        lanes.setdefault((row.epoch, row.lane), []).append((row.number, row.number))
    declared: dict[tuple[str, int], list[Span]] = {}
    for hole in registry.holes(device.device):
        span = (hole.number, max(hole.number, hole.upto))
        declared.setdefault((hole.epoch, hole.lane), []).append(span)
    for place, here in lanes.items():
        gaps = subtract([(1, max(here)[0])], here)
        lost = intersect(gaps, declared.get(place, []))
        found = [(span, "declared lost by the device") for span in lost]
        found += [(span, "not here yet") for span in subtract(gaps, lost)]
        for (first, last), state in sorted(found):
            numbers = f"{first}" if first == last else f"{first} to {last}"
            yield f"epoch {place[0]} {('PRIORITY', 'BULK')[place[1]]} {numbers}: {state}"
