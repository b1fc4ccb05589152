"""Losses: what devices declared lost, and what was purged and must never come back."""

from __future__ import annotations

from collections.abc import Sequence

from edgepack.records import HoleRow, Span, Tombstone
from edgepack.registry.segments import Segments


class Losses(Segments):
    """Declared holes and tombstones; a purge cuts the spans of what it buries."""

    def add_hole(self, hole: HoleRow) -> None:
        """Store a declared loss; the same one again changes nothing."""
        self._put("holes", hole, "IGNORE")

    def holes(self, device: str | None = None) -> list[HoleRow]:
        """Return declared losses."""
        return self._all(HoleRow, "SELECT * FROM holes WHERE ? IS NULL OR device=?", device, device)

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
