"""The device beside plain scripts: start, memory, throughput, whole CSV files.

Ours is always the whole verified, checked and journaled `predict`; the baselines do the same
prediction with plain numpy, onnxruntime and pandas. Each pair is interleaved; medians of ratios.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import _homes

ROUNDS = 15
BASELINES = Path(__file__).parent / "baselines"
FLIGHTS = ("2013-03-01", "2013-05-01")  # 55,466 rows


def run(record) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-runtime-"))
    try:
        ws = _homes.workspace(folder / "ws")
        starts(record, ws, folder)
        files(record, ws, folder)
    finally:
        shutil.rmtree(folder)


def measured(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Run a process; returns (wall seconds, peak RSS in bytes)."""
    measure = [sys.executable, "-I", "-S", str(Path(_homes.__file__).parent / "_measure.py")]
    done = subprocess.run(
        [*measure, *command], env=env, capture_output=True, text=True, check=False
    )
    seconds, peak, code = done.stdout.split()
    if code != "0":
        raise RuntimeError(f"{command}: {done.stderr}")
    return float(seconds), int(peak)


def pairs(ours: list[str], home: Path, plain: list[str], rounds: int) -> list[tuple]:
    """Run both in turn, after one round to warm the caches."""
    with_home, without = _homes.environment(home), _homes.environment()
    return [(measured(ours, with_home), measured(plain, without)) for _ in range(rounds + 1)][1:]


def report(record, name: str, found: list[tuple], at: int, unit: str, limit: float) -> None:
    ours = [mine[at] for mine, _ in found]
    plain = [theirs[at] for _, theirs in found]
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    record(
        name, ratio, unit, ours=statistics.median(ours), baseline=statistics.median(plain),
        limit=limit, n=len(found),
    )  # fmt: skip


def models():
    """Yield (name, fitted estimator, samples, cold start limit, RSS limit)."""
    import numpy as np
    import pandas as pd
    from sklearn.datasets import load_digits, make_classification
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    table, truth = load_digits(return_X_y=True)
    digits = pd.DataFrame(
        table.astype(np.float32), columns=[f"p{at}" for at in range(table.shape[1])]
    )
    wide, kind = make_classification(
        16_000, 20, n_informative=12, n_classes=4, flip_y=0.2, random_state=0
    )
    large = pd.DataFrame(wide.astype(np.float32), columns=[f"x{at}" for at in range(20)])
    forest = RandomForestClassifier(100, random_state=0)
    yield "lr", LogisticRegression(max_iter=3000), digits, truth, 0.65, 1.00
    yield "histgb", HistGradientBoostingClassifier(max_iter=60), digits, truth, 0.80, None
    yield "rf", forest, digits, truth, 0.95, 1.05
    yield "rf-large", RandomForestClassifier(60, random_state=0), large, kind, None, 1.10


def starts(record, ws: Path, folder: Path) -> None:
    """cold_start.* and rss.*: one row, whole processes; throughput and row.added_us on the way."""
    import edgepack.api

    for name, estimator, samples, truth, cold, rss in models():
        estimator.fit(samples, truth)
        made = edgepack.api.pack(estimator, samples=samples[:1000], name=name, workspace=ws)
        home = _homes.home_of(ws, name, folder / f"home-{name}", made)
        row, many = folder / f"{name}.csv", folder / f"{name}-many.csv"
        samples[:1].to_csv(row, index=False)
        samples[:1200].to_csv(many, index=False)
        # A slot is on trial until it answered 1,000 rows; what is measured is everyday life.
        _homes.device(home, "predict", many, "--out", folder / "answers.csv")
        found = pairs(
            [str(_homes.BIN / "edgepack-device"), "predict", str(row)],
            home,
            [
                sys.executable,
                str(BASELINES / "plain_predict.py"),
                str(_homes.model_of(home)),
                str(row),
            ],
            ROUNDS,
        )
        short = name.replace("-", "_")
        if cold is not None:
            report(record, f"cold_start.{short}", found, 0, "x plain", cold)
        if rss is not None:
            report(record, f"rss.{short}", found, 1, "x plain", rss)
        if name == "rf":
            throughput(record, home, samples)
            added(record, home, samples)


def throughput(record, home: Path, samples) -> None:
    """Rows a second of our session in batches of 1024, beside onnxruntime's own binding."""
    import numpy as np
    import onnxruntime as ort

    from device_runtime.format.batch import Batch
    from device_runtime.format.canonical import decode
    from device_runtime.format.schema import from_json
    from device_runtime.model.session import open_session

    model = _homes.model_of(home)
    schema = from_json(decode((model.parent / "schema.json").read_bytes(), "schema.json"))
    dtype = schema.fed[0].dtype
    table = np.ascontiguousarray(samples.to_numpy(dtype=dtype)[:1024])
    columns = {name: np.ascontiguousarray(table[:, at]) for at, name in enumerate(samples)}
    batch = Batch(len(table), columns)
    ours = open_session(model.read_bytes(), schema)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    plain = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    ports = plain.get_inputs()
    cast = table.astype(np.float64 if "double" in ports[0].type else np.float32)
    split = {p.name: cast[:, at : at + 1].copy() for at, p in enumerate(ports)}
    feeds = {ports[0].name: cast} if len(ports) == 1 else split
    times = []
    for _ in range(60):
        begin = time.perf_counter()
        ours.run(batch)
        middle = time.perf_counter()
        plain.run(None, feeds)
        times.append((middle - begin, time.perf_counter() - middle))
    ours.close()
    mine, theirs = (statistics.median(side) for side in zip(*times[10:], strict=True))
    record(
        "throughput.batch1024", theirs / mine, "x plain", ours=1024 / mine, baseline=1024 / theirs,
        limit=0.95, better="higher", n=50,
    )  # fmt: skip


def added(record, home: Path, samples) -> None:
    """What check, sentinel and journal add to one row, beside the session's run alone."""
    from device_runtime.device import Device
    from device_runtime.model.check import check
    from device_runtime.model.rows import from_rows

    rows = samples[:200].to_dict("records")
    with Device.open(home) as device:
        loaded = device.load()
        predictor = device._ready().predictor  # noqa: SLF001  (the parts are timed one by one)
        blocks = [from_rows([row], loaded.schema) for row in rows]
        batches = [check(block, loaded.schema).batch for block in blocks]
        whole, alone = [], []
        for block, batch in zip(blocks, batches, strict=True):
            begin = time.perf_counter()
            predictor.predict(block)
            middle = time.perf_counter()
            predictor.session.run(batch)
            whole.append(middle - begin)
            alone.append(time.perf_counter() - middle)
    ours, plain = statistics.median(whole[50:]) * 1e6, statistics.median(alone[50:]) * 1e6
    record("row.added_us", ours - plain, "us", ours=ours, baseline=plain, limit=100, n=150)


def files(record, ws: Path, folder: Path) -> None:
    """csv.predict_*: a whole file of flights, beside pandas + onnxruntime on one thread."""
    import pandas as pd

    _homes.edgepack("train", "flight-delays", "--until", FLIGHTS[0], cwd=ws)
    home = _homes.home_of(ws, "flight-delays", folder / "home-flights")
    frame = pd.read_parquet(ws / "bundles" / "flight-delays" / "data" / "flights.parquet")
    frame["row"] = range(len(frame))
    frame = frame.drop(columns=["arr_delay", "late"])
    some = frame[(frame["scheduled"] >= FLIGHTS[0]) & (frame["scheduled"] < FLIGHTS[1])]
    many = pd.concat([frame] * 4)[:1_000_000]
    for name, rows, limit, rounds in (("55k", some, 1.0, 7), ("1m", many, 2.2, 3)):
        source = folder / f"{name}.csv"
        rows.to_csv(source, index=False)
        out = str(folder / "answers.csv")
        found = pairs(
            [str(_homes.BIN / "edgepack-device"), "predict", str(source), "--out", out],
            home,
            [
                sys.executable, str(BASELINES / "plain_csv.py"), str(_homes.model_of(home)),
                str(source), out,
            ],
            rounds,
        )  # fmt: skip
        report(record, f"csv.predict_{name}", found, 0, "x plain", limit)
