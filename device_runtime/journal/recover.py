"""What a start does with the segments of processes that are gone: any tail, any byte.

For each open segment, oldest first:
1. its sealed form is there, whole, and has as many records: make the rename durable, then unlink
   the open one;
2. nothing was journaled into it: unlink it;
3. nothing of it can be read: a HOLE `damaged`, and only then the file is set aside;
4. else a salvage seal, chained like any other.
"""

from __future__ import annotations

from collections.abc import Collection

from device_runtime.crypt import Identity, sha256
from device_runtime.errors import FormatError, JournalDamagedError
from device_runtime.format.header import PREFIX, TRAILER, read_trailer
from device_runtime.format.segment import Hole, Name
from device_runtime.journal.seal import OpenFile, salvage
from device_runtime.journal.shelf import Shelf
from device_runtime.record import dataclass, field


@dataclass(slots=True)
class Recovered:
    """What recovery found.

    Attributes:
        salvaged: Segments that were sealed for a process that is gone.
        holes: Losses to declare, durably, ...
        aside: ... before these files may be set aside.
    """

    salvaged: int = 0
    holes: list[Hole] = field(default_factory=list)
    aside: list[Name] = field(default_factory=list)


def recover(shelf: Shelf, identity: Identity, alive: Collection[Name] = ()) -> Recovered:
    """Bring the folder into order.

    Args:
        shelf: The folder.
        identity: Signs the salvages.
        alive: Open segments of this very process.

    Raises:
        OSError: The disk is full or failing; what is left is recovered by the next call.
    """
    result = Recovered()
    for name in shelf.names("open"):
        if name not in alive and not _twin(shelf, name):
            _close(shelf, name, identity, result)
    return result


def _twin(shelf: Shelf, name: Name) -> bool:
    """Whether the sealed form is there; then the open one goes.

    The sealed file itself was synced before its rename; the rename may live in memory only.
    """
    sealed = name._replace(suffix="seg")
    if sealed not in shelf.sizes:
        return False
    data = shelf.disk.read(shelf.path(sealed))
    try:
        last = shelf.info(sealed).last
        whole = sha256(memoryview(data)[: -TRAILER.size]) == read_trailer(data)[0]
    except (FormatError, JournalDamagedError):
        last, whole = -1, False
    if not whole:
        shelf.set_aside(sealed)
        return False
    if next_in(shelf, name) > last + 1:
        return False  # a HOLE was declared in it to make room for a second try: seal it once more
    shelf.disk.fsync_dir(shelf.folder)
    shelf.drop(name)
    return True


def next_in(shelf: Shelf, name: Name) -> int:
    """Return the sequence after the last record of a segment; -1 if it cannot be read."""
    try:
        if name.suffix != "open":
            return shelf.info(name).last + 1
        file = OpenFile.read(shelf.disk.read(shelf.path(name)))
    except (FormatError, JournalDamagedError, OSError):
        return -1
    return file.opened.header.first + file.scan.next_offset


def _close(shelf: Shelf, name: Name, identity: Identity, result: Recovered) -> None:
    data = shelf.disk.read(shelf.path(name))
    try:
        file = OpenFile.read(data)
    except FormatError:
        if len(data) < PREFIX.size or not data.strip(b"\0"):
            shelf.drop(name)  # torn at its creation: nothing was ever in it
        else:
            result.aside.append(name)
            result.holes.append(Hole("damaged", *name[:4]))
        return
    if not file.scan.frames:
        if file.scan.torn:
            result.aside.append(name)
            result.holes.append(Hole("damaged", *name[:4]))
        else:
            shelf.drop(name)
        return
    previous = previous_of(shelf, name) or file.opened.header.previous
    info = salvage(shelf, name, file, identity=identity, previous=previous)
    result.salvaged += 1
    result.holes += [
        Hole("damaged", *name[:4], info.hash, first, last, last - first + 1)
        for first, last in info.header.skipped
    ]


def previous_of(shelf: Shelf, name: Name) -> str:
    """Return the hash of the sealed segment before this one, empty if it is not there."""
    before = (name.epoch, name.lane, name.number - 1)
    found = [other for other in shelf.sizes if other[:3] == before and other.suffix == "seg"]
    try:
        return shelf.info(min(found)).hash if found else ""
    except JournalDamagedError:
        return ""
