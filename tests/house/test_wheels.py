"""The two wheels hold exactly what they should."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    for project in (ROOT / "device_runtime", ROOT):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
            cwd=project,
            check=True,
            capture_output=True,
        )
    return {path.name.split("-")[0]: zipfile.ZipFile(path).namelist() for path in out.glob("*.whl")}


def sources(folder: str) -> set[str]:
    """Return the files of a folder; a copy without history has no git to ask."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_device_wheel_holds_every_module_and_system_file_and_nothing_else(wheels):
    names = {n for n in wheels["edgepack_device"] if ".dist-info/" not in n}
    present = {
        n for n in names if not (n.startswith("device_runtime/") and not (ROOT / n).exists())
    }
    assert names == present
    missing = {n for n in sources("device_runtime") if not n.endswith("pyproject.toml")} - names
    assert not missing
    assert not any(n.startswith("edgepack/") for n in names)


def test_the_base_wheel_holds_every_module_and_the_recipes_without_golden_files(wheels):
    names = {n for n in wheels["edgepack"] if ".dist-info/" not in n}
    assert not sources("edgepack") - names
    assert "edgepack/bundles/flight-delays/bundle.toml" in names
    assert "edgepack/bundles/flight-delays/data/flights.parquet" in names
    recipes = {n for n in sources("bundles") if not n.startswith("bundles/golden/")}
    assert not {f"edgepack/{n}" for n in recipes} - names
    assert not any("golden" in n for n in names)
    assert not any(n.startswith("device_runtime/") for n in names)
