"""Fitted estimator → an ONNX model that was proven to answer the same, or a refusal that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.errors import RunError
from device_runtime.format.schema import Column, Schema
from edgepack.convert import parity
from edgepack.convert.export import Onnx, export
from edgepack.convert.families import number_types, unwrap
from edgepack.convert.feed import official_session, run_official
from edgepack.convert.hostile import base_rows, with_value
from edgepack.convert.verdict import Report
from edgepack.convert.words import UNSEEN
from edgepack.errors import ConversionError, ParityError
from edgepack.fitted import Fitted
from edgepack.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

VALUES = 1e-6  # of the spread of a value: absolute tolerance


@dataclass(frozen=True, slots=True)
class Proven:
    """A model and the proof.

    Attributes:
        onnx: Model and schema; the schema admits exactly what was compared.
        report: The comparison.
    """

    onnx: Onnx
    report: Report


def tolerances(recipe: Recipe) -> tuple[float, float, bool]:
    """Return (rtol, atol, whether atol counts in the spread of each score).

    The recipe's, else 1e-5 for probabilities; of the spread, 1e-6 for values and 1e-5 for scores.
    """
    free = recipe.task in ("regression", "quantiles", "scores")
    atol = VALUES if free and recipe.task != "scores" else parity.ATOL
    return (
        parity.RTOL if recipe.rtol is None else recipe.rtol,
        atol if recipe.atol is None else recipe.atol,
        free and recipe.atol is None,
    )


def prove(
    fitted: Fitted,
    frame: pd.DataFrame,
    held: pd.DataFrame,
    *,
    onnxruntime: str = "1.20",
    hostile: bool = True,
) -> Proven:
    """Convert, and compare on held-out and hostile rows.

    Float32 and double inputs are tried in the order that suits the estimator; the first that
    answers the same is taken.

    Args:
        fitted: From `train.fit`.
        frame: Rows it was trained on.
        held: Real rows to compare on.
        onnxruntime: The oldest that must run the model.
        hostile: False only for a model that is measured and then fitted again, never shipped.

    Raises:
        ConversionError: It cannot be converted.
        ParityError: It answers differently; rows, column, step and way around are named.
    """
    estimator = unwrap(fitted.estimator)
    dtypes = {frame[name].dtype.name for name in fitted.inputs if frame[name].dtype != object}
    rtol, atol, spread = tolerances(fitted.recipe)
    best: Proven | None = None
    trouble: ConversionError | None = None
    for numbers in number_types(estimator, dtypes):
        try:
            made = export(fitted, frame, numbers=numbers, onnxruntime=onnxruntime)
            report = Report(rtol, atol, "the trained model", numbers)
            ask = parity.original(estimator, made.schema, fitted.inputs)
            report.spread = parity.spread_among(ask, held) if spread else []
            made, notes = settle(made, ask, held, report)
            report.notes += notes
            parity.compare_all(made.model, made.schema, ask, held, report, hostile=hostile)
        except ConversionError as error:
            trouble = trouble or error
            continue
        except RunError as error:  # the device's own session does not take it
            several = fitted.recipe.task == "labels"
            trouble = trouble or ConversionError(
                f"the device does not take the model: {error.what}",
                next="wrap it: MultiOutputClassifier"
                if several
                else "use another (docs/MODELS.md)",
            )
            continue
        proven = Proven(made, report)
        if report.ok:
            return proven
        best = best or proven
    if best is None:
        assert trouble is not None
        raise trouble
    raise refusal(best, fitted, held)


def settle(
    made: Onnx, ask: parity.ORIGINAL, held: pd.DataFrame, report: Report
) -> tuple[Onnx, list[str]]:
    """Let the schema admit missing values and unseen categories exactly where both models agree.

    A column that was never empty in training may be empty on the device if the estimator takes it
    and the ONNX model answers the same; else such a row is refused there as invalid. So with
    categories that training never saw.
    """
    schema = made.schema
    session = official_session(made.model)
    base = base_rows(held)
    probes = _probes(schema)
    good = _agreed(probes, base, ask, session, schema, report)
    notes = []
    changed = {column.name: column for column in schema.columns}
    for (column, value), agreed in zip(probes, good, strict=True):
        now = changed[column.name]
        if value is None:
            changed[column.name] = replace(now, missing=agreed)
        elif not agreed:
            changed[column.name] = replace(now, closed=True)
            notes.append(f"{column.name}: a category that training never saw is refused")
    columns = tuple(changed[column.name] for column in schema.columns)
    return replace(made, schema=replace(schema, columns=columns)), notes


def _probes(schema: Schema) -> list[tuple[Column, str | None]]:
    """Return what is not known to be admitted: (column, None for missing or an unseen text)."""
    found: list[tuple[Column, str | None]] = []
    for column in schema.fed:
        if column.shape:
            continue
        if column.dtype in ("float32", "float64", "string") and not column.missing:
            found.append((column, None))
        if column.dtype == "string" and column.categories is not None and not column.closed:
            found.append((column, UNSEEN))
    return found


def _agreed(
    probes: Sequence[tuple[Column, str | None]],
    base: pd.DataFrame,
    ask: parity.ORIGINAL,
    session: Any,
    schema: Schema,
    report: Report,
) -> list[bool]:
    """Return, per probe, whether both models take it and answer the same."""
    import pandas as pd

    frames = [with_value(base, column, value) for column, value in probes]
    if frames and _agree(ask, session, schema, pd.concat(frames, ignore_index=True), report):
        return [True] * len(frames)
    return [_agree(ask, session, schema, frame, report) for frame in frames]


def _agree(
    ask: parity.ORIGINAL,
    session: Any,
    schema: Schema,
    rows: pd.DataFrame,
    report: Report,
) -> bool:
    try:
        with np.errstate(all="ignore"):
            want = ask(rows)
        got = run_official(session, schema, rows)
    except Exception:  # noqa: BLE001 — whatever either says, it is not an answer
        return False
    if want.scores is None or got.scores is None:
        return bool((want.label == got.label).all())
    if not np.isfinite(want.scores).all():
        return False
    return bool(np.allclose(got.scores, want.scores, rtol=report.rtol, atol=report.slack))


def refusal(proven: Proven, fitted: Fitted, held: pd.DataFrame) -> ParityError:
    """Return the error that names rows, column, step and the way around."""
    from edgepack.convert.locate import around, column_of, step_of

    report = proven.report
    if report.device_different and not any(g.different for g in report.groups.values()):
        return ParityError(
            f"the device's session answers {report.device_different} of {report.device_rows} rows "
            "otherwise than onnxruntime's own binding",
            next="report this with the model: it is a bug of edgepack",
            report=report,
        )
    first = report.differences[0]
    rows = sorted({item.row for item in report.differences if item.kind == first.kind})[:5]
    estimator = unwrap(fitted.estimator)
    column = first.column or column_of(proven.onnx, estimator, held, rows, first.kind)
    report.step = step_of(estimator, proven.onnx, held, first)
    count = sum(group.different for group in report.groups.values())
    listed = ", ".join(str(row) for row in rows)
    where = f", column {column}" if column else ""
    step = f", first apart in step {report.step}" if report.step else ""
    return ParityError(
        f"the ONNX model answers {count} rows otherwise than the trained one: {first.kind} rows "
        f"{listed}{where}: {first.name} {_short(first.got)} instead of {_short(first.expected)}"
        f"{step}",
        next=around(report.step, first.kind, column, estimator),
        report=report,
    )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
