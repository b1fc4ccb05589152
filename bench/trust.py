"""Trust: what verifying costs beside one hash pass, and what signing adds to a file.

`verify.bundle_100mb`   verify + hash of a signed 100 MB bundle ÷ one SHA-256 pass over the file
`verify.small_ms`       a whole small bundle, after imports
`container.hostile_ms`  the worst of the hostile containers of the tests, refused
`load.small_ms`         a whole small slot at start, after imports
`bundle.size_tree`      signed bundle of a 100-tree forest on digits ÷ its ONNX by skl2onnx
`bundle.size_flights`   signed bundle of the recipe flight-delays ÷ its ONNX
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the small world of the tests signs real bundles

ROUNDS = 11
BIG = 100_000_000  # bytes
CHUNK = 1 << 20


def run(record: Callable[..., None]) -> None:
    """Measure everything of this area."""
    folder = Path(tempfile.mkdtemp(prefix="edgepack-bench-", dir=ROOT / "build"))
    try:
        _speed(record, folder)
        _size_tree(record, folder / "digits")
        _size_flights(record, folder / "flights")
    finally:
        shutil.rmtree(folder)


def _speed(record: Callable[..., None], folder: Path) -> None:
    from device_runtime.trust.bundle import copy_payload, verify_payload
    from device_runtime.trust.load import load_slot
    from device_runtime.trust.quorum import root_sha256
    from support import trustsim

    base = trustsim.Base.at(folder / "ws")
    device = base.device()
    small = base.publish()
    big = base.publish(model=os.urandom(BIG))

    def verify(file: Path) -> None:
        verify_payload(
            trustsim.DISK,
            trustsim.verify(
                trustsim.DISK, file, device.trusted, device.policy, name="pump", wall_s=None
            ),
        )

    _compare(record, "verify.bundle_100mb", lambda: verify(big), lambda: _hash(big), 1.1)
    record("verify.small_ms", _median(lambda: verify(small), 50) * 1e3, "ms", limit=5.0, n=50)

    record("container.hostile_ms", _hostile() * 1e3, "ms", limit=1.0, n=50)

    bundle = device.verify(small)
    slot = folder / "slot"
    copy_payload(trustsim.DISK, bundle, slot)
    pin, digest = root_sha256(bundle.trusted.root), bundle.digest

    def load() -> None:
        load_slot(trustsim.DISK, slot, root_sha256=pin, digest=digest, policy=device.policy)

    record("load.small_ms", _median(load, 50) * 1e3, "ms", limit=5.0, n=50)


def _hostile() -> float:
    """Return the median time of the slowest refusal, seconds."""
    from device_runtime.errors import FormatError
    from device_runtime.format import container
    from support import hostile

    def refuse(data: bytes) -> None:
        with contextlib.suppress(FormatError):
            container.index(lambda offset, size: data[offset : offset + size], len(data))
            raise AssertionError("a hostile container was accepted")

    return max(_median(lambda data=data: refuse(data), 50) for data in hostile.CONTAINERS.values())


def _size_tree(record: Callable[..., None], folder: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    folder.mkdir()
    data = load_digits(as_frame=True).frame.astype("float32").rename(columns={"target": "digit"})
    data["digit"] = data["digit"].astype("int64")
    data = data[: len(data) * 3 // 4]
    data.to_parquet(folder / "digits.parquet", index=False)
    ws = folder / "ws"
    _edgepack(folder, "init", str(ws), "--data", "digits.parquet", "--target", "digit")
    (ws / "bundles" / "digits" / "recipe.py").write_text(_FOREST)
    size = _signed_size(ws)
    forest = RandomForestClassifier(100, random_state=0)
    values = data.drop(columns="digit").to_numpy()
    forest.fit(values, data["digit"])
    raw = len(to_onnx(forest, values[:1], options={"zipmap": False}).SerializeToString())
    record("bundle.size_tree", size / raw, "ratio", ours=size, baseline=raw, limit=0.06, n=1)


def _size_flights(record: Callable[..., None], folder: Path) -> None:
    folder.mkdir()
    ws = folder / "ws"
    _edgepack(folder, "init", str(ws), "--from", "flight-delays")
    size = _signed_size(ws)
    raw = (ws / "candidates" / "flight-delays" / "1" / "model.onnx").stat().st_size
    record("bundle.size_flights", size / raw, "ratio", ours=size, baseline=raw, limit=0.45, n=1)


def _signed_size(ws: Path) -> int:
    for command in ("train", "build", "sign"):
        _edgepack(ws, command)
    (file,) = (ws / "out").glob("*.edgepack")
    return file.stat().st_size


def _edgepack(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "EDGEPACK_PASSPHRASE": "bench"}
    command = [sys.executable, "-m", "edgepack", *arguments, "--json"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def _hash(file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as handle:
        while piece := handle.read(CHUNK):
            digest.update(piece)


def _compare(
    record: Callable[..., None],
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    limit: float,
) -> None:
    """Record the median of ours ÷ plain over pairs that ran one after the other."""
    pairs = [(_seconds(ours), _seconds(plain)) for _ in range(ROUNDS)]
    record(
        name,
        statistics.median(a / b for a, b in pairs),
        "ratio",
        ours=statistics.median(a for a, _ in pairs),
        baseline=statistics.median(b for _, b in pairs),
        limit=limit,
        n=ROUNDS,
    )


def _median(call: Callable[[], object], rounds: int) -> float:
    return statistics.median(_seconds(call) for _ in range(rounds))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


_FOREST = '''"""A forest of 100 trees."""

from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline


def model(seed: int) -> Pipeline:
    """Unfitted."""
    return make_pipeline(RandomForestClassifier(100, random_state=seed))
'''
