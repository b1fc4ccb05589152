from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from device_runtime.clock import SystemClock
from device_runtime.device import Device
from device_runtime.disk import RealDisk
from device_runtime.home import open_home
from support import devicelab, servelab, trustsim


@dataclass
class Lab:
    """A base and one device with a bundle."""

    base: trustsim.Base
    root: Path
    folder: Path

    def open(self, **named: Any) -> Device:
        return Device.open(self.root, **named)

    def bundle(self, slope: float) -> Path:
        return devicelab.bundle(self.base, slope)

    def run(self, *arguments: object, **named: Any):
        return devicelab.run(self.root, *arguments, **named)

    def rows(self) -> dict[str, dict[str, Any]]:
        return devicelab.journaled_rows(self.base, self.root)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return devicelab.events(self.base, self.root)


def _make(folder: Path, **policy: Any) -> Lab:
    base = trustsim.Base.at(folder / "ws")
    devicelab.new_home(base, folder / "home", **policy)
    lab = Lab(base, folder / "home", folder)
    with lab.open() as device:
        device.install(devicelab.bundle(base))
    return lab


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[..., Lab]:
    """Make a device of a class with another policy."""
    return lambda **policy: _make(tmp_path, **policy)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return _make(tmp_path_factory.mktemp("template"))


@pytest.fixture
def lab(_template: Lab, tmp_path: Path) -> Lab:
    """Give a copy of a device with bundle 1; it does not notice that it was copied."""
    shutil.copytree(_template.folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    base = trustsim.Base(tmp_path / "ws", clock=replace(_template.base.clock))
    home = open_home(tmp_path / "home", disk=RealDisk(), clock=SystemClock())
    with home.lock():
        home.settle_disk()
    return Lab(base, tmp_path / "home", tmp_path)


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Close what a test has opened to a server."""
    yield
    servelab.hang_up()
