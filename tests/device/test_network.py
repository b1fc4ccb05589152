"""No network: no interface is needed, no socket is made, nobody is told anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

ROWS = b"id,at,x,c\n1,,3,a\n2,,-3,b\n"


def _able(wrap: list[str]) -> None:
    """Skip where the system lets nobody do that: no user namespaces, no tracing."""
    assert shutil.which(wrap[0])
    done = subprocess.run([*wrap, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{wrap[0]} may not do it here: {done.stderr.strip()}")


@pytest.mark.system
def test_without_any_network_everything_works(lab):
    wrap = ["unshare", "--map-root-user", "--net"]
    _able(wrap)
    done = lab.run("predict", "-", stdin=ROWS, wrap=wrap)
    assert done.returncode == 0, done.stderr
    (lab.folder / "stick").mkdir()
    assert lab.run("sync", lab.folder / "stick", wrap=wrap).returncode == 0
    assert lab.run("status", wrap=wrap).returncode == 0


@pytest.mark.system
def test_no_socket_is_ever_made_but_the_one_that_was_asked_for(lab):
    trace = lab.folder / "trace"
    wrap = ["strace", "-f", "-e", "trace=socket,connect,bind", "-o", str(trace)]
    _able(wrap)
    (lab.folder / "stick").mkdir()
    for arguments in (("predict", "-"), ("sync", lab.folder / "stick"), ("status",), ("doctor",)):
        done = lab.run(*arguments, stdin=ROWS, wrap=wrap)
        assert done.returncode == 0, done.stderr
        calls = [
            line for line in trace.read_text().splitlines() if "(" in line and "+++" not in line
        ]
        assert [line for line in calls if "SIG" not in line] == []


@pytest.mark.parametrize("engine", ["capi", "python"])
def test_onnxruntime_keeps_nothing_about_its_user_and_tells_nobody(lab, tmp_path, engine):
    """Its wheels open a data base below ~/.cache and a thread that uploads, unless told not to."""
    own = tmp_path / "somebody"
    own.mkdir()
    given = {
        k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    }
    done = subprocess.run(
        [sys.executable, "-m", "device_runtime", "predict", "-", "--engine", engine],
        input=ROWS,
        capture_output=True,
        check=False,
        env={**given, "HOME": str(own), "EDGEPACK_HOME": str(lab.root)},
    )
    assert done.returncode == 0, done.stderr
    assert list(own.rglob("*")) == []
