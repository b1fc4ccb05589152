"""A sealed or salvaged segment, read back: verify, decrypt, decode. The base imports this one."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping

from device_runtime.crypt import ED25519_SIGNATURE, Aead, PublicIdentity, sha256, unwrap_key
from device_runtime.errors import FormatError, SegmentError
from device_runtime.format.batch import ColumnData
from device_runtime.format.frames import (
    BLOCK,
    CLEAR,
    FRAME,
    MARK,
    MARKED,
    RECORDS,
    ROWS,
    Frame,
    frames,
)
from device_runtime.format.header import (
    TRAILER,
    header_message,
    open_header,
    read_header,
    read_trailer,
    segment_message,
)
from device_runtime.format.segment import OPEN, SALVAGE, SEALED, Header, Layout
from device_runtime.journal import records as small
from device_runtime.journal.content import parse
from device_runtime.journal.records import EventRecord, HoleRecord, LabelRecord, SketchRecord
from device_runtime.record import dataclass

__all__ = [
    "EventRecord",
    "HoleRecord",
    "LabelRecord",
    "Record",
    "RowBlock",
    "SegmentReader",
    "SketchRecord",
    "open_segment",
    "read_header",
    "verify_segment",
]


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of one shape.

    Attributes:
        sequence0: Sequence of the first row.
        n: Rows.
        columns: Name → numpy array [n, *shape] or `Text`. Always: `_sequence`, `_monotonic`,
            `_wall`, `_row` (int64), `_flags` (uint16), `_latency` (uint32). Where the block has
            them: `_label` (int16), `_scores` (float32/64 [n, k]), `_unlike` (float32), `_raw`
            (Text), and the journaled columns that were given. `_sequence` grows, but may have
            gaps: rows of another shape, or labels, stand in another record.
    """

    sequence0: int
    n: int
    columns: Mapping[str, ColumnData]


Record = RowBlock | LabelRecord | EventRecord | HoleRecord | SketchRecord


class FrameOpener:
    """Decrypts frames of one file; shared by reader and seal."""

    def __init__(self, data: memoryview, header_hash: bytes, aead: Aead) -> None:
        self._data, self._hash, self._aead = data, header_hash, aead

    def content(self, frame: Frame) -> bytes:
        """Return what a frame holds.

        Raises:
            SegmentError: The key does not open it: somebody else wrote it.
        """
        head = bytes(self._data[frame.position + 4 : frame.position + FRAME.size])
        body = self._data[frame.position + FRAME.size : frame.end]
        if frame.flags & CLEAR:
            body, tag = body[:-16], body[-16:]
            plain = self._aead.open(frame.counter, tag, self._hash + head + body)
            result = None if plain is None else bytes(body)
        elif frame.flags & MARKED:
            mark, body = body[: MARK.size], body[MARK.size :]
            result = self._aead.open(frame.counter, body, self._hash + head + mark)
        else:
            result = self._aead.open(frame.counter, body, self._hash + head)
        if result is None:
            raise SegmentError("a frame of a segment does not open with the segment's key")
        return result


class SegmentReader:
    """One verified segment.

    Attributes:
        header: What it says about itself; keys of a salvage included.
        hash: Its hash, hex: what an ack lists.
    """

    def __init__(
        self, header: Header, hash: str, body: memoryview, start: int, opener: FrameOpener
    ) -> None:
        self.header, self.hash = header, hash
        self._body, self._start, self._opener = body, start, opener

    def records(self) -> Iterator[Record]:
        """Yield everything inside; row blocks may interleave with other records.

        Raises:
            SegmentError: A frame does not decrypt: the device did not write this.
            FormatError: What was decrypted does not follow docs/FORMAT-journal.md.
        """
        found = frames(self._body, self._start, len(self._body))
        if self.header.kind == SALVAGE:
            yield from walk(self.header.layout, self.header.first, found, self._opener)
            return
        for frame in found:
            content = self._opener.content(frame)
            if frame.type == BLOCK:
                yield self._block(frame, content)
            elif frame.type == RECORDS:
                inflater = zlib.decompressobj()
                try:
                    plain = inflater.decompress(content, small.MAX_RECORDS)
                except zlib.error as error:
                    raise FormatError(f"records of the journal: {error}") from None
                records = small.split(plain)
                if len(records) != frame.n:
                    raise FormatError("a frame counts its records wrongly")
                for record in records:
                    self._inside(record.sequence)
                    yield record
            else:
                raise FormatError(f"a sealed segment has a frame of type {frame.type}")

    def _block(self, frame: Frame, content: bytes) -> RowBlock:
        from device_runtime.format.blocks import decode_block

        columns = decode_block(self.header.layout, frame.n, content)
        first, last = int(columns["_sequence"][0]), int(columns["_sequence"][-1])
        self._inside(first)
        self._inside(last)
        if (columns["_sequence"][1:] <= columns["_sequence"][:-1]).any():
            raise FormatError("the rows of a block do not follow one another")
        return RowBlock(first, frame.n, columns)

    def _inside(self, sequence: int) -> None:
        if not self.header.first <= sequence <= self.header.last:
            raise FormatError("a record lies outside the range of its segment")


def walk(
    layout: Layout, first: int, all_frames: Iterable[Frame], opener: FrameOpener
) -> Iterator[Record]:
    """Yield the records of an open segment's frames; rows gathered into large blocks."""
    from device_runtime.format.blocks import Gatherer

    gatherer = Gatherer(layout)
    for frame in all_frames:
        content = opener.content(frame)
        sequence = first + frame.offset
        if frame.type == ROWS:
            for n, columns in gatherer.add(sequence, frame.n, content):
                yield RowBlock(int(columns["_sequence"][0]), n, columns)
        elif frame.type in (BLOCK, RECORDS) or frame.n != 1:
            raise FormatError(f"an open segment has a frame of type {frame.type}")
        else:
            yield small.decode(sequence, frame.type, parse(content))
    for n, columns in gatherer.rest():
        yield RowBlock(int(columns["_sequence"][0]), n, columns)


def verify_segment(
    data: bytes | bytearray | memoryview, *, device: PublicIdentity
) -> tuple[Header, str]:
    """Verify hash, signature and device of a sealed or salvaged segment; needs no journal key.

    Returns:
        The header (keys of a salvage included) and the hash in hex.

    Raises:
        SegmentError: One of them does not hold.
        UnsupportedVersionError: Newer format.
        FormatError: Not a segment.
    """
    view = memoryview(data)
    outer = open_header(view).header
    claimed, signature = read_trailer(view)
    if outer.kind == OPEN:
        raise SegmentError("an open segment never leaves its device")
    if sha256(view[: -TRAILER.size]) != claimed:
        raise SegmentError("the hash of a segment does not hold")
    if outer.device != device.id:
        raise SegmentError(f"a segment of device {outer.device} claims to be of {device.id}")
    if not device.verify_fast(signature, segment_message(claimed)):
        raise SegmentError("the signature of a segment does not hold")
    header = outer if outer.kind == SEALED else _salvaged(view, outer, device)
    return header, claimed.hex()


def open_segment(
    data: bytes | bytearray | memoryview, *, secrets: Mapping[str, bytes], device: PublicIdentity
) -> SegmentReader:
    """Verify a sealed or salvaged segment and unwrap its key.

    Args:
        data: The whole file.
        secrets: Recipient id → secret of a journal key.
        device: Whose segment it must be.

    Raises:
        SegmentError: Hash, signature or device do not hold.
        UndecryptableError: No secret fits: hold it.
        UnsupportedVersionError: Newer format: hold it.
        FormatError: Not a segment.
    """
    header, digest = verify_segment(data, device=device)
    view = memoryview(data)
    outer = open_header(view)
    start, header_hash, info = outer.end, outer.hash, header.key_info()
    if header.kind == SALVAGE:
        inner = open_header(view, outer.end)
        start, header_hash = inner.end + ED25519_SIGNATURE, inner.hash
        info = inner.header.key_info()
    key = unwrap_key(header.keys, dict(secrets), info)
    body = view[: -TRAILER.size]
    total = sum(frame.n for frame in frames(body, start, len(body)))
    if total != header.records:
        raise FormatError(f"a segment announces {header.records} records and has {total}")
    return SegmentReader(header, digest, body, start, FrameOpener(view, header_hash, Aead(key)))


def _salvaged(view: memoryview, outer: Header, device: PublicIdentity) -> Header:
    """Check the open segment inside a salvage against what stands around it."""
    start = open_header(view).end
    inner, digest, end = open_header(view, start)
    signature = bytes(view[end : end + ED25519_SIGNATURE])
    if not device.verify_fast(signature, header_message(digest)):
        raise SegmentError("the signature of a salvaged header does not hold")
    same = inner._replace(
        kind=SALVAGE,
        keys=(),
        previous=outer.previous,
        last=outer.last,
        records=outer.records,
        rows=outer.rows,
        holes=outer.holes,
        skipped=outer.skipped,
        torn=outer.torn,
        marks=outer.marks,
        reason=outer.reason,
    )
    if inner.kind != OPEN or same != outer._replace(keys=()):
        raise SegmentError("a salvage differs from the segment inside it")
    return outer._replace(keys=inner.keys)
