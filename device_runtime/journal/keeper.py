"""What a journal keeps: open segments, sealed ones, the quota, declared losses.

The order of writes, which everything else follows from:
- a frame is one write; it is durable after a sync of the file, and of the folder the first time;
- a seal is durable before the open file goes; a HOLE is durable before what it declares goes;
- a file that fails to be cut back or synced is never written again: its rows move into a seal, and
  a new segment with a new key begins.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from device_runtime.clock import Clock
from device_runtime.crypt import Identity, RecipientKey, sha256
from device_runtime.errors import FormatError, JournalDamagedError, JournalError
from device_runtime.format.header import TRAILER
from device_runtime.format.rowframe import RowEncoder
from device_runtime.format.segment import OPEN, Epoch, Header, Hole, Lane, Layout, Name
from device_runtime.journal import content as content_of
from device_runtime.journal import quota
from device_runtime.journal.active import Active
from device_runtime.journal.hot import ShortWay
from device_runtime.journal.quota import Reserve, Usage
from device_runtime.journal.recover import next_in, previous_of, recover
from device_runtime.journal.seal import OpenFile, salvage
from device_runtime.journal.shelf import SealedInfo, Shelf
from device_runtime.policy import Policy

_FEW_RECORDS = 256  # at a shutdown so few are not worth importing numpy: frames go verbatim
_ANY = 1 << 32  # more records than a segment has
_SEGMENTS = 8  # both lanes keep the newest and fill another; each may be a block over its size
_ROW_BYTES = 1024  # a block of rows up to this size is no larger than a segment
MAX_BLOCK_ROWS = 16_384
FULL = (errno.ENOSPC, errno.EDQUOT)
START_BYTES = 16 << 10  # headers of the segments that an append may have to start


class Keeper:
    """Segments of one folder, and what is owed because of failing disks.

    Attributes:
        epoch: The current one.
        salvaged: Segments of crashed processes that were sealed.
        block_rows: Rows that are to be appended at once, of an input of many.
    """

    def __init__(
        self, shelf: Shelf, *, clock: Clock, identity: Identity, policy: Policy, epoch: Epoch
    ) -> None:
        """See `Journal.open`."""
        self.epoch = epoch
        self.salvaged = 0
        self._shelf, self._clock, self._identity, self._policy = shelf, clock, identity, policy
        self._device = identity.public.id
        self._recipients = [RecipientKey(bytes.fromhex(raw)) for raw in policy.recipients]
        self._reserve = Reserve(shelf.disk, shelf.folder, policy.reserve_bytes)
        self._active: dict[Lane, Active] = {}
        self._hot: list[ShortWay | None] = [None for _ in Lane]  # the short way into each of them
        self._next: dict[Lane, int] = {}
        self._durable: dict[Lane, int] = {}
        self._bundle: tuple[str, int, str] = ("", 0, "")
        self._encoder = RowEncoder(Layout(), None, b"")
        self._acked: frozenset[str] = frozenset()
        self._owed: list[Hole] = []
        self._lost = self._unjournaled = self._evicted = 0
        self._recovered = False
        self._limit = policy.quota_bytes - policy.reserve_bytes
        self._segment_bytes = min(policy.segment_bytes, self._limit // _SEGMENTS)
        self.block_rows = min(MAX_BLOCK_ROWS, max(1, self._segment_bytes // _ROW_BYTES))

    # --- open segments -----------------------------------------------------------------------

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
        recipients, durability = self._recipients, self._policy.durability
        active = Active.create(
            self._shelf, header, self._identity, recipients, durability=durability
        )
        self._active[lane] = active
        self._durable.setdefault(lane, active.header.first)
        return active

    def _measure(self, need: int = 0) -> None:
        """Bring sizes up to date, and give each open segment its share of what `need` leaves."""
        shelf = self._shelf
        for active in self._active.values():
            shelf.put(active.name, max(active.size, active.prepared))
        free = (self._limit - shelf.used - need) // 2
        for active in self._active.values():
            usable = not active.broken and not self._uneasy
            most = min(self._segment_bytes, shelf.sizes[active.name] + free)
            active.limit = most if usable else active.size

    @property
    def _uneasy(self) -> bool:
        """Whether something must be done before the next append."""
        return bool(self._owed or self._lost or not self._recovered)

    def _alarm(self) -> None:
        """Send the next append the long way round."""
        for active in self._active.values():
            active.limit = 0

    # --- sealing -----------------------------------------------------------------------------

    def _seal(self, lane: Lane, reason: str) -> None:
        """Turn the open segment of a lane into a sealed one, whatever it takes.

        Raises:
            OSError: Neither seal nor salvage could be written. A sound segment stays open; a
                broken or half sealed one is left for the next recovery.
        """
        active = self._active.get(lane)
        if active is None:
            return
        self._measure()
        if active.offset == 0 and not active.broken:
            self._leave(lane, active)
            self._shelf.drop(active.name)
            return
        try:
            try:
                info = self._sealed_form(active, reason)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not (self._reserve.release() or self._make_room(active)):
                    raise
                info = self._sealed_form(active, reason)
            self._leave(lane, active)
        except BaseException:  # an interrupt too: no row may go into a file that is gone
            self._give_up(lane, active)
            raise
        self._durable[lane] = self._next[lane]
        if info.last + 1 < self._next[lane]:
            self._doubt(active, info.last + 1)
        self._was_sealed(lane, info)

    def _was_sealed(self, lane: Lane, info: SealedInfo) -> None:
        """Called after each seal."""

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
        if self._active.get(lane) is active:
            self._next[lane] = active.next  # first: an interrupt must not give a sequence twice
            self._hot[lane] = None
            del self._active[lane]
        active.close()
        if active.name in self._shelf.sizes:
            self._shelf.put(active.name, max(active.size, active.prepared))

    def _leave_all(self) -> None:
        for lane, active in list(self._active.items()):
            self._recovered = False
            self._leave(lane, active)

    def _give_up(self, lane: Lane, active: Active) -> None:
        """A segment that cannot be sealed: a sound one stays open, others are left to recovery.

        Sound is one that may be written again: not broken, and no sealed form has its name yet.
        """
        if active.broken or active.name._replace(suffix="seg") in self._shelf.sizes:
            self._leave(lane, active)
            self._recovered = False
            self._durable[lane] = active.header.first + active.durable
            self._doubt(active, self._durable[lane])

    def _doubt(self, active: Active, first: int) -> None:
        """Owe a HOLE for rows that may not survive; it is declared unless recovery finds them."""
        last, name = active.next - 1, active.name
        self._alarm()
        if first <= last:
            self._owed.append(Hole("damaged", *name[:4], "", first, last, last - first + 1))

    # --- recovery ----------------------------------------------------------------------------

    def _recover(self) -> None:
        """Salvage what crashed processes left; what fails now is tried again at the next tick."""
        shelf = self._shelf
        try:
            found = recover(shelf, self._identity, self._mine())
        except OSError as error:
            try:
                if error.errno in FULL and not self._reserve.release():
                    self.free_room(self._segment_bytes)
                found = recover(shelf, self._identity, self._mine())
            except (OSError, JournalError):
                self._alarm()
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
            self._recovered = False
            self._alarm()

    def _mine(self) -> set[Name]:
        return {active.name for active in self._active.values()}

    def _next_of(self, lane: Lane) -> int:
        if lane not in self._next:
            self._next[lane] = self._sequence_after(lane)
        return self._next[lane]

    def _sequence_after(self, lane: Lane) -> int:
        mine = {n for n in self._shelf.sizes if n[:2] == (self.epoch.id, lane)}
        unread = 0
        while mine:  # the newest one nearly always says it: no need to sort thousands
            top = max(name.number for name in mine)
            newest = {name for name in mine if name.number == top}  # open and sealed: the later one
            after = max(next_in(self._shelf, name) for name in newest)
            if after >= 0:
                return after + unread
            # A closed one that rots may be at the base: what stood in it must not come again.
            unread += _ANY if any(name.suffix != "open" for name in newest) else 0
            mine -= newest
        return unread

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
            newest = name.number == shelf.top(name.epoch, name.lane)  # numbering must not restart
            if not newest and not self._fits(need):
                shelf.drop(name)
        for name in quota.victims(shelf, self.epoch.id):
            if self._fits(need):
                break
            quota.evict(shelf, name, self._declare)
            self._evicted += 1
        return self._fits(need)

    def _fits(self, need: int) -> bool:
        self._measure()
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
            self._give_up(Lane.PRIORITY, active)
            active = None
        active = active or self._start(Lane.PRIORITY)
        active.declare(content)
        active.sync(self._shelf)

    def _pay(self, lane: Lane) -> None:
        """Declare what is owed: rows that never got in, rows that may not have survived."""
        owed = list(self._owed)
        holes = [hole for hole in owed if not self._survived(hole)]
        if self._lost:
            holes.append(Hole("unjournaled", self.epoch.id, lane, 0, count=self._lost))
        if holes:
            self._declare(holes)
        self._owed, self._lost = self._owed[len(owed) :], 0  # declaring may have cast a new doubt

    def _survived(self, hole: Hole) -> bool:
        """Whether a segment that was in doubt was sealed with all its rows after all.

        While its open form is there, nobody knows yet that the sealed one's name is durable.
        """
        name = Name(hole.epoch, hole.lane, hole.number, hole.uid, "seg")
        if name._replace(suffix="open") in self._shelf.sizes:
            return False
        try:
            return name in self._shelf.sizes and self._shelf.info(name).last >= hole.last
        except JournalDamagedError:
            return False

    def usage(self) -> Usage:
        """Return where the quota stands."""
        self._measure()
        return Usage(self._shelf.used, self._evicted, self._unjournaled)
