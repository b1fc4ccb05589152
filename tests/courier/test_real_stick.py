"""A stick as a real file system of its own: FAT32 in an image, or a memory file system of a size.

Which one was used stands in the test's id and in its output.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from device_runtime.courier.stick import Stick
from device_runtime.disk import RealDisk
from device_runtime.errors import StickError, StickFullError

pytestmark = pytest.mark.system


def run(*command):
    """Run a tool of the system; one that this machine lacks has failed."""
    tool = shutil.which(command[0])
    if tool is None:
        return subprocess.CompletedProcess(command, 127, "", f"no {command[0]}")
    return subprocess.run([tool, *command[1:]], capture_output=True, text=True, check=False)


class Mounted:
    """An image with FAT32, mounted by the kernel where it can, else by fusefat; or a tmpfs."""

    def __init__(self, folder: Path, kind: str, size_mb: int) -> None:
        self.path, self.image = folder / "usb", folder / "stick.img"
        self.path.mkdir()
        self.kind, self.size_mb, self.made = kind, size_mb, True
        if kind != "tmpfs":
            self.image.touch()
            os.truncate(self.image, size_mb << 20)
            self.made = run("mkfs.vfat", "-F", "32", str(self.image)).returncode == 0

    def plug(self) -> str:
        """Mount it, and say as what; an empty text where this machine cannot."""
        if not self.made:
            return ""
        if self.kind == "tmpfs":
            done = run("mount", "-t", "tmpfs", "-o", f"size={self.size_mb}m", "tmpfs", self.path)
            return "tmpfs" if done.returncode == 0 else ""
        if run("mount", "-o", "loop", str(self.image), str(self.path)).returncode == 0:
            return "FAT32, loop"
        if run("fusefat", "-o", "rw+", str(self.image), str(self.path)).returncode == 0:
            for _ in range(50):
                if os.path.ismount(self.path):
                    return "FAT32, fusefat"
                time.sleep(0.05)
        return ""

    def pull(self) -> None:
        for command in (("fusermount", "-u", "-z"), ("umount", "-l")):
            if os.path.ismount(self.path):
                run(*command, str(self.path))

    def carry(self) -> None:
        """Pull it and plug it in again; what is in memory only would not survive that."""
        if self.kind != "tmpfs":
            self.pull()
            assert self.plug()


@pytest.fixture(params=["fat", "tmpfs"])
def mounted(request, tmp_path):
    stick = Mounted(tmp_path, request.param, 64 if request.param == "fat" else 2)
    how = stick.plug()
    if not how:
        pytest.skip(f"this machine mounts no {request.param}")
    print(f"the stick is {how}")
    yield stick
    stick.pull()


def test_the_whole_loop_on_a_real_file_system(lab, mounted):
    device = lab.accepted(stick=mounted.path)
    for turn in range(3):
        device.rows(list(range(turn * 1000, turn * 1000 + 500)), sync=True)
        device.label(turn * 1000)
        left = device.sync(mounted.path)
        assert left.left.rows == 500
        mounted.carry()
        result = lab.sync(mounted.path)
        assert (result.tally.rows, result.tally.labels) == (500, 1)
        mounted.carry()
    assert device.durable <= lab.ids()
    names = [p.name for p in (mounted.path / "EDGEPACK").rglob("*") if p.is_file()]
    assert len({name.casefold() for name in names}) == len(names)
    assert not [name for name in names if name.endswith(".part")]


def test_memory_says_that_it_is_no_medium(mounted):
    with Stick.open(mounted.path, RealDisk()) as stick:
        stick.put("reports/x.json", os.urandom(100_000))
        verified = stick.finish()
    if mounted.kind == "tmpfs":
        assert verified is False


def test_a_stick_that_fills_up_in_the_middle_keeps_what_was_whole(lab, tmp_path):
    stick = Mounted(tmp_path, "tmpfs", 1)
    if not stick.plug():
        pytest.skip("this machine mounts no tmpfs")
    try:
        device = lab.accepted()
        values = [int.from_bytes(os.urandom(5), "big") for _ in range(200_000)]
        device.rows(values[:100_000], sync=True)
        device.seal()
        device.rows(values[100_000:], sync=True)
        report = device.sync(stick.path)
        assert report.left.waiting >= 1
        assert report.error is not None
        assert report.error.code == "stick.full"
        lab.sync(stick.path)
        other = lab.stick("larger")
        device.sync(other)
        lab.sync(other)
        assert device.durable <= lab.ids()
    finally:
        stick.pull()


@pytest.mark.parametrize("call", range(1, 22, 4))
def test_a_stick_unmounted_in_the_middle_of_a_visit(lab, tmp_path, call):
    stick = Mounted(tmp_path, "tmpfs", 8)
    if not stick.plug():
        pytest.skip("this machine mounts no tmpfs")

    class Pulled(RealDisk):
        """The stick goes away at the given call that writes to it."""

        left = call

        def _step(self, path):
            if stick.path in Path(path).parents:
                Pulled.left -= 1
                if Pulled.left <= 0:
                    stick.pull()
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        def create(self, path, mode=0o600):
            self._step(path)
            return super().create(path, mode)

        def rename(self, source, target):
            self._step(source)
            super().rename(source, target)

        def fsync_dir(self, path):
            self._step(path)
            super().fsync_dir(path)

    try:
        device = lab.accepted()
        device.rows(list(range(100)), sync=True)
        device.stop()
        device.disk = Pulled()
        with pytest.raises(StickError):
            device.sync(stick.path)
        device.crash()
        device.disk = RealDisk()
        other = lab.stick("other")
        device.sync(other)
        lab.sync(other)
        assert device.durable <= lab.ids()
        assert not list(stick.path.iterdir()), "nothing was written where the stick was not"
    finally:
        stick.pull()


def test_files_larger_than_what_is_left_are_refused(tmp_path):
    stick = Mounted(tmp_path, "tmpfs", 1)
    if not stick.plug():
        pytest.skip("this machine mounts no tmpfs")
    try:
        with Stick.open(stick.path, RealDisk()) as opened, pytest.raises(StickFullError):
            opened.put("bundles/big-1.edgepack", bytes(2 << 20))
        assert shutil.disk_usage(stick.path).used < 100_000
    finally:
        stick.pull()
