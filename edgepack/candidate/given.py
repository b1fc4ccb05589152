"""Bring your own: a model that was trained elsewhere → the same candidate as one trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.errors import RunError
from device_runtime.format.schema import Schema
from edgepack.candidate import lineage as lineages
from edgepack.candidate.folder import Candidate
from edgepack.candidate.making import write
from edgepack.candidate.measuring import Made, metrics_of
from edgepack.convert import parity
from edgepack.convert.export import Onnx
from edgepack.convert.feed import Scored, official_session, run_official
from edgepack.convert.foreign import look, names_for, read_onnx, schema_of
from edgepack.convert.loading import kind_of, load_estimator, onnx_file
from edgepack.convert.prove import Proven, prove, tolerances
from edgepack.convert.verdict import Report, judge, spread_of
from edgepack.errors import ConversionError, DataError, ParityError
from edgepack.fitted import CLASSED, Fitted, class_text, estimator_rows, missing_text, names_of
from edgepack.recipe import Recipe
from edgepack.tables import inputs_of, prepare, read_files, wanted
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

EXPECTED = "expected_"


def make_given(ws: Workspace, recipe: Recipe) -> Candidate:
    """Prove a recipe's model file on its samples and write a candidate.

    Raises:
        DataError: The samples do not fit the recipe.
        ConversionError, ParityError: The model.
    """
    assert recipe.model is not None
    samples, expected = read_samples(recipe)
    path = recipe.folder / recipe.model
    if kind_of(path) in ("onnx", "mlflow"):
        proven = prove_onnx(recipe, onnx_file(path).read_bytes(), samples, expected)
    else:
        allowed = bool(recipe.model_io.get("allow_pickle", False))
        estimator = load_estimator(path, allow_pickle=allowed)
        runtime = ws.device_class(recipe.device_class).onnxruntime
        proven = prove_estimator(recipe, estimator, samples, onnxruntime=runtime)
    return finish(ws, recipe, proven, samples)


def read_samples(recipe: Recipe) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (rows with every column of a role, their `expected_*` columns).

    Raises:
        DataError: A file or column is missing, or there are no rows.
    """
    assert recipe.samples is not None
    frame = read_files([recipe.folder / recipe.samples])
    names = [str(name) for name in frame.columns]
    expected = [name for name in names if name.startswith(EXPECTED)]
    if set(recipe.target) - set(names):  # the truth is optional here
        recipe = replace(recipe, target=())
    roles = wanted(recipe, [name for name in names if name not in expected])
    both = prepare(recipe, frame, columns=[*roles, *expected])  # which may sort them
    return both[roles], both[expected]


def prove_estimator(
    recipe: Recipe, estimator: Any, samples: pd.DataFrame, *, onnxruntime: str
) -> Proven:
    """Convert a fitted estimator and prove it on the samples.

    Raises:
        DataError: The samples are not what it was fitted on.
        ConversionError, ParityError: As `prove`.
    """
    inputs = inputs_of(recipe, samples)
    wanted = getattr(estimator, "feature_names_in_", None)
    if wanted is not None and sorted(wanted) == sorted(inputs):
        inputs = [str(name) for name in wanted]
    try:
        estimator.predict(estimator_rows(samples.head(2), inputs, missing_text(estimator)))
    except Exception as error:  # noqa: BLE001 — every package has its own errors
        text = " ".join(str(error).split())[:240]
        raise DataError(
            f"the model does not take the samples: {text}",
            next="correct `inputs` in [columns], in the order of the training",
        ) from None
    names = names_of(recipe, estimator)
    classes = recipe.model_io.get("classes")
    if classes is not None and recipe.task in CLASSED and tuple(classes) != names:
        raise DataError(
            f"[model_io] classes are {', '.join(classes)}, the model's are {', '.join(names)}"
        )
    fitted = Fitted(recipe, estimator, tuple(inputs), names, recipe.seed, 0)
    return prove(fitted, samples, samples, onnxruntime=onnxruntime)


def prove_onnx(
    recipe: Recipe, data: bytes, samples: pd.DataFrame, expected: pd.DataFrame
) -> Proven:
    """Fit an ONNX file to the samples and compare: both engines, and `expected_*` where given.

    Raises:
        ConversionError: It does not fit, is not valid, or answers differently when asked twice.
        ParityError: The engines differ, or answers are not the expected ones.
    """
    model, facts = read_onnx(data)
    columns = inputs_of(recipe, samples)
    if not recipe.inputs:
        columns = [name for name in columns if not name.startswith(EXPECTED)]
    guess = look(facts, columns, recipe.model_io)
    names = names_for(recipe, guess, model, samples)
    schema = schema_of(recipe, guess, samples, names)
    numbers = next((t.dtype for t in guess.inputs if t.dtype != "string"), "string")
    rtol, atol, spread = tolerances(recipe)
    against = "both engines only" if expected.empty else "expected columns of the samples"
    report = Report(rtol, atol, against, numbers)
    try:
        parity.compare_all(model, schema, None, samples, report)
    except RunError as error:
        raise ConversionError(
            f"the device does not take the model: {error.what}",
            next="correct [columns] and [model_io] in bundle.toml",
        ) from error
    _check_labels(model, schema, samples)
    if not expected.empty:
        _compare_expected(model, schema, samples, expected, report, spread=spread)
    if not report.ok:
        raise _refusal(report)
    return Proven(Onnx(model, schema, numbers), report)


def _check_labels(model: bytes, schema: Schema, samples: pd.DataFrame) -> None:
    """Refuse a graph whose labels are none of the classes that were named or guessed."""
    if schema.task not in CLASSED:
        return
    said = run_official(official_session(model), schema, samples)
    known = (said.label >= 0) | (
        np.isnan(said.scores).any(axis=1) if said.scores is not None else False
    )
    if not known.all():
        raise ConversionError(
            f"the label of {int((~known).sum())} of {len(samples)} samples is none of the classes "
            f"{', '.join(schema.output.names[:6])}",
            next="correct classes in [model_io] of bundle.toml",
        )


def _compare_expected(
    model: bytes,
    schema: Schema,
    samples: pd.DataFrame,
    expected: pd.DataFrame,
    report: Report,
    *,
    spread: bool,
) -> None:
    got = run_official(official_session(model), schema, samples)
    want = expected_answers(schema, expected, got)
    if spread and want.scores is not None:
        report.spread = spread_of(want.scores)
    judge(schema, want, got, ("held-out", "", 0), report.groups["held-out"], report)


def expected_answers(schema: Schema, expected: pd.DataFrame, got: Scored) -> Scored:
    """Read `expected_label` and `expected_<name>`; what is not given is taken as answered.

    Raises:
        DataError: A column names nothing that the model answers.
    """
    label = got.label.copy()
    scores = None if got.scores is None else got.scores.astype(np.float64)
    names = schema.output.names
    for column in expected.columns:
        name = str(column).removeprefix(EXPECTED)
        if name == "label" and schema.task in CLASSED:
            label = _indexes(names, [class_text(item) for item in expected[column]])
        elif name in names and scores is not None:
            scores[:, names.index(name)] = _numbers(expected[column])
        else:
            raise DataError(
                f"the samples' column {column} names nothing that the model answers",
                next=f"it answers: {', '.join(names)}",
            )
    return Scored(label, scores)


def _indexes(names: Sequence[str], classes: Sequence[str]) -> Any:
    index = {name: place for place, name in enumerate(names)}
    unknown = sorted(set(classes) - set(index))
    if unknown:
        raise DataError(
            f"the samples expect {', '.join(unknown[:5])}, but the classes are {', '.join(names)}",
            next="correct expected_label in the samples, or classes in [model_io]",
        )
    return np.array([index[item] for item in classes], np.int16)


def _numbers(values: pd.Series[Any]) -> Any:
    try:
        return values.to_numpy(float)
    except (TypeError, ValueError):
        raise DataError(f"the samples' column {values.name} does not hold numbers only") from None


def _refusal(report: Report) -> ParityError:
    if report.device_different:
        return ParityError(
            f"the device's session answers {report.device_different} of {report.device_rows} rows "
            "otherwise than onnxruntime's own binding",
            next="report this with the model: it is a bug of edgepack",
            report=report,
        )
    first = report.differences[0]
    rows = ", ".join(str(row) for row in sorted({item.row for item in report.differences})[:5])
    count = sum(group.different for group in report.groups.values())
    return ParityError(
        f"the model answers {count} rows otherwise than the samples expect: rows {rows}: "
        f"{first.name} {first.got} instead of {first.expected}",
        next="correct the samples, or widen [parity] rtol and atol knowingly",
        report=report,
    )


def finish(
    ws: Workspace,
    recipe: Recipe,
    proven: Proven,
    samples: pd.DataFrame,
    *,
    extra: Mapping[str, Any] | None = None,
) -> Candidate:
    """Write the candidate of a model that was not trained here."""
    schema = proven.onnx.schema
    answers = run_official(official_session(proven.onnx.model), schema, samples)
    metrics = metrics_of(schema, samples, answers)
    how = "as samples; the training is not known here"
    made = Made(proven, metrics, samples, samples, answers, recipe.seed, how, (), refit=False)
    story = lineages.describe(
        recipe,
        samples,
        kind="given",
        seed=recipe.seed,
        until=None,
        parent=None,
        model=proven.onnx.model,
        extra=extra,
    )
    return write(ws, recipe, made, story, kind="given")
