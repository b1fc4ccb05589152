"""Segments: what was imported, the exact sequences that each brought, and what is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgepack.database import Database
from edgepack.records import EpochRow, HeldRow, SegmentRow, Span


class Segments(Database):
    """Imported segments with their spans and epochs; held ones."""

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
