"""Backups, and what a restored base must do so that nothing is lost or comes back.

A backup is a folder: `registry.sqlite` (a consistent snapshot, taken first), `archive/` (copied
after it, so it holds at least what the snapshot names), `files/` (keys, recipes, candidates,
bundles, labels), `tombstones.ndjson`, and `backup.json`, which is written last and makes it one.
A second backup to the same folder copies only what is new. Tables are views and are not in it.

While a workspace has a backup, acks list only what the newest one holds: a device never deletes
what a restore could not bring back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.clock import Clock
from device_runtime.disk import Disk, RealDisk, file_chunks, write_all, write_durable
from device_runtime.errors import UsageError
from device_runtime.format import canonical
from edgepack.errors import StoreError
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import Registry
from edgepack.store.archive import BACKUP_MARK as MARK
from edgepack.store.archive import (
    TOMBSTONES,
    Archive,
    add_tombstones,
    drop_buried,
    read_tombstones,
)
from edgepack.workspace import Workspace, beside, new_root

FOLDERS = (
    "keys",
    "bundles",
    "candidates",
    "out",
    "kits",
    "labels",
    "metadata",
    "proposals",
    "held",
)
FILES = ("edgepack.toml",)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup holds.

    Attributes:
        folder: Where it lies.
        segments: Archived segments in it.
        copied: Files that were copied now.
        bytes: Bytes that were copied now.
        first: Whether it is the first of this workspace: acks change their custody.
    """

    folder: Path
    segments: int
    copied: int
    bytes: int
    first: bool


def backup(
    ws: Workspace, folder: Path, *, clock: Clock, progress: Progress = UNSEEN
) -> BackupResult:
    """Back a workspace up; from now on acks list what this backup holds.

    `progress` hears of every byte that is copied, or need not be.

    Raises:
        UsageError: The folder lies inside the workspace.
        StoreError: An archived segment is missing or damaged.
        BusyError: Another command is changing the workspace.
    """
    folder = folder.resolve()
    if ws.root == folder or ws.root in folder.parents:
        raise UsageError(f"{folder} lies inside the workspace", next="choose another disk")
    copier = _Copier(ws.disk, progress)
    ws.disk.mkdir(folder)
    with ws.lock(), Registry.open(ws.registry) as registry:
        snapshot = folder / "registry.new"
        ws.disk.unlink(snapshot)
        registry.snapshot(snapshot)
        rows = [row for row in registry.segments() if row.path]
        archive = Archive(ws.archive, ws.disk)
        files = [ws.root / name for name in (*FILES, *FOLDERS)]
        copier.expect([*(ws.archive / row.path for row in rows), *files])
        for row in rows:
            source, target = ws.archive / row.path, folder / "archive" / row.path
            if copier.alike(source, target):
                progress.add(row.bytes)
                continue
            archive.read(row, whole=True)  # a damaged one is no backup of anything
            copier.copy(source, target)
        for name in FILES:
            copier.copy(ws.root / name, folder / "files" / name)
        for name in FOLDERS:
            copier.tree(ws.root / name, folder / "files" / name)
        stones = read_tombstones(ws.disk, ws.root)
        add_tombstones(ws.disk, folder, stones)
        copier.settle()
        _sync_file(ws.disk, snapshot)
        ws.disk.rename(snapshot, folder / "registry.sqlite")
        ws.disk.fsync_dir(folder)
        facts = {
            "format": "edgepack-backup",
            "version": 1,
            "wall_ns": clock.wall_ns(),
            "generation": list(registry.base_generation()),
            "segments": len(rows),
        }
        write_durable(ws.disk, folder / MARK, canonical.encode(facts))
        drop_buried(ws.disk, folder / "archive", stones)
        first = registry.get("backup_at") == ""
        with registry.commit():
            registry.mark_backed(row.hash for row in rows)
            registry.set("backup_at", str(clock.wall_ns()))
            registry.set("backup_folder", str(folder))
    return BackupResult(folder, len(rows), copier.files, copier.bytes, first)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore brought back, and what it could not.

    Attributes:
        root: The new workspace.
        segments: Archived segments that came back.
        generation: The raised base generation: devices offer again what they still have.
        lines: What a person must know.
    """

    root: Path
    segments: int
    generation: tuple[int, str]
    lines: tuple[str, ...]


def restore(
    folder: Path,
    root: Path,
    *,
    lost: Path | None = None,
    disk: Disk | None = None,
    progress: Progress = UNSEEN,
) -> RestoreResult:
    """Make a workspace from a backup.

    Args:
        folder: The backup.
        root: A new or empty folder.
        lost: What is left of the workspace that is replaced: its tombstones, versions and
            generation count, where they can be read.
        disk: What the new workspace is written through.
        progress: Hears of every byte that is copied.

    Raises:
        StoreError: Not a whole backup.
        WorkspaceError: `root` is not empty.
    """
    disk = disk or RealDisk()
    facts = _facts(disk, folder)
    folder, root = folder.resolve(), new_root(root)
    with beside(root, disk) as part:
        kept, generation, lines = _bring_back(_Copier(disk, progress), folder, part, facts, lost)
    lines.append(
        "what was imported after the backup comes again from the devices, unless they had pruned "
        "it on the word of an older, archive-only ack or of a newer backup"
    )
    return RestoreResult(root, kept, generation, tuple(lines))


def _bring_back(
    copier: _Copier, folder: Path, root: Path, facts: dict[str, Any], lost: Path | None
) -> tuple[int, tuple[int, str], list[str]]:
    disk = copier.disk
    copier.expect([folder / name for name in ("files", "archive", "registry.sqlite")])
    disk.mkdir(root)
    for name in FOLDERS:
        copier.tree(folder / "files" / name, root / name)
    copier.tree(folder / "archive", root / "archive")
    copier.copy(folder / "registry.sqlite", root / "registry.sqlite")
    copier.settle()
    for name in ("archive", "held", "quarantine", "table", *FOLDERS):
        disk.mkdir(root / name)
    lines = [f"the backup is of {_date(int(facts['wall_ns']))}"]
    with Registry.open(root / "registry.sqlite") as registry:
        _apply_tombstones(disk, root, registry, [folder, *([lost] if lost else [])])
        archive = Archive(root / "archive", disk)
        rows = registry.segments()
        missing = [row for row in rows if row.path and not archive.has(row)]
        for row in missing:
            registry.forget_segment(row.hash)
        if missing:
            lines.append(f"{len(missing)} segments are not in the backup; devices offer them again")
        known = [registry.base_generation()[0], int(facts["generation"][0])]
        if lost is None:
            lines.append("what was purged after this backup is not known here: purge it again, or")
            lines[-1] += " restore with --lost and the folder of the replaced workspace"
        else:
            lines += _learn_from(lost / "registry.sqlite", registry, known)
        generation = registry.raise_generation(max(known))
        registry.mark_backed(row.hash for row in registry.segments())
        registry.set("backup_at", str(facts["wall_ns"]))
        registry.set("backup_folder", str(folder))
        kept = len(registry.segments())
    for name in FILES:  # last: only now, with its generation raised, it is a workspace
        copier.copy(folder / "files" / name, root / name)
    copier.settle()
    return kept, generation, lines


def _learn_from(path: Path, registry: Registry, generations: list[int]) -> list[str]:
    """Take versions and generation from the registry that is replaced; say what it had more."""
    try:
        if not path.exists():
            return []
        with Registry.open(path) as old:
            generations.append(old.base_generation()[0])
            for row in old.bundles():
                registry.saw_version(row.name, row.version)
            later = [row for row in old.segments() if registry.segment(row.hash) is None]
            risk = [row for row in later if row.backed or old.get("backup_at") == ""]
    except StoreError as error:
        return [f"the replaced workspace tells nothing: {error.what}"]
    lines = [f"{len(later)} segments were imported after this backup"] if later else []
    if risk:
        lines.append(
            f"{len(risk)} of them were acknowledged: if their devices have pruned them, and no "
            "other copy of archive/ exists, they are lost for good"
        )
    return lines


def _apply_tombstones(disk: Disk, root: Path, registry: Registry, folders: list[Path]) -> None:
    stones = [stone for folder in folders for stone in read_tombstones(disk, folder)]
    add_tombstones(disk, root, stones)
    registry.bury(stones)
    drop_buried(disk, root / "archive", stones)


def _facts(disk: Disk, folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads(disk.read(folder / MARK))
        if (facts["format"], facts["version"]) != ("edgepack-backup", 1):
            raise StoreError(f"{folder} is not a backup that this edgepack reads")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder} is not a whole backup: {error}", next="give the folder of a finished backup"
        ) from None
    return dict(facts)


class _Copier:
    """Copies files durably: every file synced, every folder at the end."""

    def __init__(self, disk: Disk, progress: Progress) -> None:
        self.disk = disk
        self.progress = progress
        self.files = 0
        self.bytes = 0
        self._folders: set[Path] = set()

    def expect(self, sources: Iterable[Path]) -> None:
        """Say how much there is to copy: files, and folders with everything in them."""
        sizes = (self.disk.size(path) for source in sources for path in self._walk(source))
        self.progress.begin("copying", sum(sizes))

    def alike(self, source: Path, target: Path) -> bool:
        """Whether both are files of one size: enough where names tell the content."""
        disk = self.disk
        both = disk.kind(source) == "file" == disk.kind(target)
        return both and disk.size(target) == disk.size(source)

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file unless the same is there."""
        if self.disk.kind(source) != "file":
            return
        if self.alike(source, target) and self._equal(source, target):
            self.progress.add(self.disk.size(source))
            return
        self.disk.mkdir(target.parent)
        temporary = target.with_name(target.name + ".tmp")
        self.disk.unlink(temporary)
        handle = self.disk.create(temporary)
        try:
            for piece in self.progress.counted(file_chunks(self.disk, source)):
                write_all(handle, piece)
                self.bytes += len(piece)
            handle.sync()
        finally:
            handle.close()
        self.disk.rename(temporary, target)
        self._folders |= {target.parent, target.parent.parent}
        self.files += 1

    def tree(self, source: Path, target: Path) -> None:
        """Copy a folder with everything in it; links are left out."""
        for path in self._walk(source):
            self.copy(path, target / path.relative_to(source))

    def settle(self) -> None:
        """Make every name durable."""
        for folder in sorted(self._folders):
            self.disk.fsync_dir(folder)

    def _walk(self, path: Path) -> Iterator[Path]:
        kind = self.disk.kind(path)
        if kind == "dir":
            for name in self.disk.list(path):
                yield from self._walk(path / name)
        elif kind == "file" and path.name != TOMBSTONES:
            yield path

    def _equal(self, one: Path, other: Path) -> bool:
        pairs = zip(file_chunks(self.disk, one), file_chunks(self.disk, other), strict=True)
        return all(a == b for a, b in pairs)


def _sync_file(disk: Disk, path: Path) -> None:
    """Make a file that another library wrote durable."""
    disk.sync_all(path.parent)


def _date(wall_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
