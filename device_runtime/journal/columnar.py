"""The columnar form of a sealed segment, written by the process that has the segment's key."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from device_runtime.crypt import Aead, Identity, RecipientKey, sha256
from device_runtime.errors import SegmentError
from device_runtime.format.blocks import encode_block
from device_runtime.format.frames import BLOCK, RECORDS, ROWS, Frame, frame_bytes, frame_head
from device_runtime.format.header import write_header
from device_runtime.format.segment import SEALED, Name
from device_runtime.journal import records as small
from device_runtime.journal.reader import FrameOpener, RowBlock, walk
from device_runtime.journal.seal import TAG, OpenFile, commit, new_key
from device_runtime.journal.shelf import SealedInfo, Shelf


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
    start = write_header(header._replace(keys=wrapped))
    header_hash = sha256(start)
    body = [start]
    for counter, (type_, offset, count, content) in enumerate(_contents(file, aead)):
        head = frame_head(type_, 0, len(content) + TAG, counter, offset, count)
        body.append(frame_bytes(head, key.seal(counter, content, header_hash + head)))
    return commit(shelf, name, body, identity)


def _contents(file: OpenFile, aead: Aead) -> list[tuple[int, int, int, bytes]]:
    """Return (type, offset, count, plain content) of the frames of a sealed segment."""
    first = file.opened.header.first
    layout = file.opened.header.layout
    opener = FrameOpener(memoryview(file.data), file.opened.hash, aead)
    rows = [frame for frame in file.scan.frames if frame.type == ROWS]
    others = [frame for frame in file.scan.frames if frame.type != ROWS]
    result: list[tuple[int, int, int, bytes]] = []
    if rows:
        for block in walk(layout, first, rows, opener):
            if not isinstance(block, RowBlock):
                raise SegmentError("a frame of rows holds something else")
            content = encode_block(layout, block.n, dict(block.columns))
            result.append((BLOCK, block.sequence0 - first, block.n, content))
    for part in _portions(others):
        values = [(first + f.offset, f.type, opener.content(f)) for f in part]
        packed = zlib.compress(small.join(values), 6)  # 9 gains 5 % and takes three times as long
        result.append((RECORDS, part[0].offset, len(part), packed))
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
