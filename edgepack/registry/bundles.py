"""Bundles: what was signed, and which versions were drawn."""

from __future__ import annotations

from edgepack.database import Database
from edgepack.errors import StoreError
from edgepack.records import BundleRow


class Bundles(Database):
    """Signed bundles and the highest version of each name."""

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
