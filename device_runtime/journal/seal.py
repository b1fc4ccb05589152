"""Open to sealed (columnar, by the process that has the key) or salvaged (frames verbatim).

Both are written the same way: temporary file, fsync, rename, fsync of the folder; only then may
the open file go. A crash anywhere leaves at least one whole form.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from device_runtime.crypt import (
    ED25519_SIGNATURE,
    KEY_BYTES,
    Aead,
    Identity,
    RecipientKey,
    sha256,
    wrap_key,
)
from device_runtime.disk import write_all
from device_runtime.errors import FormatError, SegmentError
from device_runtime.format.frames import (
    BLOCK,
    HOLE,
    MARK,
    MARKED,
    RECORDS,
    ROWS,
    Frame,
    Scan,
    frame_bytes,
    frame_head,
    scan,
)
from device_runtime.format.segment import (
    MAX_MARKS,
    SALVAGE,
    SEALED,
    TRAILER,
    TRAILER_MAGIC,
    Header,
    Hole,
    Mark,
    Name,
    Opened,
    open_header,
    segment_message,
    write_header,
)
from device_runtime.journal import records as small
from device_runtime.journal.reader import FrameOpener, RowBlock, walk
from device_runtime.journal.shelf import SealedInfo, Shelf

TAG = 16


@dataclass(frozen=True, slots=True)
class OpenFile:
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
                    record = small.decode(
                        0, HOLE, small.parse(self.data[frame.content : frame.end - TAG])
                    )
                except FormatError:
                    continue  # a CRC that held by chance; the base will say so
                if isinstance(record, small.HoleRecord):
                    found += record.holes
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
        return replace(
            header,
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


def seal(
    shelf: Shelf,
    name: Name,
    aead: Aead,
    *,
    identity: Identity,
    recipients: Sequence[RecipientKey],
    previous: str,
    reason: str,
) -> SealedInfo:
    """Write the columnar form of an open segment of this process and unlink the open one.

    Args:
        shelf: The folder.
        name: The open file.
        aead: Its key.
        identity: Signs.
        recipients: Who will read it.
        previous: Hash (hex) of the sealed segment before it.
        reason: Why.

    Raises:
        OSError: The disk; the open file is still there.
        FormatError, SegmentError: The open file cannot be read any more; salvage it.
    """
    file = OpenFile.read(shelf.disk.read(shelf.path(name)))
    header = file.closed(SEALED, previous, reason)
    key, wrapped = new_key(header, recipients)
    start = write_header(replace(header, keys=wrapped))
    header_hash = sha256(start)
    body = [start]
    for counter, (type_, offset, count, content) in enumerate(_contents(file, aead)):
        head = frame_head(type_, 0, len(content) + TAG, counter, offset, count)
        body.append(frame_bytes(head, key.seal(counter, content, header_hash + head)))
    return _commit(shelf, name, body, identity)


def _contents(file: OpenFile, aead: Aead) -> list[tuple[int, int, int, bytes]]:
    """Return (type, offset, count, plain content) of the frames of a sealed segment."""
    first = file.opened.header.first
    layout = file.opened.header.layout
    opener = FrameOpener(memoryview(file.data), file.opened.hash, aead)
    rows = [frame for frame in file.scan.frames if frame.type == ROWS]
    others = [frame for frame in file.scan.frames if frame.type != ROWS]
    result: list[tuple[int, int, int, bytes]] = []
    if rows:
        from device_runtime.format.blocks import encode_block

        for block in walk(layout, first, rows, opener):
            if not isinstance(block, RowBlock):
                raise SegmentError("a frame of rows holds something else")
            content = encode_block(layout, block.n, dict(block.columns))
            result.append((BLOCK, block.sequence0 - first, block.n, content))
    for part in _portions(others):
        values = [(first + f.offset, f.type, small.parse(opener.content(f))) for f in part]
        content = zlib.compress(small.join(values), 9)
        result.append((RECORDS, part[0].offset, len(part), content))
    return result


def _portions(found: Sequence[Frame]) -> list[list[Frame]]:
    """Cut into portions that a reader may expand: well below `records.MAX_RECORDS`."""
    result: list[list[Frame]] = []
    size = 0
    for frame in found:
        if not result or size + frame.length > small.MAX_RECORDS // 8 or len(result[-1]) >= 16_384:
            result.append([])
            size = 0
        result[-1].append(frame)
        size += frame.length
    return result


def salvage(
    shelf: Shelf, name: Name, file: OpenFile, *, identity: Identity, previous: str
) -> SealedInfo:
    """Write the signed form of a segment whose key is gone, frames verbatim.

    The same open file always gives the same bytes before the signature, hence the same hash.

    Raises:
        OSError: The disk; the open file is still there.
    """
    header = file.closed(SALVAGE, previous, "crash")
    begin = file.opened.end + ED25519_SIGNATURE
    body = [write_header(header), file.data[:begin]]
    body += [file.data[frame.position : frame.end] for frame in file.scan.frames]
    return _commit(shelf, name, body, identity)


def _commit(shelf: Shelf, name: Name, body: list[bytes], identity: Identity) -> SealedInfo:
    disk = shelf.disk
    digest = sha256(*body)
    body.append(TRAILER.pack(digest, identity.sign_fast(segment_message(digest)), TRAILER_MAGIC))
    temporary, sealed = name._replace(suffix="tmp"), name._replace(suffix="seg")
    disk.unlink(shelf.path(temporary))
    handle = disk.create(shelf.path(temporary))
    try:
        for part in body:
            write_all(handle, part)
        handle.sync()
    except BaseException:
        handle.close()
        disk.unlink(shelf.path(temporary))
        raise
    handle.close()
    disk.rename(shelf.path(temporary), shelf.path(sealed))
    disk.fsync_dir(shelf.folder)
    shelf.put(sealed, sum(len(part) for part in body))
    shelf.drop(name)
    return shelf.info(sealed)
