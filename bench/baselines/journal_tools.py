"""What the journal is measured against: raw writes, SQLite, the best Parquet + zstd, DuckDB."""

from __future__ import annotations

import io
import os
import sqlite3
import time
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_HEAD = Struct("<qqqI").pack


class RawFile:
    """One `write` of given bytes into an append-only file."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def append(self, data: bytes, _lane: object = None) -> None:
        """Write, as the journal is asked to."""
        os.write(self.fd, data)


class SqliteFile:
    """One blob per row, one transaction each; WAL, synchronous=NORMAL: no fsync per commit.

    The cheapest way to keep a row in SQLite: nothing is encrypted, checked or numbered but by it.
    """

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, row BLOB)")

    def insert(self, data: bytes) -> None:
        """One row whose bytes are ready."""
        self.db.execute("INSERT INTO log (row) VALUES (?)", (data,))

    def insert_row(self, rows: Any) -> None:
        """One row, given as the journal gets it: two clocks, what the model said, all columns."""
        columns, answers = rows.batch.columns, rows.answers
        head = _HEAD(time.monotonic_ns(), time.time_ns(), rows.batch.first_row, rows.latency_us)
        texts = "\0".join([x.values[0] if x.values else "" for x in columns.rest.values()]).encode()
        data = b"".join((head, rows.flags, answers.label, answers.scores, columns.packed, texts))
        self.db.execute("INSERT INTO log (row) VALUES (?)", (data,))


class SqliteTable:
    """One column per field, no encryption, same transactions: what a person would write first."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        names = [*columns, "monotonic", "wall", "flags", "label", "score_0", "score_1"]
        self.db.execute(f"CREATE TABLE log (id INTEGER PRIMARY KEY, {', '.join(names)})")
        marks = ", ".join("?" * len(names))
        self.text = f"INSERT INTO log ({', '.join(names)}) VALUES ({marks})"

    def insert(self, rows: Any) -> None:
        """One row, given as the journal gets it."""
        values: list[Any] = [
            data.values[data.codes[0]] if hasattr(data, "codes") else data[0]
            for data in rows.batch.columns.values()
        ]
        answers = rows.answers
        values += [time.monotonic_ns(), time.time_ns(), rows.flags[0], answers.label[0]]
        self.db.execute(self.text, [*values, answers.scores[0], answers.scores[1]])


def parquet_choices(table: pa.Table) -> list[dict[str, Any]]:
    """Settings that a patient person would try."""
    floats = [f.name for f in table.schema if pa.types.is_floating(f.type)]
    noisy = [name for name in floats if len(set(table[name].slice(0, 4096).to_pylist())) > 2048]
    steps = [
        f.name for f in table.schema if pa.types.is_int64(f.type) or pa.types.is_timestamp(f.type)
    ]
    calm = [f.name for f in table.schema if f.name not in {*noisy, *steps}]
    encodings = dict.fromkeys(steps, "DELTA_BINARY_PACKED") | dict.fromkeys(
        noisy, "BYTE_STREAM_SPLIT"
    )
    return [
        {},
        {"use_dictionary": [f.name for f in table.schema if f.name not in floats]}
        | {"use_byte_stream_split": floats},
        {"use_dictionary": calm, "column_encoding": encodings},
    ]


def best_parquet(table: pa.Table) -> tuple[int, float, dict[str, Any]]:
    """Return (bytes, seconds of that writer, its settings) of the smallest file."""
    best: tuple[int, float, dict[str, Any]] | None = None
    for choice in parquet_choices(table):
        for level in (3, 9, 19, 22):
            settings = {**choice, "compression": "zstd", "compression_level": level}
            size, seconds = write_parquet(table, settings)
            if best is None or size < best[0]:
                best = (size, seconds, settings)
    assert best is not None
    return best


def write_parquet(table: pa.Table, settings: dict[str, Any]) -> tuple[int, float]:
    """Write once to memory; return (bytes, seconds)."""
    sink = io.BytesIO()
    start = time.perf_counter()
    pq.write_table(table, sink, row_group_size=1 << 20, **settings)
    return len(sink.getvalue()), time.perf_counter() - start


def write_ndjson(table: pa.Table, path: Path) -> None:
    """The same rows, one JSON object a line."""
    table.to_pandas().to_json(path, orient="records", lines=True)


def read_ndjson(path: Path) -> pa.Table:
    """DuckDB, all cores, to Arrow."""
    import duckdb

    found = duckdb.sql(f"SELECT * FROM read_ndjson('{path}')").to_arrow_table()
    assert isinstance(found, pa.Table)
    return found


def spread(seconds: list[float]) -> float:
    """Median."""
    return float(np.median(seconds))
