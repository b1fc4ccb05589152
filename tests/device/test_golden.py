"""A bundle that was signed once runs for ever: today's code reads every file of its payload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import devicelab
from support.golden_devices import BUNDLE, EXPECTED, KIT, ROWS, answered

FOLDER = Path(__file__).parents[2] / "bundles" / "golden" / "devices"


def parted(line: str) -> tuple[list[str], list[float]]:
    """Return an answer's texts and probabilities; the last digits are the processor's."""
    cells = line.split(",")
    if cells[0] == "id":
        return cells, []
    return [*cells[:2], cells[-1]], [float(cell) for cell in cells[2:-1]]


def test_the_golden_device_is_set_up_installs_and_answers_as_it_did(tmp_path):
    expected = json.loads((FOLDER / EXPECTED).read_text())
    home = tmp_path / "home"
    done = devicelab.run(home, "init", FOLDER / KIT, "--fingerprint", expected["words"])
    assert done.returncode == 0, done.stderr
    done = devicelab.run(home, "install", FOLDER / BUNDLE)
    assert done.returncode == 0, done.stderr

    found, wanted = (
        list(map(parted, rows)) for rows in (answered(home, FOLDER / ROWS), expected["answers"])
    )
    assert [texts for texts, _ in found] == [texts for texts, _ in wanted]
    for (texts, numbers), (_, known) in zip(found, wanted, strict=True):
        assert numbers == pytest.approx(known, rel=1e-5), texts
    assert {"ok", "abstained", "unlike+abstained"} <= {texts[-1] for texts, _ in wanted}

    status = json.loads(devicelab.run(home, "status", "--json").stdout)
    assert status["bundle"]["version"] == 1
    assert status["sentinel"]["rows"] == 64
