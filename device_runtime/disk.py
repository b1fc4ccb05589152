"""The only place that makes bytes durable, renames, unlinks or asks for free space.

Everything that must survive a power cut goes through a `Disk`, so that the simulator can give
another one that loses, tears and reorders what was not synced.

Rules (docs/ARCHITECTURE.md, "Durability"):
- a file is durable after `fsync` of its handle *and* `fsync_dir` of its folder;
- a rename or unlink is durable after `fsync_dir` of the folder;
- nothing else is.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import IO, Any

from device_runtime.errors import (
    BusyError,
    EdgepackError,
    MachineError,
    NoSpaceError,
    PermissionDeniedError,
)
from device_runtime.record import Protocol

CHUNK = 1 << 20


class Handle(Protocol):
    """An open file that is only appended to."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append with one system call; return the bytes written, which may be fewer (full disk)."""

    def sync(self) -> None:
        """Make the content durable (fdatasync)."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes (to undo a short write)."""

    def prepare(self, start: int, stop: int) -> bool:
        """Put zeros there in advance, where that is cheap; what is written next replaces them.

        A sync then writes the content alone: the file system has nothing to note about it. False
        if none were put there: no room, or no such call here, and the file grows as before.
        """

    def push(self, start: int, stop: int) -> None:
        """Begin to write this part out, without waiting, so that a later sync waits less."""

    def close(self) -> None:
        """Close; does not sync."""


class Disk(Protocol):
    """What edgepack needs from a file system. All paths are absolute or relative as given."""

    def create(self, path: Path, mode: int = 0o600) -> Handle:
        """Create a file that must not exist yet, for appending."""

    def read(self, path: Path, limit: int | None = None) -> bytes:
        """Read a whole file, or at most `limit` bytes of it."""

    def open_read(self, path: Path) -> IO[bytes]:
        """Open for reading; never follows a link in the last component."""

    def size(self, path: Path) -> int:
        """Return the size in bytes."""

    def exists(self, path: Path) -> bool:
        """Whether something (also a dangling link) is there."""

    def list(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted; empty when there is no such folder."""

    def mkdir(self, path: Path) -> None:
        """Make a folder (0700) with its parents; no error if it is there."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source` in one step. Durable after `fsync_dir`."""

    def unlink(self, path: Path) -> None:
        """Remove a file or link; no error if it is gone. Durable after `fsync_dir`."""

    def rmtree(self, path: Path) -> None:
        """Remove a folder with everything in it; no error if it is gone."""

    def symlink(self, target: str, path: Path) -> None:
        """Make `path` a link to `target`; must not exist yet."""

    def readlink(self, path: Path) -> str | None:
        """Return where a link points, None if it is no link."""

    def fsync_dir(self, path: Path) -> None:
        """Make a folder's entries durable."""

    def free_bytes(self, path: Path) -> int:
        """Return the bytes that this process may still write there."""

    def kind(self, path: Path) -> str:
        """Return `file`, `dir`, `link`, `other`, or an empty string when nothing is there."""

    def identity(self, path: Path) -> str:
        """Return what tells this folder from any other, also one that was mounted over it."""

    def drop_cache(self, path: Path) -> bool:
        """Drop a synced file from the page cache; whether the next read comes from the medium."""

    def sync_all(self, path: Path) -> None:
        """Write out the whole file system that a folder lies on (syncfs)."""

    def hold(self, path: Path) -> Callable[[], None]:
        """Lock a folder against other processes until the returned function is called.

        Raises:
            BusyError: Another process holds it.
        """


class _RealHandle:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        # A function in C: the journal writes each row with it.
        self.write: Callable[[bytes | bytearray | memoryview], int] = partial(os.write, fd)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)

    def prepare(self, start: int, stop: int) -> bool:
        return bool(_fallocate()(self._fd, 0, start, stop - start) == 0)

    def push(self, start: int, stop: int) -> None:
        with suppress(OSError):  # then the sync does it all
            os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.write = partial(os.write, -1)  # the number may soon be another file's


@cache
def _fallocate() -> Any:
    """Return fallocate(2).

    Not `os.posix_fallocate`: where a file system has no such call, glibc writes into every block.
    """
    import ctypes  # only who makes room needs it

    call: Any = getattr(ctypes.CDLL(None), "fallocate", lambda *_: -1)
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    return call


class RealDisk:
    """The file systems of this machine."""

    def create(self, path: Path, mode: int = 0o600) -> Handle:
        """Create exclusively; see `Disk.create`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return _RealHandle(os.open(path, flags, mode))

    def read(self, path: Path, limit: int | None = None) -> bytes:
        """Read; see `Disk.read`."""
        with self.open_read(path) as file:
            return file.read() if limit is None else file.read(limit)

    def open_read(self, path: Path) -> IO[bytes]:
        """Open for reading, last component not a link."""
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")

    def size(self, path: Path) -> int:
        """Return the size in bytes."""
        return os.lstat(path).st_size

    def exists(self, path: Path) -> bool:
        """Whether something is there."""
        return os.path.lexists(path)

    def list(self, path: Path) -> list[str]:
        """Return sorted names."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def mkdir(self, path: Path) -> None:
        """Make a folder with its parents."""
        os.makedirs(path, mode=0o700, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """Replace in one step."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file or link."""
        with suppress(FileNotFoundError):
            os.unlink(path)

    def rmtree(self, path: Path) -> None:
        """Remove a folder."""
        import shutil  # brings bz2 and lzma along: not at every start

        shutil.rmtree(path, ignore_errors=True)

    def symlink(self, target: str, path: Path) -> None:
        """Make a link."""
        os.symlink(target, path)

    def readlink(self, path: Path) -> str | None:
        """Return where a link points."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def fsync_dir(self, path: Path) -> None:
        """Make entries durable; file systems that cannot (some FUSE) are accepted as they are."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """Return the room left for this process; plenty where the file system does not say."""
        stat = os.statvfs(path)
        if stat.f_blocks == 0:  # some FUSE: it will say so when it is full
            return 1 << 60
        return stat.f_bavail * stat.f_frsize

    def kind(self, path: Path) -> str:
        """Return what lies there, without following a link."""
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
        for name, test in (("file", S_ISREG), ("dir", S_ISDIR), ("link", S_ISLNK)):
            if test(mode):
                return name
        return "other"

    def identity(self, path: Path) -> str:
        """Return device and inode; empty when nothing is there."""
        try:
            stat = os.lstat(path)
        except FileNotFoundError:
            return ""
        return f"{stat.st_dev}:{stat.st_ino}"

    def drop_cache(self, path: Path) -> bool:
        """Drop clean pages, then ask the kernel whether any stayed (tmpfs keeps them all)."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _resident_pages(fd, os.fstat(fd).st_size) == 0
        except OSError:
            return False
        finally:
            os.close(fd)

    def sync_all(self, path: Path) -> None:
        """Call syncfs(2), which Python has no name for."""
        import ctypes

        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(path))
        finally:
            os.close(fd)

    def hold(self, path: Path) -> Callable[[], None]:
        """Lock the folder itself: nothing is left behind on the medium."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError(f"{path} is in use by another process") from None
            raise
        return lambda: os.close(fd)


def _resident_pages(fd: int, size: int) -> int:
    """Return how many pages of a file are in the page cache (mincore; -1 where it cannot say)."""
    import ctypes
    import mmap

    if size == 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return -1
    start, length = ctypes.c_void_p(address), ctypes.c_size_t(size)
    vector = (ctypes.c_ubyte * pages)()
    done = libc.mincore(start, length, vector)
    libc.munmap(start, length)
    return sum(1 for byte in bytes(vector) if byte & 1) if done == 0 else -1


def sizes(disk: Disk, path: Path) -> list[tuple[str, int]]:
    """Return names and sizes of what lies in a folder, sorted; a real one is asked only once."""
    if not isinstance(disk, RealDisk):
        return [(name, disk.size(path / name)) for name in disk.list(path)]
    try:
        with os.scandir(path) as found:
            return sorted((item.name, item.stat(follow_symlinks=False).st_size) for item in found)
    except FileNotFoundError:
        return []


def sync_fd(fd: int) -> None:
    """Make the content of a file that somebody else opened durable (fdatasync)."""
    os.fdatasync(fd)


def file_chunks(disk: Disk, path: Path) -> Iterator[bytes]:
    """Give a file's bytes in pieces of 1 MiB."""
    with disk.open_read(path) as file:
        while piece := file.read(CHUNK):
            yield piece


def write_all(handle: Handle, data: bytes | bytearray | memoryview) -> None:
    """Write everything, or raise `OSError(ENOSPC)`.

    A full disk shows as a short write first and as ENOSPC at the next one.
    """
    view = memoryview(data).cast("B")
    while len(view):
        written = handle.write(view[: 64 * CHUNK])
        if written <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


@contextmanager
def new_file(disk: Disk, path: Path, mode: int = 0o600) -> Iterator[Handle]:
    """Create a file for a block to write, and sync it; it is removed if anything goes wrong."""
    handle = disk.create(path, mode)
    try:
        yield handle
        handle.sync()
    except BaseException:
        handle.close()
        disk.unlink(path)
        raise
    handle.close()


def write_durable(disk: Disk, path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` in one step that survives a power cut.

    Writes `path` + `.tmp`, syncs it, renames it, syncs the folder.
    """
    temporary = path.with_name(path.name + ".tmp")
    disk.unlink(temporary)
    try:
        with new_file(disk, temporary, mode) as handle:
            write_all(handle, data)
        disk.rename(temporary, path)
    except BaseException:  # also where a person interrupts it
        disk.unlink(temporary)
        raise
    disk.fsync_dir(path.parent)


def machine_error(error: OSError, doing: str) -> EdgepackError:
    """Translate an `OSError` into the error that a person can act on."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"the disk is full while {doing}{where}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDeniedError(f"no permission while {doing}{where}: {error.strerror}")
    return MachineError(f"{error.strerror or error} while {doing}{where}")


@contextmanager
def suppress_full() -> Iterator[None]:
    """Let a block fail quietly where nothing can be written: for what may as well come later."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock file while the block runs.

    Raises:
        BusyError: Another process holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError(f"{what} is in use by another process") from None
            raise
        yield
    finally:
        os.close(fd)
