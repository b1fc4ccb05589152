"""The stick: refused when it cannot be trusted, never followed, verified before it is pulled."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from device_runtime.courier.stick import Stick
from device_runtime.disk import RealDisk
from device_runtime.errors import (
    NotAStickError,
    StickError,
    StickFullError,
    StickReadOnlyError,
    StickUnreliableError,
    TooLargeError,
)
from edgepack.sim.disk import SimDisk
from edgepack.sim.parts import every_file
from edgepack.sim.ports import MOUNT, new_stick


@pytest.fixture
def stick(tmp_path):
    with Stick.open(tmp_path, RealDisk()) as opened:
        yield opened


def test_a_file_is_written_in_the_order_that_survives_a_pull():
    disk = new_stick(1)
    with Stick.open(MOUNT, disk) as stick:
        disk.trace = []
        stick.put("reports/x.json", b"content")
        calls = [(what, Path(path).name) for _, what, path in disk.trace]
    assert calls == [
        ("mkdir", "reports"),
        ("fsync_dir", "EDGEPACK"),
        ("create", "x.json.part"),
        ("write", "x.json.part"),
        ("sync", "x.json.part"),
        ("rename", "x.json"),
        ("fsync_dir", "reports"),
    ]


def test_a_stick_pulled_at_any_call_holds_the_old_file_or_the_new_one():
    for call in range(1, 12):
        disk = new_stick(call)
        with Stick.open(MOUNT, disk) as stick:
            stick.put("reports/x.json", b"old")
            disk.fail_at(call, errno.EIO, times=1 << 30)
            with contextlib.suppress(StickError):
                stick.put("reports/x.json", b"new" * 100)
        disk.heal()
        disk.power_cut()
        with Stick.open(MOUNT, disk) as stick:
            assert stick.get("reports/x.json", 1000) in (b"old", b"new" * 100)
            stick.put("reports/x.json", b"third")  # a stale .part never blocks
            assert stick.files("reports") == ["x.json"]


def test_what_earlier_visits_left_unfinished_takes_up_no_room():
    """A pull leaves a `.part` whose name never comes again, for the next pack is another one."""
    disk = new_stick(1)
    with Stick.open(MOUNT, disk) as stick:
        stick.put("logs/a/b/kept.segs", b"kept")
        stick.put("bundles/kept", b"kept")
    for folder in ("", "logs", "logs/a", "logs/a/b", "bundles"):
        disk.create(MOUNT / "EDGEPACK" / folder / "left.segs.part").write(b"left")
    with Stick.open(MOUNT, disk, write=False):
        assert disk.exists(MOUNT / "EDGEPACK/left.segs.part"), "looking changes nothing"
    with Stick.open(MOUNT, disk) as stick:
        assert not [path for path in every_file(disk, MOUNT) if path.suffix == ".part"]
        assert stick.get("logs/a/b/kept.segs", 10) == stick.get("bundles/kept", 10) == b"kept"


def test_unfinished_files_behind_a_link_are_not_touched(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.part").write_bytes(b"mine")
    (tmp_path / "usb" / "EDGEPACK").mkdir(parents=True)
    (tmp_path / "usb" / "EDGEPACK" / "logs").symlink_to(other)
    with Stick.open(tmp_path / "usb", RealDisk()):
        assert (other / "mine.part").exists()


def test_a_full_stick_is_refused_and_left_clean():
    disk = new_stick(1, capacity=100 << 10)
    with Stick.open(MOUNT, disk) as stick:
        with pytest.raises(StickFullError):
            stick.put("logs/a/b/c.segs", bytes(90 << 10))
        with pytest.raises(StickFullError):  # no size given: found out on the way
            stick.put("logs/a/b/c.segs", iter([bytes(60 << 10)] * 2))
        assert stick.files("logs/a/b") == []
        assert not [n for n in disk.list(MOUNT / "EDGEPACK/logs/a/b") if n.endswith(".part")]


class FakeCapacity(SimDisk):
    """A stick that claims more than it has: later writes go over earlier ones."""

    def __init__(self, real):
        super().__init__(1)
        self.real = real

    def drop_cache(self, path):
        super().drop_cache(path)
        data = self._file(path).data
        total = sum(len(self._file(p).data) for p in self.everything(MOUNT))
        if total > self.real and data:
            data[:] = bytes(len(data))
        return True

    def everything(self, folder):
        for name in self.list(folder):
            path = folder / name
            if self.kind(path) == "dir":
                yield from self.everything(path)
            else:
                yield path


def test_a_stick_of_fake_capacity_is_found_out():
    disk = FakeCapacity(real=50_000)
    disk.mkdir(MOUNT)
    with Stick.open(MOUNT, disk) as stick:
        stick.put("logs/a/b/one.segs", os.urandom(20_000))
        with pytest.raises(StickUnreliableError):
            for number in range(5):
                stick.put(f"logs/a/b/more-{number}.segs", os.urandom(20_000))


def test_what_changed_after_it_was_written_is_found_at_the_end():
    disk = new_stick(1)
    with Stick.open(MOUNT, disk) as stick:
        path = stick.put("logs/a/b/one.segs", b"right")
        disk.unlink(path)
        disk.create(path).write(b"wrong")
        with pytest.raises(StickUnreliableError):
            stick.finish()


def test_memory_is_not_a_medium(tmp_path):
    shm = Path("/dev/shm")
    folder = shm / f"edgepack-test-{os.getpid()}"
    folder.mkdir()
    try:
        with Stick.open(folder, RealDisk()) as stick:
            stick.put("reports/x.json", b"content")
            assert stick.finish() is False
    finally:
        RealDisk().rmtree(folder)


def test_a_real_disk_is_a_medium(stick):
    stick.put("reports/x.json", b"content")
    assert stick.finish() is True


def test_a_read_only_stick_is_refused(tmp_path):
    class ReadOnly(RealDisk):
        def create(self, path, mode=0o600):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with pytest.raises(StickReadOnlyError):
        Stick.open(tmp_path, ReadOnly())


@pytest.mark.parametrize("what", ["missing", "file", "link"])
def test_what_is_no_folder_is_refused(tmp_path, what):
    path = tmp_path / "usb"
    if what == "file":
        path.write_text("x")
    if what == "link":
        path.symlink_to(tmp_path)
    with pytest.raises(NotAStickError):
        Stick.open(path, RealDisk())


def test_a_linked_folder_on_the_stick_is_refused(tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "usb/EDGEPACK").symlink_to(tmp_path / "secret")
    with pytest.raises(NotAStickError):
        Stick.open(tmp_path / "usb", RealDisk())


def test_links_on_the_stick_are_never_followed(stick, tmp_path):
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "x.json").write_bytes(b"secret")
    (stick.root / "enrol").symlink_to(secret)
    assert stick.files("enrol") == []
    assert stick.get("enrol/x.json", 100) is None
    assert stick.path("enrol/x.json") is None
    (stick.root / "reports").mkdir()
    (stick.root / "reports/y.json").symlink_to(secret / "x.json")
    assert stick.files("reports") == []
    assert stick.get("reports/y.json", 100) is None
    stick.put("enrol/x.json", b"ours")  # the link is replaced, what it names is not touched
    stick.put("reports/y.json", b"ours")
    assert (secret / "x.json").read_bytes() == b"secret"
    assert stick.get("enrol/x.json", 100) == b"ours"


def test_a_pipe_on_the_stick_does_not_stop_anybody(stick):
    (stick.root / "reports").mkdir()
    os.mkfifo(stick.root / "reports/x.json")
    assert stick.files("reports") == []
    assert stick.get("reports/x.json", 100) is None


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/.", ".", "", "a b", "ä", "-" * 300]
)
def test_hostile_names_are_no_names(stick, name):
    with pytest.raises(StickError):
        stick.put(name, b"x")
    with pytest.raises(StickError):
        stick.get(name, 10)


def test_odd_names_are_not_listed(stick):
    folder = stick.root / "logs"
    folder.mkdir()
    for name in ("ok.segs", "with space", "\u202egnp.exe", "\x1b[2J", "x.part", "a" * 250):
        (folder / name).write_text("x")
    assert stick.files("logs") == ["ok.segs"]


def test_a_folder_in_the_place_of_a_file_is_replaced(stick):
    (stick.root / "reports/x.json/deep").mkdir(parents=True)
    (stick.root / "reports/x.json.part").mkdir()
    stick.put("reports/x.json", b"ours")
    assert stick.get("reports/x.json", 10) == b"ours"


def test_a_file_is_read_up_to_its_limit(stick):
    stick.put("reports/x.json", bytes(1000))
    with pytest.raises(TooLargeError):
        stick.get("reports/x.json", 999)


def test_looking_at_an_empty_stick_writes_nothing_and_finds_nothing(tmp_path):
    with Stick.open(tmp_path, RealDisk(), write=False) as stick:
        assert stick.files("bundles") == []
        assert stick.folders("logs") == []
        assert stick.get("README.txt", 100) is None
    assert list(tmp_path.iterdir()) == []
