"""One carried folder: written so that a pull at any byte leaves it valid, read as hostile.

Write order of every file: `NAME.part` → fsync → drop the page cache → read back and hash → rename
→ fsync the folder. `finish` syncs the whole file system and reads every file of this trip once
more; only then may anybody say "safe to remove". No link on the stick is ever followed, and no
name of it is used that does not consist of plain characters.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from device_runtime.disk import Disk, file_chunks, write_all
from device_runtime.errors import (
    BusyError,
    NotAStickError,
    StickBusyError,
    StickError,
    StickFullError,
    StickReadOnlyError,
    StickUnreliableError,
    TooLargeError,
)
from device_runtime.format.stick import FOLDER, README

PART = ".part"
MAX_NAMES = 20_000
ROOM_BYTES = 64 << 10
"""Left free beside every file: folders grow, and FAT rounds up."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_README = b"""\
This stick carries sealed data of machines and signed updates for them (edgepack).
Nothing on it is secret and nothing on it is a program. Please do not change or delete
files in this folder. If you found this stick, please hand it back to whoever runs the
machines: plugged in at the base or at a machine, everything on it takes its way.
"""


class Stick:
    """The `EDGEPACK/` folder of a mounted stick. Close it (or use `with`) to give up its lock."""

    def __init__(self, root: Path, disk: Disk, release: Callable[[], None]) -> None:
        self.root = root
        self.disk = disk
        self._release = release
        self._identity = disk.identity(root)
        self._written: dict[Path, tuple[int, bytes]] = {}
        self._dropped = True

    @classmethod
    def open(cls, path: Path, disk: Disk, *, write: bool = True) -> Self:
        """Open a mounted folder; makes `EDGEPACK/` when it is to be written, else it may be empty.

        Raises:
            NotAStickError: No folder, or a link where a folder must be.
            StickReadOnlyError: It cannot be written.
            StickBusyError: Another process syncs with it right now.
        """
        root = path / FOLDER
        if disk.kind(path) != "dir":
            raise NotAStickError(f"{path} is not a folder")
        with _translated(f"opening the stick at {path}"):
            kind = disk.kind(root)
            if kind not in ("dir", ""):
                raise NotAStickError(f"{path} has no folder {FOLDER} of its own")
            if kind == "" and write:
                disk.mkdir(root)
                disk.fsync_dir(path)
            try:
                release = disk.hold(root) if kind or write else _nothing
            except BusyError:
                raise StickBusyError(f"another sync is using {path}") from None
            stick = cls(root, disk, release)
            if write:
                try:
                    stick._probe()
                    if not stick.holds(README, hashlib.sha256(_README).digest(), len(_README)):
                        stick.put_if_room(README, _README)
                except BaseException:
                    release()
                    raise
        return stick

    def close(self) -> None:
        """Give up the lock."""
        self._release()
        self._release = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _probe(self) -> None:
        self._tidy(self.root, 3)
        probe = self.root / f"probe{PART}"
        try:
            self.disk.create(probe).close()
        except OSError as error:
            if error.errno != errno.ENOSPC:  # a full stick can still be read and tidied
                raise
        self.disk.unlink(probe)

    def _tidy(self, folder: Path, depth: int) -> None:
        """Remove what earlier visits left unfinished: it would take up room for ever."""
        for name in self.disk.list(folder)[:MAX_NAMES]:
            if name.endswith(PART):
                self._clear(folder / name)
            elif depth and self.disk.kind(folder / name) == "dir":
                self._tidy(folder / name, depth - 1)

    # --- writing -----------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many bytes a next file may measure."""
        with _translated("asking the stick for room"):
            return max(0, self.disk.free_bytes(self.root) - ROOM_BYTES)

    def put(self, relative: str, data: bytes | Iterable[bytes], size: int | None = None) -> Path:
        """Write one file by the write order; it replaces one of the same name.

        Args:
            relative: Path below `EDGEPACK/`, made by `device_runtime.format.stick`.
            data: The bytes, or pieces of them.
            size: Their length, when `data` are pieces: to refuse early for lack of room.

        Raises:
            StickFullError: No room; nothing of the file is left.
            StickUnreliableError: It did not read back as it was written.
            StickError: The stick was pulled or fails.
        """
        pieces = (data,) if isinstance(data, bytes) else data
        needed = len(data) if isinstance(data, bytes) else size or 0
        target = self.root.joinpath(*_parts(relative))
        with _translated(f"writing {relative}"):
            self._still_there()
            self._make_folder(target.parent)
            part = target.with_name(target.name + PART)
            self._clear(part)
            if needed > self.room():
                raise StickFullError(f"no room on the stick for {relative} ({needed} bytes)")
            length, digest = self._write_part(part, pieces)
            if self.disk.kind(target) not in ("", "file"):
                self._clear(target)  # a folder or link in the place of our file
            self.disk.rename(part, target)
            self.disk.fsync_dir(target.parent)
            self._still_there()
        self._written[target] = (length, digest)
        return target

    def put_if_room(self, relative: str, data: bytes) -> bool:
        """Write a file that is not needed for the sync to be true; False where it does not fit."""
        try:
            self.put(relative, data)
        except StickFullError:
            return False
        return True

    def _write_part(self, part: Path, pieces: Iterable[bytes]) -> tuple[int, bytes]:
        hasher, length = hashlib.sha256(), 0
        handle = self.disk.create(part, 0o644)
        try:
            try:
                for piece in pieces:
                    write_all(handle, piece)
                    hasher.update(piece)
                    length += len(piece)
                handle.sync()
            finally:
                handle.close()
        except OSError:
            self._try_unlink(part)
            raise
        self._dropped &= self.disk.drop_cache(part)
        if self._hash(part) != (length, hasher.digest()):
            self._try_unlink(part)
            raise StickUnreliableError(f"{part.name} did not read back as it was written")
        return length, hasher.digest()

    def remove(self, relative: str) -> None:
        """Remove a file; a folder or link of that name goes too, unfollowed."""
        target = self.root.joinpath(*_parts(relative))
        with _translated(f"removing {relative}"):
            if not self._is_plain(target.parent):
                return
            self._clear(target)
            self.disk.fsync_dir(target.parent)
        self._written.pop(target, None)

    def finish(self) -> bool:
        """Make the whole trip durable and read it once more.

        Returns:
            Whether the bytes came from the medium. False where the cache cannot be dropped
            (memory file systems): then say "not verified on the medium".

        Raises:
            StickUnreliableError: A file of this trip is not what was written.
        """
        with _translated("syncing the stick"):
            self._still_there()
            self.disk.sync_all(self.root)
            for path, expected in self._written.items():
                self._dropped &= self.disk.drop_cache(path)
                if self._hash(path) != expected:
                    raise StickUnreliableError(
                        f"{path.name} differs from what was written a moment ago",
                        why="the stick has less capacity than it claims, or it is failing",
                    )
        return self._dropped

    # --- reading -----------------------------------------------------------------------------

    def files(self, relative: str = "") -> list[str]:
        """Return the names of plain files in a folder: no links, no unfinished or odd names."""
        return self._names(relative, "file")

    def folders(self, relative: str = "") -> list[str]:
        """Return the names of plain folders in a folder."""
        return self._names(relative, "dir")

    def _names(self, relative: str, kind: str) -> list[str]:
        folder = self.root.joinpath(*_parts(relative)) if relative else self.root
        with _translated(f"listing {relative or FOLDER}"):
            if not self._is_plain(folder):
                return []
            names = [n for n in self.disk.list(folder)[:MAX_NAMES] if _NAME.fullmatch(n)]
            return [n for n in names if not n.endswith(PART) and self.disk.kind(folder / n) == kind]

    def path(self, relative: str) -> Path | None:
        """Return where a plain file lies; None when it is absent or behind a link."""
        target = self.root.joinpath(*_parts(relative))
        with _translated(f"looking for {relative}"):
            plain = self._is_plain(target.parent) and self.disk.kind(target) == "file"
        return target if plain else None

    def get(self, relative: str, limit: int) -> bytes | None:
        """Return the bytes of a plain file, None when there is none.

        Raises:
            TooLargeError: It has more than `limit` bytes.
        """
        target = self.path(relative)
        if target is None:
            return None
        with _translated(f"reading {relative}"):
            data = self.disk.read(target, limit + 1)
        if len(data) > limit:
            raise TooLargeError(f"{relative} has more than {limit} bytes")
        return data

    def chunks(self, relative: str) -> Iterator[bytes]:
        """Give the bytes of a plain file piece by piece; nothing when there is none."""
        target = self.path(relative)
        if target is not None:
            yield from file_chunks(self.disk, target)

    def read_at(self, relative: str, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset` of a plain file."""
        target = self.path(relative)
        if target is None:
            return b""
        with _translated(f"reading {relative}"), self.disk.open_read(target) as file:
            file.seek(offset)
            return file.read(length)

    def holds(self, relative: str, digest: bytes, size: int) -> bool:
        """Whether a plain file has exactly this SHA-256, read now."""
        target = self.path(relative)
        if target is None:
            return False
        with _translated(f"reading {relative}"):
            self.disk.drop_cache(target)
            return self.disk.size(target) == size and self._hash(target) == (size, digest)

    def _still_there(self) -> None:
        """Refuse to go on where the stick was: a folder of this machine, once it is unmounted."""
        if self.disk.identity(self.root) != self._identity:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    # --- inside ------------------------------------------------------------------------------

    def _hash(self, path: Path) -> tuple[int, bytes]:
        hasher, length = hashlib.sha256(), 0
        for piece in file_chunks(self.disk, path):
            hasher.update(piece)
            length += len(piece)
        return length, hasher.digest()

    def _is_plain(self, folder: Path) -> bool:
        while self.disk.kind(folder) == "dir":
            if folder == self.root:
                return True
            folder = folder.parent
        return False

    def _make_folder(self, folder: Path) -> None:
        if folder != self.root:
            self._make_folder(folder.parent)
        if self.disk.kind(folder) == "dir":
            return
        self._clear(folder)  # a link or file in the place of our folder
        self.disk.mkdir(folder)
        self.disk.fsync_dir(folder.parent)

    def _clear(self, path: Path) -> None:
        if self.disk.kind(path) == "dir":
            self.disk.rmtree(path)
        else:
            self.disk.unlink(path)

    def _try_unlink(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # the stick is gone; a stale .part never blocks
            self.disk.unlink(path)


def _nothing() -> None:
    return


def _parts(relative: str) -> list[str]:
    parts = relative.split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        raise StickError(f"{relative[:200]!r} is not a name for a stick")
    return parts


class _translated:  # noqa: N801
    """Turn an `OSError` in the block into the error of a stick."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise stick_error(error, self._doing) from None


def stick_error(error: OSError, doing: str) -> StickError:
    """Translate an `OSError` of a stick into what a person can act on."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StickFullError(f"the stick is full while {doing}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StickReadOnlyError(f"the stick cannot be written while {doing}: {error.strerror}")
    return StickError(
        f"{error.strerror or error} while {doing}",
        why="the stick was pulled out too early, or it is failing",
        next="plug it in again and repeat the sync; nothing is lost",
    )
