"""The self-test child: a model that is wrong here is refused with the reason; nothing else dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest

from device_runtime.errors import SelfTestError
from device_runtime.format import manifest as manifests
from device_runtime.format.canonical import decode
from device_runtime.policy import Policy
from device_runtime.slots import selftest
from support import realbundle


def folder(tmp_path: Path, files: dict[str, bytes]) -> tuple[Path, manifests.Manifest]:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path, manifests.from_json(decode(files["manifest.json"], "manifest"))


# Time is not what these tests ask about: the floor is far above what a busy machine takes.
POLICY = Policy("field", selftest_floor_seconds=90.0)


def run(tmp_path: Path, files: dict[str, bytes], **kwargs):
    place, manifest = folder(tmp_path, files)
    return selftest.run_selftest(place, manifest, kwargs.pop("policy", POLICY), **kwargs)


def a_python_that(tmp_path: Path, does: str) -> str:
    """Return an interpreter that does something first: what a broken model would do to it."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{does}\n")
    script.chmod(0o755)
    return str(script)


def test_a_sound_model_passes_and_is_measured(tmp_path):
    result = run(tmp_path, realbundle.files(realbundle.model()))
    assert result.rows == 200
    assert 0 < result.seconds < POLICY.selftest_floor_seconds
    assert 10 << 20 < result.peak_rss < 1 << 30


def test_both_engines_agree(tmp_path):
    assert run(tmp_path, realbundle.files(realbundle.model()), engine="python").rows == 200


def test_measure_needs_no_manifest_and_does_not_count_its_parent(tmp_path):
    ballast = bytearray(os.urandom(1 << 20)) * 300
    place, _ = folder(tmp_path, realbundle.files(realbundle.model()))
    result = selftest.measure(place, rtol=1e-5, atol=1e-6)
    assert result.peak_rss < len(ballast)


def test_a_wrong_answer_is_named(tmp_path):
    with pytest.raises(SelfTestError, match="200 of 200 rows are answered differently"):
        run(tmp_path, realbundle.files(realbundle.model(), shift=1e-3))


def test_a_wrong_label_is_named(tmp_path):
    files = realbundle.files(realbundle.model())
    flipped = realbundle.encode_columns(
        200,
        [
            ("x", "float32", (), realbundle.ROWS),
            ("expected:label", "int16", (), array("h", [1] * 200)),
        ],
    )
    with pytest.raises(SelfTestError, match="another label"):
        run(tmp_path, {**files, "selftest.cols": flipped})


def test_a_model_that_wants_too_much_memory_is_refused(tmp_path):
    raw = realbundle.model(extra="memory")
    files = realbundle.files(raw, test=realbundle.selftest(realbundle.model()))
    with pytest.raises(SelfTestError, match="memory"):
        run(tmp_path, files)


def test_bytes_that_are_no_model_are_refused(tmp_path):
    files = realbundle.files(realbundle.model())
    with pytest.raises(SelfTestError):
        run(tmp_path, {**files, "model.onnx": b"not a model"})


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGILL, "instruction that this processor does not have"),
        (signal.SIGSEGV, "SIGSEGV"),
        (signal.SIGBUS, "SIGBUS"),
        (signal.SIGFPE, "SIGFPE"),
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGKILL, "ran out of memory"),
        (signal.SIGXCPU, "computed for more than"),
    ],
)
def test_a_child_that_dies_is_explained(tmp_path, number, reason):
    python = a_python_that(tmp_path, f"sys.stdin.read()\nos.kill(os.getpid(), {int(number)})")
    with pytest.raises(SelfTestError, match=reason):
        run(tmp_path, realbundle.files(realbundle.model()), python=python)


def test_a_hang_is_ended_with_everything_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    does = (
        "sys.stdin.read()\nchild = os.fork()\n"
        f"open({str(pid)!r}, 'w').write(str(child or os.getpid()))\ntime.sleep(99)"
    )
    policy = Policy("field", selftest_floor_seconds=0.5, selftest_factor=1.0)
    with pytest.raises(SelfTestError, match="did not answer"):
        run(
            tmp_path,
            realbundle.files(realbundle.model()),
            policy=policy,
            python=a_python_that(tmp_path, does),
        )
    assert wait(lambda: is_gone(pid))


def test_a_child_that_spins_is_stopped_by_its_cpu_limit(tmp_path):
    does = (
        "sys.stdin.read()\nfrom device_runtime.slots.selftest import confine\n"
        "confine(1 << 40, 0.5, 1)\nwhile True: pass"
    )
    with pytest.raises(SelfTestError, match="computed for more than"):
        run(
            tmp_path,
            realbundle.files(realbundle.model()),
            python=a_python_that(tmp_path, does),
        )


def test_a_bundle_without_a_self_test_is_refused(tmp_path):
    files = realbundle.files(realbundle.model())
    del files["selftest.cols"]
    with pytest.raises(SelfTestError, match=r"lacks a file.*selftest\.cols"):
        run(tmp_path, files)
    none = realbundle.encode_columns(0, [("x", "float32", (), array("f"))])
    with pytest.raises(SelfTestError, match="no rows"):
        run(tmp_path, {**files, "selftest.cols": none})


def test_a_self_test_dies_with_the_process_that_started_it(tmp_path):
    pid, child, parent = tmp_path / "pid", tmp_path / "child.py", tmp_path / "parent.py"
    child.write_text(
        "import os, pathlib, sys, time\n"
        "from device_runtime.slots.selftest import confine\n"
        "confine(1 << 40, 60, 1)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    parent.write_text("import subprocess, sys\nsubprocess.run([sys.executable, *sys.argv[1:]])\n")
    with subprocess.Popen([sys.executable, str(parent), str(child), str(pid)]) as started:
        assert wait(lambda: pid.exists() and bool(pid.read_text()))
        started.kill()
    assert wait(lambda: is_gone(pid))


def is_gone(pid: Path) -> bool:
    try:
        return Path(f"/proc/{pid.read_text()}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def wait(until, seconds: float = 90.0) -> bool:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("says", ["", "nonsense", "{}", '{"ok": true}', "[1]"])
def test_a_child_that_talks_nonsense_is_no_pass(tmp_path, says):
    python = a_python_that(tmp_path, f"sys.stdin.read()\nprint({says!r})")
    with pytest.raises(SelfTestError):
        run(tmp_path, realbundle.files(realbundle.model()), python=python)


def test_the_folder_where_somebody_stands_is_not_searched_for_modules(tmp_path, monkeypatch):
    (tmp_path / "device_runtime.py").write_text("raise SystemExit(7)")
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    slot = tmp_path / "slot"
    slot.mkdir()
    assert run(slot, realbundle.files(realbundle.model())).rows == 200


def test_numpy_starts_no_thread_for_each_core(tmp_path):
    """Its BLAS reserves 40 MiB of address space a thread: with 32 cores nothing would pass."""
    does = (
        "from device_runtime.slots import selftest\n"
        "def threads(folder, request):\n"
        "    import numpy\n"
        "    rows = len(os.listdir('/proc/self/task'))\n"
        "    return {'ok': True, 'seconds': 0, 'peak_rss': 0, 'rows': rows}\n"
        "selftest._test = threads\n"
        "selftest.main()"
    )
    python = a_python_that(tmp_path, does)
    assert run(tmp_path, realbundle.files(realbundle.model()), python=python).rows == 1


def test_no_core_dump_of_a_self_test():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    code = (
        "from device_runtime.slots.selftest import confine; confine(1 << 40, 9, 1);"
        "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "(0, 0)"
    assert resource.getrlimit(resource.RLIMIT_AS) == before
