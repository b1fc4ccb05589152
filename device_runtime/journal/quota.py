"""What may leave the disk: acked segments, then damaged files, then the oldest BULK with a HOLE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import pairwise
from pathlib import Path

from device_runtime.disk import CHUNK, Disk
from device_runtime.errors import JournalDamagedError
from device_runtime.format.segment import Hole, Lane, Name
from device_runtime.journal.shelf import SealedInfo, Shelf
from device_runtime.record import NamedTuple, replace

MANY_HOLES = 512


class Usage(NamedTuple):
    """Where the quota stands, in bytes and records.

    Attributes:
        used: Bytes of all its files.
        evicted: Segments that this process evicted.
        unjournaled: Records that this process could not journal.
    """

    used: int
    evicted: int
    unjournaled: int


def victims(shelf: Shelf, epoch: str) -> list[Name]:
    """Return what may go, in order: BULK before PRIORITY, older epochs first, then by number.

    The newest sealed segment of each lane of this epoch stays: numbering must not restart. So does
    one whose open form could not be unlinked yet: recovery would seal that again.
    """
    stay = {shelf.newest(epoch, lane) for lane in Lane}
    stay.update(name._replace(suffix="seg") for name in shelf.names("open"))
    names = [name for name in shelf.names("seg") if name not in stay]
    return sorted(names, key=lambda n: (n.lane == Lane.PRIORITY, n.epoch == epoch, n.number, n))


def prune(shelf: Shelf, epoch: str, hashes: Collection[str]) -> list[SealedInfo]:
    """Unlink acked segments; return them."""
    gone: list[SealedInfo] = []
    for name in victims(shelf, epoch):
        try:
            info = shelf.info(name)
        except JournalDamagedError:
            continue  # the next read declares it
        if info.hash in hashes:
            shelf.drop(name)
            gone.append(info)
    if gone:
        shelf.disk.fsync_dir(shelf.folder)
    return gone


def evict(shelf: Shelf, name: Name, declare: Callable[[list[Hole]], None]) -> None:
    """Unlink one segment after its loss, and every HOLE inside it, is durably declared."""
    declare(holes_of(shelf, name))
    shelf.drop(name)
    shelf.disk.fsync_dir(shelf.folder)


def holes_of(shelf: Shelf, name: Name) -> list[Hole]:
    """Return what must be declared before a segment may go."""
    place = (name.epoch, name.lane, name.number, name.uid)
    try:
        info = shelf.info(name)
    except JournalDamagedError:
        return [Hole("damaged", *place)]
    own = Hole("evicted", *place, info.hash, info.first, info.last, info.header.records)
    return merge([*info.header.holes, own])


def merge(holes: Iterable[Hole]) -> list[Hole]:
    """Let one HOLE stand for neighbours once there are many: headers must stay bounded."""
    result = sorted(holes, key=lambda h: (h.epoch, h.lane, h.reason, h.number, h.first))
    if len(result) <= MANY_HOLES:
        return result
    merged = [result[0]]
    for before, hole in pairwise(result):
        last = merged[-1]
        same = (before.epoch, before.lane, before.reason) == (hole.epoch, hole.lane, hole.reason)
        if same and hole.number <= (last.upto or last.number) + 1 and last.last >= 0 <= hole.first:
            merged[-1] = replace(
                last,
                uid="",
                hash="",
                last=max(last.last, hole.last),
                count=-1 if min(last.count, hole.count) < 0 else last.count + hole.count,
                upto=hole.upto or hole.number,
            )
        else:
            merged.append(hole)
    return merged


class Reserve:
    """A file of zeros that is given up when the disk is full, so that seals still succeed."""

    def __init__(self, disk: Disk, folder: Path, size: int) -> None:
        self._disk, self._path, self._size = disk, folder / "reserve", size
        self.held = disk.exists(self._path)

    def hold(self) -> None:
        """Write the file if there is ample room; never fails."""
        if self.held or self._size <= 0:
            return
        try:
            if self._disk.free_bytes(self._path.parent) < 4 * self._size:
                return
            handle = self._disk.create(self._path)
            zeros = bytes(min(self._size, CHUNK))
            try:
                for _ in range(self._size // len(zeros)):
                    if handle.write(zeros) < len(zeros):
                        raise OSError
                handle.sync()
            finally:
                handle.close()
            self.held = True
        except OSError:
            self.release()

    def release(self) -> bool:
        """Give the room back; whether there was any."""
        try:
            self._disk.unlink(self._path)
        except OSError:
            return False
        held, self.held = self.held, False
        return held
