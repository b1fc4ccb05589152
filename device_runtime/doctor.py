"""Is this machine able? Each finding says what to do next."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_runtime.disk import Disk
from device_runtime.errors import EdgepackError
from device_runtime.home import Home, open_home
from device_runtime.record import asdict, dataclass

MACHINES = ("x86_64", "aarch64")
_MIN_FREE = 64 << 20
_YEAR_2024 = 1_704_067_200


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        level: `ok`, `note` (good to know) or `bad`.
        found: What is there.
        next: What to do about it; empty when ok.
    """

    what: str
    level: str
    found: str
    next: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self)


def examine(root: Path, disk: Disk, clock: Any) -> list[Finding]:
    """Look at everything; never raises because of what it finds."""
    found = [_processor(), _python(), _onnxruntime(), _memory(), _swap(), _core_dumps(), _cpu()]
    try:
        home = open_home(root, disk=disk, clock=clock)
        found += _home(home)
    except (EdgepackError, OSError) as error:
        line = error.what if isinstance(error, EdgepackError) else str(error)
        step = error.next if isinstance(error, EdgepackError) else "check the path"
        found.append(Finding("home", "bad", line, step))
    return found


def _processor() -> Finding:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        return Finding(
            "processor", "bad", f"{sys.platform} on {machine}", "use Linux on x86_64 or aarch64"
        )
    return Finding("processor", "ok", f"{machine}, {os.cpu_count()} cores")


def _python() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        library = version("cryptography")
    except PackageNotFoundError:
        return Finding("python", "bad", "no cryptography", "install edgepack-device again")
    return Finding("python", "ok", f"{platform.python_version()}, cryptography {library}")


def _onnxruntime() -> Finding:
    """Load the library in a child: a processor without its instructions kills only the child."""
    code = "from device_runtime.doctor import onnxruntime_version; print(onnxruntime_version())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("onnxruntime", "bad", str(error), "install edgepack-device again")
    if done.returncode:
        tail = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        step = "install a build of onnxruntime for this processor, or use --engine python"
        return Finding("onnxruntime", "bad", tail[:200], step)
    return Finding("onnxruntime", "ok", f"{done.stdout.strip()} loads")


def onnxruntime_version() -> str:
    """Load onnxruntime's C library and return its version."""
    from device_runtime.model.ortlib import Library

    return Library().version


def _memory() -> Finding:
    info = _meminfo()
    free = info.get("MemAvailable", 0)
    text = f"{free >> 20:,} MB of {info.get('MemTotal', 0) >> 20:,} MB available"
    if free < 128 << 20:
        return Finding("memory", "bad", text, "end other programs, or use a smaller model")
    return Finding("memory", "ok", text)


def _swap() -> Finding:
    total = _meminfo().get("SwapTotal", 0)
    if total:
        step = "keys and inputs may reach the disk: turn swap off, or encrypt it"
        return Finding("swap", "note", f"{total >> 20:,} MB of swap", step)
    return Finding("swap", "ok", "none")


def _core_dumps() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    pattern = _text("/proc/sys/kernel/core_pattern")
    if soft == 0 and not pattern.startswith("|"):
        return Finding("core dumps", "ok", "off")
    text = f"allowed by this machine ({pattern or 'core'}); edgepack turns them off for itself"
    return Finding("core dumps", "note", text, "ulimit -c 0")


def _cpu() -> Finding:
    load = os.getloadavg()[0]
    cores = os.cpu_count() or 1
    if load > 2 * cores:
        return Finding("load", "note", f"{load:.1f} on {cores} cores", "answers will be slow")
    return Finding("load", "ok", f"{load:.1f} on {cores} cores")


def _home(home: Home) -> Iterator[Finding]:
    yield Finding("home", "ok", f"{home.card.name} at {home.root}")
    yield _room(home)
    yield _permissions(home)
    yield _clock(home)
    yield _bundle(home)
    if home.moved:
        text = "this home lies on another disk than before: the next command begins a new epoch"
        step = "if the old device still runs, tell the base: two devices have one identity"
        yield Finding("disk", "note", text, step)


def _room(home: Home) -> Finding:
    policy = home.generation().policy
    free = home.disk.free_bytes(home.root)
    used = sum(home.disk.size(home.journal / name) for name in home.disk.list(home.journal))
    text = f"{free / 1e9:,.1f} GB free; the journal uses {used / 1e6:,.1f} MB of its quota"
    if free < _MIN_FREE:
        return Finding("room", "bad", text, "free some disk space")
    if free + used < policy.quota_bytes:
        return Finding("room", "note", text, "the quota is larger than the disk has room for")
    if used > 0.8 * policy.quota_bytes:
        return Finding("room", "note", text, "take the journal home: edgepack-device sync STICK")
    return Finding("room", "ok", text)


def _permissions(home: Home) -> Finding:
    key = home.identity_dir / "device.key"
    mode = os.stat(key).st_mode & 0o777
    if mode & 0o077:
        return Finding("permissions", "bad", f"{key} is {mode:o}", f"chmod 600 {key}")
    if not os.access(home.root, os.W_OK):
        return Finding(
            "permissions", "bad", f"{home.root} cannot be written", "run as the user that owns it"
        )
    return Finding("permissions", "ok", "the device's key is private")


def _clock(home: Home) -> Finding:
    wall_s = home.clock.wall_ns() // 1_000_000_000
    floor = home.generation().trusted.floor
    if home.generation().policy.clock_trusted and wall_s < floor:
        text = "this class trusts its clock, and the clock is behind the last signed time"
        return Finding("clock", "bad", text, "set the clock")
    if wall_s < max(floor, _YEAR_2024):
        text = "the clock is behind the last signed time; nothing depends on it"
        return Finding("clock", "note", text, "set it when you can: records carry it")
    return Finding("clock", "ok", "not behind the last signed time")


def _bundle(home: Home) -> Finding:
    generation = home.generation()
    active = generation.slot(generation.active)
    if active is None:
        return Finding(
            "bundle", "note", "none yet", "plug in a stick and run: edgepack-device sync STICK"
        )
    from device_runtime.owned import load_record
    from device_runtime.slots.selftest import run_selftest

    try:
        slot = load_record(home, active)
        run_selftest(home.slot_dir(active.digest), slot.manifest, generation.policy)
    except (EdgepackError, OSError) as error:
        text = f"bundle {active.version} cannot run here: {error}"
        step = "after an update: keep the old environment; else sync a stick with a newer bundle"
        return Finding("bundle", "bad", text, step)
    said = f"{slot.name} {slot.version} verifies and answers as at build ({active.state})"
    return Finding("bundle", "ok", said)


def _meminfo() -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    result = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdigit():
            result[name] = int(parts[0]) * 1024
    return result


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
