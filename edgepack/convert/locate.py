"""Where two models part: the column that decides, and the step of the pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.convert.export import Onnx, input_tensors, tensors_to_proto
from edgepack.convert.feed import feeds, official_session, run_official
from edgepack.convert.parity import original
from edgepack.convert.verdict import Difference
from edgepack.fitted import estimator_rows, missing_text

if TYPE_CHECKING:
    import pandas as pd

# Class of the step → the known way around.
AROUND = {
    "SimpleImputer": "impute in rows(), or let a HistGradientBoosting model take missing values",
    "OrdinalEncoder": 'use handle_unknown="use_encoded_value", unknown_value=-1',
    "OneHotEncoder": 'use handle_unknown="ignore" and categories as text',
    "CalibratedClassifierCV": 'use method="sigmoid", whose curve has no steep parts',
    "StackingClassifier": "put what scales in front of it, not into its members",
    "KBinsDiscretizer": "use trees, which find their own bins",
    "RandomForestClassifier": "use HistGradientBoostingClassifier for data with missing values",
    "RandomForestRegressor": "use HistGradientBoostingRegressor for data with missing values",
}

SCALER = "leave the scaler out in front of trees: they do not need it"


def column_of(
    onnx: Onnx, estimator: Any, held: pd.DataFrame, rows: Sequence[int], kind: str
) -> str:
    """Name the column whose neutral value makes the difference go away; "" if none alone does."""
    if kind != "held-out" or not rows:
        return ""
    schema = onnx.schema
    inputs = [column.name for column in schema.fed]
    ask = original(estimator, schema, inputs)
    session = official_session(onnx.model)
    bad = held.iloc[list(rows)].reset_index(drop=True)
    best, found = _gap(ask, session, schema, bad), ""
    for column in schema.fed:
        if column.shape:
            continue
        usual = held[column.name].mode(dropna=True)
        if not len(usual):
            continue
        changed = bad.assign(**{column.name: [usual.iloc[0]] * len(bad)})
        changed[column.name] = changed[column.name].astype(held[column.name].dtype)
        gap = _gap(ask, session, schema, changed)
        if gap < best:
            best, found = gap, column.name
    return found


def _gap(ask: Any, session: Any, schema: Any, rows: pd.DataFrame) -> float:
    try:
        want, got = ask(rows), run_official(session, schema, rows)
    except (ValueError, TypeError):
        return float("inf")
    if want.scores is None or got.scores is None:
        return float((want.label != got.label).sum())
    return float(np.nansum(np.abs(want.scores - got.scores)))


def step_of(estimator: Any, onnx: Onnx, held: pd.DataFrame, first: Difference) -> str:
    """Name the first step of a pipeline whose output differs from scikit-learn's."""
    steps = getattr(estimator, "steps", None)
    if not steps:
        return type(estimator).__name__
    schema = onnx.schema
    fed = list(schema.fed)
    inputs = [column.name for column in fed]
    if first.kind == "held-out":
        picked = [row for row in range(max(0, first.row - 50), first.row + 50) if row < len(held)]
        rows = held.iloc[picked][inputs]
    else:
        from edgepack.convert.hostile import hostile_rows, thresholds_of

        made = hostile_rows(schema, held, thresholds_of(onnx.model))
        rows = next(
            (
                part[inputs]
                for kind, name, part in made
                if (kind, name) == (first.kind, first.column)
            ),
            held[inputs].iloc[:50],
        )
    for count in range(1, len(steps)):
        front = estimator[:count]
        tensors = input_tensors(estimator, fed, onnx.numbers)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                want = front.transform(estimator_rows(rows, inputs, missing_text(estimator)))
                proto = tensors_to_proto(front, tensors, fed, "1.20", onnx.numbers)
                session = official_session(proto.SerializeToString())
                got = session.run(None, feeds(schema, rows))[0]
        except Exception:  # noqa: BLE001, S112 — a step that cannot be looked at alone is passed over
            continue
        want = want.toarray() if hasattr(want, "toarray") else np.asarray(want)
        try:
            same = np.allclose(got, want.astype(float), rtol=1e-5, atol=1e-6, equal_nan=True)
        except (ValueError, TypeError):
            continue
        if not same:
            return f"{steps[count - 1][0]} ({type(steps[count - 1][1]).__name__})"
    return f"{steps[-1][0]} ({type(steps[-1][1]).__name__})"


def around(step: str, kind: str, column: str, estimator: Any) -> str:
    """Return the known way around for a step, or the best general advice."""
    last = type(getattr(estimator, "steps", [("", estimator)])[-1][1]).__name__
    if "Scaler" in step and any(part in last for part in ("Tree", "Forest", "Boosting")):
        return SCALER
    for name, text in AROUND.items():
        if name in step:
            return text
    if kind == "extremes" and column:
        return f"give plausible limits: [ranges] {column} = [low, high] in bundle.toml"
    if kind in ("missing", "all missing"):
        return "fill missing values in rows(), or use a HistGradientBoosting model"
    return "use another estimator (docs/MODELS.md), or widen [parity] rtol and atol knowingly"
