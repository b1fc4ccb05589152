"""Bytes of a segment's header and trailer. See docs/FORMAT-journal.md."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from device_runtime.crypt import sha256
from device_runtime.errors import FormatError, TruncatedError, UnsupportedVersionError
from device_runtime.format import canonical
from device_runtime.format.segment import (
    HEX16,
    HEX32,
    HEX64,
    OPEN,
    SALVAGE,
    SEALED,
    Field,
    Header,
    Hole,
    Lane,
    Layout,
    Mark,
    as_hex,
    as_int,
    as_text,
    parent_json,
    parent_of,
)
from device_runtime.record import NamedTuple

VERSION = 1
MAGIC = b"EPSEGMNT"
TRAILER_MAGIC = b"EPSEGEND"
PREFIX = struct.Struct("<8sBBHII")  # magic, version, kind, 0, bytes of the header, CRC-32
TRAILER = struct.Struct("<32s64s8s")  # SHA-256 of everything before it, Ed25519, magic
MAX_HEADER = 1 << 20


class Opened(NamedTuple):
    """A header with its place in the file."""

    header: Header
    hash: bytes
    end: int


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
    return Opened(header, sha256(view[:end]), start + end)


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
        "parent": parent_json(header.parent),
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
            device=as_hex(value["device"], HEX32),
            epoch=as_hex(value["epoch"], HEX16),
            lane=Lane(value["lane"]),
            number=as_int(value["number"], 1),
            uid=as_hex(value["uid"], HEX16),
            previous=as_hex(value["previous"], HEX64) if value["previous"] else "",
            parent=parent_of(value["parent"]),
            bundle_name=as_text(name),
            bundle_version=as_int(version),
            bundle_digest=as_text(digest),
            boot_id=as_hex(value["boot"], HEX32),
            monotonic_ns=as_int(value["monotonic"]),
            wall_ns=as_int(value["wall"], -(2**63)),
            first=as_int(value["first"]),
            layout=_layout(value),
            keys=tuple(
                (as_hex(who, HEX16), base64.b64decode(as_text(blob), validate=True))
                for who, blob in value["keys"]
            ),
            last=as_int(value["last"], -1) if closed else -1,
            records=as_int(value["records"]) if closed else -1,
            rows=as_int(value["rows"]) if closed else -1,
            holes=tuple(Hole.from_json(hole) for hole in value["holes"]) if closed else (),
            skipped=tuple((as_int(a), as_int(b)) for a, b in value["skipped"]) if closed else (),
            torn=as_int(value["torn"]) if closed else 0,
            marks=tuple(
                Mark(as_hex(s, HEX16), as_int(row, -1), as_int(first), as_int(count, 1))
                for s, row, first, count in value["marks"]
            )
            if closed
            else (),
            reason=as_text(value["reason"]) if closed else "",
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
            Field(
                as_text(name), as_text(dtype), tuple(as_int(s, 1) for s in shape), as_text(journal)
            )
        )
    names = tuple(as_text(item) for item in value["names"])
    return Layout(
        tuple(fields_),
        names,
        as_text(value["scores"]),
        as_text(value["task"]),
        as_text(value["target"]),
    )
