"""The README's commands do what stands there, typed as they stand in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.system
def test_every_command_of_the_readme_prints_what_stands_there():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "readme.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_document_that_the_readme_names_exists():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / path).exists(), path


def test_the_readme_does_not_hide_what_edgepack_is_not():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for word in ("GPU", "Linux only", "language models", "HSM", "not encrypted"):
        assert word in text
