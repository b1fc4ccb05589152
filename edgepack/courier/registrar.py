"""A verified segment → archive and registry, exactly once: what was brought before is not counted.

Order: archive (synced) → registry commit. After it a segment may be acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from device_runtime.clock import Clock
from device_runtime.errors import EdgepackError
from device_runtime.format.segment import Header, Hole
from edgepack.courier.forks import find_forks
from edgepack.courier.parse import Parsed, digests
from edgepack.courier.tally import Tally
from edgepack.registry import DeviceRow, HoleRow, Registry, SegmentRow, Span
from edgepack.spans import count, intersect, subtract
from edgepack.store.archive import Archive
from edgepack.workspace import Workspace


class Registrar:
    """Keeps what one sync brings.

    Args:
        ws: The workspace, locked by the caller.
        registry: Its registry.
        secrets: Journal keys by recipient id.
        clock: Says when something arrived.
        tally: Where it is counted.
        dry_run: Count, change nothing.
    """

    def __init__(
        self,
        ws: Workspace,
        registry: Registry,
        secrets: Mapping[str, bytes],
        clock: Clock,
        tally: Tally,
        *,
        dry_run: bool = False,
    ) -> None:
        self._registry = registry
        self._archive = Archive(ws.archive, ws.disk)
        self._secrets = secrets
        self._clock = clock
        self._arrived = clock.wall_ns()  # one stamp per sync: what came together (learn.arrival)
        self._tally = tally
        self._dry_run = dry_run

    def keep(self, device: DeviceRow, found: Iterable[tuple[Parsed, bytes]]) -> None:
        """Archive, sync, register: the point from which a segment may be acknowledged."""
        found = list(found)
        paths: dict[str, str] = {}
        for parsed, data in found:
            if not self._dry_run and not self._is_buried(parsed):
                paths[parsed.hash] = self._archive.put(
                    device.device, parsed.header.epoch, parsed.hash, data
                )
        if paths:
            self._archive.sync(device.device)
        if self._dry_run:
            for parsed, _ in found:
                self._count(parsed, self._fresh(parsed))
            return
        with self._registry.commit():
            for parsed, data in found:
                self._register(device, parsed, data, paths.get(parsed.hash, ""))

    def is_lost(self, row: SegmentRow) -> bool:
        """Whether the archive lacks the file of a registered segment that was not purged."""
        return not (self._archive.has(row) or row.state == "purged")

    def put_back(self, row: SegmentRow, data: bytes) -> None:
        """The archive had lost the file of a registered segment, and here it is again."""
        if not self._dry_run:
            self._archive.put(row.device, row.epoch, row.hash, data)
            self._archive.sync(row.device)
        self._tally.duplicates += 1
        self._tally.lines.append(f"archive/{row.path} was missing: put back from this stick")

    def _is_buried(self, parsed: Parsed) -> bool:
        stones = self._registry.buried(*_place(parsed))
        return bool(stones) and not subtract(parsed.sequences, stones)

    def _fresh(self, parsed: Parsed) -> list[Span]:
        """Return the sequences that nothing has brought before and nobody has purged."""
        place = _place(parsed)
        here = [(first, last) for first, last, _ in self._registry.spans_of(*place)]
        return subtract(parsed.sequences, [*here, *self._registry.buried(*place)])

    def _count(self, parsed: Parsed, fresh: list[Span]) -> None:
        self._tally.segments += 1
        self._tally.records += count(fresh)
        self._tally.rows += count(intersect(parsed.rows, fresh))
        self._tally.labels += count(intersect(parsed.labels, fresh))

    def _register(self, device: DeviceRow, parsed: Parsed, data: bytes, path: str) -> None:
        if self._registry.segment(parsed.hash):
            self._tally.duplicates += 1
            return
        header = parsed.header
        fresh = self._fresh(parsed)
        self._compare(device, parsed, data)
        row = SegmentRow(
            hash=parsed.hash,
            device=header.device,
            epoch=header.epoch,
            lane=int(header.lane),
            number=header.number,
            uid=header.uid,
            first=header.first,
            last=header.last,
            previous=header.previous,
            bundle_name=header.bundle_name,
            bundle_version=header.bundle_version,
            bundle_digest=header.bundle_digest,
            boot=header.boot_id,
            created_wall=header.wall_ns,
            bytes=parsed.size,
            salvage=header.reason == "crash",
            rows=count(fresh),
            serial=self._registry.next_serial(),
            imported=self._arrived,
            path=path,
            state="imported" if path else "purged",
        )
        self._registry.add_segment(row, fresh)
        for sequence, hole in parsed.holes:
            self._registry.add_hole(_hole_row(header, sequence, hole))
        for reason in find_forks(self._registry, row, header):
            self._alarm("fork", device, header.epoch, f"{device.name} was copied: {reason}")
        self._count(parsed, fresh)

    def _compare(self, device: DeviceRow, parsed: Parsed, data: bytes) -> None:
        """Compare records that came before under the same id: they must say the same."""
        place = _place(parsed)
        others: dict[str, list[Span]] = {}
        for first, last, digest in self._registry.spans_of(*place):
            others.setdefault(digest, []).append((first, last))
        for digest, spans in others.items():
            common = intersect(parsed.sequences, spans)
            known = self._registry.segment(digest)
            if not common or known is None:
                continue
            try:
                before = digests(self._archive.read(known), self._secrets, device.public, common)
                now = digests(data, self._secrets, device.public, common)
            except EdgepackError as error:  # its key was destroyed since, or its file is missing
                self._tally.lines.append(f"not compared with what came before: {error.what}")
                continue
            differing = [s for s in sorted(now) if before.get(s, now[s]) != now[s]]
            for sequence in differing:
                at = self._clock.wall_ns()
                self._registry.add_conflict(place, sequence, digest, parsed.hash, at)
            if differing:
                text = f"{device.name}: {len(differing)} records came twice with other content"
                self._alarm("conflict", device, parsed.hash, text)

    def _alarm(self, kind: str, device: DeviceRow, subject: str, text: str) -> None:
        if self._registry.alarm(kind, device.device, subject, text, self._clock.wall_ns()):
            self._tally.lines.append(f"ALARM {text}")


def _place(parsed: Parsed) -> tuple[str, str, str]:
    header = parsed.header
    return header.device, header.epoch, header.uid


def _hole_row(header: Header, sequence: int, hole: Hole) -> HoleRow:
    by = f"{header.uid}/{sequence}"
    key = f"{hole.epoch}/{int(hole.lane)}/{hole.number}/{hole.uid}/{hole.first}/{hole.last}"
    return HoleRow(
        device=header.device,
        epoch=hole.epoch,
        uid=hole.uid,
        first=hole.first,
        last=hole.last,
        lane=int(hole.lane),
        number=hole.number,
        hash=hole.hash,
        reason=hole.reason,
        declared_by=by,
        count=hole.count,
        upto=hole.upto,
        key=key if hole.number else f"{key}/{by}",  # a loss without a segment is told once
    )
