"""Does the ONNX model answer as the trained one? On real held-out rows and on hostile ones.

Three voices are compared: the estimator, onnxruntime's official binding, and the device's own
session. A label may differ only where the scores say that it was a tie; ties are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.schema import Schema
from device_runtime.model.session import open_session
from edgepack.convert.feed import ROWS, Scored, batch_of, official_session, run_official
from edgepack.convert.hostile import hostile_rows, thresholds_of
from edgepack.errors import ConversionError
from edgepack.fitted import class_text, estimator_rows, missing_text, scores_of

if TYPE_CHECKING:
    import pandas as pd

RTOL = 1e-5
ATOL = 1e-5
SHOWN = 20  # differences that a report lists
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


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that is not the same.

    Attributes:
        kind: `held-out`, or what was done to the row.
        column: Which column was changed; "" for none.
        row: Number of the row within its kind.
        name: Which score or label.
        expected: The trained model's.
        got: The ONNX model's.
    """

    kind: str
    column: str
    row: int
    name: str
    expected: float | str
    got: float | str


@dataclass(slots=True)
class Group:
    """Figures of one kind of rows.

    Attributes:
        rows: Compared.
        refused: Rows that the trained model itself refused; nothing to compare.
        different: Rows that differ beyond the tolerance.
        ties: Labels that differ where the scores are equal within the tolerance.
        worst: Largest difference of a score: absolute, relative where the score is above 1.
    """

    rows: int = 0
    refused: int = 0
    different: int = 0
    ties: int = 0
    worst: float = 0.0


@dataclass(slots=True)
class Report:
    """The whole of parity.json.

    Attributes:
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        against: `the trained model`, `expected columns of the samples`, or `both engines only`.
        numbers: Element type of the numeric inputs.
        groups: Kind → figures; `held-out` is the real rows.
        device_rows: Rows on which the device's session was compared with the official binding.
        device_different: ... and differed in a single bit.
        differences: The first of them.
        step: Step of the pipeline where the outputs part, if it was looked for.
        notes: What was decided because of what was found.
    """

    rtol: float
    atol: float
    against: str
    numbers: str
    groups: dict[str, Group] = field(default_factory=dict)
    device_rows: int = 0
    device_different: int = 0
    differences: list[Difference] = field(default_factory=list)
    step: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the model may be signed."""
        return not self.device_different and not any(g.different for g in self.groups.values())

    @property
    def rows(self) -> int:
        """Real rows compared."""
        return self.groups["held-out"].rows if "held-out" in self.groups else 0

    @property
    def hostile(self) -> int:
        """Hostile rows compared."""
        return sum(group.rows for kind, group in self.groups.items() if kind != "held-out")

    @property
    def ties(self) -> int:
        """Ties that fell the other way."""
        return sum(group.ties for group in self.groups.values())

    @property
    def worst(self) -> float:
        """Largest difference of a score on real rows."""
        return self.groups["held-out"].worst if "held-out" in self.groups else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "format": "edgepack-parity",
            "version": 1,
            "ok": self.ok,
            "rows": self.rows,
            "hostile_rows": self.hostile,
            "ties": self.ties,
            "worst": self.worst,
            **asdict(self),
        }

    def line(self) -> str:
        """Return the report in one line."""
        return (
            f"{self.rows:,} real and {self.hostile:,} hostile rows, largest difference "
            f"{self.worst:.1g}, {self.ties} ties, against {self.against}"
        )


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
        ConversionError: The model answers differently when asked twice.
    """
    voices = Voices(official_session(model), open_session(model, schema), schema, ask)
    try:
        _twice(voices.official, schema, held)
        for start in range(0, len(held), ROWS):
            part = held.iloc[start : start + ROWS]
            _compare(voices, [("held-out", "", start, part)], report)
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


def _same_bits(one: Scored, two: Scored) -> bool:
    if not np.array_equal(one.label, two.label):
        return False
    if one.scores is None or two.scores is None:
        return one.scores is two.scores
    return one.scores.tobytes() == two.scores.tobytes()


def _compare(voices: Voices, several: Sequence[Rows], report: Report) -> None:
    """Ask all voices about several kinds of rows at once; one by one if the estimator refuses."""
    import pandas as pd

    schema = voices.schema
    frames = [rows for _, _, _, rows in several]
    whole = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    try:
        with np.errstate(all="ignore"):
            want = voices.ask(whole) if voices.ask is not None else None
        refused = False
    except (ValueError, TypeError, OverflowError):
        want, refused = None, True
    if refused and len(several) > 1:
        for one in several:
            _compare(voices, [one], report)
        return
    got = run_official(voices.official, schema, whole)
    theirs = device_scored(voices.device, schema, whole)
    report.device_rows += len(whole)
    if not _same_bits(got, theirs):
        report.device_different += _count_different(got, theirs)
    start = 0
    for kind, column, first, rows in several:
        part = slice(start, start + len(rows))
        start += len(rows)
        group = report.groups.setdefault(kind, Group())
        if refused:
            group.refused += len(rows)
            continue
        group.rows += len(rows)
        if want is not None:
            where = (kind, column, first)
            judge(schema, _part(want, part), _part(got, part), where, group, report)


def _part(scored: Scored, part: slice) -> Scored:
    return Scored(scored.label[part], None if scored.scores is None else scored.scores[part])


def _count_different(one: Scored, two: Scored) -> int:
    wrong = one.label != two.label
    if one.scores is not None and two.scores is not None and one.scores.shape == two.scores.shape:
        same = (one.scores == two.scores) | (np.isnan(one.scores) & np.isnan(two.scores))
        wrong = wrong | ~same.all(axis=1)
    return int(wrong.sum())


def judge(
    schema: Schema,
    want: Scored,
    got: Scored,
    where: tuple[str, str, int],
    group: Group,
    report: Report,
) -> None:
    """Compare two answers to the same rows; fill the group and list the first differences."""
    kind, column, first = where
    bad = np.zeros(len(want.label), bool)
    if want.scores is not None and got.scores is not None:
        a, b = want.scores.astype(np.float64), got.scores.astype(np.float64)
        if a.shape != b.shape:
            raise ConversionError(
                f"the ONNX model gives {b.shape[1]} scores a row, the trained one {a.shape[1]}"
            )
        close = np.isclose(b, a, rtol=report.rtol, atol=report.atol, equal_nan=True)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(a - b) / np.maximum(1.0, np.abs(a))
        gap = gap[np.isfinite(gap)]
        group.worst = max(group.worst, float(gap.max()) if gap.size else 0.0)
        bad |= ~close.all(axis=1)
        for row, index in np.argwhere(~close)[: SHOWN - len(report.differences)]:
            name = schema.output.names[index] if index < len(schema.output.names) else str(index)
            pair = float(a[row, index]), float(b[row, index])
            report.differences.append(Difference(kind, column, first + int(row), name, *pair))
    wrong = want.label != got.label
    tied = wrong & ties(schema, want, report.atol + report.rtol)
    group.ties += int(tied.sum())
    for row in np.flatnonzero(wrong & ~tied)[: max(0, SHOWN - len(report.differences))]:
        names = (*schema.output.names, "?")
        pair_text = names[want.label[row]], names[got.label[row]]
        report.differences.append(Difference(kind, column, first + int(row), "label", *pair_text))
    group.different += int((bad | (wrong & ~tied)).sum())


def ties(schema: Schema, scored: Scored, slack: float) -> np.ndarray[Any, Any]:
    """Return, per row, whether the label hangs on less than the tolerance."""
    if scored.scores is None:
        return np.zeros(len(scored.label), bool)
    if schema.task == "binary":
        near: np.ndarray[Any, Any] = np.abs(scored.scores[:, -1] - schema.threshold) <= slack
        return near
    if schema.task != "classes" or scored.scores.shape[1] < 2:
        return np.zeros(len(scored.label), bool)
    top = np.sort(scored.scores, axis=1)
    return np.asarray(top[:, -1] - top[:, -2] <= 2 * slack)
