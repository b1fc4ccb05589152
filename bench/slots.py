"""Installing and loading: what the transaction costs beside a plain copy of the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

ROUNDS = 5
SIZE = 100 << 20


def run(record) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-slots-"))
    try:
        large(record, folder)
        small(record, folder)
    finally:
        shutil.rmtree(folder)


def large(record, folder: Path) -> None:
    """100 MB: verify, copy, digests, sync, commit; against copy + fsync. Without the self-test."""
    from device_runtime.slots.install import Steps, install
    from support import realbundle, trustsim

    base = trustsim.Base.at(folder / "ws")
    model = random.Random(1).randbytes(SIZE)
    file = realbundle.publish(base, realbundle.files(model, test=b""))
    steps = Steps(test=lambda *_: None)
    ours, copies = [], []
    for i in range(ROUNDS):
        home = realbundle.new_home(base, folder / f"home-{i}")
        os.sync()
        begin = time.perf_counter()
        with home.lock():
            install(home, file, steps=steps)
        ours.append(time.perf_counter() - begin)
        shutil.rmtree(home.root)
        os.sync()
        begin = time.perf_counter()
        copy(file, folder / "copy")
        copies.append(time.perf_counter() - begin)
        (folder / "copy").unlink()
    ratio = statistics.median(a / b for a, b in zip(ours, copies, strict=True))
    record(
        "install.bundle_100mb", ratio, "x copy + fsync",
        ours=statistics.median(ours), baseline=statistics.median(copies), limit=1.3, n=ROUNDS,
    )  # fmt: skip


def copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())
    fd = os.open(target.parent, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def small(record, folder: Path) -> None:
    """A small bundle: the whole install, its self-test, and a start of the slot."""
    from device_runtime.slots.install import install
    from device_runtime.slots.selftest import run_selftest
    from device_runtime.slots.slot import begin_load
    from support import realbundle, trustsim

    base = trustsim.Base.at(folder / "ws-small")
    file = realbundle.sound(base)
    whole, tests, loads = [], [], []
    for i in range(ROUNDS):
        home = realbundle.new_home(base, folder / f"small-{i}")
        with home.lock():
            begin = time.perf_counter()
            install(home, file)
            whole.append(time.perf_counter() - begin)
            started = begin_load(home)
            started.first_result()
            started.ripen(1000)
            started.close()
            for _ in range(20):
                begin = time.perf_counter()
                started = begin_load(home)
                loads.append(time.perf_counter() - begin)
                started.close()
            slot = home.slot_dir(started.digest)
            begin = time.perf_counter()
            run_selftest(slot, started.slot.manifest, home.generation().policy)
            tests.append(time.perf_counter() - begin)
    record("install.small_ms", statistics.median(whole) * 1e3, "ms", n=ROUNDS)
    record("install.self_test_ms", statistics.median(tests) * 1e3, "ms", n=ROUNDS)
    record("start.good_slot_ms", statistics.median(loads) * 1e3, "ms", limit=5, n=len(loads))
