"""Training and conversion.

`convert.parity_s`   the parity gate of flight-delays on 50,000 held-out rows and the hostile ones
`convert.rf500_s`    a forest of 500 full trees: conversion and gate
`latency.<recipe>`   one row through the device's session ÷ through scikit-learn's predict
`train.flights_s`    `edgepack train --until 2013-03-01`, the whole process
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPES = ("flight-delays", "terrain", "weekly-gasoline", "recommendations")
ROUNDS = 201


def run(record: Callable[..., None]) -> None:
    """Measure everything of this area."""
    from edgepack.threads import calm

    calm()
    parity(record)
    forest(record)
    for name in RECIPES:
        latency(record, name)
    command(record)


def parity(record: Callable[..., None]) -> None:
    """The gate alone, after the model was fitted."""
    from edgepack.convert.prove import prove
    from edgepack.recipe import load_recipe
    from edgepack.tables import read_table
    from edgepack.train.fit import fit

    recipe = load_recipe(ROOT / "bundles" / "flight-delays")
    train = read_table(recipe, "2013-03-01")
    held = read_table(recipe, "2013-06-01", "2013-03-01").head(50_000)
    fitted = fit(recipe, train)
    begun = time.perf_counter()
    proven = prove(fitted, train, held)
    took = time.perf_counter() - begun
    record("convert.parity_s", took, "s", limit=10, n=proven.report.rows + proven.report.hostile)


def forest(record: Callable[..., None]) -> None:
    """Five hundred full trees on the terrain's windows."""
    from sklearn.ensemble import RandomForestClassifier

    from edgepack.convert.prove import prove
    from edgepack.fitted import Fitted, names_of
    from edgepack.recipe import load_recipe
    from edgepack.tables import inputs_of, read_table

    recipe = load_recipe(ROOT / "bundles" / "terrain")
    frame = read_table(recipe)
    inputs = tuple(inputs_of(recipe, frame))
    held = frame.tail(300).reset_index(drop=True)
    model = RandomForestClassifier(500, random_state=0, n_jobs=2)
    model.fit(frame[list(inputs)], frame["terrain"].to_numpy())
    fitted = Fitted(recipe, model, inputs, names_of(recipe, model), 0, len(frame))
    begun = time.perf_counter()
    prove(fitted, frame, held)
    record("convert.rf500_s", time.perf_counter() - begun, "s", limit=15, n=len(frame))


def latency(record: Callable[..., None], name: str) -> None:
    """One row, warm, interleaved; medians."""
    from device_runtime.model.session import open_session
    from edgepack.convert.export import export
    from edgepack.convert.families import number_types
    from edgepack.convert.feed import batch_of
    from edgepack.fitted import estimator_rows, scores_of
    from edgepack.recipe import load_recipe
    from edgepack.tables import read_table
    from edgepack.train.fit import fit

    recipe = load_recipe(ROOT / "bundles" / name)
    frame = read_table(recipe, "2013-03-01" if name == "flight-delays" else None)
    fitted = fit(recipe, frame)
    dtypes = {frame[column].dtype.name for column in fitted.inputs}
    numbers = number_types(fitted.estimator, dtypes - {"object"})[0]
    made = export(fitted, frame, numbers=numbers)
    session = open_session(made.model, made.schema)
    one = frame.head(1)
    batch, rows = batch_of(made.schema, one), estimator_rows(one, fitted.inputs)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS if name != "flight-delays" else 51):
        ours.append(_timed(lambda: session.run(batch)))
        theirs.append(_timed(lambda: scores_of(fitted.estimator, recipe.task, rows)))
    mine, base = statistics.median(ours), statistics.median(theirs)
    record(f"latency.{name}", mine / base, "ratio", ours=mine, baseline=base, n=len(ours))


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def command(record: Callable[..., None]) -> None:
    """The command that a user types."""
    folder = Path(tempfile.mkdtemp(prefix="edgepack-bench-"))
    environment = {**os.environ, "EDGEPACK_PASSPHRASE": "bench"}
    program = [sys.executable, "-m", "edgepack"]
    try:
        made = [*program, "init", str(folder / "ws"), "--from", "flight-delays"]
        subprocess.run(made, check=True, env=environment, stdout=subprocess.DEVNULL)
        train = [*program, "train", "--until", "2013-03-01", "-C", str(folder / "ws")]
        begun = time.perf_counter()
        subprocess.run(train, check=True, env=environment, stdout=subprocess.DEVNULL)
        record("train.flights_s", time.perf_counter() - begun, "s", n=50_009)
    finally:
        shutil.rmtree(folder)
