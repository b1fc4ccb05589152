"""One open segment of this process: created, appended to, synced. Its key lives only here."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from zlib import crc32

from device_runtime.crypt import Aead, Identity, RecipientKey
from device_runtime.disk import Handle, write_all
from device_runtime.format.frames import CLEAR, FRAME, HOLE, MARKED, MARKER
from device_runtime.format.header import header_message, open_header, write_header
from device_runtime.format.segment import Header, Mark, Name
from device_runtime.journal.seal import TAG, new_key, note_mark
from device_runtime.journal.shelf import Shelf

_PACK = struct.Struct("<HBBIIII").pack  # a frame's header without its CRC
_PUSH = 1 << 20  # bytes that may wait for a sync before the disk is set to work
_AHEAD, _NEAR = 64 << 10, 4 << 10  # room made in advance, and how much of it is left by then


class Active:
    """An open segment.

    Attributes:
        name: Its file.
        header: What stands at its beginning.
        size: Bytes in the file.
        prepared: Where the room ends that was made in advance, if it is behind that.
        offset: Records in it.
        durable: Records of it that survive a power cut.
        broken: The file cannot be trusted any more: it is never written again.
        aead: Its key.
        prefix: `device/epoch/uid/`.
        marks: Stream → its newest mark.
        limit: Size up to which frames may be appended before anything else is due.
        due: Monotonic time at which a sync is due.
        counter: Nonce of the next frame.
        hash: Of the header: associated data of every frame.
    """

    __slots__ = (
        *("name", "header", "size", "offset", "durable", "broken", "aead", "prefix", "marks"),
        *("limit", "due", "prepared", "counter", "hash", "encrypt", "write", "_handle", "_listed"),
        *("_scratch", "_each", "_group", "_pushed"),
    )

    def __init__(
        self,
        name: Name,
        header: Header,
        hash: bytes,
        aead: Aead,
        handle: Handle,
        *,
        durability: str,
    ) -> None:
        self.name, self.header, self.aead = name, header, aead
        self.prefix = header.prefix
        self.size = self.offset = self.durable = self.limit = self.due = 0
        self.broken = False
        self.marks: dict[str, Mark] = {}
        self.hash, self._handle = hash, handle
        self.encrypt, self.write = aead.encrypt, handle.write
        self._scratch = bytearray()
        self.counter = self.prepared = self._pushed = 0
        self._listed = False
        self._each, self._group = durability == "each", durability == "group"

    @classmethod
    def create(
        cls,
        shelf: Shelf,
        header: Header,
        identity: Identity,
        recipients: Sequence[RecipientKey],
        *,
        durability: str,
    ) -> Active:
        """Create the file with its signed header.

        Args:
            shelf: The folder.
            header: All but its keys.
            identity: Signs it.
            recipients: Who will be able to read it.
            durability: Of the policy: how the file is prepared for being synced.

        Raises:
            OSError: The disk; nothing is left behind.
        """
        aead, wrapped = new_key(header, recipients)
        header = header._replace(keys=wrapped)
        start = write_header(header)
        digest = open_header(start).hash
        name = Name(header.epoch, header.lane, header.number, header.uid, "open")
        handle = shelf.disk.create(shelf.path(name))
        data = start + identity.sign_fast(header_message(digest))
        try:
            write_all(handle, data)
        except OSError:
            handle.close()
            shelf.disk.unlink(shelf.path(name))
            raise
        active = cls(name, header, digest, aead, handle, durability=durability)
        active.size = len(data)
        shelf.put(name, len(data))
        return active

    @property
    def next(self) -> int:
        """Sequence of the next record."""
        return self.header.first + self.offset

    def append(self, type: int, content: bytes, count: int, mark: bytes = b"") -> None:
        """Write one frame with one system call.

        Raises:
            OSError: The disk; the file is as it was, or `broken`.
        """
        counter = self._next_counter()
        flags, length = MARKED if mark else 0, len(mark) + len(content) + TAG
        head = _PACK(MARKER, type, flags, length, counter, self.offset, count)
        self._out(self.frame(head, content, counter, mark), count)
        if mark:
            note_mark(self.marks, mark, self.next - count, count)

    def declare(self, content: bytes) -> None:
        """Write one HOLE: readable without the key, because whoever evicts must read it.

        Raises:
            OSError: See `append`.
        """
        counter = self._next_counter()
        head = _PACK(MARKER, HOLE, CLEAR, len(content) + TAG, counter, self.offset, 1)
        data = head + content + self.aead.seal(counter, b"", self.hash + head + content)
        self._out(crc32(data).to_bytes(4, "little") + data, 1)

    def _next_counter(self) -> int:
        """Use up a nonce, even if the write will fail: no two frames may share one."""
        self.counter += 1
        return self.counter - 1

    def _out(self, data: bytes | memoryview, count: int) -> None:
        size, offset = len(data), self.offset
        # Before the write: an interrupt must not give a sequence twice.
        self.offset, self.size = offset + count, self.size + size
        try:
            if self.write(data) != size:
                raise short_write()
        except OSError:
            self.take_back(offset, size)
            raise

    def take_back(self, offset: int, size: int) -> None:
        """Bring the file back to where it stood before a frame of `size` bytes failed."""
        self.offset, self.size = offset, self.size - size
        self.prepared = self.size
        try:
            self._handle.truncate(self.size)
        except OSError:
            self.broken, self.limit = True, 0

    def frame(self, head: bytes, content: bytes, counter: int, mark: bytes = b"") -> memoryview:
        """Return a whole frame, encrypted in place: every copy of a large block costs.

        The next call writes over it.
        """
        if self._group and self.size - self._pushed >= _PUSH:
            self._handle.push(self._pushed, self.size)
            self._pushed = self.size
            self._room(_PUSH + _PUSH // 2)
        size = FRAME.size + len(mark) + len(content) + TAG
        if size > len(self._scratch):
            self._scratch = bytearray(size)
        frame = memoryview(self._scratch)[:size]
        frame[4 : FRAME.size] = head
        start = FRAME.size + len(mark)
        frame[FRAME.size : start] = mark
        nonce = counter.to_bytes(12, "little")
        self.aead.encrypt_into(nonce, content, self.hash + head + mark, frame[start:])
        frame[:4] = crc32(frame[4:]).to_bytes(4, "little")
        return frame

    def sync(self, shelf: Shelf) -> None:
        """Make everything written durable; the first time also the file's name.

        Raises:
            OSError: Nothing is known about the file any more: it is `broken`.
        """
        if self.durable == self.offset:
            return
        try:
            self._handle.sync()
            if not self._listed:
                shelf.disk.fsync_dir(shelf.folder)
                self._listed = True
        except OSError:
            self.broken, self.limit = True, 0
            raise
        self.durable = self.offset
        if self._each and self.size + _NEAR > self.prepared:
            self._room(_AHEAD)

    def _room(self, ahead: int) -> None:
        """Let the file system give room for what is written next: a write then only copies."""
        end = max(self.prepared, min(self.size + ahead, self.limit))
        if self._handle.prepare(self.size, end):
            self.prepared = end

    def close(self) -> None:
        """Close the file; never raises."""
        try:
            self._handle.close()
        except OSError:
            self.broken, self.limit = True, 0
        self.write = self._handle.write  # what a closed file has: it refuses


def short_write() -> OSError:
    """Return what a short write means: that is how a full disk shows."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
