"""What a start does with the segments of processes that are gone: any tail, any byte.

For each open segment, oldest first:
1. its sealed form is there and whole: make the rename durable, then unlink the open one;
2. nothing was journaled into it: unlink it;
3. its header cannot be read: a HOLE `damaged`, and the file is set aside;
4. else a salvage seal, chained like any other.
"""

from __future__ import annotations

from device_runtime.crypt import Identity, sha256
from device_runtime.errors import FormatError, JournalDamagedError
from device_runtime.format.segment import PREFIX, TRAILER, Hole, Name, read_trailer
from device_runtime.journal.seal import OpenFile, salvage
from device_runtime.journal.shelf import Shelf


def recover(shelf: Shelf, identity: Identity) -> list[Hole]:
    """Bring the folder into order; return the losses that must be declared.

    Raises:
        OSError: The disk is full or failing; what is left is recovered by the next call.
    """
    holes: list[Hole] = []
    for name in shelf.names("open"):
        if not _twin(shelf, name):
            holes += _close(shelf, name, identity)
    return holes


def _twin(shelf: Shelf, name: Name) -> bool:
    """Whether the sealed form is there; then the open one goes.

    The sealed file itself was synced before its rename; the rename may live in memory only.
    """
    sealed = name._replace(suffix="seg")
    if sealed not in shelf.sizes:
        return False
    data = shelf.disk.read(shelf.path(sealed))
    try:
        shelf.info(sealed)
        whole = sha256(memoryview(data)[: -TRAILER.size]) == read_trailer(data)[0]
    except (FormatError, JournalDamagedError):
        whole = False
    if whole:
        shelf.disk.fsync_dir(shelf.folder)
        shelf.drop(name)
    else:
        shelf.set_aside(sealed)
    return whole


def _close(shelf: Shelf, name: Name, identity: Identity) -> list[Hole]:
    data = shelf.disk.read(shelf.path(name))
    try:
        file = OpenFile.read(data)
    except FormatError:
        if not data.strip(b"\0") or len(data) < PREFIX.size:
            shelf.drop(name)  # torn at its creation: nothing was ever in it
            return []
        shelf.set_aside(name)
        return [Hole("damaged", name.epoch, name.lane, name.number, name.uid)]
    if not file.scan.frames:
        shelf.drop(name)
        torn = file.scan.torn > 0
        return [Hole("damaged", name.epoch, name.lane, name.number, name.uid)] if torn else []
    header = file.opened.header
    info = salvage(
        shelf, name, file, identity=identity, previous=previous_of(shelf, name) or header.previous
    )
    return [
        Hole("damaged", info.epoch, info.lane, info.number, info.uid, "", a, b, b - a + 1)
        for a, b in info.header.skipped
    ]


def previous_of(shelf: Shelf, name: Name) -> str:
    """Return the hash of the sealed segment before this one, empty if it is not there."""
    for other in shelf.names("seg"):
        if other[:3] == (name.epoch, name.lane, name.number - 1):
            try:
                return shelf.info(other).hash
            except JournalDamagedError:
                return ""
    return ""
