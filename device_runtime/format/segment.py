"""What a segment of the journal says about itself: ids, epochs, holes, header, file name.

Three kinds: an *open* segment (written row by row), a *sealed* one (columnar) and a *salvage* (the
frames of a crashed process, verbatim). See docs/FORMAT-journal.md. Needs no key and no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format.batch import Answers, Batch
from device_runtime.record import NamedTuple, dataclass

OPEN, SEALED, SALVAGE = 1, 2, 3

MAX_MARKS = 8

HEX16, HEX32, HEX64 = 16, 32, 64


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
            or not is_hex(parts[0], HEX32)
            or not is_hex(parts[1], HEX16)
            or not is_hex(parts[2], HEX16)
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
        return {"id": self.id, "parent": parent_json(self.parent)}

    @classmethod
    def from_json(cls, value: Any) -> Epoch:
        """Read what `to_json` wrote.

        Raises:
            FormatError: It is not an epoch.
        """
        try:
            epoch = cls(as_hex(value["id"], HEX16), parent_of(value["parent"]))
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
                reason=as_text(value["reason"]),
                epoch=as_hex(value["epoch"], HEX16),
                lane=Lane(value["lane"]),
                number=as_int(value["number"]),
                uid=as_text(value["uid"]),
                hash=as_text(value["hash"]),
                first=as_int(value["first"], -1),
                last=as_int(value["last"], -1),
                count=as_int(value["count"], -1),
                upto=as_int(value["upto"]),
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


def parent_json(parent: Parent | None) -> dict[str, Any] | None:
    """Return the JSON object of a parent."""
    if parent is None:
        return None
    heads = {str(int(lane)): [number, head] for lane, (number, head) in parent.heads.items()}
    return {"epoch": parent.epoch, "heads": heads, "reason": parent.reason}


def parent_of(value: Any) -> Parent | None:
    """Read what `parent_json` wrote; raise one of Python's own errors if it is none."""
    if value is None:
        return None
    heads = {
        Lane(int(lane)): (as_int(pair[0]), as_hex(pair[1], HEX64) if pair[1] else "")
        for lane, pair in value["heads"].items()
    }
    return Parent(as_hex(value["epoch"], HEX16), heads, as_text(value["reason"]))


def as_int(value: Any, low: int = 0) -> int:
    """Return a number from `low` to 2**63 - 1, or raise ValueError."""
    if type(value) is not int or not low <= value < 2**63:
        raise ValueError(f"{value!r} is no number from {low}")
    return value


def as_text(value: Any) -> str:
    """Return a text, or raise ValueError."""
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def is_hex(value: str, length: int) -> bool:
    """Whether a text is so many lower-case hex characters."""
    return len(value) == length and not value.strip("0123456789abcdef")


def as_hex(value: Any, length: int) -> str:
    """Return so many lower-case hex characters, or raise ValueError."""
    if type(value) is not str or not is_hex(value, length):
        raise ValueError(f"{value!r} is no identifier")
    return value


# --- file names ------------------------------------------------------------------------------

_SUFFIXES = frozenset(("open", "seg", "tmp", "damaged"))
_LANES = {"-p-": Lane.PRIORITY, "-b-": Lane.BULK}


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
        epoch, number, uid, suffix = text[:16], text[19:29], text[30:46], text[47:]
        lane = _LANES.get(text[16:19])
        if lane is None or suffix not in _SUFFIXES or text[29] != "-" or text[46] != ".":
            return None
        if not number.isascii() or not number.isdecimal() or not is_hex(epoch + uid, HEX32):
            return None
        return cls(epoch, lane, int(number), uid, suffix)
