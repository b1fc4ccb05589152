"""The journal of a device: append, durability, epochs. One thread at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from device_runtime.clock import Clock
from device_runtime.crypt import Identity, sha256
from device_runtime.disk import Disk
from device_runtime.errors import EdgepackError, JournalError, JournalFullError
from device_runtime.format.frames import EVENT, LABEL, MARK, ROWS, SKETCH
from device_runtime.format.rowframe import RowEncoder, halves, layout_of, value_bytes
from device_runtime.format.schema import Schema
from device_runtime.format.segment import Epoch, Lane, Name, Parent, RecordId, Rows
from device_runtime.journal import content as content_of
from device_runtime.journal.active import Active
from device_runtime.journal.hot import LARGEST, Placed, short_way
from device_runtime.journal.keeper import FULL, START_BYTES, Keeper
from device_runtime.journal.marks import Marked, newest_marks
from device_runtime.journal.quota import Usage
from device_runtime.journal.recover import previous_of
from device_runtime.journal.shelf import SealedInfo, Shelf
from device_runtime.policy import Policy

__all__ = ["Journal", "Marked", "Placed", "SealedInfo", "Usage"]

_CLOCK_JUMP_NS = 5_000_000_000


_NEVER = 1 << 62  # nanoseconds
_NOT_KEPT: Placed = (-1, "")


class Journal(Keeper):
    """The journal in one folder.

    Attributes:
        on_seal: Called with (lane, first, last) when BULK rows are sealed; a sketch that it
            returns is appended to PRIORITY, so that something remains when the rows are evicted.
    """

    def __init__(
        self, shelf: Shelf, *, clock: Clock, identity: Identity, policy: Policy, epoch: Epoch
    ) -> None:
        """Use `open`."""
        super().__init__(shelf, clock=clock, identity=identity, policy=policy, epoch=epoch)
        self.on_seal: Callable[[Lane, int, int], bytes | None] | None = None
        self._schema: Schema | None = None
        self._hash_key = ""
        self._now = clock.monotonic_ns
        self._drift = clock.wall_ns() - self._now()
        self._sketch_only = policy.log_mode == "sketch"
        self._each = policy.durability == "each"
        group = policy.group_ms * 1_000_000
        self._sync_after = {"each": -_NEVER, "group": group}.get(policy.durability, _NEVER)
        self._due = self._now() + self._sync_after

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
        self._leave_all()  # what could not be sealed must not get rows of another layout
        self._bundle, self._schema = bundle, schema
        self._hash_key = schema.key.dtype if schema.key and schema.key.journal == "hash" else ""
        hash_key = sha256(b"edgepack journal hash v1\0", self._identity.to_bytes())
        self._encoder = RowEncoder(layout_of(schema), schema, hash_key)

    # --- appending ---------------------------------------------------------------------------

    def append_rows(self, rows: Rows, lane: Lane) -> Placed:
        """Append one block of rows with one write. No numpy up to 32 rows.

        Returns:
            Where they stand; (-1, "") if nothing was journaled: log mode `sketch`, or a journal
            that cannot be written and is not strict.

        Raises:
            JournalFullError: No room is left, and the policy is strict.
            JournalError: The disk fails, and the policy is strict.
        """
        one = self._hot[lane]
        return self._append_rows(lane, rows, self._now()) if one is None else one(rows)

    def _start(self, lane: Lane) -> Active:
        active = super()._start(lane)
        if self._encoder.plain and not self._sketch_only:
            late, long = partial(self._late, lane), partial(self._append_rows, lane)
            self._hot[lane] = short_way(active, self._encoder, self._clock, late, long)
            active.due = self._due
        return active

    def _append_rows(self, lane: Lane, rows: Rows, monotonic: int) -> Placed:
        if self._sketch_only:
            return _NOT_KEPT
        content = self._encoder.encode(rows, monotonic, self._clock.wall_ns())
        n = rows.batch.n
        mark = b"" if rows.mark is None else MARK.pack(*rows.mark)
        if len(content) > LARGEST and n > 1:
            result = self._append_large(rows, lane, monotonic, mark)
        else:
            result = self._put(lane, ROWS, content, n, mark)
        if monotonic >= self._due:
            self._sync_due(monotonic)
        return result

    def _late(self, lane: Lane, placed: Placed, n: int, monotonic: int) -> Placed:
        """Do after the short way what is due after any other."""
        if self._each:
            try:
                self._sync_one(lane, self._active[lane])
            except (OSError, JournalError) as error:
                return self._not_kept(n, error)
        self._sync_due(monotonic)
        return placed

    def _append_large(self, rows: Rows, lane: Lane, monotonic: int, mark: bytes) -> Placed:
        """Append rows that do not fit one frame; all of them into one segment: one prefix."""
        wall = self._clock.wall_ns()
        pieces = [rows]
        contents: list[tuple[int, bytes]] = []
        while pieces:
            piece = pieces.pop()
            content = self._encoder.encode(piece, monotonic, wall)
            if len(content) > LARGEST and piece.batch.n > 1:
                pieces += reversed(halves(piece))
            else:
                contents.append((piece.batch.n, content))
        first = self._put(lane, ROWS, contents[0][1], contents[0][0], mark)
        for n, content in contents[1:]:
            _, prefix = self._put(lane, ROWS, content, n, mark, roll=False)
            if prefix != first[1]:
                return _NOT_KEPT  # the disk failed half way; the rows before stay as they are
        return first

    def append_event(self, kind: str, data: Mapping[str, object]) -> RecordId | None:
        """Append a PRIORITY event; None if it could not be kept and the policy is not strict."""
        return self._record(EVENT, {"kind": kind, "data": dict(data)})

    def append_label(
        self, ref: str, value: object, *, by: str, source: str, observed_wall_ns: int
    ) -> RecordId | None:
        """Append a PRIORITY label. `by`: `record` or `key` (hashed here if the schema says so)."""
        if by == "key" and self._hash_key:
            ref = self._encoder.hash_text(value_bytes(self._hash_key, ref))
        body = {"ref": ref, "by": by, "value": value, "source": source}
        return self._record(LABEL, {**body, "observed": observed_wall_ns})

    def append_sketch(self, sketch: bytes, first: int = -1, last: int = -1) -> RecordId | None:
        """Append a PRIORITY sketch of the BULK rows first..last (-1: of rows not journaled)."""
        return self._record(SKETCH, content_of.sketch_json(sketch, first, last))

    def _record(self, type: int, value: Mapping[str, object]) -> RecordId | None:
        monotonic = self._now()
        content = content_of.encode(monotonic, self._clock.wall_ns(), value)
        sequence, prefix = self._put(Lane.PRIORITY, type, content, 1)
        if monotonic >= self._due:
            self._sync_due(monotonic)
        if sequence < 0:
            return None
        device, epoch, uid, _ = prefix.split("/")
        return RecordId(device, epoch, uid, sequence)

    def _put(
        self,
        lane: Lane,
        type: int,
        content: bytes,
        count: int,
        mark: bytes = b"",
        *,
        roll: bool = True,
    ) -> Placed:
        """Append one frame; the usual way is short: `limit` says that nothing else is due."""
        active = self._active.get(lane)
        try:
            if active is None or active.size + len(content) >= active.limit:
                active = self._ready(lane, len(content), type, roll=roll)
            try:
                active.append(type, content, count, mark)
            except OSError as error:
                active = self._again(active, error)
                active.append(type, content, count, mark)
            if self._each:
                self._sync_one(lane, active)
        except (OSError, JournalError) as error:
            return self._not_kept(count, error)
        return active.next - count, active.prefix

    def _not_kept(self, count: int, error: OSError | JournalError) -> Placed:
        """Say so: by an error if the policy is strict, else by a HOLE at the next append."""
        if self._policy.strict:
            raise self._explained(error) from None
        self._lost += count
        self._unjournaled += count
        self._alarm()
        return _NOT_KEPT

    def _ready(self, lane: Lane, need: int, type: int, *, roll: bool) -> Active:
        """Return a segment that can take a frame: recover, seal, free room, declare what is due."""
        if not self._recovered:
            self._recover()
        active = self._active.get(lane)
        full = active is not None and active.size >= self._segment_bytes and roll
        if active is not None and (active.broken or full):
            self._seal(lane, "error" if active.broken else "size")
        self._measure()
        used, need = self._shelf.used, need + START_BYTES
        if used + need > self._limit and not self.free_room(need) and type == ROWS:
            raise JournalFullError("the journal has used up its quota and nothing may be evicted")
        if self._shelf.used + need > self._policy.quota_bytes:
            raise JournalFullError("the journal has used up its quota and its reserve")
        self._pay(lane)
        active = self._active.get(lane) or self._start(lane)
        self._measure(need)
        return active

    def _again(self, active: Active, error: OSError) -> Active:
        """After a failed write: make room, or leave the file; return where to write once more."""
        if error.errno in FULL:
            self._reserve.release()
            self.free_room(self._segment_bytes)
        else:
            active.broken = True
        if active.broken:
            self._seal(active.header.lane, "error")
        return self._active.get(active.header.lane) or self._start(active.header.lane)

    def _explained(self, error: Exception) -> EdgepackError:
        if isinstance(error, EdgepackError):
            return error
        if isinstance(error, OSError) and error.errno in FULL:
            return JournalFullError("the disk of the journal is full")
        return JournalError(f"the journal could not be written: {error}")

    # --- durability --------------------------------------------------------------------------

    def durable_upto(self, lane: Lane) -> int:
        """Return the sequence up to which (exclusive) records survive a power cut now."""
        active = self._active.get(lane)
        if active is None or active.broken or not self._recovered:
            return self._durable.get(lane, self._next_of(lane))
        return active.header.first + active.durable

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            JournalError: It could not be, even by moving to another file, and the policy is
                strict. What may be lost is declared by a HOLE.
        """
        if not self._recovered:
            self._recover()
        try:
            for lane, active in list(self._active.items()):
                try:
                    self._sync_one(lane, active)
                except (OSError, JournalError) as error:
                    if self._policy.strict:
                        raise self._explained(error) from None
            if self._owed and not self._recovered and self._policy.strict:
                raise JournalError("what a file that failed held could not be made durable")
        finally:  # counted from its end: a slow disk must not be synced all the time
            self._due = self._now() + self._sync_after
            for active in self._active.values():
                active.due = self._due

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
        self._watch_clock(monotonic)

    def _watch_clock(self, monotonic: int) -> None:
        drift = self._clock.wall_ns() - monotonic
        jump, self._drift = drift - self._drift, drift
        if abs(jump) > _CLOCK_JUMP_NS:
            self.append_event("clock", {"jump_ns": jump})

    def tick(self) -> None:
        """Do what is due: group sync, seal by age, reserve, recovery that waited, clock jumps."""
        now = self._now()
        if not self._recovered:
            self._recover()
        if now >= self._due:
            self.sync()
        self._watch_clock(now)
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
            self._leave_all()

    def _was_sealed(self, lane: Lane, info: SealedInfo) -> None:
        if lane == Lane.BULK and self.on_seal is not None:
            sketch = self.on_seal(lane, info.first, info.last)
            if sketch is not None:
                self.append_sketch(sketch, info.first, info.last)

    def _seal_guarded(self, lane: Lane, reason: str) -> None:
        try:
            self._seal(lane, reason)
        except (OSError, JournalError) as error:
            if self._policy.strict:
                raise self._explained(error) from None

    def marks(self, stream: bytes) -> list[Marked]:
        """Return the newest mark of a stream of input rows in each lane of this epoch."""
        return newest_marks(stream.hex(), self.epoch.id, self._active, self.sealed())

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
        self._leave_all()
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
