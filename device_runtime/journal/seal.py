"""Open to closed, and the salvage form: frames verbatim, signed, without numpy or a key.

Every form is written the same way: temporary file, fsync, rename, fsync of the folder; only then
may the open file go. A crash anywhere leaves at least one whole form. From the rename on the open
file takes no more rows, even if what comes after it fails: recovery goes by the sealed form.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from device_runtime.crypt import (
    ED25519_SIGNATURE,
    KEY_BYTES,
    Aead,
    Identity,
    RecipientKey,
    sha256,
    wrap_key,
)
from device_runtime.disk import new_file, write_all
from device_runtime.errors import FormatError, JournalDamagedError
from device_runtime.format.frames import HOLE, MARK, MARKED, ROWS, Scan, scan
from device_runtime.format.header import (
    TRAILER,
    TRAILER_MAGIC,
    Opened,
    header_message,
    open_header,
    segment_message,
    write_header,
)
from device_runtime.format.segment import MAX_MARKS, SALVAGE, Header, Hole, Mark, Name
from device_runtime.journal import content
from device_runtime.journal.shelf import SealedInfo, Shelf
from device_runtime.record import NamedTuple, replace

TAG = 16


class OpenFile(NamedTuple):
    """An open segment as it lies on the disk.

    Attributes:
        data: The whole file.
        opened: Its header.
        scan: Its readable frames.
    """

    data: bytes
    opened: Opened
    scan: Scan

    @classmethod
    def read(cls, data: bytes) -> OpenFile:
        """Read a file.

        Raises:
            FormatError: Its header cannot be read.
        """
        opened = open_header(data)
        return cls(data, opened, scan(data, opened.end + ED25519_SIGNATURE))

    def holes(self) -> tuple[Hole, ...]:
        """Return the HOLEs inside: their content is readable without the key."""
        found: list[Hole] = []
        for frame in self.scan.frames:
            if frame.type == HOLE:
                try:
                    value = content.parse(self.data[frame.content : frame.end - TAG])
                    found += content.holes_of(value)
                except FormatError:
                    continue  # a CRC that held by chance; the base will say so
        return tuple(found)

    def marks(self) -> tuple[Mark, ...]:
        """Return the newest mark of each stream."""
        found: dict[str, Mark] = {}
        first = self.opened.header.first
        for frame in self.scan.frames:
            if frame.flags & MARKED and frame.type == ROWS and frame.length >= MARK.size:
                mark = self.data[frame.content : frame.content + MARK.size]
                note_mark(found, mark, first + frame.offset, frame.n)
        return tuple(list(found.values())[-MAX_MARKS:])

    def closed(self, kind: int, previous: str, reason: str) -> Header:
        """Return the header that a sealed or salvaged form gets."""
        header, found = self.opened.header, self.scan
        return header._replace(
            kind=kind,
            previous=previous,
            keys=(),
            last=header.first + found.next_offset - 1,
            records=found.records,
            rows=sum(frame.n for frame in found.frames if frame.type == ROWS),
            holes=self.holes(),
            skipped=tuple((header.first + a, header.first + b) for a, b in found.skipped),
            torn=found.torn,
            marks=self.marks(),
            reason=reason,
        )


def note_mark(marks: dict[str, Mark], mark: bytes, sequence: int, count: int) -> None:
    """Keep the newest mark of each stream, newest last; frames of one block add up."""
    stream, row = MARK.unpack(mark)
    before = marks.pop(stream.hex(), None)
    if before is not None and before.row == row and before.first + before.count == sequence:
        marks[stream.hex()] = replace(before, count=before.count + count)
    else:
        marks[stream.hex()] = Mark(stream.hex(), max(row, -1), sequence, count)


def new_key(
    header: Header, recipients: Sequence[RecipientKey]
) -> tuple[Aead, tuple[tuple[str, bytes], ...]]:
    """Draw a segment key and wrap it to every recipient."""
    key = os.urandom(KEY_BYTES)
    info = header.key_info()
    return Aead(key), tuple((who.id, wrap_key(key, who, info)) for who in recipients)


def salvage(
    shelf: Shelf,
    name: Name,
    file: OpenFile,
    *,
    identity: Identity,
    previous: str,
    reason: str = "crash",
) -> SealedInfo:
    """Write the signed form with the frames verbatim: the key is gone, or it is not worth more.

    The same open file always gives the same bytes before the signature, hence the same hash.

    Raises:
        OSError: The disk; the open file is still there.
    """
    opened = file.opened
    again = identity.sign_fast(header_message(opened.hash))  # the same bytes, if none was damaged
    body = [write_header(file.closed(SALVAGE, previous, reason)), file.data[: opened.end], again]
    body += [file.data[frame.position : frame.end] for frame in file.scan.frames]
    return commit(shelf, name, body, identity)


def commit(shelf: Shelf, name: Name, body: list[bytes], identity: Identity) -> SealedInfo:
    """Sign and write a sealed form durably; then, and only then, unlink the open one.

    Raises:
        OSError: The disk. Where the shelf has the sealed form now, the open one is closed for ever.
    """
    disk = shelf.disk
    digest = sha256(*body)
    body.append(TRAILER.pack(digest, identity.sign_fast(segment_message(digest)), TRAILER_MAGIC))
    temporary, sealed = name._replace(suffix="tmp"), name._replace(suffix="seg")
    disk.unlink(shelf.path(temporary))
    with new_file(disk, shelf.path(temporary)) as handle:
        for part in body:
            write_all(handle, part)
    disk.rename(shelf.path(temporary), shelf.path(sealed))
    shelf.put(sealed, sum(len(part) for part in body))
    disk.fsync_dir(shelf.folder)
    try:
        info = shelf.info(sealed)
    except JournalDamagedError as error:
        raise OSError(errno.EIO, f"what was just written does not read back: {error}") from None
    shelf.drop(name)
    return info
