"""Where every record is: the books of a simulated world, kept from bytes alone.

A record's best state is the first of: imported at the base > on a device > on a stick > declared
lost by a HOLE. What is in none of them is *undeclared*, and that must never happen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from device_runtime.courier.leave import pack_files, read_pack, whole_segments
from device_runtime.courier.stick import Stick
from device_runtime.disk import Disk
from device_runtime.errors import FormatError
from device_runtime.format.header import open_header
from device_runtime.format.segment import Header, Hole, Lane
from device_runtime.journal.seal import OpenFile
from edgepack.registry import Registry

Id = str
"""`device/epoch/uid/sequence`."""


@dataclass
class Found:
    """Records and declared losses that were found in one place.

    Attributes:
        ids: Records.
        holes: (device id, HOLE).
        uids: Segment uids.
    """

    ids: set[Id] = field(default_factory=set)
    holes: list[tuple[str, Hole]] = field(default_factory=list)
    uids: set[str] = field(default_factory=set)

    def add(self, other: Found) -> None:
        """Take over what another place has."""
        self.ids |= other.ids
        self.holes += other.holes
        self.uids |= other.uids


def on_device(disk: Disk, journal: Path) -> Found:
    """Read every segment in a device's journal, open ones too."""
    found = Found()
    for name in disk.list(journal):
        data = disk.read(journal / name) if name.endswith((".seg", ".open")) else b""
        found.add(_in_file(data, name.endswith(".seg")))
    return found


@lru_cache(maxsize=4096)
def _in_file(data: bytes, closed: bool) -> Found:
    """Read one file of a journal; the same bytes need not be read twice."""
    found = Found()
    try:
        if closed:
            _closed(found, open_header(data).header)
        elif data:
            _open(found, OpenFile.read(data))
    except FormatError:
        pass
    return found


def on_stick(disk: Disk, mount: Path) -> Found:
    """Read every whole segment on a stick."""
    found = Found()
    if disk.kind(mount / "EDGEPACK") != "dir":
        return found
    with Stick.open(mount, disk, write=False) as stick:
        for device in stick.folders("logs"):
            for relative in pack_files(stick, device):
                try:
                    index = read_pack(stick, relative)
                except FormatError:
                    continue
                places = dict(zip(index.header.segments, index.offsets, strict=True))
                for item in whole_segments(stick, relative, index):
                    found.add(_in_file(stick.read_at(relative, places[item], item.size), True))
    return found


def at_base(registry: Registry, held: Path, disk: Disk) -> tuple[set[Id], Found]:
    """Return the imported ids, each exactly once, and what is held.

    Raises:
        AssertionError: A record was imported twice.
    """
    imported: set[Id] = set()
    rest = Found()
    for row in registry.segments():
        for first, last in registry.spans(row.hash):
            ids = _ids(row.device, row.epoch, row.uid, range(first, last + 1))
            if not imported.isdisjoint(ids):
                message = "a record was imported twice"
                raise AssertionError(message)
            imported |= ids
    for hole in registry.holes():
        place = (hole.reason, hole.epoch, Lane(hole.lane), hole.number, hole.uid, hole.hash)
        rest.holes.append((hole.device, Hole(*place, hole.first, hole.last)))
    for row_held in registry.held():
        path = held / row_held.path
        if disk.exists(path):
            rest.add(_in_file(disk.read(path), True))
    return imported, rest


def declared(ids: Iterable[Id], lanes: dict[Id, int], holes: list[tuple[str, Hole]]) -> set[Id]:
    """Return which of these records some HOLE declares lost."""
    return {
        item
        for item in ids
        if any(_covers(item, lanes.get(item, 1), device, hole) for device, hole in holes)
    }


def _covers(item: Id, lane: int, device: str, hole: Hole) -> bool:
    its_device, epoch, uid, sequence = item.split("/")
    if (its_device, epoch, lane) != (device, hole.epoch, int(hole.lane)):
        return False
    if hole.uid and hole.uid != uid:
        return False
    if hole.first < 0:
        return hole.uid == uid
    return hole.first <= int(sequence) <= hole.last


def _ids(device: str, epoch: str, uid: str, sequences: Iterable[int]) -> set[Id]:
    return {f"{device}/{epoch}/{uid}/{sequence}" for sequence in sequences}


def _closed(found: Found, header: Header) -> None:
    found.uids.add(header.uid)
    missing = {s for a, b in header.skipped for s in range(a, b + 1)}
    sequences = (s for s in range(header.first, header.last + 1) if s not in missing)
    found.ids |= _ids(header.device, header.epoch, header.uid, sequences)
    found.holes += [(header.device, hole) for hole in header.holes]


def _open(found: Found, file: OpenFile) -> None:
    header = file.opened.header
    found.uids.add(header.uid)
    for frame in file.scan.frames:
        first = header.first + frame.offset
        sequences = range(first, first + frame.n)
        found.ids |= _ids(header.device, header.epoch, header.uid, sequences)
    found.holes += [(header.device, hole) for hole in file.holes()]
