"""A file system in memory that forgets what was not synced, and dies at a chosen operation.

Every folder and file has two contents: what processes see, and what a power cut leaves. A power
cut decides for each of them by itself whether unsynced changes made it to the medium.
"""

from __future__ import annotations

import copy
import errno
import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


class Dead(BaseException):
    """The process died here. Not an `Exception`: nothing may catch it and go on."""


@dataclass
class File:
    seen: bytearray = field(default_factory=bytearray)
    kept: bytes = b""


@dataclass
class Link:
    target: str


@dataclass
class Folder:
    seen: dict[str, File | Link | Folder] = field(default_factory=dict)
    kept: dict[str, File | Link | Folder] = field(default_factory=dict)


class _Handle:
    def __init__(self, disk: MemDisk, file: File) -> None:
        self._disk, self._file = disk, file

    def write(self, data):
        self._disk.step("write")
        self._file.seen += data
        return len(data)

    def sync(self):
        self._disk.step("sync")
        self._file.kept = bytes(self._file.seen)

    def prepare(self, start, stop):
        return False

    def push(self, start, stop):
        pass

    def truncate(self, size):
        self._disk.step("truncate")
        del self._file.seen[size:]

    def close(self):
        pass


class MemDisk:
    """`Disk` in memory.

    Attributes:
        fuse: Operations until the process dies; None = it lives.
        error: (operation number, errno): that one operation fails.
        steps: Changing operations so far.
        log: Their names.
    """

    def __init__(self) -> None:
        self.root = Folder()
        self.fuse: int | None = None
        self.error: tuple[int, int] | None = None
        self.steps = 0
        self.dead = False
        self.free = 1 << 40
        self.full = False

    # --- what happens to it ------------------------------------------------------------------

    def step(self, what: str) -> None:
        if self.dead:
            raise Dead(what)
        self.steps += 1
        if self.full and what in ("create", "write", "mkdir", "symlink"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.dead = True
                raise Dead(what)
        if self.error is not None and self.steps == self.error[0]:
            raise OSError(self.error[1], os.strerror(self.error[1]))

    def revive(self) -> None:
        self.dead, self.fuse = False, None

    def power_cut(self, choose: Callable[[], bool] = lambda: False) -> None:
        """Lose what was not synced, except where `choose` says that it made it."""
        _cut(self.root, choose, set())
        self.revive()

    def after_power_cut(self, seed: int | None = None) -> MemDisk:
        """Return a copy as it would be after a power cut now; the worst case without a seed."""
        other = copy.deepcopy(self)
        rng = random.Random(seed)
        other.error = None
        other.power_cut((lambda: rng.random() < 0.5) if seed is not None else lambda: False)
        return other

    # --- Disk --------------------------------------------------------------------------------

    def _find(self, path: Path) -> File | Link | Folder:
        node: File | Link | Folder = self.root
        for part in path.parts[1:]:
            if not isinstance(node, Folder) or part not in node.seen:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            node = node.seen[part]
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._find(path)
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return node

    def create(self, path: Path, mode: int = 0o600) -> _Handle:
        parent = self._folder(path.parent)
        if path.name in parent.seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.step("create")
        node = File()
        parent.seen[path.name] = node
        return _Handle(self, node)

    def read(self, path: Path, limit: int | None = None) -> bytes:
        node = self._find(path)
        if not isinstance(node, File):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        return bytes(node.seen if limit is None else node.seen[:limit])

    def open_read(self, path: Path) -> IO[bytes]:
        return io.BytesIO(self.read(path))

    def size(self, path: Path) -> int:
        return len(self.read(path))

    def exists(self, path: Path) -> bool:
        try:
            self._find(path)
        except OSError:
            return False
        return True

    def kind(self, path: Path) -> str:
        try:
            node = self._find(path)
        except OSError:
            return ""
        return {File: "file", Folder: "dir", Link: "link"}[type(node)]

    def list(self, path: Path) -> list[str]:
        try:
            return sorted(self._folder(path).seen)
        except FileNotFoundError:
            return []

    def mkdir(self, path: Path) -> None:
        node = self.root
        for part in path.parts[1:]:
            if part not in node.seen:
                self.step("mkdir")
                node.seen[part] = Folder()
            child = node.seen[part]
            assert isinstance(child, Folder)
            node = child

    def rename(self, source: Path, target: Path) -> None:
        node, parent = self._find(source), self._folder(target.parent)
        there = parent.seen.get(target.name)
        if isinstance(there, Folder) and there.seen:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        self.step("rename")
        del self._folder(source.parent).seen[source.name]
        parent.seen[target.name] = node

    def unlink(self, path: Path) -> None:
        parent = self._find(path.parent) if self.exists(path.parent) else None
        if isinstance(parent, Folder) and path.name in parent.seen:
            self.step("unlink")
            del parent.seen[path.name]

    def rmtree(self, path: Path) -> None:
        if not self.exists(path):
            return
        node = self._find(path)
        if isinstance(node, Folder):
            for name in list(node.seen):
                if isinstance(node.seen[name], Folder):
                    self.rmtree(path / name)
                else:
                    self.unlink(path / name)
            self.step("rmdir")
            del self._folder(path.parent).seen[path.name]

    def symlink(self, target: str, path: Path) -> None:
        parent = self._folder(path.parent)
        if path.name in parent.seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.step("symlink")
        parent.seen[path.name] = Link(target)

    def readlink(self, path: Path) -> str | None:
        try:
            node = self._find(path)
        except OSError:
            return None
        return node.target if isinstance(node, Link) else None

    def fsync_dir(self, path: Path) -> None:
        self.step("fsync_dir")
        node = self._folder(path)
        node.kept = dict(node.seen)

    def free_bytes(self, path: Path) -> int:
        return self.free

    def drop_cache(self, path: Path) -> bool:
        return True

    def sync_all(self, path: Path) -> None:
        self.step("sync_all")

    def hold(self, path: Path) -> Callable[[], None]:
        return lambda: None


def _cut(node: File | Link | Folder, choose: Callable[[], bool], done: set[int]) -> None:
    if id(node) in done:
        return
    done.add(id(node))
    if isinstance(node, File):
        if not choose():
            node.seen = bytearray(node.kept)
        node.kept = bytes(node.seen)
    elif isinstance(node, Folder):
        if not choose():
            node.seen = dict(node.kept)
        node.kept = dict(node.seen)
        for child in node.seen.values():
            _cut(child, choose, done)
