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
from pathlib import Path
from typing import IO, Any

from device_runtime.errors import BusyError
from edgepack.sim.medium import (
    Change,
    Fault,
    File,
    Folder,
    Link,
    Node,
    PowerCut,
    Steps,
    bytes_in,
    copy_tree,
    flush,
    settle,
)

__all__ = ["PowerCut", "SimDisk"]

_KINDS = {File: "file", Folder: "dir", Link: "link"}


class _Handle:
    """See `device_runtime.disk.Handle`."""

    def __init__(self, disk: SimDisk, path: Path, file: File) -> None:
        self._disk, self._path, self._file = disk, path, file
        self._life = disk.life
        self._end = 0  # of what was written; after it stand zeros, if room was made in advance

    def write(self, data: bytes | bytearray | memoryview) -> int:
        raw = bytes(data)
        room = self._disk.room()
        try:
            self._step("write")
        except PowerCut:
            self._put(raw[: self._disk.rng.randint(0, len(raw))])
            raise
        room += len(self._file.data) - self._end
        if room <= 0 and raw:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._put(raw[:room])
        return min(len(raw), room)

    def _put(self, raw: bytes) -> None:
        file, end = self._file, self._end + len(raw)
        file.data[self._end : end] = raw
        file.clean = min(file.clean, self._end)
        self._end = end

    def prepare(self, start: int, stop: int) -> bool:
        more = stop - len(self._file.data)
        if not start == self._end < stop or more > self._disk.room():
            return False
        self._file.data += bytes(max(more, 0))
        return True

    def push(self, start: int, stop: int) -> None:
        pass

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
        self._end = size

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
        changes: Counts whatever may have changed what processes see.
        trace: (call number, what, path) of each such call, if it is a list.
    """

    def __init__(self, seed: int = 0, capacity: int = 1 << 40) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.capacity = capacity
        self.calls = 0
        self.life = 0
        self.changes = 0
        self.trace: list[tuple[int, str, str]] | None = None
        self._root = Folder()
        self._pending: list[Change] = []
        self._held: set[str] = set()
        self._crash: int | None = None
        self._dead = False
        self._faults: list[Fault] = []

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
        self._faults.append(Fault(call - 1, times, code, frozenset(kinds)))

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
        self._pending.clear()
        settle(self._root, self.rng)
        self.kill()

    def kill(self) -> None:
        """End all processes; the page cache survives."""
        self.life += 1
        self.changes += 1
        self._dead = False
        self._held.clear()
        self.heal()

    def flush(self) -> None:
        """Make everything durable, as time does."""
        flush(self._root)
        self._pending.clear()

    def __deepcopy__(self, _memo: dict[int, Any]) -> SimDisk:
        """Return the same disk once more: what both see from here on differs."""
        new = SimDisk(0, self.capacity)
        new.rng.setstate(self.rng.getstate())
        new.calls, new.life, new.changes = self.calls, self.life, self.changes
        new._root, new._pending = copy_tree(self._root, self._pending)
        new._held, new._crash, new._dead = set(self._held), self._crash, self._dead
        new._faults = [Fault(f.skip, f.times, f.code, f.kinds) for f in self._faults]
        return new

    def step(self, what: str, path: Path) -> None:
        """Count one call; die or fail where that was planned."""
        if self._dead:
            raise PowerCut("the machine is dark")
        self.calls += 1
        self.changes += 1
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
        return max(0, self.capacity - bytes_in(self._root))

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
        return "" if node is None else _KINDS[type(node)]

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
        rest: list[Change] = []
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
        if file.data != file.medium:
            file.data = bytearray(file.medium)
            self.changes += 1
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
        self._pending.append(Change(steps))

    @staticmethod
    def _parts(path: Path) -> tuple[str, ...]:
        parts = path.parts
        return parts[1:] if parts and parts[0] == "/" else parts

    def _node(self, path: Path) -> Node | None:
        if self._dead:
            raise PowerCut("the machine is dark")
        node: Node | None = self._root
        parts = self._parts(path)
        for index, part in enumerate(parts):
            if isinstance(node, Link):
                node = self._node(Path(path.anchor, *parts[: index - 1], node.target))
            if not isinstance(node, Folder):
                return None
            node = node.seen.get(part)
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
