"""The terrain story by the commands of its README: one cover is unknown, a stick mends it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COVERS = (
    "cotton crop",
    "damp grey soil",
    "grey soil",
    "red soil",
    "vegetation stubble",
    "very damp grey soil",
)
BUDGET = 300


class Patrol:
    """A base, a stick and a device in one folder, driven by commands alone."""

    def __init__(self, folder: Path, unseen: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "EDGEPACK_PASSPHRASE": "a valley",
            "EDGEPACK_HOME": str(folder / "device"),
        }
        self.base = folder / "valley"
        self.run("edgepack", "init", "valley", "--from", "terrain", cwd=folder)
        recipe = self.base / "bundles" / "terrain" / "recipe.py"
        text = recipe.read_text(encoding="utf-8")
        recipe.write_text(re.sub(r'UNSEEN = ".*?"', f'UNSEEN = "{unseen}"', text), encoding="utf-8")

    def run(self, program, *words, cwd=None, fails=False):
        """Run a command with --json; return its object."""
        command = [sys.executable, "-m", program, *map(str, words), "--json"]
        done = subprocess.run(
            command,
            cwd=cwd or self.base,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert fails or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def on_base(self, *words, **more):
        return self.run("edgepack", *words, **more)

    def on_device(self, *words):
        return self.run("device_runtime", *words)

    def nature(self, *words):
        """Run the recipe's own script; return what it prints."""
        script = self.base / "bundles" / "terrain" / "patrol.py"
        done = subprocess.run(
            [sys.executable, script, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def accuracy(self, area: str) -> tuple[float, dict[str, int]]:
        """Let the device answer an area; return accuracy and its counts."""
        rows, answers = self.folder / f"{area}.csv", self.folder / "answers.csv"
        self.nature("rows", "--area", area, "--out", rows)
        said = self.on_device("predict", rows, "--out", answers)
        found = self.nature("score", "--area", area, "--answers", answers)
        return float(found.split()[1]), said

    def ship(self) -> None:
        """Pack, sign, carry."""
        self.on_base("build")
        self.on_base("sign")
        self.on_base("sync", self.folder / "stick")

    def enrol(self) -> None:
        """Make the device."""
        self.on_base("device", "new", "patrol-1", "--bundle", "terrain")
        kit = self.on_base("device", "kit", "patrol-1", self.folder / "patrol-1.kit")
        self.on_device("init", kit["kit"], "--fingerprint", kit["words"])


def loop(folder: Path, unseen: str) -> tuple[float, float, bool]:
    """Play the story.

    Returns:
        Accuracy on the same held-out pixels before and after, and whether `retrain` proposed.
    """
    patrol = Patrol(folder, unseen)
    (folder / "stick").mkdir()
    patrol.on_base("train")
    patrol.enrol()
    patrol.ship()
    patrol.on_device("sync", folder / "stick")
    _, said = patrol.accuracy("patrol")
    assert said["abstained"] > 0
    patrol.on_device("sync", folder / "stick")
    home = patrol.on_base("sync", folder / "stick", "--accept", "patrol-1")
    assert home["imported"] == said["rows"]
    queue = patrol.on_base("label", "queue", "-n", BUDGET, "-o", folder / "queue.csv")
    assert queue["rows"] == BUDGET
    patrol.nature("truth", "--queue", folder / "queue.csv", "--out", folder / "truth.csv")
    labels = patrol.on_base("label", "import", folder / "truth.csv")
    assert labels["matched"] == BUDGET
    proposal = patrol.on_base("retrain", "terrain", fails=True)
    proposed = "gain" in proposal
    if proposed:
        assert proposal["interval"][0] > 0
        patrol.on_base("retrain", "terrain", "--accept")
        patrol.ship()
    else:
        assert "is not better" in proposal["error"]["what"]
    before, _ = patrol.accuracy("test")
    patrol.on_device("sync", folder / "stick")
    after, _ = patrol.accuracy("test")
    return before, after, proposed


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_cover_that_training_never_saw_is_learnt_by_stick(tmp_path):
    before, after, proposed = loop(tmp_path, "red soil")
    assert proposed
    assert before < 0.7
    assert after > before + 0.15


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_each_cover_is_learnt_by_stick_or_not_proposed(tmp_path):
    """Where the evidence is too thin nothing is proposed; what is proposed is better elsewhere."""
    found = {}
    for unseen in COVERS:
        (tmp_path / unseen).mkdir()
        found[unseen] = before, after, proposed = loop(tmp_path / unseen, unseen)
        print(f"{unseen}: {before:.3f} -> {after:.3f}" + ("" if proposed else " (not proposed)"))
    assert all(after > before for before, after, proposed in found.values() if proposed)
    assert sum(proposed for _, _, proposed in found.values()) >= 3
