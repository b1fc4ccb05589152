"""docs/ARCHITECTURE.md names every room and document; docs/DEPENDENCIES.md all that is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
IN_EVERY_PACKAGE = {"__init__.py", "__main__.py", "_version.py"}


def rooms(package):
    folder = ROOT / package
    files = {path.name for path in folder.glob("*.py")} - IN_EVERY_PACKAGE
    return files | {
        f"{path.name}/" for path in folder.iterdir() if path.is_dir() and any(path.glob("*.*"))
    } - {"__pycache__/"}


def drawn(title):
    part = MAP.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"`([a-z_]+(?:\.py|/))`", part))


@pytest.mark.parametrize(
    ("package", "title"),
    [("device_runtime", "The device, floor by floor"), ("edgepack", "The base, floor by floor")],
)
def test_the_map_shows_every_room_and_no_other(package, title):
    assert drawn(title) == rooms(package)


def test_the_map_names_every_document():
    documents = {path.name for path in (ROOT / "docs").glob("*.md")} - {"ARCHITECTURE.md"}
    assert documents == set(re.findall(r"`([A-Z][A-Za-z-]+\.md)`", MAP))


def imported(package):
    """Return every module that a package imports and that is neither ours nor Python's."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"edgepack", "device_runtime"}


@pytest.mark.parametrize(
    ("package", "folder"), [("edgepack", "."), ("device_runtime", "device_runtime")]
)
def test_what_is_imported_is_declared_and_has_its_reason(package, folder):
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    wanted = [*project["dependencies"], *(item for extra in extras for item in extra)]
    declared = {re.match(r"[\w-]+", item).group().lower() for item in wanted}
    if package == "edgepack":
        declared |= {"cryptography", "tuf", "securesystemslib"}  # by way of edgepack-device
    names = packages_distributions()
    reasons = (ROOT / "docs/DEPENDENCIES.md").read_text()
    for module in sorted(imported(package)):
        known = {name.lower() for name in names.get(module, [module])}
        assert known & declared, module
        assert any(name in reasons for name in known & declared), module
