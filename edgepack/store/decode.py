"""Archived segments → record batches of rows, and the labels and events that lie between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from device_runtime.errors import EdgepackError
from device_runtime.format import canonical
from device_runtime.journal.reader import (
    EventRecord,
    LabelRecord,
    RowBlock,
    SketchRecord,
    open_segment,
)
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import Registry, SegmentRow
from edgepack.store.arrow import Origin, to_batches


@dataclass(slots=True)
class Side:
    """Rows for the table of labels or events.

    Attributes:
        schema: Of that table.
        after: Serial that it has already; segments up to it are skipped.
        rows: What is to be appended.
    """

    schema: pa.Schema
    after: int
    rows: list[dict[str, Any]] = field(default_factory=list)


class Source:
    """Decodes segments of the archive.

    Args:
        registry: Knows the device's keys and which sequences a segment is the first to bring.
        archive: Gives the bytes of a segment.
        secrets: Journal keys by recipient id.
        notes: Where to say what could not be read.
        progress: Hears of the bytes of each segment.
    """

    def __init__(
        self,
        registry: Registry,
        archive: Any,
        secrets: Mapping[str, bytes],
        notes: list[str],
        progress: Progress = UNSEEN,
    ) -> None:
        self._registry = registry
        self._archive = archive
        self._secrets = dict(secrets)
        self._notes = notes
        self._progress = progress

    def decode(
        self, segments: Sequence[SegmentRow], sides: Mapping[str, Side]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of these segments; put labels and events aside.

        A segment that cannot be read any more is noted and left out: the rest goes on.
        """
        for segment in segments:
            yield from self._one(segment, sides)
            self._progress.add(segment.bytes)

    def _one(self, segment: SegmentRow, sides: Mapping[str, Side]) -> Iterator[pa.RecordBatch]:
        try:
            reader = open_segment(
                self._archive.read(segment),
                secrets=self._secrets,
                device=self._registry.device(segment.device).public,
            )
            spans = self._registry.spans(segment.hash)
            origin = Origin(
                device=segment.device,
                epoch=segment.epoch,
                uid=segment.uid,
                lane=segment.lane,
                bundle_version=segment.bundle_version,
                bundle=segment.bundle_digest,
                serial=segment.serial,
            )
            for record in reader.records():
                if isinstance(record, RowBlock):
                    yield from to_batches(record, reader.header.layout, origin, spans)
                elif any(first <= record.sequence <= last for first, last in spans):
                    _put_aside(record, segment, reader.header.boot_id, sides)
        except EdgepackError as error:
            self._notes.append(f"segment {segment.hash[:12]} cannot be read: {error.what}")


def _put_aside(record: Any, segment: SegmentRow, boot: str, sides: Mapping[str, Side]) -> None:
    common = {
        "_device": segment.device,
        "_epoch": segment.epoch,
        "_uid": segment.uid,
        "_sequence": record.sequence,
        "_serial": segment.serial,
        "_wall": record.wall_ns,
    }
    if isinstance(record, LabelRecord):
        side = sides["labels"]
        row = {
            "ref": record.ref,
            "by": record.by,
            "value": value_text(record.value),
            "source": record.source,
            "observed": record.observed_wall_ns,
        }
    else:
        side = sides["events"]
        kind, data = _event(record)
        row = {
            "_monotonic": record.monotonic_ns,
            "_boot": boot,
            "kind": kind,
            "data": data,
            "_bundle": segment.bundle_digest,
            "_bundle_version": segment.bundle_version,
        }
    if segment.serial > side.after:
        side.rows.append({**common, **row})


def _event(record: Any) -> tuple[str, str]:
    if isinstance(record, EventRecord):
        return record.kind, canonical.encode(dict(record.data)).decode()
    if isinstance(record, SketchRecord):
        text = record.sketch.decode(errors="replace")
        return "sketch", f'{{"first":{record.first},"last":{record.last},"sketch":{text}}}'
    holes = [hole.to_json() for hole in record.holes]
    return "hole", canonical.encode({"holes": holes}).decode()


def value_text(value: Any) -> str:
    """Return a label's value as text: `true`, `3`, `3.5`, `wheat`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
