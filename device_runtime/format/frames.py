"""Frames: the unit that is written at once, checked by a CRC and encrypted.

Nothing here needs a key or numpy. A walker reads frames out of any file and skips damage.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from device_runtime.errors import FormatError
from device_runtime.record import NamedTuple

FRAME = struct.Struct("<IHBBIIII")  # CRC-32, marker, type, flags, length, counter, offset, count
MARKER = 0xF7E9
_MARKER_BYTES = MARKER.to_bytes(2, "little")
MAX_FRAME = 64 << 20

ROWS, EVENT, LABEL, HOLE, SKETCH = 1, 2, 3, 4, 5  # frames of an open segment
BLOCK, RECORDS = 16, 17  # frames of a sealed segment
FRAME_TYPES = (ROWS, EVENT, LABEL, HOLE, SKETCH, BLOCK, RECORDS)
CLEAR = 1  # flag: the content is readable, and authenticated by a tag at its end
MARKED = 2  # flag: a mark stands readable before the ciphertext, and is authenticated with it
MARK = struct.Struct("<8sq")  # stream, number of the first input row


class Frame(NamedTuple):
    """Where a frame lies in a file, and what its header says."""

    position: int
    type: int
    flags: int
    length: int
    counter: int
    offset: int
    n: int

    @property
    def content(self) -> int:
        """Position of the content."""
        return self.position + FRAME.size

    @property
    def end(self) -> int:
        """Position after the frame."""
        return self.position + FRAME.size + self.length


class Scan(NamedTuple):
    """What can be read of an open segment.

    Attributes:
        frames: Whole frames with a valid CRC, in order.
        torn: Bytes that belong to no whole frame.
        skipped: Offsets (first, last) that are missing before a later frame.
        records: Records in the frames.
        next_offset: Offset after the last record.
    """

    frames: list[Frame]
    torn: int
    skipped: list[tuple[int, int]]
    records: int
    next_offset: int


def frame_head(type: int, flags: int, length: int, counter: int, offset: int, count: int) -> bytes:
    """Return a frame's header without its CRC: 20 bytes, part of the associated data."""
    return FRAME.pack(0, MARKER, type, flags, length, counter, offset, count)[4:]


def frame_bytes(head: bytes, content: bytes) -> bytes:
    """Return a whole frame: CRC over header and content, header, content."""
    return zlib.crc32(content, zlib.crc32(head)).to_bytes(4, "little") + head + content


def read_frame(data: memoryview, position: int, end: int) -> Frame | None:
    """Return the frame at `position` if it is whole and its CRC holds, else None."""
    if position + FRAME.size > end:
        return None
    crc, marker, type_, flags, length, counter, offset, count = FRAME.unpack_from(data, position)
    stop = position + FRAME.size + length
    if marker != MARKER or type_ not in FRAME_TYPES or length > MAX_FRAME or stop > end:
        return None
    if count < 1 or zlib.crc32(data[position + 4 : stop]) != crc:
        return None
    return Frame(position, type_, flags, length, counter, offset, count)


def scan(data: bytes | bytearray | memoryview, start: int, end: int | None = None) -> Scan:
    """Walk over frames from `start`; skip what is damaged, frame by frame; never raises.

    Offsets and counters only grow: an old frame that a file system shows again is skipped.
    The work is bounded: after checksumming eight times the file it gives up on the rest.
    """
    view = memoryview(data)
    end = len(view) if end is None else end
    raw = data if isinstance(data, (bytes, bytearray)) else bytes(view)
    frames: list[Frame] = []
    skipped: list[tuple[int, int]] = []
    position, torn, expected, last_counter = start, 0, 0, -1
    budget = 8 * (end - start) + (1 << 20)
    records = 0
    while position < end:
        frame = read_frame(view, position, end)
        if frame is not None and frame.offset >= expected and frame.counter > last_counter:
            if frame.offset > expected:
                skipped.append((expected, frame.offset - 1))
            frames.append(frame)
            expected = frame.offset + frame.n
            records += frame.n
            last_counter = frame.counter
            position = frame.end
            continue
        budget -= _claimed(view, position, end)
        found = raw.find(_MARKER_BYTES, position + 5, end) if budget > 0 else -1
        after = found - 4 if found >= 0 else end
        torn += after - position
        position = after
    if frames:
        rest = raw[frames[-1].end : end]
        torn -= len(rest) - len(rest.rstrip(b"\0"))  # room made in advance
    return Scan(frames, torn, skipped, records, expected)


def _claimed(view: memoryview, position: int, end: int) -> int:
    if position + FRAME.size > end:
        return 1
    length = FRAME.unpack_from(view, position)[4]
    return min(int(length), end - position) if length <= MAX_FRAME else 1


def frames(data: bytes | bytearray | memoryview, start: int, end: int) -> Iterator[Frame]:
    """Yield the frames of a closed segment, which must be whole; no list of a hostile length.

    Raises:
        FormatError: One is not.
    """
    view = memoryview(data)
    while start < end:
        frame = read_frame(view, start, end)
        if frame is None:
            raise FormatError("a frame of a segment is damaged")
        yield frame
        start = frame.end
