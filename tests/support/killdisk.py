"""A real disk on which the process is really killed at a chosen operation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from device_runtime.disk import RealDisk

CHANGING = (
    "create",
    "mkdir",
    "rename",
    "unlink",
    "rmtree",
    "symlink",
    "fsync_dir",
    "write",
    "sync",
)


class KillDisk(RealDisk):
    """Kills its own process with SIGKILL at operation `at`, before or after carrying it out."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after = at, after
        self.steps = 0

    def hit(self) -> bool:
        self.steps += 1
        return self.steps == self.at

    def guarded(self, call, *args):
        hit = self.hit()
        if hit and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def create(self, path: Path, mode: int = 0o600):
        return _Handle(self, self.guarded(super().create, path, mode))

    def mkdir(self, path: Path) -> None:
        self.guarded(super().mkdir, path)

    def rename(self, source: Path, target: Path) -> None:
        self.guarded(super().rename, source, target)

    def unlink(self, path: Path) -> None:
        self.guarded(super().unlink, path)

    def rmtree(self, path: Path) -> None:
        self.guarded(super().rmtree, path)

    def symlink(self, target: str, path: Path) -> None:
        self.guarded(super().symlink, target, path)

    def fsync_dir(self, path: Path) -> None:
        self.guarded(super().fsync_dir, path)


class _Handle:
    def __init__(self, disk: KillDisk, handle) -> None:
        self._disk, self._handle = disk, handle

    def write(self, data) -> int:
        hit = self._disk.hit()
        if hit:  # torn in the middle
            self._handle.write(bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._handle.write(data)

    def sync(self) -> None:
        self._disk.guarded(self._handle.sync)

    def prepare(self, start: int, stop: int) -> bool:
        return self._handle.prepare(start, stop)

    def push(self, start: int, stop: int) -> None:
        self._handle.push(start, stop)

    def truncate(self, size: int) -> None:
        self._disk.guarded(self._handle.truncate, size)

    def close(self) -> None:
        self._handle.close()


def in_child(act) -> int:
    """Run `act` in a forked process; return its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
