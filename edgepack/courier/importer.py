"""Packs and held segments are judged. Everything on a stick is hostile until verified.

Order: verify → decrypt → read through → the registrar. Only what came to the end of it is
acknowledged. Invalid bytes go to quarantine; what is genuine and cannot be read yet (no key, newer
format, device not accepted) is held; nothing is thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
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
from device_runtime.format.stick import PackedSegment, PackIndex
from device_runtime.format.strict import is_id
from edgepack.courier.parse import Parsed, parse
from edgepack.courier.quarantine import Quarantine
from edgepack.courier.registrar import Registrar
from edgepack.courier.tally import Tally
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import DeviceRow, HeldRow, Registry
from edgepack.workspace import Workspace


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
        self.tally = Tally()
        self._secrets = secrets
        self._clock = clock
        self._dry_run = dry_run
        self._progress = progress
        self._registrar = Registrar(ws, registry, secrets, clock, self.tally, dry_run=dry_run)
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
            self._registrar.keep(device, [(parsed, data)])
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
            if known is not None and not self._registrar.is_lost(known):
                self.tally.duplicates += 1
                continue
            data = stick.read_at(relative, offset, item.size)
            try:
                parsed = self._read(device, index, item, data)
            except (SegmentError, FormatError) as error:
                bad = error
                continue
            if parsed is not None and known is not None:
                self._registrar.put_back(known, data)
            elif parsed is not None:
                good.append((parsed, data))
            if sum(len(data) for _, data in good) > 64 << 20:
                self._registrar.keep(device, good)
                good = []
        self._registrar.keep(device, good)
        return bad

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
