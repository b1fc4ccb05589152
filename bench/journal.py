"""The journal against raw writes, SQLite, Parquet and DuckDB, on real flights."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from bench._flights import IDENTITY, RECIPIENT, SECRET, Flights, new_journal
from bench.baselines import journal_tools as plain
from device_runtime.clock import SystemClock
from device_runtime.format.batch import Text
from device_runtime.format.rowframe import HEAD
from device_runtime.format.segment import Lane, Rows
from device_runtime.journal.reader import RowBlock, open_segment
from device_runtime.journal.writer import Journal

BATCH = 1024
BLOCKS = 100
BULK = Lane.BULK  # a name of an enumeration costs 0.2 µs each time
FRESH = 16  # rows taken in turns: as in life, a row has just been made and is in the cache


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e3


def interleaved(
    n: int, *calls: Callable[[int], Callable[[], object]], turn: int = 1
) -> list[float]:
    """Median microseconds of each call, taken in turns of `turn` calls."""
    times: list[list[float]] = [[] for _ in calls]
    for start in range(0, n, turn):
        for found, maker in zip(times, calls, strict=True):
            found += [timed(maker(index)) for index in range(start, start + turn)]
    return [plain.spread(found[n // 10 :]) for found in times]


def paired(
    n: int, works: int, alone: Callable[[int], object], ours: Callable[[int], object]
) -> tuple[float, float, float]:
    """Median microseconds of both, and the median ratio of pairs on the same piece of work.

    Pieces differ: a forest takes 1.5 to 3 ms for a block, as its rows need. Medians of all pieces
    would measure which piece lies in the middle. Who goes first changes with each round.
    """
    times = np.empty((n, 2))
    for at in range(n):
        index, first = at % works, at // works % 2
        for side in (first, 1 - first):
            call = partial((alone, ours)[side], index)
            times[at, side] = timed(call)
    kept = times[n // 10 :]
    base, mine = np.median(kept, axis=0)
    return float(base), float(mine), float(np.median(kept[:, 1] / kept[:, 0]))


def synced_blocks(
    append: Callable[[Any, Lane], object], blocks: list[Any], sync: Callable[[], object]
) -> None:
    """Append a hundred blocks, and make them durable."""
    for at in range(BLOCKS):
        append(blocks[at % 4], BULK)
    sync()


def frame_size(journal: Journal, rows: Rows) -> int:
    """Bytes that one append writes."""
    before = journal._active[BULK].size  # noqa: SLF001
    journal.append_rows(rows, BULK)
    return journal._active[BULK].size - before  # noqa: SLF001


def run(record: Callable[..., None]) -> None:
    """Measure everything that issue and docs promise of the journal."""
    flights = Flights()
    for part in (appends, beside_a_model, sealed_bytes):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
            part(record, flights, Path(name))
        os.sync()  # what one part left in the cache must not be written out during the next


def appends(record: Callable[..., None], flights: Flights, folder: Path) -> None:
    journal = new_journal(folder / "one", flights)
    small = [flights.small(index) for index in range(FRESH)]
    journal.append_rows(small[0], BULK)
    data = os.urandom(frame_size(journal, small[1]))
    raw, sqlite = plain.RawFile(folder / "raw1"), plain.SqliteFile(folder / "log.sqlite")
    ready = plain.SqliteFile(folder / "ready.sqlite")
    table = plain.SqliteTable(folder / "table.sqlite", list(small[0].batch.columns))
    bare = bare_calls(journal, plain.RawFile(folder / "bare"))
    n = 8000
    ours, write, blob, ready_blob, row, least = interleaved(
        n,
        lambda i: partial(journal.append_rows, small[i % FRESH], BULK),
        lambda _: partial(raw.write, data),
        lambda i: partial(sqlite.insert_row, small[i % FRESH]),
        lambda _: partial(ready.insert, data),
        lambda i: partial(table.insert, small[i % FRESH]),
        lambda i: partial(bare, small[i % FRESH]),
        turn=100,
    )
    record("journal.append1", ours / write, "x raw", ours=ours, baseline=write, limit=4.5, n=n)
    record("journal.append1_vs_sqlite", ours / blob, "x", ours=ours, baseline=blob, limit=0.35, n=n)
    record("journal.append1_vs_ready", ours / ready_blob, "x", ours=ours, baseline=ready_blob, n=n)
    record("journal.append1_vs_table", ours / row, "x", ours=ours, baseline=row, n=n)
    record("journal.append1_bare_vs_sqlite", least / blob, "x", ours=least, baseline=blob, n=n)
    journal.close()

    batches = [flights.rows(start, BATCH) for start in range(0, 4 * BATCH, BATCH)]
    journal = new_journal(folder / "batch", flights, segment_bytes=1 << 40, quota_bytes=1 << 42)
    journal.append_rows(batches[0], BULK)
    data = os.urandom(frame_size(journal, batches[1]))
    raw = plain.RawFile(folder / "raw-batch")
    # Both sides: 100 blocks (8 MB), then durable, on a disk that has nothing else to do.
    mine, theirs = [], []
    for _ in range(31):
        os.sync()
        mine.append(timed(lambda: synced_blocks(journal.append_rows, batches, journal.sync)))
        os.sync()
        theirs.append(timed(lambda: synced_blocks(raw.append, [data] * 4, raw.sync)))
    ours, write = plain.spread(mine) / BLOCKS, plain.spread(theirs) / BLOCKS
    record(
        "journal.append_batch", ours / write, "x raw", ours=ours, baseline=write, limit=1.35, n=31
    )
    os.sync()
    journal = new_journal(
        folder / "cache", flights, durability="os", segment_bytes=1 << 40, quota_bytes=1 << 42
    )
    n = 200
    ours, write = interleaved(
        n,
        lambda i: lambda: journal.append_rows(batches[i % 4], BULK),
        lambda _: lambda: raw.write(data),
        turn=10,
    )
    record("journal.append_batch_unsynced", ours / write, "x raw", ours=ours, baseline=write, n=n)

    journal = new_journal(folder / "each", flights, durability="each")
    journal.append_rows(small[0], BULK)
    data = os.urandom(frame_size(journal, small[1]))
    raw = plain.RawFile(folder / "raw-each")

    def synced() -> None:
        raw.write(data)
        raw.sync()

    n = 400
    ours, write = interleaved(
        n,
        lambda i: lambda: journal.append_rows(small[i % FRESH], BULK),
        lambda _: synced,
        turn=20,
    )
    record("journal.each", ours / write, "x raw", ours=ours, baseline=write, limit=1.05, n=n)


def bare_calls(journal: Journal, file: plain.RawFile) -> Callable[[Any], object]:
    """What an append cannot leave out, and nothing around it.

    Two clocks, the row's pieces joined, AES-GCM, the CRC, two headers, one write.
    """
    active, clock, texts = journal._active[BULK], SystemClock(), bytes(36)  # noqa: SLF001
    pack_head, pack_frame, join = HEAD.pack, struct.Struct("<HBBIIII").pack, b"".join
    pack_nonce, pack_crc = struct.Struct("<I8x").pack, struct.Struct("<I").pack
    now, wall, encrypt, key_hash = clock.monotonic_ns, clock.wall_ns, active.encrypt, active.hash
    write = partial(os.write, file.fd)

    def append(rows: Rows) -> None:
        answers = rows.answers
        head = pack_head(now(), wall(), 1, 30, 2, 3)
        pieces = (head, rows.flags, answers.label, answers.scores, rows.batch.columns.packed, texts)
        frame = pack_frame(1, 2, 0, 150, 1 << 30, 5, 1)
        data = frame + encrypt(pack_nonce(1 << 30), join(pieces), key_hash + frame)
        write(pack_crc(crc32(data)) + data)

    return append


def beside_a_model(record: Callable[..., None], flights: Flights, folder: Path) -> None:
    """RandomForest by onnxruntime, with and without the journal."""
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    features = flights.features()
    features = np.nan_to_num(features)
    forest = RandomForestClassifier(n_estimators=100, max_depth=12, random_state=0, n_jobs=2)
    forest.fit(features[:20_000], flights.labels[:20_000] | (features[:20_000, 3] > 5))
    model = to_onnx(forest, features[:1], options={"zipmap": False}).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tensor = session.get_inputs()[0].name
    journal = new_journal(folder / "model", flights)
    for size, limit, n in ((1, 1.7, 4000), (BATCH, 1.08, 640)):
        if size == 1:
            work = [(features[i : i + 1], flights.small(i)) for i in range(256)]
        else:
            starts = range(0, 64 * size, size)
            work = [(features[i : i + size], flights.rows(i, size)) for i in starts]

        def alone(index: int, work: Any = work) -> None:
            session.run(None, {tensor: work[index][0]})

        def journaled(index: int, work: Any = work) -> None:
            values, rows = work[index]
            session.run(None, {tensor: values})
            journal.append_rows(rows, BULK)

        base, ours, ratio = paired(n, len(work), alone, journaled)
        record(f"journal.run{size}", ratio, "x run", ours=ours, baseline=base, limit=limit, n=n)
    journal.close()


def sealed_bytes(record: Callable[..., None], flights: Flights, folder: Path) -> None:
    """Size, speed of sealing and of reading back, rows journaled in batches."""
    journal = new_journal(folder / "seal", flights, durability="os", segment_bytes=1 << 30)
    rng = np.random.default_rng(0)
    for start in range(0, flights.n, BATCH):
        journal.append_rows(flights.rows(start, BATCH, int(rng.integers(800, 1200))), BULK)
    seconds = timed(lambda: journal.seal("sync")) / 1e6
    (info,) = [info for info in journal.sealed() if info.lane == Lane.BULK]
    data = journal.read(info)
    assert data is not None
    table = to_arrow(data)
    size, parquet_seconds, settings = plain.best_parquet(table)
    ours, theirs = len(data) / flights.n, size / flights.n
    print(f"   best Parquet: {settings}")
    record(
        "journal.bytes_per_row", ours / theirs, "x parquet", ours=ours, baseline=theirs, limit=0.7
    )
    again = [plain.write_parquet(table, settings)[1] for _ in range(3)]
    parquet_seconds = min(again)
    record(
        "journal.seal",
        parquet_seconds / seconds,
        "x speed",
        ours=flights.n / seconds,
        baseline=flights.n / parquet_seconds,
        limit=0.8,
        better="higher",
    )
    lines = folder / "rows.ndjson"
    plain.write_ndjson(table, lines)
    mine, duck = interleaved(
        7, lambda _: lambda: to_arrow(data), lambda _: lambda: plain.read_ndjson(lines)
    )
    record(
        "journal.read",
        duck / mine,
        "x speed",
        ours=flights.n / mine * 1e6,
        baseline=flights.n / duck * 1e6,
        limit=3.0,
        better="higher",
        n=7,
    )
    one = new_journal(folder / "singly", flights, durability="os", segment_bytes=1 << 30)
    for start in range(16_384):
        one.append_rows(flights.small(start), BULK)
    one.seal("sync")
    record("journal.bytes_per_row_singly", one.sealed()[0].bytes / 16_384, "B")


def to_arrow(data: bytes) -> pa.Table:
    """Verify, decrypt and decode a segment into an Arrow table with ids and clocks."""
    reader = open_segment(data, secrets={RECIPIENT.id: SECRET}, device=IDENTITY.public)
    header = reader.header
    tables = []
    for block in reader.records():
        assert isinstance(block, RowBlock)
        columns: dict[str, Any] = {
            name: one_value(text, block.n)
            for name, text in (
                ("device", header.device),
                ("epoch", header.epoch),
                ("uid", header.uid),
                ("boot", header.boot_id),
            )
        }
        for name, values in block.columns.items():
            if isinstance(values, Text):
                columns[name] = dictionary(values)
            elif values.ndim == 2:
                for index in range(values.shape[1]):
                    columns[f"{name}_{index}"] = pa.array(values[:, index])
            else:
                columns[name] = pa.array(values)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()


def one_value(text: str, n: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def dictionary(text: Text) -> Any:
    codes = pa.array(text.codes.view(np.int32), mask=text.codes == 0xFFFFFFFF)
    return pa.DictionaryArray.from_arrays(codes, pa.array(text.values, pa.string()))
