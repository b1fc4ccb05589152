"""Install the built wheels in a fresh environment outside the repository and look.

`device`: the device wheel alone pulls only what it may, and its command runs without `edgepack`.
`base`: both wheels at the locked versions; `recipes` and `demo` work in an empty folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "edgepack-device", "numpy", "onnxruntime", "cryptography", "tuf", "securesystemslib",
    "cffi", "pycparser",                       # cryptography's
    "flatbuffers", "packaging", "protobuf",    # onnxruntime's
    "urllib3",                                 # tuf's
}  # fmt: skip
LIST = """
import importlib.metadata, json
print(json.dumps([item.metadata["Name"] for item in importlib.metadata.distributions()]))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the repository; its failure is ours."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EDGEPACK_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        check=False,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def environment(folder: Path, requirements: str, *wheels: str) -> Path:
    """Make an environment with pinned requirements and our wheels; return its bin folder."""
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    run(*install, "--require-hashes", "-r", ROOT / "requirements" / requirements, cwd=folder)
    files = [next((ROOT / "dist").glob(f"{wheel}-*.whl")) for wheel in wheels]
    run(*install, "--no-deps", *files, cwd=folder)
    run(uv, "pip", "check", "--python", python, cwd=folder)
    return python.parent


def check_device(folder: Path) -> None:
    """The device wheel alone."""
    programs = environment(folder, "device.txt", "edgepack_device")
    names = {
        str(name).lower() for name in json.loads(run(programs / "python", "-c", LIST, cwd=folder))
    }
    if surplus := names - ALLOWED:
        sys.exit(f"the device environment holds more than it may: {sorted(surplus)}")
    print(f"device wheel alone: {len(names)} distributions, all allowed")
    print(run(programs / "edgepack-device", "--version", cwd=folder).strip())
    done = subprocess.run(
        [programs / "python", "-c", "import edgepack"], cwd=folder, check=False, capture_output=True
    )
    if done.returncode == 0:
        sys.exit("the device environment can import edgepack")


def check_base(folder: Path) -> None:
    """Both wheels, away from the repository."""
    programs = environment(folder, "dev.txt", "edgepack_device", "edgepack")
    print(run(programs / "edgepack", "recipes", cwd=folder).strip())
    out = run(programs / "edgepack", "demo", "--dir", folder / "demo", cwd=folder)
    print("\n".join(out.strip().splitlines()[-12:]))


def main() -> int:
    """Check one of the two."""
    with tempfile.TemporaryDirectory(prefix="edgepack-wheels-") as name:
        {"device": check_device, "base": check_base}[sys.argv[1]](Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
