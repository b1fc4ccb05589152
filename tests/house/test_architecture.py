"""docs/ARCHITECTURE.md is the map: it names every room and every document, and no other."""

from __future__ import annotations

import re
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
