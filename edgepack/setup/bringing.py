"""`init --model M --samples F`: write a recipe around a trained model by looking at both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.candidate.given import EXPECTED
from edgepack.convert.foreign import look, read_onnx
from edgepack.convert.loading import RISK, check_fitted, kind_of, load_estimator, onnx_file
from edgepack.errors import ConversionError
from edgepack.fitted import class_text
from edgepack.recipe import FILE
from edgepack.setup.starts import bundle_name, copy_folder, quoted
from edgepack.tables import read_files

if TYPE_CHECKING:
    import pandas as pd


def write_from_model(
    model: Path, samples: Path, folder: Path, *, allow_pickle: bool
) -> tuple[str, ...]:
    """Copy model and samples into a recipe folder and write its bundle.toml.

    Returns:
        Notes for the person.

    Raises:
        ConversionError: The model cannot be loaded, or may not be.
        DataError: The samples cannot be read.
    """
    kind = kind_of(model)
    frame = read_files([samples])
    notes = ["bundle.toml was written by looking at model and samples: read it before training"]
    io: list[str] = []
    if kind in ("onnx", "mlflow"):
        task, columns, io = _look_onnx(onnx_file(model).read_bytes(), frame)
    else:
        estimator = load_estimator(model, allow_pickle=allow_pickle)
        task, columns = _look_estimator(estimator, frame)
        if kind == "pickle":
            notes.append(RISK)
            io = ["allow_pickle = true                 # " + RISK]
    folder.mkdir(parents=True)
    if model.is_dir():
        copy_folder(model, folder / model.name)
    else:
        shutil.copy(model, folder / model.name)
    shutil.copy(samples, folder / samples.name)
    lines = [
        f'name = "{bundle_name(model.stem)}"',
        f'task = "{task}"',
        'class = "field"',
        f"model = {quoted(model.name)}",
        f"samples = {quoted(samples.name)}            # real rows: parity, profile, self-test",
        "",
        "[columns]",
        '# key = "…"                        # your own id of a row: labels may come by it',
        '# time = "…"                       # when a row happened',
        '# target = "…"                     # where the samples know the truth',
        "inputs = [",
        *(f"  {quoted(name)}," for name in columns),
        "]",
        "",
        *(["[model_io]", *io, ""] if io else []),
    ]
    (folder / FILE).write_text("\n".join(lines), encoding="utf-8")
    return tuple(notes)


def _look_estimator(estimator: Any, frame: pd.DataFrame) -> tuple[str, list[str]]:
    check_fitted(estimator, "the file")
    named = getattr(estimator, "feature_names_in_", None)
    there = [str(name) for name in frame.columns if not str(name).startswith(EXPECTED)]
    if named is not None:
        blanks = {name.replace(" ", "_"): name for name in there}  # as LightGBM writes them
        columns = [
            str(name) if str(name) in there else blanks.get(str(name), str(name)) for name in named
        ]
    else:
        count = int(getattr(estimator, "n_features_in_", len(there)))
        columns = there[:count]
    missing = [name for name in columns if name not in there]
    if missing:
        raise ConversionError(
            f"the model wants columns that the samples lack: {', '.join(missing[:8])}",
            next=f"the samples have: {', '.join(there[:12])}",
        )
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        return "labels", columns
    if classes is not None:
        return ("binary" if len(classes) == 2 else "classes"), columns
    kind = getattr(estimator, "_estimator_type", None)
    return ("scores" if kind in ("outlier_detector", "clusterer") else "regression"), columns


def _look_onnx(data: bytes, frame: pd.DataFrame) -> tuple[str, list[str], list[str]]:
    _, facts = read_onnx(data)
    there = [str(name) for name in frame.columns if not str(name).startswith(EXPECTED)]
    names = [item.name for item in facts.inputs]
    if len(names) > 1 and set(names) <= set(there):
        columns = names
    elif len(names) == 1 and facts.inputs[0].shape is not None and len(facts.inputs[0].shape) == 2:
        width = facts.inputs[0].shape[1]
        columns = there[:width] if width > 0 else there
    else:
        columns = there
    guess = look(facts, columns, {})
    width = guess.width
    if guess.label is None:
        task = "regression"
    elif width == 2:
        task = "binary"
    else:
        task = "classes"
    io = []
    if guess.label:
        io.append(f"label = {quoted(guess.label)}")
    if guess.scores:
        key = "probabilities" if guess.label else "scores"
        io.append(f"{key} = {quoted(guess.scores)}")
    seen = _seen_classes(frame, width) if task in ("binary", "classes") else []
    if seen:
        io.append(f"classes = [{', '.join(quoted(item) for item in seen)}]")
    return task, columns, io


def _seen_classes(frame: pd.DataFrame, width: int) -> list[str]:
    label = f"{EXPECTED}label"
    if label in frame.columns:
        found = sorted({class_text(item) for item in frame[label].dropna()})
        if len(found) == width or width <= 0:
            return found
    named = [str(name).removeprefix(EXPECTED) for name in frame.columns]
    pairs = zip(named, frame.columns, strict=True)
    scored = [name for name, full in pairs if name not in (full, "label")]
    return scored if len(scored) == width else [str(index) for index in range(width)]
