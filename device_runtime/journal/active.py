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
from device_runtime.journal.hot import OneRow
from device_runtime.journal.seal import TAG, new_key, note_mark
from device_runtime.journal.shelf import Shelf

_PACK = struct.Struct("<HBBIIII").pack  # a frame's header without its CRC
_LARGE = 4096


class Active:
    """An open segment.

    Attributes:
        name: Its file.
        header: What stands at its beginning.
        size: Bytes in the file.
        offset: Records in it.
        durable: Records of it that survive a power cut.
        broken: The file cannot be trusted any more: it is never written again.
        aead: Its key.
        prefix: `device/epoch/uid/`.
        marks: Stream → its newest mark.
        room: Bytes that may be appended before anything else is due.
        counter: Nonce of the next frame.
        hash: Of the header: associated data of every frame.
        one: The short way for one row, where the layout allows it.
    """

    def __init__(self, name: Name, header: Header, hash: bytes, aead: Aead, handle: Handle) -> None:
        self.name, self.header, self.aead = name, header, aead
        self.prefix = header.prefix
        self.size = self.offset = self.durable = 0
        self.broken = False
        self.room = 0
        self.one: OneRow | None = None
        self.marks: dict[str, Mark] = {}
        self.hash, self._handle = hash, handle
        self.encrypt, self.write = aead.encrypt, handle.write
        self._scratch = bytearray()
        self.counter = 0
        self._listed = False

    @classmethod
    def create(
        cls, shelf: Shelf, header: Header, identity: Identity, recipients: Sequence[RecipientKey]
    ) -> Active:
        """Create the file with its signed header.

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
        active = cls(name, header, digest, aead, handle)
        active.size = len(data)
        shelf.put(name, len(data))
        return active

    @property
    def next(self) -> int:
        """Sequence of the next record."""
        return self.header.first + self.offset

    def append(self, type: int, content: bytes, count: int, mark: bytes = b"") -> None:
        """Write one frame with one system call.

        The counter is the nonce: it is used up even if the write fails, so no two frames that
        ever touched the disk share one.

        Raises:
            OSError: The disk; the file is as it was, or `broken`.
        """
        counter = self.counter
        self.counter = counter + 1
        length = len(mark) + len(content) + TAG
        flags = MARKED if mark else 0
        head = _PACK(MARKER, type, flags, length, counter, self.offset, count)
        if length > _LARGE:
            self._out(self._large(head, content, mark, counter))
        else:
            aad = self.hash + head + mark
            body = self.encrypt(counter.to_bytes(12, "little"), content, aad)
            data = head + mark + body
            self._out(crc32(data).to_bytes(4, "little") + data)
        if mark:
            note_mark(self.marks, mark, self.next, count)
        self.offset += count

    def declare(self, content: bytes) -> None:
        """Write one HOLE: readable without the key, because whoever evicts must read it.

        Raises:
            OSError: See `append`.
        """
        counter = self.counter
        self.counter = counter + 1
        head = _PACK(MARKER, HOLE, CLEAR, len(content) + TAG, counter, self.offset, 1)
        tag = self.aead.seal(counter, b"", self.hash + head + content)
        data = head + content + tag
        self._out(crc32(data).to_bytes(4, "little") + data)
        self.offset += 1

    def _out(self, data: bytes | memoryview) -> None:
        size = len(data)
        try:
            written = self.write(data)
        except OSError:
            self._undo()
            raise
        if written != size:
            self.short()
        self.size += size
        self.room -= size

    def short(self) -> None:
        """Undo a short write, as a full disk gives it, and raise."""
        self._undo()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _large(self, head: bytes, content: bytes, mark: bytes, counter: int) -> memoryview:
        """Return a whole frame, encrypted in place: every copy of a large block costs."""
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

    def _undo(self) -> None:
        try:
            self._handle.truncate(self.size)
        except OSError:
            self.broken, self.room = True, 0

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
            self.broken, self.room = True, 0
            raise
        self.durable = self.offset

    def close(self) -> None:
        """Close the file; never raises."""
        try:
            self._handle.close()
        except OSError:
            self.broken, self.room = True, 0
