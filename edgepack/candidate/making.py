"""How a candidate is made: split, `measuring` (fit, prove, measure, fit on all), and its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.disk import write_durable
from device_runtime.errors import AdmissionError
from device_runtime.format import canonical, sketch
from device_runtime.format.batch import Answers, Batch
from device_runtime.format.columns import encode_columns
from device_runtime.format.schema import Schema, to_json
from device_runtime.model.graph import admit, inspect_graph
from device_runtime.model.unlike import FILE as UNLIKE
from device_runtime.slots.selftest import measure as measure_process
from edgepack.candidate import lineage as lineages
from edgepack.candidate.folder import ACCEPTED, FACTS, Candidate, load_candidate
from edgepack.candidate.measuring import Made, score_rows, train
from edgepack.candidate.reference import build_profile, build_unlike, rhythm
from edgepack.convert.feed import (
    Scored,
    batch_of,
    numpy_dtype,
)
from edgepack.convert.verdict import Report
from edgepack.errors import ConversionError
from edgepack.recipe import Recipe
from edgepack.train.fit import Split, split
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

SELFTEST_ROWS = 200
PROFILE_ROWS = 200_000  # a profile of more rows says no more


def make(
    ws: Workspace,
    recipe: Recipe,
    frame: pd.DataFrame,
    *,
    until: Any = None,
    parent: str | None = None,
    seed: int | None = None,
    kind: str = "train",
    holdout: pd.DataFrame | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Candidate:
    """Train on a frame and write a candidate.

    The model is measured on the newest rows that it was not trained on, then (unless `[training]
    refit = false`) fitted on all rows; that one is proven again and ships.

    Args:
        ws: Where to.
        recipe: What to train.
        frame: Rows as `tables.read_table` gives them.
        until: Cut that the rows came from, for the lineage.
        parent: Digest of the bundle that this one shall replace.
        seed: Other than the recipe's.
        kind: `train` (accepted at once) or `retrain` (accepted by a person).
        holdout: Rows to measure on; default: parted off `frame`. With it, `frame` has none of them.
        lineage: More entries for lineage.json.

    Raises:
        RecipeError, DataError, ConversionError, ParityError: As the steps say.
    """
    runtime = ws.device_class(recipe.device_class).onnxruntime
    parts = (
        split(recipe, frame) if holdout is None else Split(frame, holdout, "given by the caller")
    )
    whole = frame if holdout is None else _joined(parts)
    made = train(recipe, parts, whole, seed=seed, onnxruntime=runtime)
    story = lineages.describe(
        recipe,
        whole,
        kind=kind,
        seed=made.seed,
        until=until,
        parent=parent,
        model=made.proven.onnx.model,
        extra=lineage,
    )
    return write(ws, recipe, made, story, kind=kind)


def _joined(parts: Split) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([parts.train, parts.test], ignore_index=True)


# --- the folder --------------------------------------------------------------------------------


def write(
    ws: Workspace, recipe: Recipe, made: Made, story: Mapping[str, Any], *, kind: str
) -> Candidate:
    """Write the candidate's folder: first beside its place, then renamed into it."""
    onnx, report = made.proven.onnx, made.proven.report
    disk = ws.disk
    home = ws.candidates(recipe.name)
    disk.mkdir(home)
    number = 1 + max([int(item) for item in disk.list(home) if item.isdigit()], default=0)
    folder = home / f".{number}.part"
    disk.rmtree(folder)
    disk.mkdir(folder)
    try:
        files = payload(recipe, made, story)
        for name, data in files.items():
            write_durable(disk, folder / name, data, 0o644)
        facts = {
            "format": "edgepack-candidate",
            "version": 1,
            "name": recipe.name,
            "number": number,
            "kind": kind,
            "device_class": recipe.device_class,
            "rows": made.rows or len(made.train),
            "seed": made.seed,
            "split": made.how,
            "notes": [*made.notes, *report.notes],
            "numbers": onnx.numbers,
            "expires_s": recipe.expires_s,
            "description": recipe.description,
            "license": recipe.license,
            **process_facts(ws, recipe, folder, onnx.model, report),
            "lineage": lineages.file_digest(folder / "lineage.json"),
        }
        write_durable(disk, folder / FACTS, _pretty(facts), 0o644)
        if kind != "retrain":
            write_durable(disk, folder / ACCEPTED, b"", 0o644)
        disk.rename(folder, home / str(number))
        disk.fsync_dir(home)
    except BaseException:
        disk.rmtree(folder)
        raise
    return load_candidate(home / str(number))


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def payload(recipe: Recipe, made: Made, story: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a candidate but for candidate.json."""
    from edgepack.convert.page import parity_page

    onnx = made.proven.onnx
    schema = onnx.schema
    profile, unlike = reference(recipe, made)
    main = {"split": made.how, "refit": made.refit}
    return {
        "model.onnx": onnx.model,
        "schema.json": canonical.encode(to_json(schema)),
        "profile.json": canonical.encode(profile),
        **({UNLIKE: unlike} if unlike else {}),
        "selftest.cols": selftest_rows(onnx.model, schema, made.held),
        "metrics.json": _pretty({**made.metrics, **main}),
        "parity.json": _pretty(made.proven.report.as_json()),
        "parity.html": parity_page(recipe.name, made.proven.report).encode(),
        "lineage.json": canonical.encode(dict(story)),
    }


def answers_of(schema: Schema, scored: Scored) -> Answers:
    """Return scores as the device's `Answers`."""
    scores = scored.scores
    if scores is not None:
        scores = np.ascontiguousarray(scores, schema.output.scores_dtype)
    k = 0 if scores is None else scores.shape[1]
    return Answers(len(scored.label), scored.label, scores, k)


def reference(recipe: Recipe, made: Made) -> tuple[dict[str, Any], bytes]:
    """Return (profile.json, bytes of unlike.bin or empty).

    Inputs are counted over the rows that taught the model; predictions, confidence and rates over
    the held-out rows, because a model is too sure of rows that it learnt from.
    """
    onnx = made.proven.onnx
    schema = onnx.schema
    taught = made.train
    if len(taught) > PROFILE_ROWS:
        taught = taught.iloc[np.linspace(0, len(taught) - 1, PROFILE_ROWS).astype(int)]
    said = made.held_answers
    known = _same_answers(schema, said)
    held_answers = answers_of(schema, said) if known else None
    held = batch_of(schema, made.held)
    inputs = build_profile(schema, batch_of(schema, taught), None)
    answers = build_profile(schema, held, held_answers, rates=_rates(schema, said))
    beat: dict[str, float] = {}
    if recipe.time:
        beat |= _rhythm(schema, inputs, made.train, None)
        beat |= _rhythm(schema, replace(answers, columns=()), made.held, held_answers)
    whole = replace(
        inputs,
        prediction=answers.prediction,
        confidence=answers.confidence,
        rates=answers.rates,
        rhythm=beat,
    )
    unlike = b""
    if recipe.unlike_rows and held_answers is not None:
        taught_answers = answers_of(schema, score_rows(onnx.model, schema, taught))
        days = None
        if recipe.time:
            days = made.held[recipe.time].to_numpy("datetime64[D]").astype(np.int64)
        unlike, _ = build_unlike(
            schema,
            batch_of(schema, taught),
            taught_answers,
            held,
            held_answers,
            seed=made.seed,
            rows=recipe.unlike_rows,
            groups=days,
        )
    return sketch.to_json(whole), unlike


def _rhythm(
    schema: Schema, profile: sketch.Profile, frame: pd.DataFrame, answers: Answers | None
) -> dict[str, float]:
    def rows(start: int, stop: int) -> tuple[Batch, Answers | None]:
        batch = batch_of(schema, frame.iloc[start:stop])
        if answers is None:
            return batch, None
        scores = None if answers.scores is None else answers.scores[start:stop]
        return batch, Answers(batch.n, answers.label[start:stop], scores, answers.k)

    return rhythm(schema, profile, rows, len(frame))


def _same_answers(schema: Schema, said: Scored) -> bool:
    """Whether the measured model answers in the shape of the shipped one."""
    return said.scores is None or said.scores.shape[1] == len(schema.output.names)


def _rates(schema: Schema, said: Scored) -> dict[str, float]:
    if schema.abstain is None or said.scores is None or not len(said.label):
        return {}
    rows = np.arange(len(said.label))
    sure = said.scores[rows, np.maximum(said.label, 0)]
    return {"abstained": float((sure < schema.abstain).mean())}


def selftest_rows(model: bytes, schema: Schema, held: pd.DataFrame) -> bytes:
    """Return selftest.cols: up to 200 real held-out rows and what the model answers to them."""
    picked = np.unique(np.linspace(0, len(held) - 1, min(SELFTEST_ROWS, len(held))).astype(int))
    rows = held.iloc[picked].reset_index(drop=True)
    batch = batch_of(schema, rows)
    said = score_rows(model, schema, rows)
    columns: list[Any] = []
    for column in schema.given:
        data = batch.columns[column.name]
        if column.dtype != "string":
            data = np.ascontiguousarray(data, numpy_dtype(column))
        columns.append((column.name, column.dtype, column.shape, data))
    columns.append(("expected:label", "int16", (), said.label))
    if said.scores is not None:
        kind = schema.output.scores_dtype
        scores = np.ascontiguousarray(said.scores, kind)
        columns.append(("expected:scores", kind, (scores.shape[1],), scores))
    return encode_columns(len(rows), columns)


def process_facts(
    ws: Workspace, recipe: Recipe, folder: Path, model: bytes, report: Report
) -> dict[str, Any]:
    """Return what the manifest will say about the graph and about a process that runs it.

    Raises:
        ConversionError: The device class does not take such a graph, or it is too large for it.
    """
    device_class = ws.device_class(recipe.device_class)
    policy = device_class.policy
    facts = inspect_graph(model)
    try:
        admit(facts, None, policy, onnxruntime=device_class.onnxruntime)
    except AdmissionError as error:
        raise ConversionError(
            f"class {device_class.name} refuses this model: {error.what}",
            next="change the model, or [class.…] in edgepack.toml",
        ) from None
    tested = measure_process(folder, rtol=report.rtol, atol=report.atol, threads=policy.threads)
    if policy.ram_bytes and tested.peak_rss > policy.ram_bytes:
        raise ConversionError(
            f"the model needs {tested.peak_rss >> 20} MiB at its peak, class {device_class.name} "
            f"has {policy.ram_bytes >> 20} MiB",
            next="use a smaller model: fewer or shallower trees",
        )
    return {
        "model_bytes": len(model),
        "ir_version": facts.ir_version,
        "opsets": dict(facts.opsets),
        "operators": list(facts.operators),
        "min_onnxruntime": device_class.onnxruntime,
        "peak_rss_bytes": tested.peak_rss,
        "selftest_seconds": tested.seconds,
        "selftest_rows": tested.rows,
        "rtol": report.rtol,
        "atol": report.atol,
    }
