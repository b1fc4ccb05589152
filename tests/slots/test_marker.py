"""Real processes die of real signals while a model is loaded; what the next start learns of it."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.disk import RealDisk
from device_runtime.errors import BusyError
from device_runtime.home import Home, open_home
from device_runtime.slots import install as installer
from device_runtime.slots import marker
from device_runtime.slots.slot import begin_load
from edgepack.sim.clock import FixedClock
from support import realbundle, trustsim

UNTESTED = installer.Steps(test=lambda *_: None, admit=lambda *_: None)

PROCESS = """
import ctypes, os, resource, signal, sys, threading
from pathlib import Path
from edgepack.sim.clock import FixedClock
from device_runtime.disk import RealDisk
from device_runtime.home import open_home
from device_runtime.slots.slot import begin_load

clock = FixedClock(boot=bytes([int(sys.argv[3])]) * 16)
home = open_home(Path(sys.argv[1]), disk=RealDisk(), clock=clock)
with home.lock():
    started = begin_load(home)
    if sys.argv[4] == "after":
        started.first_result()
    how = sys.argv[2]
    if how == "null":
        ctypes.string_at(1)
    elif how == "thread":
        thread = threading.Thread(target=ctypes.string_at, args=(1,))
        thread.start()
        thread.join()
    elif how == "abort":
        ctypes.CDLL(None).abort()
    elif how == "stack":
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, hard))  # it may have no end here
        callback = ctypes.CFUNCTYPE(None)
        def deeper():
            callback(deeper)()
        sys.setrecursionlimit(1 << 30)
        deeper()
    elif how == "end":
        started.close()
    else:
        os.kill(os.getpid(), getattr(signal, how))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, trustsim.Base]:
    folder = tmp_path_factory.mktemp("marker")
    base = trustsim.Base.at(folder / "ws")
    home = realbundle.new_home(base, folder / "home")
    with home.lock():
        installer.install(home, realbundle.sound(base), steps=UNTESTED)
    return folder / "home", base


@pytest.fixture
def home(template, tmp_path) -> Home:
    import shutil

    shutil.copytree(template[0], tmp_path / "home", symlinks=True)
    return open_home(tmp_path / "home", disk=RealDisk(), clock=FixedClock())


def die(home: Home, how: str, *, boot: int = 1, when: str = "before") -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(home.root), how, str(boot), when],
        capture_output=True,
        check=False,
    )
    assert b"Traceback (most" not in done.stderr, done.stderr.decode()
    return done.returncode


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("null", signal.SIGSEGV),
        ("thread", signal.SIGSEGV),
        ("stack", signal.SIGSEGV),
        ("abort", signal.SIGABRT),
        ("SIGILL", signal.SIGILL),
        ("SIGBUS", signal.SIGBUS),
        ("SIGFPE", signal.SIGFPE),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fatal_signal_is_a_proven_crash(home, how, number, when):
    assert die(home, how, when=when) == -number
    (found,) = marker.find(home)
    assert found.fate == "crash"
    assert found.detail
    with home.lock():
        begin_load(home).close()
    assert (home.generation().attempts, home.generation().crashes) == (1, 1)


def test_a_kill_from_outside_while_loading_is_not_proven(home):
    assert die(home, "SIGKILL") == -signal.SIGKILL
    assert [found.fate for found in marker.find(home)] == ["kill"]
    with home.lock():
        begin_load(home).close()
    assert (home.generation().attempts, home.generation().crashes) == (1, 0)
    assert marker.find(home) == []


def test_another_boot_means_the_power_went(home):
    die(home, "SIGKILL", boot=9)
    with home.lock():
        begin_load(home).close()
    assert (home.generation().attempts, home.generation().power_attempts) == (0, 1)


def test_a_kill_after_the_first_result_and_an_orderly_end_leave_nothing_to_count(home):
    die(home, "SIGKILL", when="after")
    assert [found.fate for found in marker.find(home)] == ["worked"]
    assert die(home, "end") == 0
    with home.lock():
        begin_load(home).close()
    assert (home.generation().attempts, home.generation().power_attempts) == (0, 0)
    assert not [name for name in os.listdir(home.run) if name.startswith("load-")]


def test_a_hot_switch_has_two_marks_and_the_newer_one_listens(home):
    before = faulthandler.is_enabled()
    with home.lock():
        old = begin_load(home)
        old.first_result()
        new = begin_load(home)
        assert home.generation().attempts == 0
        assert len(home.marks) == 2
        old.close()
        assert faulthandler.is_enabled()
        new.close()
    assert home.marks == []
    assert faulthandler.is_enabled() == before


def test_a_second_process_does_not_get_the_home(home):
    with home.lock():
        other = open_home(home.root, disk=RealDisk(), clock=FixedClock())
        with pytest.raises(BusyError), other.lock():
            pass


def test_three_crashing_processes_switch_to_the_good_slot(home, template, tmp_path):
    with home.lock():
        started = begin_load(home)
        started.first_result()
        started.ripen(1000)
        started.close()
        second = realbundle.sound(template[1], 2.0)
        installer.install(home, second, steps=UNTESTED)
    for _ in range(3):
        die(home, "null")
    with home.lock():
        started = begin_load(home)
        assert realbundle.ask(started.slot) == 1.0
        started.close()
    states = {slot.version: slot.state for slot in home.generation().slots}
    assert sorted(states.values()) == ["good", "rejected"]
