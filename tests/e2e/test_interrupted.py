"""Ctrl-C at any moment of any command ends in one line and exit 130, and it can be repeated."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

COMMANDS = {"base": ("edgepack", "recipes"), "device": ("device_runtime", "--help")}


@pytest.mark.parametrize("side", sorted(COMMANDS))
@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_ctrl_c_at_any_moment_is_one_line(tmp_path, side, wait):
    package, verb = COMMANDS[side]
    start = f"from {package}.__main__ import main; print('up', flush=True); main()"
    with subprocess.Popen(
        [sys.executable, "-c", start, verb],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    if process.returncode == 130:
        assert err.count("\n") == 1, err
        assert err.startswith("error [interrupted]")
    else:  # it was done before
        assert process.returncode == 0
        assert out
