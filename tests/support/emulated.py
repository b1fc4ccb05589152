"""A device of another processor: Debian's Python and the locked wheels for aarch64, under qemu.

Nothing is installed on this machine and no root is needed: apt works on folders of its own, the
packages are only unpacked, and a two-line script stands where the interpreter of a venv would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
QEMU = "qemu-aarch64-static"
PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1",
    "libstdc++6", "libssl3", "libffi8", "zlib1g", "libexpat1", "libbz2-1.0", "liblzma5", "libuuid1",
    "libcrypt1",
)  # fmt: skip
CORTEX_A72 = """BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


class NotToBeHadError(Exception):
    """Why there is no such device here."""


def device(folder: Path) -> Path:
    """Make the device's environment (kept for the next time); return its Python.

    Raises:
        NotToBeHadError: qemu, apt or the packages are not to be had on this machine.
    """
    for tool in (QEMU, "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NotToBeHadError(f"{tool} is not installed: make system-deps")
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        root = folder / "root"
        _debian(folder / "apt", root)
        # onnxruntime asks /proc/cpuinfo, where qemu shows the host's, and dies of what it finds.
        (root / "proc").mkdir()
        cores = [f"processor\t: {core}\n{CORTEX_A72}\n" for core in range(os.cpu_count() or 1)]
        (root / "proc" / "cpuinfo").write_text("".join(cores))
        _wheels(folder)
        (folder / "venv" / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\n")
        python.parent.mkdir()
        script = f'#!/bin/sh\nexec {QEMU} -L {root} -0 "$0" {root}/usr/bin/python3.11 "$@"\n'
        python.write_text(script)
        python.chmod(0o755)
        _said(python, "-c", "import platform; assert platform.machine() == 'aarch64'")
    site = folder / "venv" / "lib" / "python3.11" / "site-packages"
    shutil.rmtree(site / "device_runtime", ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "device_runtime", site / "device_runtime", ignore=ignore)
    return python


def _debian(apt: Path, root: Path) -> None:
    """Unpack the interpreter and its libraries."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    options = {
        "Dir::State::Lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache", "APT::Architecture": "arm64", "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _said("apt-get", *words, "-qq", "update")
    _said("apt-get", *words, "-qq", "download", *PACKAGES, cwd=apt / "debs")
    for package in sorted((apt / "debs").glob("*.deb")):
        _said("dpkg-deb", "-x", package, root)


def _wheels(folder: Path) -> None:
    """Unpack the locked wheels of a device for that processor."""
    shutil.rmtree(folder / "venv", ignore_errors=True)
    site = folder / "venv" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    _said(
        Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--require-hashes",
        "--only-binary", ":all:", "--python-platform", "aarch64-manylinux_2_28",
        "--python-version", "3.11", "--target", site,
        "-r", REPOSITORY / "requirements" / "device.txt",
    )  # fmt: skip


def _said(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command; whatever it cannot get, this machine has not."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotToBeHadError(f"{' '.join(words)[:200]}: {done.stderr.strip()[-400:]}")
    return done.stdout
