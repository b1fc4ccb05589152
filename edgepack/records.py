"""Rows of the registry, as frozen records, and the tables that hold them.

Times are nanoseconds since 1970-01-01 UTC by the base's clock; hashes, ids, epochs and uids are
lower-case hex. A record's fields stand in the order of its table's columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from device_runtime.crypt import PublicIdentity

SCHEMA = 1

TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE plans(name TEXT PRIMARY KEY, device_class TEXT, bundle TEXT, kit_id TEXT, created INT);
CREATE TABLE devices(device TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, device_class TEXT,
  bundle TEXT, kit_id TEXT, state TEXT NOT NULL, ed25519 BLOB, mldsa65 BLOB, words TEXT,
  seen INT, changed INT, since INT);
CREATE TABLE segments(hash TEXT PRIMARY KEY, device TEXT, epoch TEXT, lane INT, number INT,
  uid TEXT, first INT, last INT, previous TEXT, bundle_name TEXT,
  bundle_version INT, bundle_digest TEXT, boot TEXT, created_wall INT, bytes INT, salvage INT,
  rows INT, serial INT, imported INT, path TEXT, state TEXT NOT NULL, backed INT DEFAULT 0);
CREATE INDEX segments_place ON segments(device, epoch, lane, number);
CREATE INDEX segments_serial ON segments(serial);
CREATE TABLE epochs(device TEXT, epoch TEXT, parent TEXT, heads TEXT, reason TEXT,
  PRIMARY KEY(device, epoch));
CREATE TABLE spans(device TEXT, epoch TEXT, uid TEXT, first INT, last INT, hash TEXT);
CREATE INDEX spans_uid ON spans(device, epoch, uid);
CREATE INDEX spans_hash ON spans(hash);
CREATE TABLE holes(device TEXT, epoch TEXT, uid TEXT, first INT, last INT, lane INT, number INT,
  hash TEXT, reason TEXT, declared_by TEXT, count INT, upto INT, key TEXT,
  PRIMARY KEY(device, key));
CREATE TABLE held(hash TEXT PRIMARY KEY, device TEXT, path TEXT, why TEXT, arrived INT);
CREATE TABLE tombstones(hash TEXT, device TEXT, epoch TEXT, uid TEXT, first INT, last INT);
CREATE TABLE bundles(name TEXT, version INT, digest TEXT, root_version INT, issued INT, path TEXT,
  candidate TEXT, signed INT, PRIMARY KEY(name, version));
CREATE TABLE versions(name TEXT PRIMARY KEY, highest INT NOT NULL);
CREATE TABLE conflicts(device TEXT, epoch TEXT, uid TEXT, sequence INT, kept TEXT, other TEXT,
  at INT, PRIMARY KEY(device, epoch, uid, sequence, other));
CREATE TABLE alarms(kind TEXT, device TEXT, subject TEXT, text TEXT, at INT, cleared INT DEFAULT 0,
  PRIMARY KEY(kind, device, subject));
CREATE TABLE reports(device TEXT, epoch TEXT, counter INT, body BLOB, received INT,
  PRIMARY KEY(device, epoch));
"""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A device that `device new` named, before and after its kit was used.

    `kit_id` is empty until a kit was written.
    """

    name: str
    device_class: str
    bundle: str
    kit_id: str
    created: int


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """An enrolled identity. `state`: `pending`, `accepted`, `retired` or `compromised`.

    `since` (import serial, inclusive) is set for `compromised`: rows from there on are left out.
    """

    device: str
    name: str
    device_class: str
    bundle: str
    kit_id: str
    state: str
    ed25519: bytes
    mldsa65: bytes
    words: str
    seen: int
    changed: int
    since: int | None = None

    @property
    def public(self) -> PublicIdentity:
        """Both public keys."""
        return PublicIdentity(self.ed25519, self.mldsa65)


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One registered segment. `state`: `imported` or `purged`.

    Attributes:
        hash: Segment hash, hex: the file's name in the archive.
        device: Device id, 32 hex.
        epoch: 16 hex.
        lane: 0 PRIORITY, 1 BULK.
        number: Place in the chain of its lane, from 1.
        uid: Segment uid, 16 hex.
        first: Lowest sequence in it.
        last: Highest sequence in it; `first - 1` when empty.
        previous: Hash of the segment before it, hex; empty at number 1.
        rows: Sequences that this segment was the first to bring (see `spans`).
        serial: Import serial, 1, 2, 3 …: the order of registration; the view appends by it.
        imported: When; the same for everything of one sync.
        path: File below `archive/`; empty when purged.
        backed: Whether the newest backup holds it.
    """

    hash: str
    device: str
    epoch: str
    lane: int
    number: int
    uid: str
    first: int
    last: int
    previous: str
    bundle_name: str
    bundle_version: int
    bundle_digest: str
    boot: str
    created_wall: int
    bytes: int
    salvage: bool
    rows: int
    serial: int
    imported: int
    path: str
    state: str = "imported"
    backed: bool = False


@dataclass(frozen=True, slots=True)
class EpochRow:
    """Where an epoch came from. `heads`: JSON object, lane → [number, hash] of the parent."""

    device: str
    epoch: str
    parent: str
    heads: str
    reason: str


@dataclass(frozen=True, slots=True)
class HoleRow:
    """Records that a device declared lost: evicted, damaged, or never journaled.

    `count` is -1 where nobody knows; `upto` is the last segment number where one HOLE stands for
    neighbours, else 0; `key` tells one declared loss from another (a HOLE may be declared again).
    """

    device: str
    epoch: str
    uid: str
    first: int
    last: int
    lane: int
    number: int
    hash: str
    reason: str
    declared_by: str
    count: int
    upto: int
    key: str


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A genuine segment that cannot be imported yet; its file lies below `held/`."""

    hash: str
    device: str
    path: str
    why: str
    arrived: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What was purged and must never come back, whatever carries it."""

    hash: str
    device: str
    epoch: str
    uid: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class BundleRow:
    """A signed bundle. `digest` is THE bundle digest; `issued` in unix seconds."""

    name: str
    version: int
    digest: str
    root_version: int
    issued: int
    path: str
    candidate: str
    signed: int


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """Something a person should look at; one per (kind, device, subject)."""

    kind: str
    device: str
    subject: str
    text: str
    at: int
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The newest verified report of one device and epoch; `body` is its JSON object."""

    device: str
    epoch: str
    counter: int
    body: dict[str, Any]
    received: int


Span = tuple[int, int]
"""First and last sequence, both inclusive."""
