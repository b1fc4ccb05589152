"""One SQLite file, every commit synced before it returns; and the few values that need no table."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from device_runtime.errors import (
    BusyError,
    EdgepackError,
    MachineError,
    NoSpaceError,
    PermissionDeniedError,
)
from edgepack.errors import StoreError
from edgepack.records import SCHEMA, TABLES

_Row = TypeVar("_Row")


@cache
def _names(kind: type) -> str:
    """Return the columns of a record, in the order of its fields."""
    return ", ".join(item.name for item in fields(kind))


def database_error(error: sqlite3.Error, name: str = "the registry") -> EdgepackError:
    """Translate an error of SQLite into the one that a person can act on."""
    found = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = found & 0xFF  # the kind alone
    if code == sqlite3.SQLITE_FULL or found == sqlite3.SQLITE_IOERR_SHMSIZE:
        return NoSpaceError(f"the disk is full while writing {name}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(f"{name} is in use by another process")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return PermissionDeniedError(f"{name} cannot be read or written: {error}")
    if code == sqlite3.SQLITE_IOERR:
        return MachineError(f"{name} cannot be read or written: {error}")
    return StoreError(f"{name} cannot be read: {error}")


class Database:
    """An open SQLite file whose every commit is synced; one process at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path
        self._depth = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open, or make when it is not there.

        Raises:
            StoreError: Not a registry, damaged, or written by a newer edgepack.
            MachineError: The disk is full, a permission is missing, somebody else writes.
        """
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={SCHEMA}; COMMIT;"
                )
        except sqlite3.DatabaseError as error:
            raise database_error(error, str(path)) from None
        if found > SCHEMA:
            connection.close()
            raise StoreError(f"{path} was written by a newer edgepack", next="update edgepack")
        return cls(connection, path)

    def close(self) -> None:
        """Close; every commit is already durable."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Make everything in the block one durable transaction; an exception undoes all of it."""
        if self._depth:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # on a full disk it was undone already
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    def snapshot(self, target: Path) -> None:
        """Write a consistent copy of the registry to `target` (sqlite backup)."""
        copy = sqlite3.connect(target)
        try:
            self._db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise database_error(error, str(target)) from None
        finally:
            copy.close()

    def _all(self, kind: type[_Row], sql: str, *values: object) -> list[_Row]:
        names = _names(kind)  # type: ignore[arg-type]
        return [kind(*row) for row in self._db.execute(sql.replace("*", names, 1), values)]

    def _put(self, table: str, row: Any, verb: str = "REPLACE") -> None:
        values = asdict(row)
        marks = ", ".join("?" * len(values))
        self._db.execute(
            f"INSERT OR {verb} INTO {table}({', '.join(values)}) VALUES({marks})",
            list(values.values()),
        )

    # --- meta, base generation ---------------------------------------------------------------

    def get(self, key: str, default: str = "") -> str:
        """Return a value of the small key-value table."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return default if row is None else str(row[0])

    def set(self, key: str, value: str) -> None:
        """Store a value, durably."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    def base_generation(self) -> tuple[int, str]:
        """Return (number, random hex); made at first use."""
        text = self.get("base_generation")
        if not text:
            return self.raise_generation(0)
        number, random = json.loads(text)
        return int(number), str(random)

    def raise_generation(self, above: int) -> tuple[int, str]:
        """Become generation `above` + 1 with a new random: every device offers again."""
        generation = (above + 1, os.urandom(8).hex())
        self.set("base_generation", json.dumps(generation))
        return generation
