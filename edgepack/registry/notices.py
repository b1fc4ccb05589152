"""Notices: conflicts, alarms, and what devices report of themselves."""

from __future__ import annotations

import json
from typing import Any

from edgepack.database import Database
from edgepack.records import AlarmRow, ReportRow


class Notices(Database):
    """What a person should know of devices."""

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
