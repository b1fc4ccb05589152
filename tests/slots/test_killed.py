"""The installer is killed at every step: the old generation or the new one, never none."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.disk import RealDisk
from device_runtime.errors import DigestMismatchError, VerificationError
from device_runtime.home import Home, open_home
from device_runtime.slots.install import Steps, install
from device_runtime.slots.slot import begin_load
from edgepack.sim.clock import FixedClock
from support import realbundle, trustsim
from support.killdisk import KillDisk, in_child

UNTESTED = Steps(test=lambda *_: None, admit=lambda *_: None)


class World:
    """A home with a good slot 1, and bundle 2, signed with rotated keys, on a stick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = trustsim.Base.at(folder / "ws")
        self.home = folder / "home"
        home = realbundle.new_home(base, self.home)
        with home.lock():
            install(home, realbundle.sound(base, 1.0), steps=UNTESTED)
            started = begin_load(home)
            started.first_result()
            started.ripen(1000)
            started.close()
        base.rotate("targets")
        self.file = realbundle.sound(base, 2.0)
        self.old = home.generation().trusted_version
        self.new = self.old + 1

    def copy(self, name: str) -> Path:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.home, target, symlinks=True)
        return target


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("killed"))


def home_at(path: Path, disk: RealDisk | None = None) -> Home:
    return open_home(path, disk=disk or RealDisk(), clock=FixedClock(), disk_id="d")


def check(world: World, path: Path) -> str:
    """The model that runs is whole; the retry succeeds; nothing is left lying about."""
    home = home_at(path)
    with home.lock():
        before = home.generation().trusted_version
        assert before in (world.old, world.new)
        started = begin_load(home)
        assert realbundle.ask(started.slot) == float(before - world.old + 1)
        started.close()
        result = install(home, world.file, steps=UNTESTED)
        assert result.outcome in ("installed", "already")
        started = begin_load(home)
        assert realbundle.ask(started.slot) == 2.0
        started.close()
        kept = {slot.digest for slot in home.generation().slots}
    assert len(kept) == 2
    assert set(os.listdir(home.slots)) == kept
    assert os.listdir(home.tmp) == []
    assert sorted(n for n in os.listdir(home.state) if n.startswith("gen-")) == [
        f"gen-{home.generation().number}"
    ]
    return "new" if before == world.new else "old"


def kill_at(world: World, at: int, *, after: bool) -> str | None:
    """Kill an installing process at an operation; None when it was through before."""
    path = world.copy("victim")
    disk = KillDisk(at, after=after)
    home = home_at(path, disk)

    def act() -> None:
        with home.lock():
            install(home, world.file, steps=UNTESTED)

    status = in_child(act)
    assert status in (0, -signal.SIGKILL)
    if status == 0:
        return None
    return check(world, path)


def kill_everywhere(world: World, *, after: bool, step: int = 1) -> dict[str, int]:
    seen = {"old": 0, "new": 0}
    at = 1
    while (outcome := kill_at(world, at, after=after)) is not None:
        seen[outcome] += 1
        at += step
    return seen


def test_killed_before_every_second_operation_on_the_disk(world):
    seen = kill_everywhere(world, after=False, step=2)
    assert seen["old"] > 12
    assert seen["new"] > 0


@pytest.mark.soak
@pytest.mark.heavy
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_operation_on_the_disk(world, after):
    seen = kill_everywhere(world, after=after)
    print(f"killed at each of {sum(seen.values())} operations, after={after}: {seen}")
    assert seen["old"] > 25
    assert seen["new"] > 1


INSTALL = """
import sys
from pathlib import Path
from edgepack.sim.clock import FixedClock
from device_runtime.disk import RealDisk
from device_runtime.home import open_home
from device_runtime.slots.install import Steps, install
home = open_home(Path(sys.argv[1]), disk=RealDisk(), clock=FixedClock(), disk_id="d")
with home.lock():
    install(home, Path(sys.argv[2]), steps=Steps(test=lambda *_: None, admit=lambda *_: None))
"""
CALLS = (
    "write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir",
    "symlink", "symlinkat", "rmdir", "ftruncate", "flock",
)  # fmt: skip


@functools.cache
def may_trace() -> bool:
    """Some containers forbid ptrace; a machine may lack strace."""
    command = ["strace", "-o", "/dev/null", "true"]
    return bool(shutil.which("strace")) and subprocess.run(command, check=False).returncode == 0


def kill_at_call(world: World, calls: str, number: int) -> str | None:
    if not may_trace():
        pytest.skip("strace may not trace here")
    path = world.copy("victim")
    done = subprocess.run(
        [
            "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
            "-e", f"inject={calls}:signal=SIGKILL:when={number}",
            sys.executable, "-c", INSTALL, str(path), str(world.file),
        ],
        check=False,
        capture_output=True,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    assert done.returncode == -signal.SIGKILL, done.stderr
    return check(world, path)


@pytest.mark.system
@pytest.mark.parametrize("number", [1, 3, 5, 8, 12, 17])
def test_killed_at_a_system_call_that_makes_things_durable(world, number):
    assert kill_at_call(world, "fsync,fdatasync,rename,renameat,renameat2", number) is not None


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.heavy
def test_killed_at_every_system_call_that_changes_something(world):
    seen, times = {"old": 0, "new": 0}, 0
    for call in CALLS:  # strace counts each call by itself
        number = 1
        while (outcome := kill_at_call(world, call, number)) is not None:
            seen[outcome] += 1
            number += 1
        times += number - 1
    print(f"killed at each of {times} system calls: {seen}")
    assert seen["old"] > 50
    assert seen["new"] > 2


def test_a_damaged_stick_burns_no_version_and_the_next_one_installs(world, tmp_path):
    path = world.copy("damaged")
    data = bytearray(world.file.read_bytes())
    where = data.find(realbundle.model(2.0)[:200])
    data[where + 150] ^= 1
    bad = tmp_path / world.file.name
    bad.write_bytes(data)
    home = home_at(path)
    with home.lock():
        with pytest.raises(DigestMismatchError):
            install(home, bad, steps=UNTESTED)
        assert home.generation().trusted_version == world.old
        assert home.generation().trusted.targets != b""
    bad.write_bytes(world.file.read_bytes()[:-5000])
    with home.lock(), pytest.raises((VerificationError, Exception)):
        install(home, bad, steps=UNTESTED)
    assert check(world, path) == "old"
