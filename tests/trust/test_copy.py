"""Large files are hashed while they are written: the result is that of doing it in turn."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from device_runtime.disk import RealDisk
from device_runtime.errors import DigestMismatchError, TruncatedError
from device_runtime.policy import Policy
from device_runtime.trust import source
from device_runtime.trust.bundle import VerifiedBundle, copy_payload
from device_runtime.trust.source import open_source
from support.trustsim import DISK, Base

BIG = os.urandom(1 << 20) * 21 + b"end"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> VerifiedBundle:
    base = Base.at(tmp_path_factory.mktemp("copy") / "ws")
    return base.device().install(base.publish(model=BIG))


def copy(bundle: VerifiedBundle, to: Path, disk: RealDisk = DISK, file: Path | None = None) -> None:
    with open_source(disk, file or bundle.path, Policy("field")) as opened:
        opened.copy("payload/model.onnx", bundle.payload["model.onnx"], disk, to)


class Failing(RealDisk):
    """A disk whose n-th sync or write of a file fails."""

    def __init__(self, what: str, at: int, code: int) -> None:
        self.what, self.left, self.code = what, at, code

    def create(self, path: Path, mode: int = 0o600):
        return _Handle(super().create(path, mode), self)

    def hit(self, what: str) -> None:
        if what == self.what:
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code))


class _Handle:
    def __init__(self, handle, disk: Failing) -> None:
        self.handle, self.disk = handle, disk
        self.truncate, self.close, self.push = handle.truncate, handle.close, handle.push

    def write(self, data) -> int:
        self.disk.hit("write")
        return self.handle.write(data)

    def sync(self) -> None:
        self.disk.hit("sync")
        self.handle.sync()


def test_a_large_file_arrives_as_it_was_signed(bundle: VerifiedBundle, tmp_path: Path) -> None:
    copy_payload(DISK, bundle, tmp_path / "slot")
    assert (tmp_path / "slot" / "model.onnx").read_bytes() == BIG


@pytest.mark.parametrize("place", [0, len(BIG) // 2, len(BIG) - 1])
def test_one_changed_byte_of_a_large_file_leaves_nothing(
    bundle: VerifiedBundle, tmp_path: Path, place: int
) -> None:
    data = bytearray(bundle.path.read_bytes())
    data[bundle.index.entries["payload/model.onnx"].offset + place] ^= 1
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(DigestMismatchError):
        copy(bundle, tmp_path / "copy", file=tmp_path / "bad")
    assert not (tmp_path / "copy").exists()


def test_a_sync_that_fails_leaves_nothing(bundle: VerifiedBundle, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        copy(bundle, tmp_path / "copy", Failing("sync", 1, errno.EIO))
    assert not (tmp_path / "copy").exists()


def test_a_disk_that_fills_up_in_a_large_file_leaves_nothing(
    bundle: VerifiedBundle, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="space"):
        copy(bundle, tmp_path / "copy", Failing("write", 9, errno.ENOSPC))
    assert not (tmp_path / "copy").exists()


def test_a_stick_that_ends_inside_a_large_file_is_truncated(
    bundle: VerifiedBundle, tmp_path: Path
) -> None:
    shutil.copy(bundle.path, tmp_path / "pulled")
    with open_source(DISK, tmp_path / "pulled", Policy("field")) as opened:
        os.truncate(tmp_path / "pulled", 10 << 20)
        with pytest.raises(TruncatedError):
            opened.copy("payload/model.onnx", bundle.payload["model.onnx"], DISK, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_slow_hash_never_sees_a_buffer_that_was_filled_again(
    bundle: VerifiedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256

    class Slow:
        def __init__(self) -> None:
            self.digest = sha256()
            self.hexdigest = self.digest.hexdigest

        def update(self, data) -> None:
            time.sleep(0.004)
            self.digest.update(data)

    monkeypatch.setattr(source.hashlib, "sha256", Slow)
    copy(bundle, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == BIG
