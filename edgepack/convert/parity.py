"""Does the ONNX model answer as the trained one? On real held-out rows and on hostile ones.

Three voices are compared: the estimator, onnxruntime's official binding, and the device's own
session. A label may differ only where the scores say that it was a tie; ties are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.schema import Schema
from device_runtime.model.session import open_session
from edgepack.convert.feed import ROWS, Scored, batch_of, official_session, run_official
from edgepack.convert.hostile import base_rows, hostile_rows, thresholds_of
from edgepack.convert.verdict import Group, Report, judge, spread_of
from edgepack.errors import ConversionError
from edgepack.fitted import class_text, estimator_rows, missing_text, scores_of

if TYPE_CHECKING:
    import pandas as pd

RTOL = 1e-5
ATOL = 1e-5
SPREAD = 256  # real rows that say how far the scores of a model spread
ONE_BY_ONE = 64  # refused rows of a kind that are looked for among those that are not
# What an estimator says to rows that it does not take.
REFUSED = (ValueError, TypeError, KeyError, IndexError, OverflowError)
ORIGINAL = Callable[["pd.DataFrame"], Scored]
Rows = tuple[str, str, int, "pd.DataFrame"]  # kind, column or "", number of the first row, rows


@dataclass(frozen=True, slots=True)
class Voices:
    """Who is asked.

    Attributes:
        official: Session of onnxruntime's own binding.
        device: The device's session.
        schema: Of the model.
        ask: The trained model; None if there is none.
    """

    official: Any
    device: Any
    schema: Schema
    ask: ORIGINAL | None


def original(estimator: Any, schema: Schema, inputs: Sequence[str]) -> ORIGINAL:
    """Return a function that asks the trained estimator for labels and scores."""
    names = {name: index for index, name in enumerate(schema.output.names)}
    by_scores = says_argmax(estimator)
    missing = missing_text(estimator)

    def ask(frame: pd.DataFrame) -> Scored:
        with warnings.catch_warnings():  # of names that an inner estimator was not told
            warnings.simplefilter("ignore")
            return answer(estimator_rows(frame, inputs, missing))

    def answer(rows: Any) -> Scored:
        none = np.full(len(rows), -1, np.int16)
        scores = None
        if schema.output.scores is not None:
            scores = scores_of(estimator, schema.task, rows)
        if schema.task not in ("binary", "classes"):
            return Scored(none, scores)
        if schema.task == "binary" and schema.threshold != 0.5 and scores is not None:
            return Scored((scores[:, 1] >= schema.threshold).astype(np.int16), scores)
        if by_scores and scores is not None:
            return Scored(scores.argmax(axis=1).astype(np.int16), scores)
        said = np.asarray(estimator.predict(rows)).ravel()
        return Scored(np.array([names[class_text(item)] for item in said], np.int16), scores)

    return ask


def spread_among(ask: ORIGINAL, held: pd.DataFrame) -> list[float]:
    """Return how far each score of the trained model spreads over some of the real rows."""
    some = base_rows(held, SPREAD)
    try:
        parts = [ask(some)]
    except REFUSED:
        parts = []
        for row in range(len(some)):
            with suppress(*REFUSED):
                parts.append(ask(some.iloc[[row]]))
    scores = [part.scores for part in parts if part.scores is not None]
    return spread_of(np.concatenate(scores)) if scores else []


# Their predict() is the first largest of predict_proba(), in scikit-learn's own code: asking both
# would only cost time.
ARGMAX = (
    "DecisionTreeClassifier",
    "ExtraTreeClassifier",
    "ExtraTreesClassifier",
    "HistGradientBoostingClassifier",
    "RandomForestClassifier",
)


def says_argmax(estimator: Any) -> bool:
    """Whether a classifier's labels follow from its probabilities, ties included."""
    last = estimator.steps[-1][1] if getattr(estimator, "steps", None) else estimator
    return type(last).__name__ in ARGMAX


def device_scored(session: Any, schema: Schema, frame: pd.DataFrame) -> Scored:
    """Run rows through the device's own session."""
    answers = session.run(batch_of(schema, frame))
    label = np.frombuffer(answers.label, np.int16)
    if answers.scores is None:
        return Scored(label, None)
    kind = np.dtype(schema.output.scores_dtype)
    return Scored(label, np.frombuffer(answers.scores, kind).reshape(len(frame), -1))


def compare_all(
    model: bytes,
    schema: Schema,
    ask: ORIGINAL | None,
    held: pd.DataFrame,
    report: Report,
    *,
    hostile: bool = True,
) -> Report:
    """Compare everything and fill the report; never more than a few thousand rows at a time.

    Args:
        model: ONNX bytes.
        schema: Of the model; only rows that it admits are made.
        ask: The trained model; None: only the two engines are compared.
        held: Real rows that the model was not measured into shape by.
        report: Where figures go; returned.
        hostile: Whether to make hostile rows of the real ones as well.

    Raises:
        ConversionError: The model answers differently when asked twice, or when a row is alone; or
            the trained model answers none of the real rows.
    """
    voices = Voices(official_session(model), open_session(model, schema), schema, ask)
    try:
        _twice(voices.official, schema, held)
        for start in range(0, len(held), ROWS):
            part = held.iloc[start : start + ROWS]
            _compare(voices, [("held-out", "", start, part)], report)
        _check_compared(ask, held, report)
        _alone(voices.official, schema, held)
        made = hostile_rows(schema, held, thresholds_of(model)) if hostile else ()
        for several in _batches(made):
            _compare(voices, several, report)
    finally:
        voices.device.close()
    return report


def _batches(made: Iterable[tuple[str, str, pd.DataFrame]]) -> Iterator[list[Rows]]:
    """Yield hostile rows in batches of about `ROWS`, whatever they were made for; "one row" alone.

    One call for many kinds of rows is many times quicker than one for each.
    """
    several: list[Rows] = []
    count = 0
    for kind, column, rows in made:
        if kind == "one row":
            yield [(kind, column, 0, rows)]
            continue
        several.append((kind, column, 0, rows))
        count += len(rows)
        if count >= ROWS:
            yield several
            several, count = [], 0
    if several:
        yield several


def _twice(session: Any, schema: Schema, held: pd.DataFrame) -> None:
    part = held.iloc[: min(len(held), ROWS)]
    one, two = run_official(session, schema, part), run_official(session, schema, part)
    if not _same_bits(one, two):
        raise ConversionError(
            "the model answers differently when it is asked twice",
            next="take random operators and dropout out of the graph",
        )


def _alone(session: Any, schema: Schema, held: pd.DataFrame) -> None:
    """Refuse a model whose answer to a row hangs on the other rows that are asked with it."""
    base = base_rows(held)
    whole = run_official(session, schema, base)
    ones = [run_official(session, schema, base.iloc[[row]]) for row in range(len(base))]
    if whole.scores is None:
        same = all(one.label[0] == label for one, label in zip(ones, whole.label, strict=True))
    else:
        said = np.concatenate([one.scores for one in ones if one.scores is not None])
        slack = 100 * ATOL * np.asarray(spread_of(whole.scores))
        same = np.allclose(said, whole.scores, rtol=100 * RTOL, atol=slack, equal_nan=True)
    if not same:
        raise ConversionError(
            "the model answers a row otherwise when it is asked alone than among other rows",
            next="export it for inference: nothing may be normalised or averaged over the rows",
        )


def _check_compared(ask: ORIGINAL | None, held: pd.DataFrame, report: Report) -> None:
    """Refuse a proof of nothing; note the real rows that could not be compared."""
    refused = report.groups["held-out"].refused
    if refused:
        report.notes.append(
            f"{refused:,} real rows were refused by the trained model itself and not compared"
        )
    if report.rows or ask is None:
        return
    try:
        ask(held.iloc[:1])
        why = ""
    except REFUSED as error:
        why = ": " + " ".join(str(error).split())[:200]
    raise ConversionError(
        f"the trained model refuses all {refused:,} real rows, so nothing is proven{why}",
        next="give rows that it takes",
    )


def _same_bits(one: Scored, two: Scored) -> bool:
    if not np.array_equal(one.label, two.label):
        return False
    if one.scores is None or two.scores is None:
        return one.scores is two.scores
    return one.scores.tobytes() == two.scores.tobytes()


def _compare(voices: Voices, several: Sequence[Rows], report: Report) -> None:
    """Ask all voices about several kinds of rows at once, about fewer where the estimator refuses.

    It refuses a whole batch for one bad row: halves are asked until the bad rows are found.
    """
    import pandas as pd

    schema = voices.schema
    frames = [rows for _, _, _, rows in several]
    whole = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    try:
        with np.errstate(all="ignore"):
            want = voices.ask(whole) if voices.ask is not None else None
        refused = False
    except REFUSED:
        want, refused = None, True
    parts = _fewer(several, report) if refused else []
    for part in parts:
        _compare(voices, part, report)
    if parts:
        return
    got = run_official(voices.official, schema, whole)
    theirs = device_scored(voices.device, schema, whole)
    report.device_rows += len(whole)
    if not _same_bits(got, theirs):
        report.device_different += _count_different(got, theirs)
    start = 0
    for kind, column, first, rows in several:
        here = slice(start, start + len(rows))
        start += len(rows)
        group = report.groups.setdefault(kind, Group())
        if refused:
            group.refused += len(rows)
            continue
        group.rows += len(rows)
        if want is not None:
            where = (kind, column, first)
            judge(schema, _part(want, here), _part(got, here), where, group, report)


def _fewer(several: Sequence[Rows], report: Report) -> list[list[Rows]]:
    """Return refused rows in smaller parts; nothing for a single row, or after too many."""
    if len(several) > 1:
        return [[one] for one in several]
    ((kind, column, first, rows),) = several
    half = len(rows) // 2
    if not half or report.groups.setdefault(kind, Group()).refused >= ONE_BY_ONE:
        return []
    halves = ((first, rows.iloc[:half]), (first + half, rows.iloc[half:]))
    return [[(kind, column, start, part)] for start, part in halves]


def _part(scored: Scored, part: slice) -> Scored:
    return Scored(scored.label[part], None if scored.scores is None else scored.scores[part])


def _count_different(one: Scored, two: Scored) -> int:
    wrong = one.label != two.label
    if one.scores is not None and two.scores is not None and one.scores.shape == two.scores.shape:
        same = (one.scores == two.scores) | (np.isnan(one.scores) & np.isnan(two.scores))
        wrong = wrong | ~same.all(axis=1)
    return int(wrong.sum())
