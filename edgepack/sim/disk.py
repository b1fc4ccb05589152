"""A disk in memory that behaves as badly as real ones do, and always the same way by seed.

What processes see and what the medium holds are two things. A power cut leaves, of everything
that was not synced, whatever chance decides: file contents cut at any byte or full of zeros,
renames and unlinks done or undone, in any order. Any call may be the last one (`crash_after`), or
fail (`fail_at`), and the disk may be full (`capacity`), which shows as a short write first.
"""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from device_runtime.errors import BusyError

SECTOR = 512


class PowerCut(BaseException):
    """The machine went dark here. Not an `Exception`: nothing may catch it and go on."""


@dataclass(eq=False, slots=True)
class File:
    """One file.

    Attributes:
        data: What processes see.
        medium: What the medium holds.
        clean: Bytes from the start that are the same on both.
        doomed: A sync failed: the kernel forgot the dirty pages and will not write them again.
    """

    data: bytearray = field(default_factory=bytearray)
    medium: bytes = b""
    clean: int = 0
    doomed: int = -1

    def sync(self) -> None:
        """Write out what is dirty; what a failed sync forgot stays zeros on the medium."""
        content = bytes(self.data)
        if self.doomed >= 0:
            lost = range(self.doomed, min(self.clean, len(content)))
            content = (
                content[: lost.start] + bytes(len(lost)) + content[max(lost.stop, lost.start) :]
            )
        self.medium, self.clean = content, len(content)

    def cut(self, rng: random.Random) -> None:
        """Leave what a power cut leaves."""
        base = self.medium[: self.clean]
        dirty = bytes(self.data[self.clean :])
        choice = rng.random()
        if choice < 0.2:
            tail = self.medium[self.clean :]
        elif choice < 0.8:
            tail = dirty[: rng.randint(0, len(dirty))]
        else:  # sectors in any order: the length arrived, some of the content did not
            tail = b"".join(
                part if rng.random() < 0.5 else bytes(len(part))
                for part in (dirty[i : i + SECTOR] for i in range(0, len(dirty), SECTOR))
            )
        self.data = bytearray(base + tail)
        self.medium, self.clean, self.doomed = bytes(self.data), len(self.data), -1


@dataclass(eq=False, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(eq=False, slots=True)
class Folder:
    """One folder: what processes see, and what the medium holds."""

    seen: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder
Steps = list[tuple[Folder, str, Node | None]]


@dataclass(slots=True)
class _Change:
    """One atomic change of folders: (folder, name, what stands there then)."""

    steps: Steps

    def apply(self) -> None:
        for folder, name, node in self.steps:
            if node is None:
                folder.kept.pop(name, None)
            else:
                folder.kept[name] = node


@dataclass(slots=True)
class _Fault:
    """Calls of some kinds that will fail: after `skip` of them, the next `times`."""

    skip: int
    times: int
    code: int
    kinds: frozenset[str]

    def hits(self, what: str) -> bool:
        if self.kinds and what not in self.kinds:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


class _Handle:
    """See `device_runtime.disk.Handle`."""

    def __init__(self, disk: SimDisk, path: Path, file: File) -> None:
        self._disk, self._path, self._file = disk, path, file
        self._life = disk.life

    def write(self, data: bytes | bytearray | memoryview) -> int:
        raw = bytes(data)
        room = self._disk.room()
        try:
            self._step("write")
        except PowerCut:
            self._file.data += raw[: self._disk.rng.randint(0, len(raw))]
            raise
        if room <= 0 and raw:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._file.data += raw[:room]
        return min(len(raw), room)

    def sync(self) -> None:
        try:
            self._step("sync")
        except OSError:
            if self._file.doomed < 0:
                self._file.doomed = self._file.clean
            self._file.clean = len(self._file.data)
            raise
        self._file.sync()

    def truncate(self, size: int) -> None:
        self._step("truncate")
        del self._file.data[size:]
        self._file.clean = min(self._file.clean, size)

    def close(self) -> None:
        pass

    def _step(self, what: str) -> None:
        if self._life != self._disk.life:
            raise PowerCut(f"a handle of before the power cut: {self._path}")
        self._disk.step(what, self._path)


class SimDisk:
    """See the module, and `device_runtime.disk.Disk` for the methods.

    Attributes:
        rng: Where all chance comes from.
        capacity: Bytes in files.
        calls: Calls so far that change or sync something.
        life: Counts restarts; handles of an earlier life are dead.
        trace: (call number, what, path) of each such call, if it is a list.
    """

    def __init__(self, seed: int = 0, capacity: int = 1 << 40) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.capacity = capacity
        self.calls = 0
        self.life = 0
        self.trace: list[tuple[int, str, str]] | None = None
        self._root = Folder()
        self._pending: list[_Change] = []
        self._held: set[str] = set()
        self._crash: int | None = None
        self._dead = False
        self._faults: list[_Fault] = []

    # --- what goes wrong ---------------------------------------------------------------------

    def crash_after(self, calls: int | None) -> None:
        """Die at the given call from now (1 is the next one); None takes it back."""
        self._crash = None if calls is None else self.calls + calls

    def fail_at(
        self, call: int, code: int = errno.EIO, times: int = 1, kinds: Iterable[str] = ()
    ) -> None:
        """Let calls fail with an errno.

        Args:
            call: First failing call, counted from now among `kinds`; 1 is the next one.
            code: errno.
            times: How many calls of these kinds fail in a row.
            kinds: Only these (`write`, `sync`, `create`, `rename`, `unlink`, ...); all if empty.
        """
        self._faults.append(_Fault(call - 1, times, code, frozenset(kinds)))

    def heal(self) -> None:
        """Take all planned failures back."""
        self._faults.clear()
        self._crash = None

    def power_cut(self) -> None:
        """Go dark now, and come up again with what the medium holds."""
        # Some file systems keep the order of changes, some do not.
        if self.rng.random() < 0.5:
            kept = self._pending[: self.rng.randint(0, len(self._pending))]
        else:
            kept = [change for change in self._pending if self.rng.random() < 0.5]
        for change in kept:
            change.apply()
        self._settle(self._root)
        self.kill()

    def kill(self) -> None:
        """End all processes; the page cache survives."""
        self.life += 1
        self._dead = False
        self._held.clear()
        self.heal()

    def flush(self) -> None:
        """Make everything durable, as time does."""
        self._durable(self._root)
        self._pending.clear()

    def _settle(self, folder: Folder) -> None:
        self._pending.clear()
        folder.seen = dict(folder.kept)
        for node in folder.seen.values():
            if isinstance(node, Folder):
                self._settle(node)
            elif isinstance(node, File):
                node.cut(self.rng)

    def _durable(self, folder: Folder) -> None:
        folder.kept = dict(folder.seen)
        for node in folder.kept.values():
            if isinstance(node, Folder):
                self._durable(node)
            elif isinstance(node, File):
                node.sync()

    def step(self, what: str, path: Path) -> None:
        """Count one call; die or fail where that was planned."""
        if self._dead:
            raise PowerCut("the machine is dark")
        self.calls += 1
        if self.trace is not None:
            self.trace.append((self.calls, what, str(path)))
        if self._crash is not None and self.calls >= self._crash:
            self._dead = True
            raise PowerCut(f"at {what} of {path}")
        for fault in self._faults:
            if fault.hits(what):
                raise OSError(fault.code, os.strerror(fault.code), str(path))

    def room(self) -> int:
        """Return the bytes that still fit."""
        if self.capacity >= 1 << 40:
            return self.capacity
        return max(0, self.capacity - _bytes(self._root))

    # --- Disk --------------------------------------------------------------------------------

    def create(self, path: Path, mode: int = 0o600) -> _Handle:  # noqa: ARG002
        """Create; see `Disk.create`."""
        self.step("create", path)
        folder = self._folder(path.parent)
        if path.name in folder.seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        file = File()
        self._change([(folder, path.name, file)])
        return _Handle(self, path, file)

    def read(self, path: Path, limit: int | None = None) -> bytes:
        """Read."""
        data = self._file(path).data
        return bytes(data if limit is None else data[:limit])

    def open_read(self, path: Path) -> IO[bytes]:
        """Open a copy of what is there now."""
        return io.BytesIO(self.read(path))

    def size(self, path: Path) -> int:
        """Return the size."""
        node = self._node(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return len(node.data) if isinstance(node, File) else 0

    def exists(self, path: Path) -> bool:
        """Whether something is there."""
        return self._node(path) is not None

    def kind(self, path: Path) -> str:
        """Return what is there."""
        node = self._node(path)
        names = {File: "file", Folder: "dir", Link: "link"}
        return "" if node is None else names[type(node)]

    def list(self, path: Path) -> list[str]:
        """Return sorted names."""
        node = self._node(path)
        return sorted(node.seen) if isinstance(node, Folder) else []

    def mkdir(self, path: Path) -> None:
        """Make a folder with its parents."""
        folder = self._root
        for part in self._parts(path):
            node = folder.seen.get(part)
            if node is None:
                self.step("mkdir", path)
                node = Folder()
                self._change([(folder, part, node)])
            if not isinstance(node, Folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            folder = node

    def rename(self, source: Path, target: Path) -> None:
        """Replace in one step."""
        self.step("rename", target)
        here, there = self._folder(source.parent), self._folder(target.parent)
        node = here.seen.get(source.name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._change([(here, source.name, None), (there, target.name, node)])

    def unlink(self, path: Path) -> None:
        """Remove."""
        if self._node(path) is not None:
            self.step("unlink", path)
            self._change([(self._folder(path.parent), path.name, None)])

    def rmtree(self, path: Path) -> None:
        """Remove a folder with everything in it."""
        if self._node(path) is not None:
            self.step("rmtree", path)
            self._change([(self._folder(path.parent), path.name, None)])

    def symlink(self, target: str, path: Path) -> None:
        """Make a link."""
        self.step("symlink", path)
        folder = self._folder(path.parent)
        if path.name in folder.seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self._change([(folder, path.name, Link(target))])

    def readlink(self, path: Path) -> str | None:
        """Return where a link points."""
        node = self._node(path)
        return node.target if isinstance(node, Link) else None

    def fsync_dir(self, path: Path) -> None:
        """Make the entries of one folder durable."""
        self.step("fsync_dir", path)
        folder = self._folder(path)
        rest: list[_Change] = []
        for change in self._pending:
            if any(where is folder for where, _, _ in change.steps):
                change.apply()
            else:
                rest.append(change)
        self._pending = rest

    def free_bytes(self, path: Path) -> int:  # noqa: ARG002
        """Return the room left."""
        return self.room()

    def identity(self, path: Path) -> str:
        """Return a name of the folder itself."""
        node = self._node(path)
        return "" if node is None else str(id(node))

    def drop_cache(self, path: Path) -> bool:
        """Let the next read come from the medium."""
        file = self._file(path)
        file.data = bytearray(file.medium)
        file.clean = len(file.data)
        return True

    def sync_all(self, path: Path) -> None:
        """Make everything durable."""
        self.step("sync_all", path)
        self.flush()

    def hold(self, path: Path) -> Callable[[], None]:
        """Lock a folder."""
        key = str(path)
        if key in self._held:
            raise BusyError(f"{path} is in use by another process")
        self._held.add(key)
        return lambda: self._held.discard(key)

    # --- inside ------------------------------------------------------------------------------

    def _change(self, steps: Steps) -> None:
        for folder, name, node in steps:
            if node is None:
                folder.seen.pop(name, None)
            else:
                folder.seen[name] = node
        self._pending.append(_Change(steps))

    @staticmethod
    def _parts(path: Path) -> tuple[str, ...]:
        return tuple(part for part in path.parts if part != path.anchor)

    def _node(self, path: Path) -> Node | None:
        if self._dead:
            raise PowerCut("the machine is dark")
        node: Node = self._root
        parts = self._parts(path)
        for index, part in enumerate(parts):
            if isinstance(node, Link):
                above = self._node(Path(path.anchor, *parts[: index - 1], node.target))
                if above is None:
                    return None
                node = above
            if not isinstance(node, Folder) or part not in node.seen:
                return None
            node = node.seen[part]
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._node(path)
        if isinstance(node, Link):
            node = self._node(path.parent / node.target)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return node

    def _file(self, path: Path) -> File:
        node = self._node(path)
        if isinstance(node, Link):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return node


def _bytes(folder: Folder) -> int:
    total = 0
    for node in folder.seen.values():
        if isinstance(node, File):
            total += len(node.data)
        elif isinstance(node, Folder):
            total += _bytes(node)
    return total
