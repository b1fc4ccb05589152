"""Train on more rows than a cap on memory would hold; print the peak of the process tree.

python -m bench._capped FOLDER MODEL [MEGABYTES]     MODEL: sgd | xgb
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench._homes import BIN, environment

FILE = 40_000_000  # bytes of values in one file
RECIPE = """\
name = "wide"
task = "binary"
data = "rows/*.parquet"
[columns]
target = "y"
[training]
engine = "{engine}"
memory = "600 MB"
batch_rows = {batch}
"""
SGD = """\
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def model(seed):
    return make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=seed))
"""
XGB = """\
from xgboost import XGBClassifier


def model(seed):
    return XGBClassifier(n_estimators=10, max_depth=5, max_bin=16, random_state=seed)
"""
# Code, columns, rows of a batch. XGBoost keeps something of each row, so its rows are wider.
MODELS = {"sgd": (SGD, 20, 65_536), "xgb": (XGB, 200, 8_192)}


def make(base: Path, model: str, megabytes: int) -> int:
    """Write the recipe and float32 rows of about this size; return the number of rows."""
    code, width, batch = MODELS[model]
    recipe = base / "bundles" / "wide"
    (recipe / "rows").mkdir(parents=True)
    (recipe / "bundle.toml").write_text(RECIPE.format(engine="stream", batch=batch))
    (recipe / "recipe.py").write_text(code)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=width).astype(np.float32)
    total = megabytes * 1_000_000 // (4 * width)
    names = [f"x{i}" for i in range(width)]
    rows = FILE // (4 * width)
    for number, start in enumerate(range(0, total, rows)):
        n = min(rows, total - start)
        table = rng.standard_normal((n, width), np.float32)
        y = table @ weights + rng.standard_normal(n, np.float32) > 0
        columns = {name: table[:, i] for i, name in enumerate(names)}
        pq.write_table(
            pa.table({**columns, "y": y.astype(np.int64)}),
            recipe / "rows" / f"{number:04}.parquet",
            row_group_size=batch,
            use_dictionary=False,
            compression="NONE",
        )
    return total


def peak_of(command: list[str], cwd: Path) -> tuple[int, float, subprocess.CompletedProcess[str]]:
    """Run a command; return (peak bytes of it and its children together, seconds, result)."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _tree(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, errors = process.communicate()
    stop.set()
    watcher.join()
    done = subprocess.CompletedProcess(command, process.returncode, out, errors)
    return peak[0], time.monotonic() - started, done


def _tree(pid: int, parent: tuple[int, int] = (0, 0)) -> int:
    """Return the resident bytes of a process and everything below it.

    A child between `vfork` and `exec` still is its parent's memory: it is not counted twice.
    """
    try:
        found = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        size, resident = (int(found.get(key, "0 kB").split()[0]) for key in ("VmSize", "VmRSS"))
        children = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in map(int, (task / "children").read_text().split())
        ]
    except OSError:
        return 0
    own = 0 if size == parent[0] else resident * 1024
    return own + sum(_tree(child, (size, resident)) for child in children)


def main() -> None:
    """Measure, and check that the in-memory engine refuses beforehand."""
    folder = Path(sys.argv[1])
    model = sys.argv[2]
    megabytes = int(sys.argv[3]) if len(sys.argv) > 3 else 1080
    base = folder / "base"
    program = str(BIN / "edgepack")
    subprocess.run(
        [program, "init", str(base), "--from", "flight-delays", "--json"],
        env=environment(), check=True, capture_output=True,
    )  # fmt: skip
    rows = make(base, model, megabytes)
    peak, seconds, done = peak_of([program, "train", "wide", "--json"], base)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    toml = base / "bundles" / "wide" / "bundle.toml"
    toml.write_text(toml.read_text().replace('"stream"', '"memory"'))
    refused = subprocess.run(
        [program, "train", "wide", "--json"],
        cwd=base, env=environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    print(
        json.dumps(
            {
                "rows": rows,
                "peak_mb": peak / 1e6,
                "seconds": seconds,
                "metrics": json.loads(done.stdout)["metrics"],
                "refused": refused.returncode == 70 and "memory" in refused.stdout,
            }
        )
    )


if __name__ == "__main__":
    main()
