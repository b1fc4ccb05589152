"""Sealed segments → packs on the stick. Resumes by content after a pull."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from device_runtime.courier.stick import Stick
from device_runtime.crypt import Identity, PublicIdentity
from device_runtime.errors import FormatError, StickFullError
from device_runtime.format.receipt import SIGNATURE_BYTES
from device_runtime.format.stick import (
    PACK_START_BYTES,
    PackedSegment,
    PackHeader,
    PackIndex,
    decode_pack,
    is_pack_name,
    pack_header_bytes,
    pack_path,
    pack_prefix,
    plan_packs,
)
from device_runtime.home import Home
from device_runtime.journal.shelf import SealedInfo
from device_runtime.journal.writer import Journal
from device_runtime.record import dataclass

_HEADER_ROOM = SIGNATURE_BYTES + 4096
_ENTRY_ROOM = 192


@dataclass(frozen=True, slots=True)
class Left:
    """What a device left on a stick.

    Attributes:
        segments: Segments written now.
        rows: Rows in them.
        bytes: Bytes written.
        packs: Files written.
        already: Segments that lay on the stick, whole, from an earlier visit.
        waiting: Segments for which there was no room: they stay here for the next stick.
    """

    segments: int = 0
    rows: int = 0
    bytes: int = 0
    packs: int = 0
    already: int = 0
    waiting: int = 0


def leave(home: Home, journal: Journal, stick: Stick) -> Left:
    """Write every sealed segment that no base has acknowledged and that is not on the stick.

    PRIORITY first, then the oldest. What does not fit waits. Seal before this.

    Raises:
        StickError: The stick was pulled or fails; what was renamed is whole, the rest is not there.
    """
    acked = home.generation().acked
    device = home.card.device_id
    pending = [info for info in journal.sealed() if info.hash not in acked]
    there = offered(stick, device, home.card.public, {info.hash for info in pending})
    wanted = [info for info in pending if info.hash not in there]
    chosen, waiting = _fitting(sorted(wanted, key=lambda info: info.lane), stick.room())
    by_hash = {info.hash: info for info in chosen}
    rows = written = 0
    packs = plan_packs(_packed(journal, chosen)) if chosen else []
    identity = home.identity()
    done: list[str] = []
    for header in packs:
        try:
            written += _write_pack(stick, journal, identity, header, by_hash)
        except StickFullError:
            waiting += len(header.segments)
            continue
        done += [item.hash for item in header.segments]
        rows += sum(max(0, by_hash[item.hash].header.rows) for item in header.segments)
    return Left(
        segments=len(done),
        rows=rows,
        bytes=written,
        packs=len(packs),
        already=len(pending) - len(wanted),
        waiting=waiting,
    )


def _fitting(infos: list[SealedInfo], room: int) -> tuple[list[SealedInfo], int]:
    """Take from the front what fits into `room` bytes."""
    chosen: list[SealedInfo] = []
    room -= _HEADER_ROOM
    for info in infos:
        room -= info.bytes + _ENTRY_ROOM
        if room < 0:
            break
        chosen.append(info)
    return chosen, len(infos) - len(chosen)


def _packed(
    journal: Journal, infos: list[SealedInfo]
) -> Iterator[tuple[str, str, int, PackedSegment]]:
    for info in infos:
        data = journal.read(info)
        if data is None:
            continue  # rotten on disk: the journal has declared a hole
        digest = hashlib.sha256(data).hexdigest()
        item = PackedSegment(info.number, info.hash, digest, len(data))
        yield info.device, info.epoch, int(info.lane), item


def _write_pack(
    stick: Stick,
    journal: Journal,
    identity: Identity,
    header: PackHeader,
    by_hash: dict[str, SealedInfo],
) -> int:
    prefix = pack_prefix(header, identity.sign_both)

    def pieces() -> Iterator[bytes]:
        yield prefix
        for item in header.segments:
            yield journal.read(by_hash[item.hash]) or b""

    size = len(prefix) + sum(item.size for item in header.segments)
    stick.put(pack_path(header), pieces(), size)
    return size


# --- what lies there already ----------------------------------------------------------------------


def offered(stick: Stick, device: str, public: PublicIdentity, wanted: set[str]) -> set[str]:
    """Return which of the wanted segments lie on the stick, whole: read and hashed now.

    A name proves nothing: a pack that went bad would keep its rows at home for ever.
    """
    found: set[str] = set()
    for path in pack_files(stick, device):
        try:
            index = read_pack(stick, path)
        except FormatError:
            continue
        hashes = {item.hash for item in index.header.segments}
        if index.header.device != device or hashes.isdisjoint(wanted - found):
            continue
        if public.verify_both(index.signature, index.header.message):
            found |= {item.hash for item in whole_segments(stick, path, index)}
    return found & wanted


def pack_files(stick: Stick, device: str) -> list[str]:
    """Return the packs of a device on a stick, relative to `EDGEPACK/`."""
    return [
        f"logs/{device}/{epoch}/{file}"
        for epoch in stick.folders(f"logs/{device}")
        for file in stick.files(f"logs/{device}/{epoch}")
        if is_pack_name(file)
    ]


def read_pack(stick: Stick, relative: str) -> PackIndex:
    """Read a pack's header; nothing is verified yet.

    Raises:
        FormatError: It is no pack.
    """
    start = stick.read_at(relative, 0, PACK_START_BYTES)
    return decode_pack(stick.read_at(relative, 0, pack_header_bytes(start)))


def whole_segments(stick: Stick, relative: str, index: PackIndex) -> list[PackedSegment]:
    """Return the segments of a pack whose bytes have the digests that its header says."""
    whole = []
    for item, offset in zip(index.header.segments, index.offsets, strict=True):
        data = stick.read_at(relative, offset, item.size)
        if len(data) == item.size and hashlib.sha256(data).hexdigest() == item.sha256:
            whole.append(item)
    return whole
