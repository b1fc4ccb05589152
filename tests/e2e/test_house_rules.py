"""The house: documents say what the code says, and the device stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgepack import recipe_fields

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_errors_is_what_the_classes_say():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "error_table.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_has_help_and_no_command_prints_a_traceback():
    for program in ("edgepack", "edgepack-device"):
        path = Path(sys.executable).parent / program
        for words in (["--help"], ["no-such-command"]):
            done = subprocess.run([path, *words], capture_output=True, text=True, check=False)
            assert "Traceback" not in done.stdout + done.stderr
            assert done.returncode == (0 if words == ["--help"] else 2)


def test_every_field_of_a_recipe_is_in_its_reference():
    text = (ROOT / "docs" / "RECIPE.md").read_text(encoding="utf-8")
    for table, fields in recipe_fields.FIELDS.items():
        assert not table or f"[{table}]" in text
        missing = [name for name in fields if name != "*" and f"`{name}`" not in text]
        assert not missing, (table, missing)
