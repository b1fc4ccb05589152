"""Device homes with real signed bundles, made by the real commands, for the benches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
PASSPHRASE = "bench"


def environment(home: Path | None = None) -> dict[str, str]:
    """What every process of a bench runs with: compiled modules may be cached, as on a device."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kept["EDGEPACK_PASSPHRASE"] = PASSPHRASE
    if home is not None:
        kept["EDGEPACK_HOME"] = str(home)
    return kept


def edgepack(*words: object, cwd: Path | None = None) -> dict:
    """Run a command of the base; returns its JSON."""
    return _run("edgepack", words, environment(), cwd)


def device(home: Path, *words: object) -> dict:
    """Run a command of the device; returns its JSON."""
    return _run("edgepack-device", words, environment(home), None)


def _run(program: str, words: tuple, env: dict[str, str], cwd: Path | None) -> dict:
    command = [str(BIN / program), *map(str, words), "--json"]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout} {done.stderr}")
    return json.loads(done.stdout)


def workspace(folder: Path) -> Path:
    """Make a workspace with the recipe of the flights."""
    edgepack("init", folder, "--from", "flight-delays")
    return folder


def home_of(ws: Path, name: str, home: Path, candidate=None) -> Path:
    """Build, sign, and install a candidate (the newest of a recipe) into a new home."""
    if candidate is None:
        unsigned = edgepack("build", name, cwd=ws)["file"]
    else:
        from edgepack.packing.build import build
        from edgepack.workspace import Workspace

        unsigned = build(Workspace.find(ws), candidate).path
        recipe = ws / "bundles" / name  # a device is planned for a recipe
        recipe.mkdir()
        (recipe / "bundle.toml").write_text(f'name = "{name}"\n', encoding="utf-8")
    signed = edgepack("sign", unsigned, cwd=ws)["file"]
    edgepack("device", "new", f"on-{name}", "--bundle", name, cwd=ws)
    kit = ws / f"{name}.kit"
    words = edgepack("device", "kit", f"on-{name}", kit, cwd=ws)["words"]
    device(home, "init", kit, "--fingerprint", words)
    device(home, "install", signed)
    return home


def model_of(home: Path) -> Path:
    """Return the installed raw model."""
    (found,) = home.glob("slots/*/model.onnx")
    return found
