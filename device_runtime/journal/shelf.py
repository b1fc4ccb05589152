"""The folder of segments: all state of the journal is derived from it.

File names are the index; a header is read when something inside is needed, and it wins.
"""

from __future__ import annotations

from pathlib import Path

from device_runtime.disk import Disk, sizes
from device_runtime.errors import FormatError, JournalDamagedError
from device_runtime.format.header import MAX_HEADER, TRAILER, open_header, read_trailer
from device_runtime.format.segment import SALVAGE, Header, Lane, Name
from device_runtime.record import NamedTuple

_FIRST_READ = 64 << 10


class SealedInfo(NamedTuple):
    """One sealed or salvaged segment on the device."""

    path: Path
    device: str
    epoch: str
    lane: Lane
    number: int
    uid: str
    first: int
    last: int
    hash: str
    previous: str
    bytes: int
    salvage: bool
    header: Header


def read_closed(disk: Disk, path: Path) -> tuple[Header, str]:
    """Return what a sealed file says about itself, and its hash; its content is not looked at.

    Raises:
        FormatError: Its header or trailer cannot be read.
    """
    with disk.open_read(path) as file:
        start = file.read(_FIRST_READ)
        try:
            header = _header(start)
        except FormatError:
            if len(start) < _FIRST_READ:
                raise
            header = _header(start + file.read(2 * MAX_HEADER))
        file.seek(max(0, file.seek(0, 2) - TRAILER.size))
        return header, read_trailer(file.read(TRAILER.size))[0].hex()


def _header(start: bytes) -> Header:
    """Return the header; the keys of a salvage stand in the one inside."""
    outer = open_header(start)
    if outer.header.kind != SALVAGE:
        return outer.header
    return outer.header._replace(keys=open_header(start[outer.end :]).header.keys)


class Shelf:
    """What lies in the folder.

    Attributes:
        folder: Where the segments lie.
        opens: Open segments (of crashed processes, or of this one).
        sizes: Every file of ours → bytes.
    """

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk, self.folder = disk, folder
        self.sizes: dict[Name, int] = {}
        self._infos: dict[Name, SealedInfo] = {}
        for text, size in sizes(disk, folder):
            name = Name.parse(text)
            if name is not None and name.suffix == "tmp":
                disk.unlink(folder / text)
            elif name is not None:
                self.sizes[name] = size
        self.used = sum(self.sizes.values())

    def path(self, name: Name) -> Path:
        """Return where a file lies."""
        return self.folder / name.text()

    def names(self, suffix: str) -> list[Name]:
        """Return the files of one kind, sorted by epoch, lane and number."""
        return sorted(name for name in self.sizes if name.suffix == suffix)

    def put(self, name: Name, size: int) -> None:
        """Note that a file is there with this size; what was known of its content is forgotten."""
        self.used += size - self.sizes.get(name, 0)
        self.sizes[name] = size
        self._infos.pop(name, None)

    def drop(self, name: Name) -> None:
        """Unlink a file; not durable before the folder is synced."""
        self.disk.unlink(self.path(name))
        self.used -= self.sizes.pop(name, 0)
        self._infos.pop(name, None)

    def set_aside(self, name: Name) -> None:
        """Rename a damaged file, so that nobody reads it again; the quota takes it first."""
        target = name._replace(suffix="damaged")
        self.disk.rename(self.path(name), self.path(target))
        self.put(target, self.sizes.get(name, 0))
        self.used -= self.sizes.pop(name, 0)
        self._infos.pop(name, None)

    def info(self, name: Name) -> SealedInfo:
        """Return what a sealed segment says about itself.

        Raises:
            JournalDamagedError: Its header or trailer cannot be read, or is another segment's.
        """
        known = self._infos.get(name)
        if known is not None:
            return known
        path = self.path(name)
        try:
            header, digest = read_closed(self.disk, path)
        except (FormatError, OSError) as error:
            raise JournalDamagedError(f"{name.text()} cannot be read: {error}") from None
        if (header.epoch, header.lane, header.number, header.uid) != name[:4]:
            raise JournalDamagedError(f"{name.text()} holds another segment")
        info = SealedInfo(
            path=path,
            device=header.device,
            epoch=header.epoch,
            lane=header.lane,
            number=header.number,
            uid=header.uid,
            first=header.first,
            last=header.last,
            hash=digest,
            previous=header.previous,
            bytes=self.sizes[name],
            salvage=header.kind == SALVAGE,
            header=header,
        )
        self._infos[name] = info
        return info

    def newest(self, epoch: str, lane: Lane) -> Name | None:
        """Return the newest sealed segment of a lane: it is never pruned or evicted."""
        names = [n for n in self.names("seg") if n.epoch == epoch and n.lane == lane]
        return names[-1] if names else None

    def top(self, epoch: str, lane: Lane) -> int:
        """Return the highest number that any file of a lane has; 0 if none."""
        numbers = [n.number for n in self.sizes if n.epoch == epoch and n.lane == lane]
        return max(numbers, default=0)
