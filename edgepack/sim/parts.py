"""What a world is made of: steps, machines, sticks, and the places where disks were copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepack.sim.actors import SimDevice
from edgepack.sim.disk import SimDisk

HOME = Path("/dev/home")


class BrokenError(AssertionError):
    """A promise does not hold; the seed that shows it is worth keeping as a test."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes:
        what: Name of a method of `World` without its underscore.
        a: Chooses the device.
        b: Chooses the stick, or a variant.
        seed: For whatever chance the step needs.
        fuse: It is cut off after so many calls to the disk; None: it is not.
        kind: `power`, `process`, `pull`, or `eio`: that call fails once.
    """

    what: str
    a: int = 0
    b: int = 0
    seed: int = 0
    fuse: int | None = None
    kind: str = "power"


@dataclass
class Machine:
    """A physical device: a disk with a home on it, and a name that clones share."""

    device: SimDevice
    disk: SimDisk
    phys: int
    disk_id: str


@dataclass
class Split:
    """Two machines went on from one disk: both branches must be noticed at the base."""

    device_id: str
    one: int
    other: int
    born: int


@dataclass
class Carried:
    """A stick and what the base last put on it."""

    disk: SimDisk
    policy: bool = False


def every_file(disk: SimDisk, folder: Path) -> list[Path]:
    """Return every file below a folder."""
    found: list[Path] = []
    for name in disk.list(folder):
        path = folder / name
        if disk.kind(path) == "dir":
            found += every_file(disk, path)
        elif disk.kind(path) == "file":
            found.append(path)
    return found


def files_on(disk: SimDisk, folder: Path) -> list[Path]:
    """Return the packs, acks and JSON files on a stick."""
    return [p for p in every_file(disk, folder) if p.suffix in (".segs", ".ack", ".json")]
