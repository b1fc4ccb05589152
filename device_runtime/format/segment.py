"""What a segment of the journal says about itself: ids, header, trailer, file name.

Three kinds: an *open* segment (written row by row), a *sealed* one (columnar) and a *salvage* (the
frames of a crashed process, verbatim). See docs/FORMAT-journal.md. Needs no key and no numpy.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from device_runtime.errors import FormatError, TruncatedError, UnsupportedVersionError
from device_runtime.format import canonical
from device_runtime.format.batch import Answers, Batch

VERSION = 1
MAGIC = b"EPSEGMNT"
TRAILER_MAGIC = b"EPSEGEND"
OPEN, SEALED, SALVAGE = 1, 2, 3

PREFIX = struct.Struct("<8sBBHII")  # magic, version, kind, 0, bytes of the header, CRC-32
TRAILER = struct.Struct("<32s64s8s")  # SHA-256 of everything before it, Ed25519, magic
MAX_HEADER = 1 << 20
MAX_MARKS = 8
SIGNATURE_BYTES = 64

_HEX16, _HEX32, _HEX64 = 16, 32, 64


class Lane(IntEnum):
    """PRIORITY is never evicted while BULK remains."""

    PRIORITY = 0
    BULK = 1

    __hash__ = int.__hash__  # the one of Enum runs Python code, once or more per append


class RecordId(NamedTuple):
    """The name of one record in the whole world.

    Attributes:
        device: 32 hex characters: fingerprint of the device's keys.
        epoch: 16 hex characters: unbroken life of the journal.
        uid: 16 hex characters: random, one per segment; clones differ here.
        sequence: Number of the record in its lane.
    """

    device: str
    epoch: str
    uid: str
    sequence: int

    def text(self) -> str:
        """Return `device/epoch/uid/sequence`."""
        return f"{self.device}/{self.epoch}/{self.uid}/{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """Read what `text` wrote.

        Raises:
            FormatError: It is not a record id.
        """
        parts = text.split("/")
        if (
            len(parts) != 4
            or not is_hex(parts[0], _HEX32)
            or not is_hex(parts[1], _HEX16)
            or not is_hex(parts[2], _HEX16)
            or not parts[3].isascii()
            or not parts[3].isdecimal()
            or str(int(parts[3][:20])) != parts[3]
        ):
            raise FormatError(f"{text[:100]!r} is not a record id")
        return cls(parts[0], parts[1], parts[2], int(parts[3]))


class Parent(NamedTuple):
    """Where an epoch came from.

    Attributes:
        epoch: The epoch before.
        heads: Lane → (number, hash hex) of its newest segment; (0, "") where it had none.
        reason: `disk`, `ack`, `restore`, ...
    """

    epoch: str
    heads: Mapping[Lane, tuple[int, str]]
    reason: str


class Epoch(NamedTuple):
    """An unbroken life of a device's journal. It is committed in the generation.

    Attributes:
        id: 16 hex characters, random.
        parent: The epoch before, None after `init`.
    """

    id: str
    parent: Parent | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it back equal."""
        return {"id": self.id, "parent": _parent_json(self.parent)}

    @classmethod
    def from_json(cls, value: Any) -> Epoch:
        """Read what `to_json` wrote.

        Raises:
            FormatError: It is not an epoch.
        """
        try:
            epoch = cls(_hex(value["id"], _HEX16), _parent(value["parent"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FormatError(f"not an epoch: {error!r}") from None
        return epoch


class Field(NamedTuple):
    """One journaled column: a hashed one is a string of 32 hex characters."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    journal: str = "keep"


class Layout(NamedTuple):
    """What a row of a segment is made of.

    Attributes:
        fields: Journaled columns in the order of the schema.
        names: Classes, levels or names of scores: what `_label` and `_scores` mean.
        scores: Dtype of the scores.
        task: Task of the schema, such as `binary`; empty before a bundle is in use.
        target: Name of the column that a label carries; empty if the schema names none.
    """

    fields: tuple[Field, ...] = ()
    names: tuple[str, ...] = ()
    scores: str = "float32"
    task: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a stream of input rows was journaled: readable without the key, for `--resume`.

    Attributes:
        stream: 16 hex characters that name the stream.
        row: Number of the first input row of the newest block.
        first: Sequence of that block's first record.
        count: Records of that block.
    """

    stream: str
    row: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Hole:
    """A declared loss.

    Attributes:
        reason: `evicted`, `damaged` or `unjournaled`.
        epoch: Of the lost segment.
        lane: Of the lost segment.
        number: Of the lost segment; 0 for rows that never reached one.
        uid: Of the lost segment; empty if unknown.
        hash: Of the lost segment; empty if unknown.
        first: First lost sequence; -1 if unknown.
        last: Last lost sequence; -1 if unknown.
        count: Lost records; -1 if unknown.
        upto: Last number, where one HOLE stands for several neighbours; else 0.
    """

    reason: str
    epoch: str
    lane: Lane
    number: int
    uid: str = ""
    hash: str = ""
    first: int = -1
    last: int = -1
    count: int = -1
    upto: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a HOLE."""
        return {
            "reason": self.reason,
            "epoch": self.epoch,
            "lane": int(self.lane),
            "number": self.number,
            "uid": self.uid,
            "hash": self.hash,
            "first": self.first,
            "last": self.last,
            "count": self.count,
            "upto": self.upto,
        }

    @classmethod
    def from_json(cls, value: Any) -> Hole:
        """Read what `to_json` wrote.

        Raises:
            FormatError: It is not a HOLE.
        """
        try:
            return cls(
                reason=_text(value["reason"]),
                epoch=_hex(value["epoch"], _HEX16),
                lane=Lane(value["lane"]),
                number=_int(value["number"]),
                uid=_text(value["uid"]),
                hash=_text(value["hash"]),
                first=_int(value["first"], -1),
                last=_int(value["last"], -1),
                count=_int(value["count"], -1),
                upto=_int(value["upto"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a hole: {error!r}") from None


class Header(NamedTuple):
    """What a segment says about itself, readable without a key.

    Attributes:
        kind: OPEN, SEALED or SALVAGE.
        device: Device id, 32 hex characters.
        epoch: 16 hex characters.
        lane: PRIORITY or BULK.
        number: 1, 2, 3, ... in its lane and epoch.
        uid: 16 hex characters, random.
        previous: Hash (hex) of the sealed segment before it; empty for the first, or if unknown.
        parent: Where the epoch came from.
        bundle_name: Bundle whose rows stand here; empty before the first.
        bundle_version: Its version.
        bundle_digest: Its digest, hex.
        boot_id: Boot of the machine, 32 hex characters.
        monotonic_ns: Clock at creation.
        wall_ns: Clock at creation.
        first: Sequence of the first record.
        layout: What a row is made of.
        keys: (recipient id, wrapped key) of the segment's key.
        last: Sequence of the last record; first - 1 if there is none. -1 in an open segment.
        records: Records inside. -1 in an open segment.
        rows: Rows among them. -1 in an open segment.
        holes: HOLEs inside: who evicts this segment declares them again.
        skipped: (first, last) sequences that damage took away.
        torn: Bytes of the open file that could not be read.
        marks: Newest mark of each stream of input rows; at most `MAX_MARKS` streams.
        reason: Why it was sealed: `size`, `age`, `shutdown`, `bundle`, `sync`, `epoch`, `error`,
            `damaged`, `crash`.
    """

    kind: int
    device: str
    epoch: str
    lane: Lane
    number: int
    uid: str
    previous: str
    parent: Parent | None
    bundle_name: str
    bundle_version: int
    bundle_digest: str
    boot_id: str
    monotonic_ns: int
    wall_ns: int
    first: int
    layout: Layout
    keys: tuple[tuple[str, bytes], ...]
    last: int = -1
    records: int = -1
    rows: int = -1
    holes: tuple[Hole, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()
    torn: int = 0
    marks: tuple[Mark, ...] = ()
    reason: str = ""

    @property
    def prefix(self) -> str:
        """What stands before the sequence in a record id: `device/epoch/uid/`."""
        return f"{self.device}/{self.epoch}/{self.uid}/"

    def key_info(self) -> bytes:
        """Return what the segment's key is bound to when it is wrapped."""
        text = f"{self.device}/{self.epoch}/{int(self.lane)}/{self.number}/{self.uid}/{self.kind}"
        return b"edgepack segment key v1\0" + text.encode()


class Rows(NamedTuple):
    """One predicted (or invalid) block of rows, as the predictor hands it to the journal.

    Attributes:
        batch: The given columns. A column that is not there is journaled as not given. The text
            column `RAW` may carry what an invalid row looked like.
        answers: What the model said; None for invalid rows.
        flags: uint16 per row (buffer), see `format.batch`.
        unlike: float32 per row (buffer): how unlike the training data; None if not scored.
        latency_us: Microseconds that this block took.
        rows: int64 per row (buffer): numbers of the input rows where they do not follow one
            another; None: `batch.first_row`, and on from there.
        mark: (8 bytes that name a stream of input rows, number of the block's first row): kept
            readable without the key, so that a killed run finds what it journaled.
    """

    batch: Batch
    answers: Answers | None
    flags: Any
    unlike: Any = None
    latency_us: int = 0
    rows: Any = None
    mark: tuple[bytes, int] | None = None


RAW = "_raw"


class Opened(NamedTuple):
    """A header with its place in the file."""

    header: Header
    hash: bytes
    end: int


# --- header ----------------------------------------------------------------------------------


def write_header(header: Header) -> bytes:
    """Return prefix and header. `sha256` of these bytes is the associated data of all frames."""
    body = canonical.encode(_header_json(header))
    if len(body) > MAX_HEADER:
        raise FormatError("the header of a segment would be too large")
    prefix = PREFIX.pack(MAGIC, VERSION, header.kind, 0, len(body), 0)[:-4]
    return prefix + zlib.crc32(body, zlib.crc32(prefix)).to_bytes(4, "little") + body


def read_header(data: bytes | bytearray | memoryview) -> Header:
    """Read the header of a segment of any kind; needs no key and checks no signature.

    Raises:
        TruncatedError: Fewer bytes than the header has.
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: Anything else.
    """
    opened = open_header(data)
    if opened.header.kind != SALVAGE:
        return opened.header
    return opened.header._replace(keys=open_header(data, opened.end).header.keys)


def open_header(data: bytes | bytearray | memoryview, start: int = 0) -> Opened:
    """Read one header at `start`; see `read_header`. Keys of a salvage stand in the next one."""
    view = memoryview(data)[start:]
    if len(view) < PREFIX.size:
        raise TruncatedError("a segment ends in its header")
    magic, version, kind, zero, length, crc = PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise FormatError("this is not a segment of a journal")
    if version > VERSION:
        raise UnsupportedVersionError(f"a segment has version {version}; this reads {VERSION}")
    if version < 1 or kind not in (OPEN, SEALED, SALVAGE) or zero or length > MAX_HEADER:
        raise FormatError("the prefix of a segment is not valid")
    end = PREFIX.size + length
    if len(view) < end:
        raise TruncatedError("a segment ends in its header")
    if zlib.crc32(view[PREFIX.size : end], zlib.crc32(view[: PREFIX.size - 4])) != crc:
        raise FormatError("the header of a segment is damaged")
    value = canonical.decode(
        view[PREFIX.size : end], "the header of a segment", limit=MAX_HEADER, canonical=True
    )
    header = _header(kind, value)
    return Opened(header, hashlib.sha256(view[:end]).digest(), start + end)


def header_message(hash: bytes) -> bytes:
    """Return what the device signs when it creates an open segment."""
    return b"edgepack segment header v1\0" + hash


def segment_message(hash: bytes) -> bytes:
    """Return what the device signs when it seals."""
    return b"edgepack segment v1\0" + hash


def read_trailer(data: bytes | bytearray | memoryview) -> tuple[bytes, bytes]:
    """Return (hash, signature) at the end of a sealed segment; nothing is verified.

    Raises:
        TruncatedError: There is no trailer.
    """
    if len(data) < TRAILER.size:
        raise TruncatedError("a segment has no trailer")
    digest, signature, magic = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    if magic != TRAILER_MAGIC:
        raise TruncatedError("a segment has no trailer")
    return digest, signature


def _header_json(header: Header) -> dict[str, Any]:
    layout = header.layout
    value: dict[str, Any] = {
        "device": header.device,
        "epoch": header.epoch,
        "lane": int(header.lane),
        "number": header.number,
        "uid": header.uid,
        "previous": header.previous,
        "parent": _parent_json(header.parent),
        "bundle": [header.bundle_name, header.bundle_version, header.bundle_digest],
        "boot": header.boot_id,
        "monotonic": header.monotonic_ns,
        "wall": header.wall_ns,
        "first": header.first,
        "columns": [[f.name, f.dtype, list(f.shape), f.journal] for f in layout.fields],
        "names": list(layout.names),
        "scores": layout.scores,
        "task": layout.task,
        "target": layout.target,
        "keys": [[who, base64.b64encode(blob).decode()] for who, blob in header.keys],
    }
    if header.kind != OPEN:
        value |= {
            "last": header.last,
            "records": header.records,
            "rows": header.rows,
            "holes": [hole.to_json() for hole in header.holes],
            "skipped": [list(pair) for pair in header.skipped],
            "torn": header.torn,
            "marks": [[mark.stream, mark.row, mark.first, mark.count] for mark in header.marks],
            "reason": header.reason,
        }
    return value


def _header(kind: int, value: Any) -> Header:
    try:
        name, version, digest = value["bundle"]
        closed = kind != OPEN
        header = Header(
            kind=kind,
            device=_hex(value["device"], _HEX32),
            epoch=_hex(value["epoch"], _HEX16),
            lane=Lane(value["lane"]),
            number=_int(value["number"], 1),
            uid=_hex(value["uid"], _HEX16),
            previous=_hex(value["previous"], _HEX64) if value["previous"] else "",
            parent=_parent(value["parent"]),
            bundle_name=_text(name),
            bundle_version=_int(version),
            bundle_digest=_text(digest),
            boot_id=_hex(value["boot"], _HEX32),
            monotonic_ns=_int(value["monotonic"]),
            wall_ns=_int(value["wall"], -(2**63)),
            first=_int(value["first"]),
            layout=_layout(value),
            keys=tuple(
                (_hex(who, _HEX16), base64.b64decode(_text(blob), validate=True))
                for who, blob in value["keys"]
            ),
            last=_int(value["last"], -1) if closed else -1,
            records=_int(value["records"]) if closed else -1,
            rows=_int(value["rows"]) if closed else -1,
            holes=tuple(Hole.from_json(hole) for hole in value["holes"]) if closed else (),
            skipped=tuple((_int(a), _int(b)) for a, b in value["skipped"]) if closed else (),
            torn=_int(value["torn"]) if closed else 0,
            marks=tuple(
                Mark(_hex(s, _HEX16), _int(row, -1), _int(first), _int(count, 1))
                for s, row, first, count in value["marks"]
            )
            if closed
            else (),
            reason=_text(value["reason"]) if closed else "",
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(
            f"the header of a segment does not follow its format: {error!r}"
        ) from None
    if closed and not header.first - 1 <= header.last < header.first + (1 << 32):
        raise FormatError("the header of a segment counts wrongly")
    return header


def _layout(value: Any) -> Layout:
    fields_: list[Field] = []
    for name, dtype, shape, journal in value["columns"]:
        fields_.append(
            Field(_text(name), _text(dtype), tuple(_int(s, 1) for s in shape), _text(journal))
        )
    names = tuple(_text(item) for item in value["names"])
    return Layout(
        tuple(fields_), names, _text(value["scores"]), _text(value["task"]), _text(value["target"])
    )


def _parent_json(parent: Parent | None) -> dict[str, Any] | None:
    if parent is None:
        return None
    heads = {str(int(lane)): [number, head] for lane, (number, head) in parent.heads.items()}
    return {"epoch": parent.epoch, "heads": heads, "reason": parent.reason}


def _parent(value: Any) -> Parent | None:
    if value is None:
        return None
    heads = {
        Lane(int(lane)): (_int(pair[0]), _hex(pair[1], _HEX64) if pair[1] else "")
        for lane, pair in value["heads"].items()
    }
    return Parent(_hex(value["epoch"], _HEX16), heads, _text(value["reason"]))


def _int(value: Any, low: int = 0) -> int:
    if type(value) is not int or not low <= value < 2**63:
        raise ValueError(f"{value!r} is no number from {low}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def is_hex(value: str, length: int) -> bool:
    """Whether a text is so many lower-case hex characters."""
    return len(value) == length and not value.strip("0123456789abcdef")


def _hex(value: Any, length: int) -> str:
    if type(value) is not str or not is_hex(value, length):
        raise ValueError(f"{value!r} is no identifier")
    return value


# --- file names ------------------------------------------------------------------------------

_SUFFIXES = ("open", "seg", "tmp", "damaged")


class Name(NamedTuple):
    """What a file name says: an index, believed only where the header cannot be read."""

    epoch: str
    lane: Lane
    number: int
    uid: str
    suffix: str

    def text(self, suffix: str | None = None) -> str:
        """Return the file name, with another suffix if given."""
        letter = "pb"[self.lane]
        return f"{self.epoch}-{letter}-{self.number:010d}-{self.uid}.{suffix or self.suffix}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """Return the parts of a file name, None for a stranger's file."""
        stem, _, suffix = text.partition(".")
        parts = stem.split("-")
        if len(parts) != 4 or suffix not in _SUFFIXES or parts[1] not in ("p", "b"):
            return None
        epoch, letter, number, uid = parts
        if len(number) != 10 or not number.isascii() or not number.isdecimal():
            return None
        if not is_hex(epoch, _HEX16) or not is_hex(uid, _HEX16):
            return None
        return cls(epoch, Lane("pb".index(letter)), int(number), uid, suffix)
