"""How a recipe begins: copied from one that comes along, or written by looking at data."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.errors import DataError, RecipeError
from edgepack.recipe import FILE

if TYPE_CHECKING:
    import pandas as pd


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder without caches and hidden files; the first failure is raised as it is.

    `shutil.copytree` collects failures into one error that no longer says that the disk is full.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)


@dataclass(frozen=True, slots=True)
class Story:
    """A recipe that comes along.

    Attributes:
        name: Of the recipe.
        folder: Where it lies.
        task: Kind of answer.
        description: One sentence.
    """

    name: str
    folder: Path
    task: str
    description: str


def shelf() -> Path:
    """Return the folder of recipes that came with this installation.

    Raises:
        RecipeError: There is none.
    """
    installed = Path(str(importlib.resources.files("edgepack"))) / "bundles"
    repository = installed.parent.parent / "bundles"
    for folder in (installed, repository):
        if folder.is_dir():
            return folder
    raise RecipeError("this installation has no recipes", next="install edgepack again")


def stories() -> list[Story]:
    """Return the recipes that come along, by name."""
    found = []
    folder = shelf()
    for path in sorted(folder.glob(f"*/{FILE}")):
        value = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append(
            Story(path.parent.name, path.parent, value["task"], value.get("description", ""))
        )
    return found


def copy_story(name: str, target: Path) -> None:
    """Copy a whole recipe folder.

    Raises:
        RecipeError: There is no such recipe.
    """
    known = {story.name: story for story in stories()}
    if name not in known:
        raise RecipeError(
            f"there is no recipe {name}", next=f"there are: {', '.join(known) or 'none'}"
        )
    copy_folder(known[name].folder, target)


def bundle_name(text: str) -> str:
    """Return a valid bundle name made of any text."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64].strip("-")
    return plain or "model"


# --- from data ---------------------------------------------------------------------------------


def write_from_data(data: Path, target: str, folder: Path) -> None:
    """Write bundle.toml and recipe.py by looking at a table.

    Raises:
        DataError: The file cannot be read, or has no such column.
    """
    from edgepack.tables import read_files

    frame = read_files([data])
    if target not in frame.columns:
        raise DataError(
            f"{data} has no column {target}", next=f"it has: {', '.join(map(str, frame.columns))}"
        )
    task = _task(frame[target])
    time = _time_column(frame, target)
    key = _key_column(frame, target, time)
    inputs = [str(c) for c in frame.columns if c not in (target, time, key)]
    inputs = [
        name for name in inputs if frame[name].dtype.kind != "M" and frame[name].notna().any()
    ]
    if not inputs:
        raise DataError(f"{data} has no column that could be an input beside {target}")
    (folder / "data").mkdir(parents=True)
    shutil.copy(data, folder / "data" / data.name)
    lines = [
        f'name = "{bundle_name(data.stem)}"',
        f'task = "{task}"',
        'class = "field"',
        f'data = "data/{data.name}"',
        "",
        "[columns]                           # correct what was guessed wrongly",
        f"target = {quoted(target)}",
        *([f"time = {quoted(time)}"] if time else ["# time = …  # none found: split by order"]),
        *([f"key = {quoted(key)}"] if key else []),
        "forbidden = []                      # columns that know the answer: never an input",
        "inputs = [",
        *(f"  {quoted(name)}," for name in inputs),
        "]",
        "",
    ]
    (folder / FILE).write_text("\n".join(lines), encoding="utf-8")
    (folder / "recipe.py").write_text(_RECIPE[task == "regression"], encoding="utf-8")


def _task(values: pd.Series[Any]) -> str:
    distinct = values.nunique()
    if distinct == 2:
        return "binary"
    if values.dtype.kind == "f" or (values.dtype.kind in "iu" and distinct > 20):
        return "regression"
    return "classes"


def _time_column(frame: pd.DataFrame, target: str) -> str | None:
    import warnings

    import pandas as pd

    for name in frame.columns:
        if name != target and frame[name].dtype.kind == "M":
            return str(name)
    for name in frame.columns:
        if name == target or frame[name].dtype.kind not in "OTU" or not len(frame):
            continue
        sample = frame[name].dropna().head(50)
        if (
            not len(sample)
            or not sample.map(lambda x: isinstance(x, str) and x[:1].isdigit()).all()
        ):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pd.to_datetime(sample)
        except (ValueError, TypeError):
            continue
        return str(name)
    return None


def _key_column(frame: pd.DataFrame, target: str, time: str | None) -> str | None:
    for name in frame.columns:
        if name in (target, time):
            continue
        words = re.split(r"[^a-z]+", str(name).lower())
        if {"id", "key", "serial", "uuid"} & set(words) and frame[name].is_unique:
            return str(name)
    return None


def quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_HEAD = '''"""Everything that a device must do to a row is inside the model."""

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoosting{kind}
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder


def model(seed: int) -> Pipeline:
    """Unfitted pipeline over the raw input columns; all of it becomes ONNX."""
    unseen = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    text = make_column_selector(dtype_include=["object", "string"])
    return make_pipeline(
        make_column_transformer((unseen, text), remainder="passthrough"),
        HistGradientBoosting{kind}(early_stopping=False, random_state=seed),
    )
'''
_RECIPE = (_HEAD.format(kind="Classifier"), _HEAD.format(kind="Regressor"))
