"""The house: documents say what the code says, and the device stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from edgepack import recipe_fields
from edgepack.cli.app import app, run

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


def commands(group, path=()):
    """Yield the words of every command of `edgepack`, and what each takes."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_of_the_base_says_what_it_takes_and_speaks_json(monkeypatch, capsys):
    for words, command in commands(get_command(app)):
        assert "--json" in {option for taken in command.params for option in taken.opts}, words
        monkeypatch.setattr(sys, "argv", ["edgepack", *words, "--help"])
        assert run() == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"Usage: edgepack {' '.join(words)} ")
        assert said.err == ""


@pytest.mark.parametrize(
    "words", [["trian"], ["init"], ["sim", "--seed", "x"], ["train", "--fast"], ["device"]]
)
def test_a_command_line_that_makes_no_sense_is_one_line_or_one_object(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["edgepack", *words])
    assert run() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error [usage]: ")
    assert said.err.count("\n") == 1
    assert "see: edgepack" in said.err
    monkeypatch.setattr(sys, "argv", ["edgepack", *words, "--json"])
    assert run() == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "usage"
    assert said.err == ""


def test_every_field_of_a_recipe_is_in_its_reference():
    text = (ROOT / "docs" / "RECIPE.md").read_text(encoding="utf-8")
    for table, fields in recipe_fields.FIELDS.items():
        assert not table or f"[{table}]" in text
        missing = [name for name in fields if name != "*" and f"`{name}`" not in text]
        assert not missing, (table, missing)
