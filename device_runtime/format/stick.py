"""What lies on a stick: the names of its files, and packs of sealed segments.

Pure: bytes ⇄ frozen records. What devices and bases say to each other stands in
`device_runtime.format.receipt`. Bytes: docs/FORMAT-stick.md.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable

from device_runtime.errors import (
    FormatError,
    TooLargeError,
    TruncatedError,
    UnsupportedVersionError,
)
from device_runtime.format import canonical
from device_runtime.format.receipt import SIGNATURE_BYTES, Sign
from device_runtime.format.strict import LANES, count_field, hex_field, lane_field
from device_runtime.record import dataclass

VERSION = 1
FOLDER = "EDGEPACK"
MAX_PACK_BYTES = 64 << 20
MAX_PACK_SEGMENTS = 4096
MAX_PACK_HEADER = 2 << 20
MAX_SEGMENT_BYTES = 256 << 20

_MAGIC = b"EDGEPACK-SEGS\x00\x00\x01"
_LENGTH = struct.Struct("<I")
_PACK = re.compile(r"(priority|bulk)-([0-9]{8,19})-([0-9]{8,19})-([0-9a-f]{8})\.segs")
_REPORT = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})\.json")
_BUNDLE = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?)-([0-9]{1,19})\.edgepack")

# --- names --------------------------------------------------------------------------------------

README = "README.txt"


def bundle_path(name: str, version: int) -> str:
    """Return where a bundle lies, relative to `EDGEPACK/`."""
    return f"bundles/{name}-{version}.edgepack"


def parse_bundle_name(file: str) -> tuple[str, int] | None:
    """Return (bundle name, version) that a file name claims, None if it is no such name."""
    match = _BUNDLE.fullmatch(file)
    return (match[1], int(match[2])) if match else None


def ack_path(device: str, base: str) -> str:
    """Return where the ack of a base to a device lies."""
    return f"acks/{device}/{base}.ack"


def report_path(device: str, epoch: str) -> str:
    """Return where a device's report lies. Clones share an id, not an epoch."""
    return f"reports/{device}-{epoch}.json"


def enrol_path(device: str) -> str:
    """Return where a new device's public keys lie."""
    return f"enrol/{device}.json"


def last_sync_path(device_name: str) -> str:
    """Return where the one line for the operator lies."""
    return f"LAST-SYNC-{safe_name(device_name)}.txt"


def pack_path(header: PackHeader) -> str:
    """Return where a pack lies: lane, numbers and content are all in its name."""
    numbers = [item.number for item in header.segments]
    digest = hashlib.sha256(encode_pack_header(header)).hexdigest()[:8]
    file = f"{LANES[header.lane]}-{min(numbers):08d}-{max(numbers):08d}-{digest}.segs"
    return f"logs/{header.device}/{header.epoch}/{file}"


def is_pack_name(file: str) -> bool:
    """Whether a file name is one that `pack_path` makes."""
    return _PACK.fullmatch(file) is not None


def is_report_name(file: str) -> bool:
    """Whether a file name is one that `report_path` makes."""
    return _REPORT.fullmatch(file) is not None


def safe_name(name: str) -> str:
    """Return a FAT-safe form of a name that a person chose: at most 64 of a-z 0-9 - _."""
    return re.sub(r"[^a-z0-9_-]", "_", name.lower())[:64] or "device"


# --- packs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedSegment:
    """One sealed segment in a pack.

    Attributes:
        number: Its number in the chain of its lane.
        hash: Segment hash, hex (what acks list; leaves signatures out).
        sha256: Digest of the file's bytes, hex (what a read-back compares).
        size: Length in bytes.
    """

    number: int
    hash: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PackHeader:
    """The table of contents of a pack: sealed segments of one device, epoch and lane."""

    device: str
    epoch: str
    lane: int
    segments: tuple[PackedSegment, ...]

    @property
    def message(self) -> bytes:
        """The bytes that the device signs."""
        return f"edgepack pack v{VERSION}\0".encode() + encode_pack_header(self)


def encode_pack_header(header: PackHeader) -> bytes:
    """Return the canonical JSON of a pack's header."""
    return canonical.encode(
        {
            "device": header.device,
            "epoch": header.epoch,
            "lane": header.lane,
            "segments": [[s.number, s.hash, s.sha256, s.size] for s in header.segments],
        }
    )


def pack_prefix(header: PackHeader, sign: Sign) -> bytes:
    """Return everything of a pack that stands before the first segment's bytes."""
    text = encode_pack_header(header)
    return _MAGIC + _LENGTH.pack(len(text)) + text + sign(header.message)


@dataclass(frozen=True, slots=True)
class PackIndex:
    """A pack's header as read.

    Attributes:
        header: What it says.
        signature: Ed25519 + ML-DSA-65 over `header.message`, not verified yet.
        offsets: Where the bytes of each segment start.
        size: What the whole file must measure.
    """

    header: PackHeader
    signature: bytes
    offsets: tuple[int, ...]
    size: int


PACK_START_BYTES = len(_MAGIC) + _LENGTH.size


def pack_header_bytes(start: bytes) -> int:
    """Return how many bytes `decode_pack` needs, from the first `PACK_START_BYTES`.

    Raises:
        FormatError: Not a pack, or its header is too large.
    """
    if len(start) < PACK_START_BYTES:
        raise TruncatedError("the pack ends in its first bytes")
    if start[: len(_MAGIC) - 1] != _MAGIC[:-1]:
        raise FormatError("this is no pack of segments")
    if start[len(_MAGIC) - 1] != VERSION:
        raise UnsupportedVersionError(f"the pack has version {start[len(_MAGIC) - 1]}")
    (length,) = _LENGTH.unpack_from(start, len(_MAGIC))
    if length > MAX_PACK_HEADER:
        raise TooLargeError(f"the pack's header measures {length} bytes")
    return PACK_START_BYTES + int(length) + SIGNATURE_BYTES


def decode_pack(data: bytes) -> PackIndex:
    """Read a pack's header.

    Args:
        data: At least the first `pack_header_bytes` bytes of the file.

    Raises:
        FormatError: It does not follow its format.
    """
    end = pack_header_bytes(data)
    if len(data) < end:
        raise TruncatedError("the pack ends in its header")
    text = data[PACK_START_BYTES : end - SIGNATURE_BYTES]
    body = canonical.decode(text, "the pack", limit=MAX_PACK_HEADER, canonical=True)
    try:
        segments = tuple(
            PackedSegment(
                count_field(n),
                hex_field(h, 64),
                hex_field(d, 64),
                count_field(size, MAX_SEGMENT_BYTES),
            )
            for n, h, d, size in body["segments"]
        )
        header = PackHeader(
            hex_field(body["device"], 32),
            hex_field(body["epoch"], 16),
            lane_field(body["lane"]),
            segments,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the pack does not follow its format: {error!r}") from None
    if not 1 <= len(segments) <= MAX_PACK_SEGMENTS or len(body) != 4:
        raise FormatError("the pack lists no segments, too many, or something unknown")
    offsets, offset = [], end
    for item in segments:
        offsets.append(offset)
        offset += item.size
    return PackIndex(header, data[end - SIGNATURE_BYTES : end], tuple(offsets), offset)


def plan_packs(segments: Iterable[tuple[str, str, int, PackedSegment]]) -> list[PackHeader]:
    """Group segments into packs of at most 64 MiB, one device, epoch and lane each.

    Args:
        segments: (device, epoch, lane, segment) in the order in which they shall travel.
    """
    packs: list[PackHeader] = []
    group: list[PackedSegment] = []
    place: tuple[str, str, int] | None = None
    for device, epoch, lane, item in segments:
        size = sum(other.size for other in group) + item.size
        full = size > MAX_PACK_BYTES or len(group) == MAX_PACK_SEGMENTS
        if group and place is not None and (full or place != (device, epoch, lane)):
            packs.append(PackHeader(*place, tuple(group)))
            group = []
        place = (device, epoch, lane)
        group.append(item)
    if group and place is not None:
        packs.append(PackHeader(*place, tuple(group)))
    return packs
