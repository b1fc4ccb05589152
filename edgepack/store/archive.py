"""Sealed segments exactly as they came home: `archive/<device>/<epoch>-<hash>.seg`.

What an ack lists lies here, synced with its folder. Nothing is ever rewritten; only a purge (with
its tombstone written first) removes a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from device_runtime.crypt import sha256
from device_runtime.disk import Disk, write_all, write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.header import TRAILER, read_trailer
from device_runtime.format.strict import is_id
from edgepack.errors import StoreError
from edgepack.registry import Registry, SegmentRow, Tombstone

TOMBSTONES = "tombstones.ndjson"
BACKUP_MARK = "backup.json"


def archive_path(device: str, epoch: str, digest: str) -> str:
    """Return where a segment lies below `archive/`."""
    return f"{device}/{epoch}-{digest}.seg"


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive of a workspace.

    Attributes:
        root: The folder `archive/`.
        disk: What makes it durable.
    """

    root: Path
    disk: Disk

    def put(self, device: str, epoch: str, digest: str, data: bytes) -> str:
        """Write one segment and sync the file; `sync` of its device makes the name durable.

        Returns:
            Its path relative to `archive/`, for `SegmentRow.path`.
        """
        relative = archive_path(device, epoch, digest)
        path = self.root / relative
        temporary = path.with_suffix(".tmp")
        self.disk.mkdir(path.parent)
        self.disk.unlink(temporary)
        handle = self.disk.create(temporary)
        try:
            write_all(handle, data)
            handle.sync()
        finally:
            handle.close()
        self.disk.rename(temporary, path)
        return relative

    def sync(self, device: str) -> None:
        """Make every `put` for a device survive a power cut."""
        self.disk.fsync_dir(self.root / device)
        self.disk.fsync_dir(self.root)

    def read(self, row: SegmentRow, *, whole: bool = False) -> bytes:
        """Return the bytes of a registered segment.

        Args:
            row: Which one.
            whole: Hash all of it; whoever opens it with the device's key does so anyway.

        Raises:
            StoreError: It was purged, is missing, or is not what was archived.
        """
        if not row.path:
            raise StoreError(f"segment {row.hash[:12]} was purged")
        try:
            data = self.disk.read(self.root / row.path)
            found = read_trailer(data)[0].hex()
        except (OSError, FormatError) as error:
            raise StoreError(
                f"archive/{row.path} cannot be read: {error}",
                why="an acknowledged segment must never be missing",
                next="restore it from the newest backup, then run: edgepack store check",
            ) from None
        if found != row.hash:
            raise StoreError(f"archive/{row.path} is not the segment that was archived")
        if whole and sha256(memoryview(data)[: -TRAILER.size]).hex() != row.hash:
            raise StoreError(
                f"archive/{row.path} is damaged: its hash does not hold",
                why="the disk of this base is failing, or somebody changed the file",
                next="put the file of the newest backup in its place, or remove it and sync a"
                " stick that still carries it",
            )
        return data

    def find(self, digest: str) -> Path | None:
        """Return where a segment lies, by its hash, without the registry."""
        return next((path for path in self.paths() if path.stem.endswith(digest)), None)

    def paths(self) -> Iterator[Path]:
        """Give every archived file."""
        for device in self.disk.list(self.root):
            if is_id(device):
                for name in self.disk.list(self.root / device):
                    if name.endswith(".seg"):
                        yield self.root / device / name

    def has(self, row: SegmentRow) -> bool:
        """Whether the file of a registered segment is there."""
        return bool(row.path) and self.disk.exists(self.root / row.path)


# --- tombstones: outside registry and backup, so that a restore cannot bring back what was purged


def read_tombstones(disk: Disk, folder: Path) -> list[Tombstone]:
    """Return what was ever purged.

    Raises:
        StoreError: The file is damaged.
    """
    path = folder / TOMBSTONES
    if not disk.exists(path):
        return []
    try:
        return [Tombstone(**json.loads(line)) for line in disk.read(path).splitlines()]
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged: {error}", next="restore it from the newest backup"
        ) from None


def add_tombstones(disk: Disk, folder: Path, stones: Sequence[Tombstone]) -> None:
    """Add to what was purged, durably; what stands there already is not repeated."""
    known = read_tombstones(disk, folder)
    merged = list(dict.fromkeys([*known, *stones]))
    if merged != known:
        lines = b"".join(canonical.encode(asdict(stone)) + b"\n" for stone in merged)
        write_durable(disk, folder / TOMBSTONES, lines)


def drop_buried(disk: Disk, root: Path, stones: Sequence[Tombstone]) -> None:
    """Remove what was purged from an archive or a copy of one, after its tombstones are durable."""
    for stone in stones:
        path = root / archive_path(stone.device, stone.epoch, stone.hash)
        if disk.exists(path):
            disk.unlink(path)
            disk.fsync_dir(path.parent)


def purge(
    disk: Disk, workspace: Path, archive: Archive, registry: Registry, rows: Sequence[SegmentRow]
) -> list[Tombstone]:
    """Remove segments and their records for good: tombstones first, then registry, then files.

    Every form of a segment uid goes with it. The acks go on listing them, and no stick, backup or
    clone can bring the records back. The view still has the rows: rebuild it. What a purge that was
    cut off has left behind goes with the next one.
    """
    rows = list(
        {
            form.hash: form
            for row in rows
            for form in registry.forms(row.device, row.epoch, row.uid)
        }.values()
    )
    stones = [
        Tombstone(row.hash, row.device, row.epoch, row.uid, row.first, row.last) for row in rows
    ]
    add_tombstones(disk, workspace, stones)
    backup = Path(registry.get("backup_folder") or "/nowhere")
    if disk.exists(backup / BACKUP_MARK):
        add_tombstones(disk, backup, stones)
        drop_buried(disk, backup / "archive", stones)
    buried = read_tombstones(disk, workspace)
    registry.bury(buried)
    drop_buried(disk, archive.root, buried)
    return stones
