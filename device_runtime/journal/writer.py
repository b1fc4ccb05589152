"""The journal of a device: append, durability, lanes. One thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from device_runtime.clock import Clock
from device_runtime.crypt import Identity
from device_runtime.disk import Disk
from device_runtime.format.schema import Schema
from device_runtime.format.segment import Epoch, Header, Lane, RecordId, Rows
from device_runtime.policy import Policy


class Appended(NamedTuple):
    """Where rows stand now: row i is `prefix` + str(first_sequence + i).

    Not `kept`: nothing was journaled (log mode `sketch`, or a full journal that is not strict);
    the first sequence is -1 and the prefix empty.
    """

    first_sequence: int
    prefix: str
    kept: bool = True


@dataclass(frozen=True, slots=True)
class SealedInfo:
    """One sealed or salvaged segment on the device."""

    path: Path
    device: str
    epoch: str
    lane: Lane
    number: int
    uid: str
    first: int
    last: int
    hash: str
    previous: str
    bytes: int
    salvage: bool
    header: Header


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the quota stands, in bytes and records."""

    quota: int
    used: int
    reserve: int
    open_bytes: int
    sealed_bytes: int
    acked_bytes: int
    segments: int
    oldest_wall_ns: int
    evicted: int
    unjournaled: int


class Journal:
    """The journal in one folder."""

    on_seal: Callable[[Lane, int, int], bytes | None] | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        disk: Disk,
        clock: Clock,
        identity: Identity,
        policy: Policy,
        epoch: Epoch,
    ) -> Journal:
        """Recover what is there (salvaging crashed segments), then be ready to append."""
        raise NotImplementedError

    def use(self, name: str, schema: Schema, bundle_version: int, bundle_digest: str) -> None:
        """Journal rows of this bundle from now on; segments of another are sealed first."""
        raise NotImplementedError

    def append_rows(self, rows: Rows, lane: Lane) -> Appended:
        """Append one block of rows with one write. No numpy up to 32 rows."""
        raise NotImplementedError

    def append_event(self, kind: str, data: Mapping[str, object]) -> RecordId | None:
        """Append a PRIORITY event; None if it could not be kept and the policy is not strict."""
        raise NotImplementedError

    def append_label(
        self, ref: str, value: object, *, by: str, source: str, observed_wall_ns: int
    ) -> RecordId | None:
        """Append a PRIORITY label. `by`: `record` or `key` (hashed here if the schema says so)."""
        raise NotImplementedError

    def append_sketch(self, sketch: bytes, first: int = -1, last: int = -1) -> RecordId | None:
        """Append a PRIORITY sketch of the BULK rows first..last (-1: of rows not journaled)."""
        raise NotImplementedError

    def durable_upto(self, lane: Lane) -> int:
        """Return the sequence up to which (exclusive) records survive a power cut now."""
        raise NotImplementedError

    def sync(self) -> None:
        """Make everything appended durable."""
        raise NotImplementedError

    def tick(self) -> None:
        """Do what is due: group sync, seal by age, reserve, quota, clock jumps."""
        raise NotImplementedError

    def seal(self, reason: str) -> None:
        """Seal the open segments of both lanes."""
        raise NotImplementedError

    def close(self) -> None:
        """Seal (`shutdown`) and close."""
        raise NotImplementedError

    def sealed(self) -> list[SealedInfo]:
        """Return sealed segments, oldest first, of all epochs."""
        raise NotImplementedError

    def read(self, info: SealedInfo) -> bytes | None:
        """Return a sealed segment's bytes after its hash was checked.

        None: it is damaged on disk; that is now declared by a HOLE and the file set aside.
        """
        raise NotImplementedError

    def mark_acked(self, hashes: Collection[str]) -> None:
        """Say which segments the base holds: pruned lazily (room needed, or after 30 days)."""
        raise NotImplementedError

    def prune(self, hashes: Collection[str]) -> list[SealedInfo]:
        """Unlink now those of these acked segments that may go; return them.

        The newest sealed segment of a lane and epoch stays.
        """
        raise NotImplementedError

    def free_room(self, need: int = 0) -> bool:
        """Prune acked, then evict oldest BULK with a HOLE, until `need` more bytes fit."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """Return where the quota stands."""
        raise NotImplementedError

    def heads(self) -> dict[Lane, tuple[int, str]]:
        """Return lane → (number, hash hex) of the newest segment in this epoch; (0, "") if none."""
        raise NotImplementedError

    def begin_epoch(self, reason: str) -> Epoch:
        """Seal the open segments, draw a new epoch whose parent is this one, and switch to it.

        The caller commits the returned epoch in the generation before it appends anything.
        """
        raise NotImplementedError
