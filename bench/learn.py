"""The base: import against `write_deltalake`, drift, the report of a fleet, one whole round."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench._homes import device, edgepack
from bench.baselines import delta_alone, plain_psi
from device_runtime.clock import SystemClock
from edgepack.learn.counting import Counting, Counts
from edgepack.learn.reference import profile_of
from edgepack.report.page import write_report
from support.learnworld import World, nature

FLIGHTS = Path(__file__).parent.parent / "bundles" / "flight-delays" / "data" / "flights.parquet"
IMPORT_ROWS = int(os.environ.get("EDGEPACK_BENCH_ROWS", "5000000"))
DEVICES, MONTHS = 100, 12


def run(record: Callable[..., None]) -> None:
    """Measure all of them, each in a folder of its own."""
    for measure in (drift, imports, fleet, fresh, capped, capped_xgb):
        folder = Path(tempfile.mkdtemp(prefix="edgepack-bench-"))
        try:
            measure(record, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def drift(record: Callable[..., None], _folder: Path) -> None:
    """Rows a second that are counted by 20 features and compared."""
    table = pq.read_table(FLIGHTS).drop_columns(["scheduled", "arr_delay", "late"])
    for name in ("temp", "humid"):
        table = table.append_column(f"{name}_again", table[name])  # 20 features
    words = [n for n in table.column_names if pa.types.is_large_string(table[n].type)]
    for name in words:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(pa.string()))
    profile = profile_of(table.slice(0, 50_000))
    batches = table.to_batches(131_072) * 3
    rows = sum(batch.num_rows for batch in batches)
    frame = table.to_pandas()
    ours, theirs = [], []
    for _ in range(3):
        started = time.perf_counter()
        counting, counts = Counting(profile, None), Counts()
        for batch in batches:
            counts.merge(counting.count(batch))
        ours.append(rows / (time.perf_counter() - started))
        started = time.perf_counter()
        plain_psi.psi(frame.iloc[:50_000], frame)
        theirs.append(len(frame) / (time.perf_counter() - started))
    value = statistics.median(ours)
    record(
        "drift.rows_per_s", value, "rows/s", ours=value, baseline=statistics.median(theirs),
        limit=1e6, better="higher", n=rows,
    )  # fmt: skip


def imports(record: Callable[..., None], folder: Path) -> None:
    """A journal of millions of rows → archive, registry, table; against `write_deltalake`."""
    world = World(folder)
    world.train()
    field = world.device()
    frame = pd.concat([nature(30, 250_000, 40, first=30)])
    left = IMPORT_ROWS
    while left > 0:
        field.predict(frame.iloc[:left], block=16_384)
        left -= len(frame)
    field.open().seal("sync")
    os.sync()
    started = time.perf_counter()
    field.come_home()
    kept = time.perf_counter() - started
    done = world.catch_up()
    ours = time.perf_counter() - started
    batches = world.view.read().slice(0, 524_288).combine_chunks().to_batches(131_072)
    theirs = delta_alone.write(folder / "plain", batches, done.rows)
    record(
        "import.vs_delta", theirs / ours, "x", ours=done.rows / ours, baseline=done.rows / theirs,
        limit=0.6, better="higher", n=done.rows,
    )  # fmt: skip
    record("import.view_share", (ours - kept) / ours, "of the time", n=done.rows)


def fleet(record: Callable[..., None], folder: Path) -> None:
    """The report of 100 devices over 12 months."""
    world = World(folder)
    world.train()
    for number in range(DEVICES):
        press = world.device(f"press-{number:03}")
        frame = nature(30.4 * MONTHS, 1200, 100 + number, first=30)
        ids = press.predict(frame)
        some = np.random.default_rng(number).choice(len(ids), 200, replace=False)
        press.label([ids[i] for i in some], [bool(frame["worn"][i]) for i in some])
        press.come_home()
    world.catch_up()
    out = folder / "report.html"
    started = time.perf_counter()
    result = write_report(world.ws, world.registry, SystemClock(), out)
    seconds = time.perf_counter() - started
    record("report.fleet_s", seconds, "s", limit=10, n=DEVICES * MONTHS)
    record("report.fleet_mb", result["bytes"] / 1e6, "MB", limit=8, n=DEVICES * MONTHS)


def fresh(record: Callable[..., None], folder: Path) -> None:
    """Stick in → import of the spring's flights → drift → retrain → bundle 2 on the stick."""
    base, home, stick = folder / "base", folder / "device", folder / "stick"
    stick.mkdir()

    def on_base(*words: str | Path) -> dict[str, Any]:
        return edgepack(*words, cwd=base)

    def on_device(*words: str | Path) -> dict[str, Any]:
        return device(home, *words)

    def field(*words: str | Path) -> None:
        script = base / "bundles" / "flight-delays" / "field.py"
        subprocess.run([sys.executable, str(script), *map(str, words)], check=True)

    edgepack("init", base, "--from", "flight-delays", cwd=folder)
    on_base("train", "--until", "2013-03-01")
    on_base("sign", on_base("build")["file"])
    on_base("device", "new", "patrol-1", "--class", "field", "--bundle", "flight-delays")
    kit = on_base("device", "kit", "patrol-1", folder / "patrol-1.kit")
    on_device("init", kit["kit"], "--fingerprint", kit["words"])
    on_base("sync", stick)
    on_device("sync", stick)
    span = ("--since", "2013-03-01", "--until", "2013-05-01")
    field("rows", *span, "--out", folder / "rows.csv")
    on_device("predict", folder / "rows.csv", "--out", folder / "answers.csv")
    field("truth", *span, "--answers", folder / "answers.csv", "--out", folder / "truth.csv")
    on_device("label", "--file", folder / "truth.csv")
    on_device("sync", stick)

    split: dict[str, float] = {}

    def timed(name: str, *words: str | Path) -> dict[str, Any]:
        started = time.perf_counter()
        result = on_base(*words)
        split[name] = split.get(name, 0.0) + time.perf_counter() - started
        return result

    home_rows = timed("import", "sync", stick, "--accept", "patrol-1")["imported"]
    timed("drift", "drift")
    timed("retrain", "retrain")
    timed("retrain", "retrain", "--accept")
    timed("sign", "sign", timed("build", "build")["file"])
    timed("stick", "sync", stick)
    total = sum(split.values())
    record("fresh.flights", total, "s", limit=30, n=int(home_rows))
    for name, seconds in split.items():
        record(f"fresh.{name}", seconds, "s")


def capped(record: Callable[..., None], folder: Path) -> None:
    """Peak memory of the process tree while the stream engine trains on 1 GB of data."""
    _capped(record, folder, "sgd", "train.capped")


def capped_xgb(record: Callable[..., None], folder: Path) -> None:
    """The same for XGBoost from external memory, on fewer, wider rows."""
    _capped(record, folder, "xgb", "train.capped_xgb")


def _capped(record: Callable[..., None], folder: Path, model: str, name: str) -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "bench._capped", str(folder), model],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    record(f"{name}_mb", found["peak_mb"], "MB", limit=600, n=found["rows"])
    record(f"{name}_s", found["seconds"], "s", n=found["rows"])
