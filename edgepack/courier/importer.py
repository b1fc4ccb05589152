"""Packs and held segments → archive and registry. Everything on a stick is hostile until verified.

Order: verify → decrypt → read through → archive (synced) → registry commit. Only what came to the
end of it is acknowledged. Invalid bytes go to quarantine; what is genuine and cannot be read yet
(no key, newer format, device not accepted) is held; nothing is thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device_runtime.clock import Clock
from device_runtime.courier.leave import pack_files, read_pack
from device_runtime.courier.stick import Stick
from device_runtime.disk import file_chunks, write_durable
from device_runtime.errors import (
    EdgepackError,
    FormatError,
    SegmentError,
    UndecryptableError,
    UnsupportedVersionError,
)
from device_runtime.format.segment import Header, Hole
from device_runtime.format.stick import PackedSegment, PackIndex
from device_runtime.format.strict import is_id
from edgepack.courier.forks import find_forks
from edgepack.courier.parse import Parsed, digests, parse
from edgepack.courier.quarantine import Quarantine
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import DeviceRow, HeldRow, HoleRow, Registry, SegmentRow, Span
from edgepack.spans import count, intersect, subtract
from edgepack.store.archive import Archive
from edgepack.workspace import Workspace


@dataclass(slots=True)
class Tally:
    """What an import brought.

    Attributes:
        segments: New segments.
        rows: Rows that no segment had brought before.
        labels: Labels likewise.
        records: All records likewise: rows, labels, events.
        duplicates: Segments that were here already.
        held: Segments that are newly held.
        quarantined: Files that are not valid.
        devices: Names of the devices that something came from.
        lines: One line for everything that a person should know.
        hashes: Hashes of all segments that lay on the stick, by device: they are acked again.
        done: Packs that the stick no longer needs.
    """

    segments: int = 0
    rows: int = 0
    labels: int = 0
    records: int = 0
    duplicates: int = 0
    held: int = 0
    quarantined: int = 0
    devices: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)


class Importer:
    """Imports for one sync.

    Args:
        ws: The workspace, locked by the caller.
        registry: Its registry.
        secrets: Journal keys by recipient id.
        clock: Says when something arrived.
        dry_run: Verify and count, change nothing.
        progress: Hears of the bytes of each segment.
    """

    def __init__(
        self,
        ws: Workspace,
        registry: Registry,
        secrets: Mapping[str, bytes],
        clock: Clock,
        *,
        dry_run: bool = False,
        progress: Progress = UNSEEN,
    ) -> None:
        self.ws = ws
        self.registry = registry
        self.archive = Archive(ws.archive, ws.disk)
        self.tally = Tally()
        self._secrets = secrets
        self._clock = clock
        self._arrived = clock.wall_ns()  # one stamp per sync: what came together (learn.arrival)
        self._dry_run = dry_run
        self._progress = progress
        self._quarantined = Quarantine(ws, registry, clock)

    # --- held --------------------------------------------------------------------------------

    def import_held(self) -> None:
        """Try again what was held: a device may be accepted, a key may be here by now."""
        for row in self.registry.held():
            device = self._device(row.device)
            path = self.ws.held / row.path
            if device is None or device.state == "pending" or not self.ws.disk.exists(path):
                continue
            try:
                data = self.ws.disk.read(path)
                parsed = parse(data, self._secrets, device.public)
            except (UndecryptableError, UnsupportedVersionError):
                continue
            except (SegmentError, FormatError) as error:
                self._quarantine(row.path.replace("/", "-"), file_chunks(self.ws.disk, path), error)
                self._forget_held(row, path)
                continue
            self._keep(device, [(parsed, data)])
            if not self._dry_run:
                self._forget_held(row, path)

    def _forget_held(self, row: HeldRow, path: Path) -> None:
        if not self._dry_run:
            self.registry.drop_held(row.hash)
            self.ws.disk.unlink(path)

    # --- packs -------------------------------------------------------------------------------

    def import_stick(self, stick: Stick) -> None:
        """Import every pack on a stick, device by device."""
        self._progress.begin("reading packs", sum(_size(stick, item) for item in _packs(stick)))
        for relative in _packs(stick):
            end = self._progress.done + _size(stick, relative)
            self._import_pack(stick, relative)
            self._progress.reach(end)

    def _import_pack(self, stick: Stick, relative: str) -> None:
        name = relative.rsplit("/", 1)[-1]
        try:
            index = read_pack(stick, relative)
        except UnsupportedVersionError as error:
            self.tally.lines.append(f"{name} stays on the stick: {error.what}; {error.next}")
            return
        except FormatError as error:
            self._bad_pack(stick, relative, error)
            return
        header = index.header
        device = self._device(header.device)
        if device is None:
            self.tally.lines.append(
                f"{name} stays on the stick: device {header.device[:8]} has never enrolled here"
            )
            return
        if not device.public.verify_both(index.signature, header.message):
            problem = SegmentError("its signature is not of the device that it names")
            self._bad_pack(stick, relative, problem)
            return
        self.tally.devices.add(device.name)
        self.tally.hashes.setdefault(device.device, set()).update(s.hash for s in header.segments)
        bad = self._import_segments(stick, relative, index, device)
        if bad is not None:
            self._bad_pack(stick, relative, bad)
        elif all(self.registry.segment(item.hash) for item in header.segments):
            self.tally.done.append(relative)

    def _import_segments(
        self, stick: Stick, relative: str, index: PackIndex, device: DeviceRow
    ) -> EdgepackError | None:
        """Import what is whole; return what is wrong with the rest, if anything is."""
        bad: EdgepackError | None = None
        held = {row.hash for row in self.registry.held(device.device)}
        good: list[tuple[Parsed, bytes]] = []
        for item, offset in zip(index.header.segments, index.offsets, strict=True):
            self._progress.add(item.size)
            if item.hash in held:
                continue
            known = self.registry.segment(item.hash)
            if known is not None and (self.archive.has(known) or known.state == "purged"):
                self.tally.duplicates += 1
                continue
            data = stick.read_at(relative, offset, item.size)
            try:
                parsed = self._read(device, index, item, data)
            except (SegmentError, FormatError) as error:
                bad = error
                continue
            if parsed is not None and known is not None:
                self._put_back(known, data)
            elif parsed is not None:
                good.append((parsed, data))
            if sum(len(data) for _, data in good) > 64 << 20:
                self._keep(device, good)
                good = []
        self._keep(device, good)
        return bad

    def _put_back(self, row: SegmentRow, data: bytes) -> None:
        """The archive had lost the file of a registered segment, and here it is again."""
        if not self._dry_run:
            self.archive.put(row.device, row.epoch, row.hash, data)
            self.archive.sync(row.device)
        self.tally.duplicates += 1
        self.tally.lines.append(f"archive/{row.path} was missing: put back from this stick")

    def _read(
        self, device: DeviceRow, index: PackIndex, item: PackedSegment, data: bytes
    ) -> Parsed | None:
        """Return what a segment holds; None when it is held instead.

        Raises:
            SegmentError: It is not what the pack's header says, or not valid.
            FormatError: It is no segment.
        """
        if len(data) != item.size or hashlib.sha256(data).hexdigest() != item.sha256:
            raise SegmentError(f"segment {item.number} in it was damaged on its way")
        if device.state == "pending":
            self._hold(device, item, data, f"device {device.name} is not accepted yet")
            return None
        try:
            parsed = parse(data, self._secrets, device.public)
        except (UndecryptableError, UnsupportedVersionError) as error:
            self._hold(device, item, data, error.what)
            return None
        place = (parsed.header.epoch, int(parsed.header.lane), parsed.header.number, parsed.hash)
        if place != (index.header.epoch, index.header.lane, item.number, item.hash):
            raise SegmentError(f"segment {item.number} in it is another than it says")
        return parsed

    # --- what becomes of a segment -----------------------------------------------------------

    def _keep(self, device: DeviceRow, found: Iterable[tuple[Parsed, bytes]]) -> None:
        """Archive, sync, register: the point from which a segment may be acknowledged."""
        found = list(found)
        paths: dict[str, str] = {}
        for parsed, data in found:
            if not self._dry_run and not self._is_buried(parsed):
                paths[parsed.hash] = self.archive.put(
                    device.device, parsed.header.epoch, parsed.hash, data
                )
        if paths:
            self.archive.sync(device.device)
        if self._dry_run:
            for parsed, _ in found:
                self._count(parsed, self._fresh(parsed))
            return
        with self.registry.commit():
            for parsed, data in found:
                self._register(device, parsed, data, paths.get(parsed.hash, ""))

    def _place(self, parsed: Parsed) -> tuple[str, str, str]:
        header = parsed.header
        return header.device, header.epoch, header.uid

    def _is_buried(self, parsed: Parsed) -> bool:
        stones = self.registry.buried(*self._place(parsed))
        return bool(stones) and not subtract(parsed.sequences, stones)

    def _fresh(self, parsed: Parsed) -> list[Span]:
        """Return the sequences that nothing has brought before and nobody has purged."""
        place = self._place(parsed)
        here = [(first, last) for first, last, _ in self.registry.spans_of(*place)]
        return subtract(parsed.sequences, [*here, *self.registry.buried(*place)])

    def _count(self, parsed: Parsed, fresh: list[Span]) -> None:
        self.tally.segments += 1
        self.tally.records += count(fresh)
        self.tally.rows += count(intersect(parsed.rows, fresh))
        self.tally.labels += count(intersect(parsed.labels, fresh))

    def _register(self, device: DeviceRow, parsed: Parsed, data: bytes, path: str) -> None:
        if self.registry.segment(parsed.hash):
            self.tally.duplicates += 1
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
            serial=self.registry.next_serial(),
            imported=self._arrived,
            path=path,
            state="imported" if path else "purged",
        )
        self.registry.add_segment(row, fresh)
        for sequence, hole in parsed.holes:
            self.registry.add_hole(_hole_row(header, sequence, hole))
        for reason in find_forks(self.registry, row, header):
            self._alarm("fork", device, header.epoch, f"{device.name} was copied: {reason}")
        self._count(parsed, fresh)

    def _compare(self, device: DeviceRow, parsed: Parsed, data: bytes) -> None:
        """Compare records that came before under the same id: they must say the same."""
        place = self._place(parsed)
        others: dict[str, list[Span]] = {}
        for first, last, digest in self.registry.spans_of(*place):
            others.setdefault(digest, []).append((first, last))
        for digest, spans in others.items():
            common = intersect(parsed.sequences, spans)
            known = self.registry.segment(digest)
            if not common or known is None:
                continue
            try:
                before = digests(self.archive.read(known), self._secrets, device.public, common)
                now = digests(data, self._secrets, device.public, common)
            except EdgepackError as error:  # its key was destroyed since, or its file is missing
                self.tally.lines.append(f"not compared with what came before: {error.what}")
                continue
            differing = [s for s in sorted(now) if before.get(s, now[s]) != now[s]]
            for sequence in differing:
                at = self._clock.wall_ns()
                self.registry.add_conflict(place, sequence, digest, parsed.hash, at)
            if differing:
                text = f"{device.name}: {len(differing)} records came twice with other content"
                self._alarm("conflict", device, parsed.hash, text)

    def _alarm(self, kind: str, device: DeviceRow, subject: str, text: str) -> None:
        if self.registry.alarm(kind, device.device, subject, text, self._clock.wall_ns()):
            self.tally.lines.append(f"ALARM {text}")

    def _hold(self, device: DeviceRow, item: PackedSegment, data: bytes, why: str) -> None:
        self.tally.held += 1
        if self._dry_run:
            return
        relative = f"{device.device}/{item.hash}.seg"
        path = self.ws.held / relative
        self.ws.disk.mkdir(path.parent)
        write_durable(self.ws.disk, path, data)
        self.ws.disk.fsync_dir(self.ws.held)
        now = self._clock.wall_ns()
        self.registry.put_held(HeldRow(item.hash, device.device, relative, why, now))
        line = f"held from {device.name}: {why}"
        if line not in self.tally.lines:
            self.tally.lines.append(line)

    def _device(self, device_id: str) -> DeviceRow | None:
        row = self.registry.find_device(device_id)
        return row if row is not None and row.device == device_id else None

    # --- quarantine --------------------------------------------------------------------------

    def _bad_pack(self, stick: Stick, relative: str, error: EdgepackError) -> None:
        self._quarantine(relative.replace("/", "-"), stick.chunks(relative), error)
        self.tally.done.append(relative)

    def _quarantine(self, name: str, chunks: Iterable[bytes], error: EdgepackError) -> None:
        """Set invalid bytes aside, bounded, and say one line."""
        self.tally.quarantined += 1
        short = name.rsplit("-", 4)
        line = f"quarantine: {'-'.join(short[-4:])[:60]}: {error.what[:200]}"
        self.tally.lines.append(line)
        if self._dry_run:
            return
        name = f"{self.tally.quarantined:04d}-{name[-120:]}"
        self._quarantined.add(name, chunks, line)


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


def _packs(stick: Stick) -> Iterator[str]:
    for folder in stick.folders("logs"):
        if is_id(folder):
            yield from pack_files(stick, folder)


def _size(stick: Stick, relative: str) -> int:
    """Return the bytes of a file for whoever watches; what is wrong with it, reading it tells."""
    path = stick.path(relative)
    try:
        return 0 if path is None else stick.disk.size(path)
    except OSError:
        return 0


def clean_stick(stick: Stick, done: Iterable[str]) -> int:
    """Remove packs that were registered or set aside; return how many went.

    Without this a full stick would stop the loop for good.
    """
    removed = 0
    for relative in done:
        stick.remove(relative)
        removed += 1
    return removed
