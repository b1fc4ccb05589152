"""Parquet files and the Delta commit that makes them part of a table.

Arrow's own Parquet writer keeps dictionaries as they are, which makes it several times faster than
handing rows to `write_deltalake`; the transaction log is written by `deltalake` all the same. Files
come first, the commit last: a crash in between leaves files that no table names.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.transaction import AddAction

from edgepack.store.arrow import stored

FILE_BYTES = 128 << 20  # about the size of one Parquet file
ROW_GROUP = 131_072
_COUNTERS = ("_sequence", "_row", "_serial")  # integers that mostly grow by one


@dataclass(frozen=True, slots=True)
class Part:
    """One finished Parquet file: its name in the table's folder, and what the log says of it."""

    name: str
    size: int
    rows: int

    def action(self, folder: Path) -> AddAction:
        """Return the log's line."""
        # Only the count: deltalake's reader takes a column without bounds as one that has no rows
        # once any column has bounds. Parquet's own statistics prune row groups all the same.
        stats = {"numRecords": self.rows}
        changed = (folder / self.name).stat().st_mtime_ns // 1_000_000
        return AddAction(self.name, self.size, {}, changed, True, json.dumps(stats))


def ensure(path: Path, schema: pa.Schema, properties: CommitProperties) -> None:
    """Create the table, or add the columns that it lacks (they are null in older rows)."""
    wanted = pa.schema(list(stored(schema).items()))
    if not (path / "_delta_log").is_dir():
        DeltaTable.create(path, schema=Schema.from_arrow(wanted), commit_properties=properties)
        return
    table = DeltaTable(path)
    there = set(pa.schema(table.schema().to_arrow()).names)
    new = [item for item in wanted if item.name not in there]
    if new:
        fields = Schema.from_arrow(pa.schema(new)).fields
        table.alter.add_columns(fields, commit_properties=properties)


def write_parts(path: Path, batches: Iterable[pa.RecordBatch]) -> list[Part]:
    """Write record batches of one schema as Parquet files, in constant memory."""
    parts: list[Part] = []
    writer: _Writer | None = None
    try:
        for table in _groups(batches):
            if writer is None:
                writer = _Writer(path, table.schema)
            if writer.add(table) >= FILE_BYTES:
                parts.append(writer.done())
                writer = None
        if writer is not None:
            parts.append(writer.done())
            writer = None
    finally:
        if writer is not None:
            writer.close()
    return parts


def commit(path: Path, parts: Iterable[Part], properties: CommitProperties) -> None:
    """Make the files part of the table, in one transaction; without files only the mark moves."""
    table = DeltaTable(path)
    table.create_write_transaction(
        [part.action(path) for part in parts],
        "append",
        table.schema(),
        commit_properties=properties,
    )


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Gather small batches into row groups that share their dictionaries."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP:
            yield pa.Table.from_batches(waiting).unify_dictionaries()
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting).unify_dictionaries()


class _Writer:
    """One Parquet file that grows."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._name = f"part-{uuid.uuid4().hex}.parquet"
        self._path = folder / self._name
        self._out = pa.OSFile(str(self._path), "wb")
        words = [item.name for item in schema if _is_text(item.type)]
        self._writer = pq.ParquetWriter(
            self._out,
            schema,
            compression="snappy",
            use_dictionary=words,
            column_encoding={
                name: "DELTA_BINARY_PACKED" for name in _COUNTERS if name in schema.names
            },
            store_schema=False,
        )
        self._rows = 0

    def add(self, table: pa.Table) -> int:
        """Append; return the bytes written so far."""
        self._writer.write_table(table, row_group_size=2 * ROW_GROUP)
        self._rows += table.num_rows
        return int(self._out.tell())

    def done(self) -> Part:
        """Close and describe the file."""
        self.close()
        size = self._path.stat().st_size
        return Part(self._name, size, self._rows)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._out.close()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind))
