"""Where a model comes from: recipe, rows, seed, packages, parent. Enough to make it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format import canonical
from edgepack.fitted import flat, is_tensor
from edgepack.recipe import CODE, FILE, Recipe

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = (
    "edgepack",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "skl2onnx",
    "onnx",
    "onnxruntime",
    "lightgbm",
    "onnxmltools",
    "xgboost",
    "xgboost-cpu",
)


def packages() -> dict[str, str]:
    """Return the versions of the packages that training and conversion depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_files(recipe: Recipe) -> dict[str, str]:
    """Return name → digest of what makes the recipe: bundle.toml, recipe.py, the model file."""
    names = [FILE, CODE, *([recipe.model] if recipe.model else [])]
    paths = {name: recipe.folder / name for name in names}
    return {name: file_digest(path) for name, path in paths.items() if path.is_file()}


def rows_digest(frame: pd.DataFrame) -> str:
    """Return a hex SHA-256 over every value of a frame, in its order; the same on any machine."""
    import pandas as pd

    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(f"{name}\0{column.dtype}\0{len(column)}\0".encode())
        if is_tensor(column):
            digest.update(np.ascontiguousarray(flat(column)).tobytes())
        elif column.dtype == object:
            codes, words = pd.factorize(column.map(_plain_text), use_na_sentinel=True)
            digest.update(np.ascontiguousarray(codes, "<i8").tobytes())
            digest.update(canonical.encode([str(word) for word in words]))
        elif isinstance(column.dtype, pd.DatetimeTZDtype):
            digest.update(column.to_numpy("datetime64[us]").astype("<i8").tobytes())
        elif column.dtype.kind == "M":
            digest.update(column.to_numpy().astype("datetime64[us]").astype("<i8").tobytes())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return digest.hexdigest()


def _plain_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else repr(value)


def describe(
    recipe: Recipe,
    frame: pd.DataFrame,
    *,
    kind: str,
    seed: int,
    until: Any,
    parent: str | None,
    model: bytes,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return lineage.json of a candidate; no time of day in it, so that it comes out the same.

    Args:
        recipe: What it was made by.
        frame: All rows that taught or measured it.
        kind: `train`, `retrain` or `given`.
        seed: Of every random choice.
        until: Cut that was asked for, or None.
        parent: Digest of the bundle that it shall replace.
        model: ONNX bytes.
        extra: What a caller knows beside: sources of returned rows, the champion's figures.
    """
    newest = None
    data: dict[str, Any] = {"rows": len(frame), "sha256": rows_digest(frame)}
    if recipe.time and recipe.time in frame.columns and len(frame):
        data["first"] = str(frame[recipe.time].min())
        data["last"] = newest = str(frame[recipe.time].max())
    return {
        "format": "edgepack-lineage",
        "version": 1,
        "name": recipe.name,
        "kind": kind,
        "recipe": recipe_files(recipe),
        "data": data,
        "original_until": None if until is None else str(until),
        "trained_until": newest,
        "seed": seed,
        "packages": packages(),
        "parent": parent,
        "model_sha256": hashlib.sha256(model).hexdigest(),
        **(extra or {}),
    }
