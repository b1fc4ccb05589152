"""Small workspaces with small recipes: every test trains something real in well under a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from edgepack.workspace import Workspace
from support.given import INPUTS
from support.tables import table

TOML = """\
name = "{name}"
task = "{task}"
data = "data.parquet"

[columns]
target = "{target}"
time = "time"
inputs = [{inputs}]
"""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """An empty workspace without keys: training needs none."""
    return Workspace.create(tmp_path / "ws")


Make = Callable[..., Path]


@pytest.fixture
def recipe_folder(ws: Workspace) -> Make:
    """Return a function that writes a recipe and its data, and returns its folder."""

    def make(
        code: str,
        *,
        task: str = "binary",
        target: str = "y",
        inputs: tuple[str, ...] = ("a", "b", "n"),
        extra: str = "",
        frame: pd.DataFrame | None = None,
        name: str = "thing",
    ) -> Path:
        folder = ws.recipes / name
        folder.mkdir(parents=True, exist_ok=True)
        listed = ", ".join(f'"{item}"' for item in inputs)
        text = TOML.format(name=name, task=task, target=target, inputs=listed) + extra
        (folder / "bundle.toml").write_text(text)
        (folder / "recipe.py").write_text(code)
        (table() if frame is None else frame).to_parquet(folder / "data.parquet")
        return folder

    return make


LOGISTIC = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def model(seed):
    return make_pipeline(StandardScaler(), LogisticRegression())
"""


@pytest.fixture
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the keys of a new workspace their passphrase."""
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "open sesame")


@pytest.fixture(scope="module")
def fitted() -> Pipeline:
    """Return a pipeline that somebody has fitted before."""
    frame = table()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(frame[INPUTS], frame["y"])


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Return a file of rows for such a model, without the truth."""
    path = tmp_path / "samples.csv"
    table()[INPUTS].to_csv(path, index=False)
    return path


@pytest.fixture
def logistic() -> str:
    """Code of the quickest recipe."""
    return LOGISTIC
