"""The running device: one row over the local socket, and what an installation weighs."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import _homes

BASELINES = Path(__file__).parent / "baselines"
REQUESTS = 600
RUNTIME = ("edgepack-device", "numpy", "onnxruntime", "cryptography", "tuf", "securesystemslib")


class Line(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def run(record) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-device-"))
    try:
        serving(record, folder)
    finally:
        shutil.rmtree(folder)
    footprint(record)


def serving(record, folder: Path) -> None:
    """serve.p50: the whole answer to one row of digits, beside FastAPI on uvicorn."""
    import edgepack.api
    from bench.runtime import models

    ws = _homes.workspace(folder / "ws")
    name, estimator, samples, truth, *_ = next(iter(models()))
    estimator.fit(samples, truth)
    made = edgepack.api.pack(estimator, samples=samples[:1000], name=name, workspace=ws)
    home = _homes.home_of(ws, name, folder / "home", made)
    body = json.dumps(
        {
            "inputs": [
                {"name": column, "shape": [1], "datatype": "FP32", "data": [float(value)]}
                for column, value in samples.iloc[0].items()
            ]
        }
    )
    ours, plain = folder / "o.sock", folder / "p.sock"
    model = _homes.model_of(home)
    servers = [
        subprocess.Popen(
            [str(_homes.BIN / "edgepack-device"), "serve", "--socket", str(ours)],
            env=_homes.environment(home),
            stdout=subprocess.DEVNULL,
        ),
        subprocess.Popen(
            [sys.executable, str(BASELINES / "uvicorn_app.py"), str(model), str(plain)],
            env=_homes.environment(),
        ),
    ]
    try:
        lines = [(connected(ours), f"/v2/models/{name}/infer"), (connected(plain), "/infer")]
        times: list[list[float]] = [[], []]
        for _ in range(REQUESTS):
            for side, (line, path) in enumerate(lines):
                begin = time.perf_counter()
                line.request("POST", path, body, {"Content-Type": "application/json"})
                answer = line.getresponse()
                data = answer.read()
                times[side].append(time.perf_counter() - begin)
                if answer.status != 200:
                    raise RuntimeError(data.decode())
        for line, _ in lines:
            line.close()
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    mine, theirs = (statistics.median(side[100:]) for side in times)
    record(
        "serve.p50", mine / theirs, "x uvicorn", ours=mine, baseline=theirs, limit=1.0,
        n=REQUESTS - 100,
    )  # fmt: skip


def connected(path: Path) -> Line:
    for _ in range(600):
        if path.exists():
            try:
                line = Line(path)
                line.connect()
                return line
            except OSError:
                pass
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {path}")


def footprint(record) -> None:
    """footprint.mb: every file of the device's distribution and of all that it requires."""
    from importlib.metadata import PackageNotFoundError, distribution

    seen: set[str] = set()
    queue = list(RUNTIME)
    total = 0
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # an extra, or for another platform
        total += sum(_size(file.locate()) for file in found.files or ())
        for line in found.requires or ():
            requirement, _, marker = line.partition(";")
            if "extra" not in marker:
                queue.append(requirement.split("[")[0].split("(")[0].strip(" <>=!~.0123456789,"))
    ours = Path(__file__).parent.parent / "device_runtime"
    total += sum(_size(file) for file in ours.rglob("*.py"))
    record("footprint.mb", total / 1e6, "MB", ours=total / 1e6, limit=200, n=len(seen))


def _size(file) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
