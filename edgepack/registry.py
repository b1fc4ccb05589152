"""What the base knows for sure: one SQLite file, every commit synced before it returns.

Devices, imported segments and the exact sequences that each brought, signed bundles and drawn
versions, the base generation, conflicts, alarms, the latest report of every device. The Delta table
is a view of this file and the archive; this file is what acks speak from.

Times are nanoseconds since 1970-01-01 UTC by the base's clock; they are shown, never compared with
a device's. All writes happen inside `with registry.commit():`, which is one durable transaction;
a single writing call outside of it is a transaction of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgepack.database import Database
from edgepack.errors import DeviceUnknownError, StoreError
from edgepack.records import (
    AlarmRow,
    BundleRow,
    DeviceRow,
    EpochRow,
    HeldRow,
    HoleRow,
    PlanRow,
    ReportRow,
    SegmentRow,
    Span,
    Tombstone,
)

__all__ = [
    "AlarmRow",
    "BundleRow",
    "DeviceRow",
    "EpochRow",
    "HeldRow",
    "HoleRow",
    "PlanRow",
    "Registry",
    "ReportRow",
    "SegmentRow",
    "Span",
    "Tombstone",
]


class Registry(Database):
    """The open registry; one process at a time (the workspace's lock)."""

    # --- devices -----------------------------------------------------------------------------

    def plan(self, name: str) -> PlanRow | None:
        """Return what `device new` said about a name."""
        return next(iter(self._all(PlanRow, "SELECT * FROM plans WHERE name=?", name)), None)

    def plans(self) -> list[PlanRow]:
        """Return all planned names."""
        return self._all(PlanRow, "SELECT * FROM plans ORDER BY name")

    def put_plan(self, plan: PlanRow) -> None:
        """Store a plan, or its kit id once a kit was written."""
        self._put("plans", plan)

    def devices(self, *states: str) -> list[DeviceRow]:
        """Return enrolled devices, by name; only those in `states` when given."""
        rows = self._all(DeviceRow, "SELECT * FROM devices ORDER BY name")
        return [row for row in rows if not states or row.state in states]

    def find_device(self, name_or_id: str) -> DeviceRow | None:
        """Return a device by name, id, or a beginning (8 characters or more) of its id."""
        exact = "SELECT * FROM devices WHERE device=? OR name=? ORDER BY name"
        for row in self._all(DeviceRow, exact, name_or_id, name_or_id):
            return row
        found = [row for row in self.devices() if row.device.startswith(name_or_id)]
        return found[0] if len(name_or_id) >= 8 and len(found) == 1 else None

    def device(self, name_or_id: str) -> DeviceRow:
        """As `find_device`.

        Raises:
            DeviceUnknownError: There is none.
        """
        row = self.find_device(name_or_id)
        if row is None:
            raise DeviceUnknownError(f"no device {name_or_id!r} is enrolled here")
        return row

    def put_device(self, row: DeviceRow) -> None:
        """Store an enrolled device."""
        self._put("devices", row)

    # --- segments ----------------------------------------------------------------------------

    def segment(self, digest: str) -> SegmentRow | None:
        """Return a registered segment by its hash (hex)."""
        rows = self._all(SegmentRow, "SELECT * FROM segments WHERE hash=?", digest)
        return rows[0] if rows else None

    def segments(
        self, device: str | None = None, *, after: int = 0, state: str | None = "imported"
    ) -> list[SegmentRow]:
        """Return segments in import order.

        Args:
            device: Only of this device id.
            after: Only with a serial above this: what a view that stands at `after` lacks.
            state: `imported`, `purged`, or None for all.
        """
        return self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE serial>? AND (? IS NULL OR device=?)"
            " AND (? IS NULL OR state=?) ORDER BY serial",
            after, device, device, state, state,
        )  # fmt: skip

    def neighbours(self, device: str, epoch: str, lane: int, number: int) -> list[SegmentRow]:
        """Return every form of the segments number - 1, number and number + 1."""
        return self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE device=? AND epoch=? AND lane=?"
            " AND number BETWEEN ? AND ?",
            device, epoch, lane, number - 1, number + 1,
        )  # fmt: skip

    def nearest(
        self, device: str, epoch: str, lane: int, number: int
    ) -> tuple[SegmentRow | None, SegmentRow | None]:
        """Return the segments with records that come next before and after a number."""
        place = (device, epoch, lane, number)
        before = self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE device=? AND epoch=? AND lane=? AND number<?"
            " AND last>=first ORDER BY number DESC LIMIT 1",
            *place,
        )
        after = self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE device=? AND epoch=? AND lane=? AND number>?"
            " AND last>=first ORDER BY number LIMIT 1",
            *place,
        )
        return next(iter(before), None), next(iter(after), None)

    def forms(self, device: str, epoch: str, uid: str) -> list[SegmentRow]:
        """Return every registered form (sealed, salvaged) of a segment uid."""
        return self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE device=? AND epoch=? AND uid=? ORDER BY serial",
            device, epoch, uid,
        )  # fmt: skip

    def add_epoch(self, row: EpochRow) -> bool:
        """Store where an epoch came from; return whether it is new."""
        known = self.epochs(row.device)
        if any(old.epoch == row.epoch for old in known):
            return False
        self._put("epochs", row)
        return True

    def epochs(self, device: str) -> list[EpochRow]:
        """Return the known epochs of a device that have a parent."""
        return self._all(EpochRow, "SELECT * FROM epochs WHERE device=?", device)

    def highest_number(self, device: str, epoch: str, lane: int) -> int:
        """Return the highest registered segment number of a lane, 0 when there is none."""
        row = self._db.execute(
            "SELECT COALESCE(MAX(number), 0) FROM segments WHERE device=? AND epoch=? AND lane=?",
            (device, epoch, lane),
        ).fetchone()
        return int(row[0])

    def next_serial(self) -> int:
        """Return the serial for the next `add_segment`."""
        return int(
            self._db.execute("SELECT COALESCE(MAX(serial), 0) + 1 FROM segments").fetchone()[0]
        )

    def add_segment(self, row: SegmentRow, spans: Sequence[Span]) -> None:
        """Register a segment and the sequences that it is the first to bring."""
        self._put("segments", row, "ABORT")
        self._db.executemany(
            "INSERT INTO spans VALUES(?, ?, ?, ?, ?, ?)",
            [(row.device, row.epoch, row.uid, first, last, row.hash) for first, last in spans],
        )

    def spans(self, digest: str) -> list[Span]:
        """Return the sequences of a segment that are its own: the view appends these, no others."""
        return list(
            self._db.execute("SELECT first, last FROM spans WHERE hash=? ORDER BY first", (digest,))
        )

    def spans_of(self, device: str, epoch: str, uid: str) -> list[tuple[int, int, str]]:
        """Return (first, last, segment hash) of everything that was imported of a segment uid."""
        sql = (
            "SELECT first, last, hash FROM spans WHERE device=? AND epoch=? AND uid=?"
            " ORDER BY first"
        )
        return list(self._db.execute(sql, (device, epoch, uid)))

    def spans_of_lane(self, device: str, epoch: str, lane: int) -> list[Span]:
        """Return (first, last) of everything that was imported of a lane, whatever its uid."""
        sql = (
            "SELECT s.first, s.last FROM spans s JOIN segments USING (hash)"
            " WHERE s.device=? AND s.epoch=? AND lane=?"
        )
        return list(self._db.execute(sql, (device, epoch, lane)))

    def acknowledged(self, device: str, *, backed_only: bool) -> list[SegmentRow]:
        """Return what an ack to this device lists, oldest first; purged segments stay listed."""
        return self._all(
            SegmentRow,
            "SELECT * FROM segments WHERE device=? AND (backed>=? OR state='purged')"
            " ORDER BY epoch, lane, number",
            device, int(backed_only),
        )  # fmt: skip

    def mark_backed(self, hashes: Iterable[str]) -> None:
        """Say that exactly these segments are in the newest backup."""
        with self.commit():
            self._db.execute("UPDATE segments SET backed=0")
            self._db.executemany(
                "UPDATE segments SET backed=1 WHERE hash=?", [(h,) for h in hashes]
            )

    def unbacked(self) -> int:
        """Return how many imported segments are not in the newest backup."""
        sql = "SELECT COUNT(*) FROM segments WHERE backed=0 AND state='imported'"
        return int(self._db.execute(sql).fetchone()[0])

    def forget_segment(self, digest: str) -> None:
        """Drop a row whose archived file does not exist (`restore`); its device offers again."""
        with self.commit():
            self._db.execute("DELETE FROM segments WHERE hash=?", (digest,))
            self._db.execute("DELETE FROM spans WHERE hash=?", (digest,))

    # --- holes, held, tombstones ---------------------------------------------------------------

    def add_hole(self, hole: HoleRow) -> None:
        """Store a declared loss; the same one again changes nothing."""
        self._put("holes", hole, "IGNORE")

    def holes(self, device: str | None = None) -> list[HoleRow]:
        """Return declared losses."""
        return self._all(HoleRow, "SELECT * FROM holes WHERE ? IS NULL OR device=?", device, device)

    def put_held(self, row: HeldRow) -> None:
        """Store that a segment is held."""
        self._put("held", row)

    def drop_held(self, digest: str) -> None:
        """A held segment was imported, or its file is gone."""
        self._db.execute("DELETE FROM held WHERE hash=?", (digest,))

    def held(self, device: str | None = None) -> list[HeldRow]:
        """Return held segments in order of arrival."""
        return self._all(
            HeldRow,
            "SELECT * FROM held WHERE ? IS NULL OR device=? ORDER BY arrived, path",
            device,
            device,
        )

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Mark as purged: spans go, the rows of `segments` stay (they are still acknowledged)."""
        with self.commit():
            for stone in tombstones:
                self._put("tombstones", stone)
                place = (stone.device, stone.epoch, stone.uid)
                for first, last, digest in self.spans_of(*place):
                    self._cut(place, (first, last), digest, (stone.first, stone.last))
                self._db.execute(
                    "UPDATE segments SET state='purged', path='' WHERE hash=?"
                    " AND NOT EXISTS(SELECT 1 FROM spans WHERE spans.hash=segments.hash)",
                    (stone.hash,),
                )

    def _cut(self, place: tuple[str, str, str], span: Span, digest: str, gone: Span) -> None:
        left = [
            part
            for part in ((span[0], min(span[1], gone[0] - 1)), (max(span[0], gone[1] + 1), span[1]))
            if part[0] <= part[1]
        ]
        if gone[0] > span[1] or gone[1] < span[0]:
            return
        self._db.execute("DELETE FROM spans WHERE hash=? AND first=?", (digest, span[0]))
        self._db.executemany(
            "INSERT INTO spans VALUES(?, ?, ?, ?, ?, ?)", [(*place, *part, digest) for part in left]
        )

    def tombstones(self) -> list[Tombstone]:
        """Return everything that was purged."""
        return self._all(Tombstone, "SELECT * FROM tombstones")

    def buried(self, device: str, epoch: str, uid: str) -> list[Span]:
        """Return the purged sequences of a segment uid."""
        return list(
            self._db.execute(
                "SELECT first, last FROM tombstones WHERE device=? AND epoch=? AND uid=?"
                " ORDER BY first",
                (device, epoch, uid),
            )
        )

    # --- bundles and versions ----------------------------------------------------------------

    def highest_version(self, name: str) -> int:
        """Return the highest version drawn here or seen in a device's report; 0 when none."""
        row = self._db.execute("SELECT highest FROM versions WHERE name=?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def draw_version(self, name: str) -> int:
        """Return the next version of a bundle name; it is used up when this returns."""
        with self.commit():
            version = self.highest_version(name) + 1
            self.saw_version(name, version)
        return version

    def saw_version(self, name: str, version: int) -> None:
        """Remember that a version exists somewhere: later ones are drawn above it."""
        self._db.execute(
            "INSERT INTO versions VALUES(?, ?)"
            " ON CONFLICT(name) DO UPDATE SET highest=MAX(highest, excluded.highest)",
            (name, version),
        )

    def add_bundle(self, row: BundleRow) -> None:
        """Store a signed bundle.

        Raises:
            StoreError: That version exists with another digest.
        """
        with self.commit():
            for old in self.bundles(row.name):
                if old.version == row.version and old.digest != row.digest:
                    raise StoreError(f"{row.name} {row.version} exists with another digest")
            self._put("bundles", row)
            self.saw_version(row.name, row.version)

    def bundles(self, name: str | None = None) -> list[BundleRow]:
        """Return signed bundles, newest version first within a name."""
        return self._all(
            BundleRow,
            "SELECT * FROM bundles WHERE ? IS NULL OR name=? ORDER BY name, version DESC",
            name, name,
        )  # fmt: skip

    # --- conflicts, alarms, reports ----------------------------------------------------------

    def add_conflict(
        self, place: tuple[str, str, str], sequence: int, kept: str, other: str, at: int
    ) -> None:
        """Store that segment `other` has another content for a record that `kept` brought."""
        self._db.execute(
            "INSERT OR IGNORE INTO conflicts VALUES(?, ?, ?, ?, ?, ?, ?)",
            (*place, sequence, kept, other, at),
        )

    def conflicts(self, device: str | None = None) -> list[dict[str, Any]]:
        """Return conflicts as dicts: device, epoch, uid, sequence, kept, other, at."""
        names = ("device", "epoch", "uid", "sequence", "kept", "other", "at")
        found = self._db.execute(
            "SELECT * FROM conflicts WHERE ? IS NULL OR device=?", (device, device)
        )
        return [dict(zip(names, row, strict=True)) for row in found]

    def alarm(self, kind: str, device: str, subject: str, text: str, at: int) -> bool:
        """Raise an alarm; return whether it is new. A repeated one stays as it first was."""
        done = self._db.execute(
            "INSERT OR IGNORE INTO alarms(kind, device, subject, text, at) VALUES(?, ?, ?, ?, ?)",
            (kind, device, subject, text, at),
        )
        return done.rowcount > 0

    def alarms(self, device: str | None = None) -> list[AlarmRow]:
        """Return alarms that were not cleared, oldest first."""
        return self._all(
            AlarmRow,
            "SELECT * FROM alarms WHERE cleared=0 AND (? IS NULL OR device=?) ORDER BY at",
            device, device,
        )  # fmt: skip

    def put_report(self, row: ReportRow) -> bool:
        """Keep a verified report if its counter is above the kept one; return whether it was."""
        known = [old for old in self.reports(row.device) if old.epoch == row.epoch]
        if known and known[0].counter >= row.counter:
            return False
        self._db.execute(
            "INSERT OR REPLACE INTO reports VALUES(?, ?, ?, ?, ?)",
            (row.device, row.epoch, row.counter, json.dumps(row.body), row.received),
        )
        return True

    def reports(self, device: str | None = None) -> list[ReportRow]:
        """Return the newest report of each device and epoch, the latest received first."""
        rows = self._db.execute(
            "SELECT device, epoch, counter, body, received FROM reports"
            " WHERE ? IS NULL OR device=? ORDER BY received DESC, counter DESC",
            (device, device),
        )
        return [ReportRow(a, b, c, json.loads(body), e) for a, b, c, body, e in rows]

    def recipients_out(self) -> dict[str, list[str]]:
        """Return journal key id → names of the devices that still carry segments wrapped to it.

        By the newest report of each device, of each branch where it was copied. Such a key must
        not be destroyed.
        """
        found: dict[str, set[str]] = {}
        for device in self.devices():
            copied = any(alarm.kind == "fork" for alarm in self.alarms(device.device))
            for report in self.reports(device.device)[: None if copied else 1]:
                for key in report.body.get("recipients", []):
                    found.setdefault(key, set()).add(device.name)
        return {key: sorted(names) for key, names in found.items()}
