"""The journal of a device: append, durability, lanes. One thread at a time.

Write order, which everything else follows from:
- a frame is one write; it is durable after a sync of the file, and of the folder the first time;
- a seal is durable before the open file goes; a HOLE is durable before what it declares goes;
- a file that failed once is never written again: its rows move into a seal, and a new segment
  with a new key begins.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from device_runtime.clock import Clock
from device_runtime.crypt import Identity, RecipientKey, sha256
from device_runtime.disk import Disk
from device_runtime.errors import (
    EdgepackError,
    FormatError,
    JournalDamagedError,
    JournalError,
    JournalFullError,
)
from device_runtime.format.frames import EVENT, HOLE, LABEL, MARK, ROWS, SKETCH
from device_runtime.format.header import TRAILER
from device_runtime.format.rowframe import RowEncoder, halves, layout_of, utf8
from device_runtime.format.schema import Schema
from device_runtime.format.segment import (
    OPEN,
    Epoch,
    Header,
    Hole,
    Lane,
    Layout,
    Name,
    Parent,
    RecordId,
    Rows,
)
from device_runtime.journal import content as content_of
from device_runtime.journal import quota
from device_runtime.journal.active import Active
from device_runtime.journal.quota import Reserve, Usage
from device_runtime.journal.recover import previous_of, recover
from device_runtime.journal.seal import OpenFile, salvage
from device_runtime.journal.shelf import SealedInfo, Shelf
from device_runtime.policy import Policy

_LARGE_CONTENT = 8 << 20
_START_BYTES = 16 << 10  # headers of the segments that an append may have to start
_FEW_RECORDS = 256  # at a shutdown so few are not worth importing numpy: frames go verbatim
_CLOCK_JUMP_NS = 5_000_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Appended(NamedTuple):
    """Where rows stand now: row i is `prefix` + str(first_sequence + i).

    Not `kept`: nothing was journaled (log mode `sketch`, or a journal that cannot be written and
    is not strict); the first sequence is -1 and the prefix empty.
    """

    first_sequence: int
    prefix: str
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Marked:
    """The newest block of a stream of input rows in one lane: see `Rows.mark`."""

    lane: Lane
    prefix: str
    first_sequence: int
    count: int
    row: int


_NOT_KEPT = Appended(-1, "", kept=False)
_APPENDED = tuple.__new__  # three times as fast as calling the class


class Journal:
    """The journal in one folder.

    Attributes:
        on_seal: Called with (lane, first, last) when BULK rows are sealed; a sketch that it
            returns is appended to PRIORITY, so that something remains when the rows are evicted.
        epoch: The current one.
        salvaged: Segments of crashed processes that `open` sealed.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        clock: Clock,
        identity: Identity,
        policy: Policy,
        epoch: Epoch,
    ) -> None:
        """Use `open`."""
        self.on_seal: Callable[[Lane, int, int], bytes | None] | None = None
        self.epoch = epoch
        self.salvaged = 0
        self._shelf, self._clock, self._identity, self._policy = shelf, clock, identity, policy
        self._device = identity.public.id
        self._recipients = [RecipientKey(bytes.fromhex(raw)) for raw in policy.recipients]
        self._reserve = Reserve(shelf.disk, shelf.folder, policy.reserve_bytes)
        self._active: dict[Lane, Active] = {}
        self._next: dict[Lane, int] = {}
        self._durable: dict[Lane, int] = {}
        self._bundle: tuple[str, int, str] = ("", 0, "")
        self._encoder = RowEncoder(Layout(), None, b"")
        self._schema: Schema | None = None
        self._acked: frozenset[str] = frozenset()
        self._last_sync = clock.monotonic_ns()
        self._drift = clock.wall_ns() - self._last_sync
        self._owed: list[Hole] = []
        self._lost = 0
        self._unjournaled = 0
        self._evicted = 0
        self._recovered = False
        self._attention = False
        self._segment_bytes = policy.segment_bytes
        self._limit = policy.quota_bytes - policy.reserve_bytes
        self._sketch_only = policy.log_mode == "sketch"
        self._each = policy.durability == "each"
        self._group_ns = policy.group_ms * 1_000_000 if policy.durability == "group" else 1 << 62

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
        """Recover what is there (salvaging crashed segments), then be ready to append.

        Raises:
            JournalError: The policy names no recipient: nobody could ever read the journal.
        """
        if not policy.recipients:
            raise JournalError("the policy names no key that the journal is encrypted to")
        if not disk.exists(folder):
            disk.mkdir(folder)
            disk.fsync_dir(folder.parent)
        journal = cls(
            Shelf(disk, folder), clock=clock, identity=identity, policy=policy, epoch=epoch
        )
        journal._recover()
        return journal

    def use(self, name: str, schema: Schema, bundle_version: int, bundle_digest: str) -> None:
        """Journal rows of this bundle from now on; segments of another are sealed first."""
        bundle = (name, bundle_version, bundle_digest)
        if bundle == self._bundle and schema == self._schema:
            return
        self.seal("bundle")
        self._bundle, self._schema = bundle, schema
        hash_key = sha256(b"edgepack journal hash v1\0", self._identity.to_bytes())
        self._encoder = RowEncoder(layout_of(schema), schema, hash_key)

    # --- appending ---------------------------------------------------------------------------

    def append_rows(self, rows: Rows, lane: Lane) -> Appended:
        """Append one block of rows with one write. No numpy up to 32 rows.

        Raises:
            JournalFullError: No room is left, and the policy is strict.
            JournalError: The disk fails, and the policy is strict.
        """
        if self._sketch_only:
            return _NOT_KEPT
        monotonic = self._clock.monotonic_ns()
        content = self._encoder.encode(rows, monotonic, self._clock.wall_ns())
        n = rows.batch.n
        mark = b"" if rows.mark is None else MARK.pack(*rows.mark)
        if len(content) > _LARGE_CONTENT and n > 1:
            result = self._append_large(rows, lane, monotonic, mark)
        else:
            result = self._put(lane, ROWS, content, n, mark)
        if monotonic - self._last_sync >= self._group_ns:
            self._sync_due(monotonic)
        return result

    def _append_large(self, rows: Rows, lane: Lane, monotonic: int, mark: bytes) -> Appended:
        """Append rows that do not fit one frame; all of them into one segment: one prefix."""
        wall = self._clock.wall_ns()
        pieces = [rows]
        contents: list[tuple[int, bytes]] = []
        while pieces:
            piece = pieces.pop()
            content = self._encoder.encode(piece, monotonic, wall)
            if len(content) > _LARGE_CONTENT and piece.batch.n > 1:
                pieces += reversed(halves(piece))
            else:
                contents.append((piece.batch.n, content))
        first = self._put(lane, ROWS, contents[0][1], contents[0][0], mark)
        for n, content in contents[1:]:
            part = self._put(lane, ROWS, content, n, mark, roll=False)
            if not part.kept or part.prefix != first.prefix:
                return _NOT_KEPT  # the disk failed half way; the rows before stay as they are
        return first

    def append_event(self, kind: str, data: Mapping[str, object]) -> RecordId | None:
        """Append a PRIORITY event; None if it could not be kept and the policy is not strict."""
        return self._record(EVENT, {"kind": kind, "data": dict(data)})

    def append_label(
        self, ref: str, value: object, *, by: str, source: str, observed_wall_ns: int
    ) -> RecordId | None:
        """Append a PRIORITY label. `by`: `record` or `key` (hashed here if the schema says so)."""
        key = self._schema.key if self._schema is not None else None
        if by == "key" and key is not None and key.journal == "hash":
            ref = self._encoder.hash_text(utf8(ref))
        body = {"ref": ref, "by": by, "value": value, "source": source}
        return self._record(LABEL, {**body, "observed": observed_wall_ns})

    def append_sketch(self, sketch: bytes, first: int = -1, last: int = -1) -> RecordId | None:
        """Append a PRIORITY sketch of the BULK rows first..last (-1: of rows not journaled)."""
        return self._record(SKETCH, content_of.sketch_json(sketch, first, last))

    def _record(self, type: int, value: Mapping[str, object]) -> RecordId | None:
        monotonic = self._clock.monotonic_ns()
        content = content_of.encode(monotonic, self._clock.wall_ns(), value)
        result = self._put(Lane.PRIORITY, type, content, 1)
        if monotonic - self._last_sync >= self._group_ns:
            self._sync_due(monotonic)
        if not result.kept:
            return None
        return RecordId.parse(f"{result.prefix}{result.first_sequence}")

    def _put(
        self,
        lane: Lane,
        type: int,
        content: bytes,
        count: int,
        mark: bytes = b"",
        *,
        roll: bool = True,
    ) -> Appended:
        """Append one frame."""
        active = self._active.get(lane)
        try:
            if (
                active is None
                or active.broken
                or self._attention
                or (active.size >= self._segment_bytes and roll)
                or self._shelf.used + len(content) > self._limit
            ):
                active = self._ready(lane, len(content), type, roll=roll)
            try:
                size = active.append(type, content, count, mark=mark)
            except OSError as error:
                active = self._again(active, error)
                size = active.append(type, content, count, mark=mark)
            self._shelf.used += size
            if self._each:
                self._sync_one(lane, active)
        except (OSError, JournalError) as error:
            if self._policy.strict:
                raise self._explained(error) from None
            self._lost += count
            self._attention = True
            self._unjournaled += count
            return _NOT_KEPT
        return _APPENDED(
            Appended, (active.header.first + active.offset - count, active.prefix, True)
        )

    def _ready(self, lane: Lane, need: int, type: int, *, roll: bool) -> Active:
        """Return a segment that can take a frame: recover, seal, free room, declare what is due."""
        if not self._recovered:
            self._recover()
        active = self._active.get(lane)
        full = active is not None and active.size >= self._segment_bytes and roll
        if active is not None and (active.broken or full):
            self._seal(lane, "size")
        need += _START_BYTES
        if self._shelf.used + need > self._limit and not self.free_room(need) and type == ROWS:
            raise JournalFullError("the journal has used up its quota and nothing may be evicted")
        if self._shelf.used + need > self._policy.quota_bytes:
            raise JournalFullError("the journal has used up its quota and its reserve")
        if self._attention:
            self._pay(lane)
        return self._active.get(lane) or self._start(lane)

    def _pay(self, lane: Lane) -> None:
        """Declare what is owed: rows that never got in, rows that may not have survived."""
        holes = [hole for hole in self._owed if not self._survived(hole)]
        if self._lost:
            holes.append(Hole("unjournaled", self.epoch.id, lane, 0, count=self._lost))
        if holes:
            self._declare(holes)
        self._owed, self._lost, self._attention = [], 0, not self._recovered

    def _survived(self, hole: Hole) -> bool:
        """Whether a segment that was in doubt was sealed with all its rows after all."""
        name = Name(hole.epoch, hole.lane, hole.number, hole.uid, "seg")
        try:
            return name in self._shelf.sizes and self._shelf.info(name).last >= hole.last
        except JournalDamagedError:
            return False

    def _again(self, active: Active, error: OSError) -> Active:
        """After a failed write: make room, or leave the file; return where to write once more."""
        if error.errno in _FULL:
            self._reserve.release()
            self.free_room(self._policy.segment_bytes)
        else:
            active.broken = True
        if active.broken:
            self._seal(active.header.lane, "error")
        return self._active.get(active.header.lane) or self._start(active.header.lane)

    def _start(self, lane: Lane) -> Active:
        name, version, digest = self._bundle
        epoch = self.epoch
        number = self._shelf.top(epoch.id, lane) + 1
        newest = Name(epoch.id, lane, number, "", "")
        header = Header(
            kind=OPEN,
            device=self._device,
            epoch=epoch.id,
            lane=lane,
            number=number,
            uid=os.urandom(8).hex(),
            previous=previous_of(self._shelf, newest),
            parent=epoch.parent,
            bundle_name=name,
            bundle_version=version,
            bundle_digest=digest,
            boot_id=self._clock.boot_id().hex(),
            monotonic_ns=self._clock.monotonic_ns(),
            wall_ns=self._clock.wall_ns(),
            first=self._next_of(lane),
            layout=self._encoder.layout,
            keys=(),
        )
        active = Active.create(self._shelf, header, self._identity, self._recipients)
        self._active[lane] = active
        self._durable.setdefault(lane, active.header.first)
        return active

    def _explained(self, error: Exception) -> EdgepackError:
        if isinstance(error, EdgepackError):
            return error
        if isinstance(error, OSError) and error.errno in _FULL:
            return JournalFullError("the disk of the journal is full")
        return JournalError(f"the journal could not be written: {error}")

    # --- durability --------------------------------------------------------------------------

    def durable_upto(self, lane: Lane) -> int:
        """Return the sequence up to which (exclusive) records survive a power cut now."""
        active = self._active.get(lane)
        if active is None or active.broken:
            return self._durable.get(lane, self._next_of(lane))
        return active.header.first + active.durable

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            JournalError: It could not be, even by moving to another file, and the policy is
                strict. What may be lost is declared by a HOLE.
        """
        self._last_sync = self._clock.monotonic_ns()
        for lane, active in list(self._active.items()):
            try:
                self._sync_one(lane, active)
            except (OSError, JournalError) as error:
                if self._policy.strict:
                    raise self._explained(error) from None

    def _sync_one(self, lane: Lane, active: Active) -> None:
        try:
            active.sync(self._shelf)
        except OSError:
            # What the kernel dropped it reports once: syncing again would lie. The file is read
            # back and sealed into another; only that makes its rows durable.
            self._durable[lane] = active.header.first + active.durable
            self._seal(lane, "error")

    def _sync_due(self, monotonic: int) -> None:
        self.sync()
        drift = self._clock.wall_ns() - monotonic
        jump, self._drift = drift - self._drift, drift
        if abs(jump) > _CLOCK_JUMP_NS:
            self.append_event("clock", {"jump_ns": jump})

    def tick(self) -> None:
        """Do what is due: group sync, seal by age, reserve, recovery that waited, clock jumps."""
        now = self._clock.monotonic_ns()
        if not self._recovered:
            self._recover()
        if now - self._last_sync >= self._group_ns:
            self._sync_due(now)
        for lane, active in list(self._active.items()):
            if now - active.header.monotonic_ns >= self._policy.segment_seconds * 1_000_000_000:
                self._seal_guarded(lane, "age")
        self._reserve.hold()

    # --- sealing -----------------------------------------------------------------------------

    def seal(self, reason: str) -> None:
        """Seal the open segments of both lanes.

        Raises:
            JournalError: The disk fails, and the policy is strict; the rows are still there.
        """
        for lane in (Lane.BULK, Lane.PRIORITY):
            self._seal_guarded(lane, reason)

    def close(self) -> None:
        """Seal (`shutdown`) and close; what could not be sealed is recovered at the next start."""
        try:
            self.seal("shutdown")
        finally:
            for active in self._active.values():
                active.close()
            self._active.clear()

    def _seal_guarded(self, lane: Lane, reason: str) -> None:
        try:
            self._seal(lane, reason)
        except (OSError, JournalError) as error:
            if self._policy.strict:
                raise self._explained(error) from None

    def _seal(self, lane: Lane, reason: str) -> None:
        """Turn the open segment of a lane into a sealed one, whatever it takes.

        Raises:
            OSError: Neither seal nor salvage could be written. A sound segment stays open; a
                broken one is left for the next recovery.
        """
        active = self._active.get(lane)
        if active is None:
            return
        self._shelf.sizes[active.name] = active.size
        if active.offset == 0 and not active.broken:
            self._leave(lane, active)
            self._shelf.drop(active.name)
            return
        try:
            info = self._sealed_form(active, reason)
        except OSError as error:
            if error.errno not in _FULL or not (self._reserve.release() or self._make_room(active)):
                self._give_up(lane, active)
                raise
            try:
                info = self._sealed_form(active, reason)
            except OSError:
                self._give_up(lane, active)
                raise
        self._leave(lane, active)
        self._durable[lane] = self._next[lane]
        if info.last + 1 < self._next[lane]:
            self._doubt(active, info.last + 1)
        if lane == Lane.BULK and self.on_seal is not None:
            sketch = self.on_seal(lane, info.first, info.last)
            if sketch is not None:
                self.append_sketch(sketch, info.first, info.last)

    def _sealed_form(self, active: Active, reason: str) -> SealedInfo:
        shelf, name, identity = self._shelf, active.name, self._identity
        previous = previous_of(shelf, name) or active.header.previous
        if reason != "shutdown" or active.offset > _FEW_RECORDS:
            from device_runtime.journal.columnar import seal

            try:
                return seal(
                    shelf,
                    name,
                    active.aead,
                    identity=identity,
                    recipients=self._recipients,
                    previous=previous,
                    reason=reason,
                )
            except (FormatError, JournalError):
                reason = "damaged"  # the file changed under us: what is left of it goes verbatim
        file = OpenFile.read(shelf.disk.read(shelf.path(name)))
        return salvage(shelf, name, file, identity=identity, previous=previous, reason=reason)

    def _leave(self, lane: Lane, active: Active) -> None:
        active.close()
        if active.name in self._shelf.sizes:
            self._shelf.sizes[active.name] = active.size
        if self._active.get(lane) is active:
            del self._active[lane]
            self._next[lane] = active.next

    def _give_up(self, lane: Lane, active: Active) -> None:
        """A segment that cannot be sealed: a sound one stays open, a broken one is left behind."""
        if active.broken:
            self._leave(lane, active)
            self._recovered = False
            self._doubt(active, active.header.first + active.durable)

    def _doubt(self, active: Active, first: int) -> None:
        """Owe a HOLE for rows that may not survive; it is declared unless recovery finds them."""
        last, name = active.next - 1, active.name
        self._attention = True
        if first <= last:
            self._owed.append(Hole("damaged", *name[:4], "", first, last, last - first + 1))

    def _recover(self) -> None:
        """Salvage what crashed processes left; what fails now is tried again at the next tick."""
        shelf = self._shelf
        try:
            found = recover(shelf, self._identity, self._mine())
        except OSError as error:
            try:
                if error.errno in _FULL and not self._reserve.release():
                    self.free_room(self._segment_bytes)
                found = recover(shelf, self._identity, self._mine())
            except (OSError, JournalError):
                self._attention = True
                return
        self._recovered = True
        self.salvaged += found.salvaged
        for lane in Lane:
            self._durable.setdefault(lane, self._next_of(lane))
        try:
            if found.holes:
                self._declare(found.holes)
            for name in found.aside:
                shelf.set_aside(name)
        except (OSError, JournalError):
            self._recovered, self._attention = False, True

    def _mine(self) -> set[Name]:
        return {active.name for active in self._active.values()}

    def _next_of(self, lane: Lane) -> int:
        if lane not in self._next:
            self._next[lane] = self._sequence_after(lane)
        return self._next[lane]

    def _sequence_after(self, lane: Lane) -> int:
        shelf = self._shelf
        mine = [n for n in shelf.sizes if n[:2] == (self.epoch.id, lane)]
        for name in sorted(mine, key=lambda n: n.number, reverse=True):
            try:
                if name.suffix == "seg":
                    return shelf.info(name).last + 1
                if name.suffix == "open":  # recovery of it has to wait
                    file = OpenFile.read(shelf.disk.read(shelf.path(name)))
                    return file.opened.header.first + file.scan.next_offset
            except (JournalDamagedError, FormatError, OSError):
                continue
        return 0

    # --- what leaves the disk ----------------------------------------------------------------

    def sealed(self) -> list[SealedInfo]:
        """Return sealed segments, oldest first, of all epochs; damaged ones are declared."""
        result: list[SealedInfo] = []
        for name in self._shelf.names("seg"):
            try:
                result.append(self._shelf.info(name))
            except JournalDamagedError:
                self._damaged(name)
        return sorted(result, key=lambda i: (i.epoch == self.epoch.id, i.epoch, i.lane, i.number))

    def read(self, info: SealedInfo) -> bytes | None:
        """Return a sealed segment's bytes after its hash was checked.

        None: it is damaged on disk; that is now declared by a HOLE and the file set aside.
        """
        name = Name(info.epoch, info.lane, info.number, info.uid, "seg")
        try:
            data = self._shelf.disk.read(info.path)
            if sha256(memoryview(data)[: -TRAILER.size]).hex() == info.hash:
                return data
        except OSError:
            pass
        self._damaged(name, info)
        return None

    def _damaged(self, name: Name, info: SealedInfo | None = None) -> None:
        hole = Hole("damaged", *name[:4])
        carried: tuple[Hole, ...] = ()
        if info is not None:
            hole = Hole("damaged", *name[:4], info.hash, info.first, info.last, info.header.records)
            carried = info.header.holes
        self._declare([*carried, hole])
        self._shelf.set_aside(name)

    def mark_acked(self, hashes: Collection[str]) -> None:
        """Say which segments the base holds: pruned lazily, when room is needed."""
        self._acked = frozenset(hashes)

    def prune(self, hashes: Collection[str]) -> list[SealedInfo]:
        """Unlink now those of these acked segments that may go; return them.

        The newest sealed segment of a lane stays.
        """
        return quota.prune(self._shelf, self.epoch.id, frozenset(hashes))

    def free_room(self, need: int = 0) -> bool:
        """Prune acked, then damaged files, then evict the oldest with a HOLE; whether it fits."""
        shelf = self._shelf
        if self._fits(need):
            return True
        quota.prune(shelf, self.epoch.id, self._acked)
        for name in shelf.names("damaged"):
            if not self._fits(need):
                shelf.drop(name)
        for name in quota.victims(shelf, self.epoch.id):
            if self._fits(need):
                break
            quota.evict(shelf, name, self._declare)
            self._evicted += 1
        return self._fits(need)

    def _fits(self, need: int) -> bool:
        free = self._shelf.disk.free_bytes(self._shelf.folder)
        return self._shelf.used + need <= self._limit and free >= need

    def _make_room(self, active: Active) -> bool:
        """Evict until the sealed form of this segment fits; PRIORITY may not be writable now."""
        try:
            return self.free_room(active.size)
        except (OSError, JournalError):
            return False

    def _declare(self, holes: list[Hole]) -> None:
        """Journal HOLEs and make them durable.

        Raises:
            JournalError, OSError: They are not durable: what they declare must stay.
        """
        value = content_of.holes_json(holes)
        content = content_of.encode(self._clock.monotonic_ns(), self._clock.wall_ns(), value)
        active = self._active.get(Lane.PRIORITY)
        if active is not None and active.broken:
            self._leave(Lane.PRIORITY, active)
            self._recovered = False
            active = None
        active = active or self._start(Lane.PRIORITY)
        size = active.append(HOLE, content, 1, clear=True)
        self._shelf.used += size
        active.sync(self._shelf)

    def usage(self) -> Usage:
        """Return where the quota stands."""
        shelf, policy = self._shelf, self._policy
        infos = self.sealed()
        shelf.sizes |= {active.name: active.size for active in self._active.values()}
        return Usage(
            quota=policy.quota_bytes,
            used=shelf.used,
            reserve=policy.reserve_bytes,
            open_bytes=sum(size for name, size in shelf.sizes.items() if name.suffix == "open"),
            sealed_bytes=sum(info.bytes for info in infos),
            acked_bytes=sum(info.bytes for info in infos if info.hash in self._acked),
            segments=len(infos),
            oldest_wall_ns=min((info.header.wall_ns for info in infos), default=0),
            evicted=self._evicted,
            unjournaled=self._unjournaled,
        )

    def marks(self, stream: bytes) -> list[Marked]:
        """Return the newest mark of a stream of input rows in each lane of this epoch."""
        result: list[Marked] = []
        for lane in Lane:
            active = self._active.get(lane)
            mark = None if active is None else active.marks.get(stream.hex())
            if active is not None and mark is not None:
                result.append(Marked(lane, active.prefix, mark.first, mark.count, mark.row))
                continue
            for info in reversed(self.sealed()):
                if info.epoch == self.epoch.id and info.lane == lane:
                    found = [mark for mark in info.header.marks if mark.stream == stream.hex()]
                    if found:
                        mark = found[0]
                        prefix = info.header.prefix
                        result.append(Marked(lane, prefix, mark.first, mark.count, mark.row))
                        break
        return result

    # --- epochs ------------------------------------------------------------------------------

    def heads(self) -> dict[Lane, tuple[int, str]]:
        """Return lane → (number, hash hex) of the newest segment in this epoch; (0, "") if none.

        The hash is empty while the newest one is open.
        """
        result: dict[Lane, tuple[int, str]] = {}
        for lane in Lane:
            number = self._shelf.top(self.epoch.id, lane)
            after = Name(self.epoch.id, lane, number + 1, "", "")
            result[lane] = (number, previous_of(self._shelf, after))
        return result

    def begin_epoch(self, reason: str) -> Epoch:
        """Seal the open segments, draw a new epoch whose parent is this one, and switch to it.

        The caller commits the returned epoch in the generation before it appends anything.
        """
        self.seal("epoch")
        for lane, active in list(self._active.items()):
            self._leave(lane, active)
            self._recovered = False
        heads = self.heads()
        parent = Parent(self.epoch.id, heads, reason)
        if self.epoch.parent is not None and not any(number for number, _ in heads.values()):
            # Nothing was ever written in this epoch, so the base will never hear of it: the next
            # one descends from its parent, or a fork would go unnoticed.
            parent = self.epoch.parent._replace(reason=reason)
        self.epoch = Epoch(os.urandom(8).hex(), parent)
        self._next = dict.fromkeys(Lane, 0)
        self._durable = dict.fromkeys(Lane, 0)
        return self.epoch
