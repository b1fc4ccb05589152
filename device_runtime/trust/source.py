"""Verified reading from a container: every byte that is handed out was hashed first.

Whatever lies on a stick may change between two reads, so nothing is read twice: small files are
held in memory, large ones are hashed while they are copied to the device's own disk.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import IO

from device_runtime.disk import Disk, new_file, write_all
from device_runtime.errors import (
    DigestMismatchError,
    FormatError,
    LengthMismatchError,
    TooLargeError,
    TruncatedError,
)
from device_runtime.format import container
from device_runtime.format.container import Entry, Index
from device_runtime.policy import Policy
from device_runtime.trust.custom import Target

CHUNK = 1 << 20
THREAD_FROM = 4 << 20  # bytes of an entry from which on threads pay
BUFFERS = 4  # pieces that writing may be ahead of hashing
PUSH_EVERY = 2 << 20  # bytes after which the disk is asked to begin writing
XZ_MEMORY = 128 << 20  # a decoder that wants more is refused; `xz -9` wants 65 MiB


class Source:
    """An open container."""

    def __init__(self, file: IO[bytes], index: Index) -> None:
        self._file = file
        self.index = index

    def small(self, name: str, limit: int) -> bytes:
        """Read an entry into memory, unverified.

        Raises:
            TooLargeError: It is over `limit` bytes.
            TruncatedError: The file is shorter than when it was indexed.
        """
        entry = self.index.entries[name]
        if entry.size > limit:
            raise TooLargeError(f"{name} has {entry.size:,} bytes; at most {limit:,} are accepted")
        data = read_at(self._file, entry.offset, entry.size)
        if len(data) != entry.size:
            raise TruncatedError(f"the file ends inside {name}")
        return data

    def verified(self, name: str, target: Target, limit: int) -> bytes:
        """Read an entry into memory and compare its digest.

        Raises:
            LengthMismatchError, DigestMismatchError: It is not what was signed.
            TooLargeError, TruncatedError: As `small`.
        """
        check_length(self.index.entries[name], target)
        data = self.small(name, limit)
        if hashlib.sha256(data).hexdigest() != target.sha256:
            raise DigestMismatchError(f"{name} is not what was signed")
        return data

    def whole(self, keep: Iterable[str]) -> tuple[bytes, dict[str, bytes]]:
        """Hash the whole file in one pass and keep some entries of it: the bytes that were hashed.

        A stick that shows one file to the hash and another to the reader gains nothing.

        Raises:
            TruncatedError: The file is shorter than when it was indexed.
        """
        digest, position = hashlib.sha256(), 0
        kept = {name: bytearray() for name in keep}
        self._file.seek(0)
        while piece := self._file.read(CHUNK):
            digest.update(piece)
            for name in keep:
                entry = self.index.entries[name]
                start, end = entry.offset - position, entry.offset + entry.size - position
                kept[name] += piece[max(start, 0) : max(end, 0)]
            position += len(piece)
        if position != self.index.size:
            raise TruncatedError("the file changed while it was read")
        return digest.digest(), {name: bytes(data) for name, data in kept.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        """Return an entry in pieces, unverified."""
        entry = self.index.entries[name]
        for offset in range(0, entry.size, CHUNK):
            yield read_at(self._file, entry.offset + offset, min(CHUNK, entry.size - offset))

    def stream(
        self, name: str, target: Target, sink: Callable[[memoryview], object] | None = None
    ) -> None:
        """Hash an entry while `sink` takes it piece by piece; what it took counts only afterwards.

        Args:
            name: The entry.
            target: What was signed.
            sink: Takes the pieces; None if they need only be hashed.

        Raises:
            LengthMismatchError, DigestMismatchError: It is not what was signed.
            TruncatedError: The file ends inside it.
        """
        entry = self.index.entries[name]
        check_length(entry, target)
        digest = hashlib.sha256()
        if sink is not None and entry.size >= THREAD_FROM:
            self._beside(entry, digest.update, sink)
        else:
            for view in self._views(entry, 1):
                digest.update(view)
                if sink is not None:
                    sink(view)
        if digest.hexdigest() != target.sha256:
            raise DigestMismatchError(f"{name} is not what was signed")

    def copy(self, name: str, target: Target, disk: Disk, path: Path) -> None:
        """Copy an entry to a new file, hashing while copying; it is synced when this returns.

        Raises:
            LengthMismatchError, DigestMismatchError, TruncatedError: As `stream`; no file is left.
            OSError: The medium cannot be read, or the disk not written.
        """
        begun = written = 0
        with new_file(disk, path) as handle:

            def write(view: memoryview) -> None:
                nonlocal begun, written
                write_all(handle, view)
                written += len(view)
                if written - begun >= PUSH_EVERY:  # the medium works while the rest is hashed
                    handle.push(begun, written)
                    begun = written

            self.stream(name, target, write)

    def _beside(
        self,
        entry: Entry,
        update: Callable[[memoryview], object],
        sink: Callable[[memoryview], object],
    ) -> None:
        """Hash in a second thread: both leave the interpreter, the slower one sets the time."""
        with ThreadPoolExecutor(1) as hasher:
            hashing: deque[Future[object]] = deque()
            for view in self._views(entry, BUFFERS):
                hashing.append(hasher.submit(update, view))
                sink(view)
                if len(hashing) == BUFFERS:
                    hashing.popleft().result()  # also frees the buffer that is filled next
            for job in hashing:
                job.result()

    def _views(self, entry: Entry, count: int) -> Iterator[memoryview]:
        """Yield an entry in pieces, in so many buffers by turns."""
        buffers = cycle([memoryview(bytearray(min(CHUNK, entry.size))) for _ in range(count)])
        self._file.seek(entry.offset)
        left = entry.size
        while left:
            buffer = next(buffers)
            got = self._file.readinto(buffer[:left])  # type: ignore[attr-defined]
            if not got:
                raise TruncatedError(f"the file ends inside {entry.name}")
            yield buffer[:got]
            left -= got


def check_length(entry: Entry, target: Target) -> None:
    """Compare the length in the container with the signed one."""
    if entry.size != target.length:
        raise LengthMismatchError(
            f"{entry.name} has {entry.size:,} bytes where {target.length:,} were signed"
        )


@contextmanager
def open_source(disk: Disk, path: Path, policy: Policy) -> Iterator[Source]:
    """Open and index a container.

    Raises:
        FormatError: It is not one.
        OSError: The medium cannot be read.
    """
    with disk.open_read(path) as file:
        index = container.index(
            lambda offset, length: read_at(file, offset, length),
            file.seek(0, os.SEEK_END),
            max_entries=policy.max_entries,
            max_metadata_bytes=policy.max_metadata_bytes,
            max_bytes=policy.max_bundle_bytes,
        )
        yield Source(file, index)


def read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    """Read `length` bytes at `offset`; fewer at the end of the file."""
    file.seek(offset)
    return file.read(length)


def expand(packed: Iterator[bytes], what: str, target: Target, sink: Callable[..., object]) -> None:
    """Expand a standard .xz whose packed bytes were verified before, bounded by the signed length.

    Raises:
        LengthMismatchError, DigestMismatchError: The content is not what was signed.
        FormatError: Not one complete .xz stream, or it wants too much memory.
    """
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    digest, length = hashlib.sha256(), 0
    try:
        for chunk in packed:
            if decoder.eof and chunk:
                raise FormatError(f"{what} goes on after its end")
            data = decoder.decompress(chunk, CHUNK)
            while True:
                length += len(data)
                if length > target.length:
                    raise LengthMismatchError(f"{what} holds more than {target.length:,} bytes")
                digest.update(data)
                sink(data)
                if decoder.eof or decoder.needs_input:
                    break
                data = decoder.decompress(b"", CHUNK)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise FormatError(f"{what} is not a valid .xz: {error}") from None
    if not decoder.eof or decoder.unused_data:
        raise FormatError(f"{what} is not one complete .xz stream")
    if length != target.length:
        raise LengthMismatchError(f"{what} holds {length:,} bytes, not {target.length:,}")
    if digest.hexdigest() != target.sha256:
        raise DigestMismatchError(f"the content of {what} is not what was signed")
