"""Ctrl-C at any moment of any command ends in one line and exit 130, and it can be repeated."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
COMMANDS = {"base": ("edgepack", "recipes"), "device": ("device_runtime", "--help")}


PRESSED = """
import sys
class Pressed:
    def find_spec(self, name, *_):
        if name == package + ".errors" or name == package + ".cli.make":
            sys.meta_path.remove(self)
            class Loaded:
                there = Attribute()
class Attribute:
    def __set_name__(self, *_):
        raise KeyboardInterrupt
package = sys.argv.pop(1)
sys.meta_path.insert(0, Pressed())
from importlib import import_module
import_module(package + ".__main__").main()
"""


@pytest.mark.parametrize("side", sorted(COMMANDS))
def test_ctrl_c_while_modules_are_loaded_is_one_object_where_json_was_asked(side):
    package, verb = COMMANDS[side]
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, package, verb, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done  # 3.11 makes a RuntimeError of it
    assert json.loads(done.stdout)["error"]["code"] == "interrupted"
    assert done.stderr == ""


def typed(command, keys):
    """Type into a terminal; return the exit status and what the terminal showed."""
    done = subprocess.run(
        ["sh", "-c", f"{{ {keys}; }} | script -qec {shlex.quote(command)} /dev/null"],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if "PASSPHRASE" not in key},
    )
    return done.returncode, done.stdout


def test_a_question_that_gets_no_answer_is_one_line(tmp_path):
    code, shown = typed(f"{BIN}/edgepack init {tmp_path}/ws", r"printf '\004'")
    assert code == 76
    assert "error [keys.failed]: no passphrase was typed" in shown
    asks = f"{sys.executable} -c 'from device_runtime import cli; cli._ask(\"its words: \")'"
    assert "nobody is here to answer" in typed(asks, r"printf '\004'")[1]


def test_no_progress_is_painted_over_a_question(tmp_path):
    keys = "for _ in 1 2; do sleep 1; echo right; done"
    code, shown = typed(f"{BIN}/edgepack init {tmp_path}/ws", keys)
    assert code == 0, shown
    question, between = shown.split("Passphrase for the new keys: ")
    assert between.split("Once more: ")[0].strip() == ""
    assert question.rstrip().endswith("\x1b[2K"), "the line is free"


UP = """
import sys
class First:
    def find_spec(self, *_):
        sys.meta_path.remove(self)
        print("up", flush=True)
package = sys.argv.pop(1)
from importlib import import_module
main = import_module(package + ".__main__").main
sys.meta_path.insert(0, First())
main()
"""  # the first import inside of `main`: from there on it answers for Ctrl-C


@pytest.mark.parametrize("side", sorted(COMMANDS))
@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_ctrl_c_at_any_moment_is_one_line(tmp_path, side, wait):
    package, verb = COMMANDS[side]
    with subprocess.Popen(
        [sys.executable, "-c", UP, package, verb],
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
