"""A machine with one port: what lies under /mnt/usb is whatever stick is plugged in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from device_runtime.disk import Disk, RealDisk
from edgepack.sim.disk import PowerCut, SimDisk

MOUNT = Path("/mnt/usb")
_BELOW = f"{MOUNT}/"


class _Ports:
    """Sends every call to the machine's own disk or to the stick, by its first path."""

    def __init__(self, own: Disk) -> None:
        self.own = own
        self.stick: Disk | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **more: Any) -> Any:
            stick = self.stick
            where = args[0] if name == "symlink" else path
            if stick is not None and f"{where}/".startswith(_BELOW):
                return getattr(stick, name)(path, *args, **more)
            return mine(path, *args, **more)

        mine = getattr(self.own, name)
        self.__dict__[name] = call  # asked once
        return call


def machine(own: Disk) -> Disk:
    """Return a disk with a port; `plug` puts a stick in."""
    return cast("Disk", _Ports(own))


def plug(disk: Disk, stick: Disk | None) -> None:
    """Plug a stick into a machine, or pull it out with None."""
    cast("Any", disk).stick = stick


class FusedDisk(RealDisk):
    """The real file system under a process that dies at a chosen call that changes something."""

    def __init__(self) -> None:
        self.fuse: int | None = None
        self.calls = 0

    def burn(self) -> None:
        """Count one call."""
        self.calls += 1
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise PowerCut("the base died")

    def create(self, path: Path, mode: int = 0o600) -> Any:
        """Create."""
        self.burn()
        return super().create(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        """Rename."""
        self.burn()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        """Unlink."""
        self.burn()
        super().unlink(path)

    def fsync_dir(self, path: Path) -> None:
        """Sync a folder."""
        self.burn()
        super().fsync_dir(path)


def new_stick(seed: int, capacity: int = 1 << 40) -> SimDisk:
    """Return an empty stick, mounted at `MOUNT` wherever it is plugged in."""
    stick = SimDisk(seed, capacity)
    stick.mkdir(MOUNT)
    stick.flush()
    return stick
