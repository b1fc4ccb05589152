"""Writes the systemd units and the udev rule for one device."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from device_runtime.disk import Disk, write_durable
from device_runtime.errors import InputError

UNITS = (
    "edgepack-device@.service",
    "edgepack-stick@.service",
    "90-edgepack.rules",
    "edgepack.sysusers",
)
NEXT = """next, as root:
  cp *.service /etc/systemd/system/ && cp 90-edgepack.rules /etc/udev/rules.d/
  cp edgepack.sysusers /etc/sysusers.d/edgepack.conf && systemd-sysusers
  systemctl daemon-reload && udevadm control --reload && systemctl enable --now edgepack-device@NAME
The home must lie in /var/lib/edgepack/NAME and belong to the user edgepack."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def write(folder: Path, home: Path, disk: Disk) -> list[Path]:
    """Write the units for the device whose home has this name; return the files.

    Raises:
        InputError: The home's folder name cannot be an instance of a unit.
    """
    if not _NAME.fullmatch(home.name):
        raise InputError(
            f"{home.name!r} cannot name a systemd unit",
            next="let the home's folder have a name of letters, digits, - and _",
        )
    values = {
        "@EXEC@": command(),
        "@NAME@": home.name,
        "@MOUNT@": shutil.which("mount") or "/usr/bin/mount",
        "@UMOUNT@": shutil.which("umount") or "/usr/bin/umount",
    }
    disk.mkdir(folder)
    written = []
    for name in UNITS:
        text = files("device_runtime").joinpath("files", name).read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(key, value)
        write_durable(disk, folder / name, text.encode(), 0o644)
        written.append(folder / name)
    return written


def command() -> str:
    """Return how `edgepack-device` was called; a link to the newest environment stays a link."""
    called = Path(sys.argv[0]).absolute()
    found = called.name == "edgepack-device"
    return str(called) if found else f"{sys.executable} -m device_runtime"
