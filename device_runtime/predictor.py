"""The hot path in one file: check → session → abstention → sentinel → journal → answers.

A block of rows goes through once. Rows that do not fit the schema are journaled as invalid and
never shown to the model; rows that the model is not sure of are answered, flagged `abstained` and
journaled in the PRIORITY lane, because the next training needs them most; the rest is BULK.
Up to 32 rows nothing here imports numpy; both ways give the same bytes.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from device_runtime.answer import Predicted, column_text
from device_runtime.clock import Clock
from device_runtime.format.batch import (
    FLAG_ABSTAINED,
    FLAG_INVALID,
    FLAG_UNLIKE,
    FLAG_UNSEEN,
    Answers,
    Batch,
    Text,
)
from device_runtime.format.binner import SMALL, confidence
from device_runtime.format.schema import Schema
from device_runtime.format.segment import RAW, Lane, Rows
from device_runtime.journal.writer import Journal
from device_runtime.model.check import Checked, Checker, take
from device_runtime.model.rows import RawBlock
from device_runtime.model.sentinel import Sentinel
from device_runtime.model.session import Session, answer_text
from device_runtime.record import dataclass, field, replace

if TYPE_CHECKING:
    from device_runtime.model.unlike import Unlike

MARK_ROWS = 1 << 20
"""A mark is row number x MARK_ROWS + rows of the block."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Names one run of `predict` in the journal, so that it can be resumed without a row twice.

    Attributes:
        good: Stream id (8 bytes) of valid rows.
        invalid: Stream id of invalid rows.
        known: (lane, stream id, mark) → (prefix, first sequence, rows) of what was journaled
            earlier.
    """

    good: bytes
    invalid: bytes
    known: Mapping[tuple[Lane, bytes, int], tuple[str, int, int]] = field(default_factory=dict)


class Predictor:
    """One loaded bundle that answers, watches and journals.

    Args:
        schema: Of the bundle.
        session: Its model.
        journal: Where every row goes; `use` was called for this bundle.
        clock: For the latency.
        sentinel: Counts what came in; None if the bundle has no profile.
        unlike: Scores how unlike the training data a row is; None if the bundle has none.
    """

    def __init__(
        self,
        schema: Schema,
        session: Session,
        journal: Journal,
        clock: Clock,
        *,
        sentinel: Sentinel | None = None,
        unlike: Unlike | None = None,
    ) -> None:
        self.schema = schema
        self.session = session
        self.sentinel = sentinel
        self._journal = journal
        self._clock = clock
        self._unlike = unlike
        self._checker = Checker(schema)

    def checked(self, block: RawBlock) -> RawBlock:
        """Return the block with its check, which any thread may make before it is answered."""
        return replace(block, checked=(self, self._checker.check(block)))

    def predict(self, block: RawBlock, stream: Stream | None = None) -> Predicted:
        """Answer and journal a block; durable after `journal.sync()`.

        Args:
            block: Rows as they came.
            stream: Names the run that can be resumed; rows it knows are not journaled again.

        Raises:
            InputError: The block itself is malformed.
            RunError: The model failed.
            JournalError: The journal cannot be written and the policy is strict.
        """
        start_ns = self._clock.monotonic_ns()
        who, checked = block.checked
        if who is not self:  # nobody looked yet, or the bundle was switched since
            checked = self._checker.check(block)
        batch = checked.batch
        answers = self.session.run(batch) if batch.n else None
        unlike = self._unlike.score(batch, answers) if self._unlike and answers else None
        flags = self._flags(checked, answers, unlike)
        latency_us = min((self._clock.monotonic_ns() - start_ns) // 1000, 0xFFFFFFFF)
        records = [""] * block.n
        if answers is not None:
            self._keep_good(checked, answers, flags, unlike, latency_us, stream, records)
        if checked.invalid:
            self._keep_invalid(checked, latency_us, stream, records)
        self._watch(checked, answers, flags)
        return self._predicted(block, checked, answers, flags, records)

    # --- abstention ---

    def _flags(self, checked: Checked, answers: Answers | None, unlike: Any) -> Any:
        """Return uint16 per good row: `array` up to 32 rows, numpy above."""
        if answers is None:
            return array("H")
        limit, unseen = self.schema.abstain, checked.unseen
        sure = confidence(self.schema, answers) if limit is not None else None
        by_class = self.schema.task in ("binary", "classes")
        if answers.n > SMALL:
            return self._flags_many(checked, answers, unlike, sure)
        flags = array("H", bytes(2 * answers.n))
        for at in range(answers.n):
            value = 0
            if sure is not None and limit is not None and not sure[at] >= limit:
                value |= FLAG_ABSTAINED
            if by_class and answers.label[at] < 0:
                value |= FLAG_ABSTAINED
            if unlike is not None and unlike[at] > 1:
                value |= FLAG_UNLIKE
            if unseen is not None and unseen[checked.good[at]]:
                value |= FLAG_UNSEEN
            flags[at] = value
        return flags

    def _flags_many(self, checked: Checked, answers: Answers, unlike: Any, sure: Any) -> Any:
        import numpy as np

        flags = np.zeros(answers.n, dtype=np.uint16)
        if sure is not None:
            flags[~(sure >= self.schema.abstain)] |= FLAG_ABSTAINED
        if self.schema.task in ("binary", "classes"):
            flags[np.asarray(answers.label) < 0] |= FLAG_ABSTAINED
        if unlike is not None:
            flags[unlike > 1] |= FLAG_UNLIKE
        if checked.unseen is not None:
            seen = np.asarray(checked.unseen)
            if answers.n != len(seen):
                seen = seen[np.asarray(checked.good)]
            flags[seen != 0] |= FLAG_UNSEEN
        return flags

    # --- journal ---

    def _keep_good(
        self,
        checked: Checked,
        answers: Answers,
        flags: Any,
        unlike: Any,
        latency_us: int,
        stream: Stream | None,
        records: list[str],
    ) -> None:
        """Append the good rows, abstained ones to PRIORITY, and fill in their record ids."""
        rest, unsure = _parted(flags, FLAG_ABSTAINED)
        mark = _mark(checked.whole, stream.good) if stream else None
        whole = Rows(checked.batch, answers, flags, unlike, latency_us, _row_numbers(checked), mark)
        if not len(unsure):
            self._append(whole, Lane.BULK, stream, checked.good, records)
            return
        for lane, part in ((Lane.BULK, rest), (Lane.PRIORITY, unsure)):
            if len(part):
                rows = _cut(whole, part, self.schema)
                self._append(rows, lane, stream, [checked.good[at] for at in part], records)

    def _keep_invalid(
        self, checked: Checked, latency_us: int, stream: Stream | None, records: list[str]
    ) -> None:
        places = [item.position for item in checked.invalid]
        given = take(checked.whole, self.schema, places)
        raw = Text.of(json.dumps(item.raw, ensure_ascii=False) for item in checked.invalid)
        batch = Batch(len(places), {**given.columns, RAW: raw}, checked.whole.first_row + places[0])
        rows = Rows(
            batch,
            None,
            array("H", [FLAG_INVALID]) * len(places),
            None,
            latency_us,
            _numbers(checked.whole.first_row, places),
            _mark(checked.whole, stream.invalid) if stream else None,
        )
        self._append(rows, Lane.BULK, stream, places, records)

    def _append(
        self,
        rows: Rows,
        lane: Lane,
        stream: Stream | None,
        places: Sequence[int],
        records: list[str],
    ) -> None:
        done = 0
        if stream is not None and rows.mark is not None:
            known = stream.known.get((lane, *rows.mark))
            if known is not None:
                prefix, sequence, done = known
                _name(records, places[:done], prefix, sequence)
        if done >= len(places):
            return
        if done:  # a block of more than one frame, cut off between two of them
            rest = range(done, len(places))
            rows = _cut(rows, rest, self.schema)._replace(mark=None)
        sequence, prefix = self._journal.append_rows(rows, lane)
        if sequence >= 0:
            _name(records, places[done:], prefix, sequence)

    # --- sentinel and answers ---

    def _watch(self, checked: Checked, answers: Answers | None, flags: Any) -> None:
        if self.sentinel is None:
            return
        self.sentinel.add_invalid(len(checked.invalid))
        if answers is None:
            return
        for alarm in self.sentinel.add(checked.batch, answers, flags):
            self._journal.append_event("drift", alarm.as_json())

    def _predicted(
        self,
        block: RawBlock,
        checked: Checked,
        answers: Answers | None,
        flags: Any,
        records: list[str],
    ) -> Predicted:
        texts = answer_text(self.schema, answers) if answers else []
        scores = _score_rows(answers)
        bits: list[int] = flags.tolist()
        if checked.invalid:
            good = checked.good
            texts = _scatter(texts, good, block.n, "")
            scores = _scatter(scores, good, block.n, None)
            bits = _scatter(bits, good, block.n, FLAG_INVALID)
        keys = {
            column.name: column_text(column, checked.whole.columns.get(column.name), block.n)
            for column in self.schema.by_role("key")
        }
        issues = {item.position: item.issues for item in checked.invalid}
        for name, column in keys.items():
            for at, lines in issues.items():  # a key that could not be read is nobody's
                if at in block.faults or any(line.startswith(f"{name}: ") for line in lines):
                    column[at] = ""
        return Predicted(
            self.schema, block.n, block.first_row, records, keys, texts, scores, bits, issues
        )


# --- helpers -----------------------------------------------------------------------------------


def _mark(whole: Batch, stream: bytes) -> tuple[bytes, int]:
    return stream, whole.first_row * MARK_ROWS + whole.n


def _parted(flags: Any, bit: int) -> tuple[Any, Any]:
    """Return the places of rows without and with a flag."""
    if isinstance(flags, array):
        marked = [at for at, value in enumerate(flags) if value & bit]
        return [at for at in range(len(flags)) if not flags[at] & bit], marked
    import numpy as np

    found = (flags & bit) != 0
    return np.flatnonzero(~found), np.flatnonzero(found)


def _row_numbers(checked: Checked) -> Any:
    """Return the input row number of each good row; None where they are contiguous."""
    return _numbers(checked.whole.first_row, checked.good) if checked.invalid else None


def _numbers(first: int, places: Sequence[int]) -> Any:
    """Return row numbers of places in a block: `array` up to 32, numpy above."""
    if len(places) <= SMALL:
        return array("q", [first + int(place) for place in places])
    import numpy as np

    return np.asarray(places, "int64") + first


def _name(records: list[str], places: Sequence[int], prefix: str, sequence: int) -> None:
    """Fill in the record ids of rows that follow one another in a segment."""
    if len(places) == len(records):
        records[:] = [prefix + str(at) for at in range(sequence, sequence + len(places))]
        return
    for at, place in enumerate(places, sequence):
        records[place] = prefix + str(at)


def _cut(rows: Rows, part: Sequence[int], schema: Schema) -> Rows:
    """Return the rows at some positions, with their input row numbers."""
    answers, first = rows.answers, rows.batch.first_row
    if answers is not None:
        scores = None if answers.scores is None else _pick(answers.scores, part, answers.k)
        answers = Answers(len(part), _pick(answers.label, part, 1), scores, answers.k)
    return rows._replace(
        batch=take(rows.batch, schema, part),
        answers=answers,
        flags=_pick(rows.flags, part, 1),
        unlike=None if rows.unlike is None else _pick(rows.unlike, part, 1),
        rows=_numbers(first, part) if rows.rows is None else _pick(rows.rows, part, 1),
    )


def _pick(data: Any, part: Sequence[int], count: int) -> Any:
    """Return some rows of a flat column with `count` values a row, in its own kind of buffer."""
    if isinstance(data, array):
        if count == 1:
            return array(data.typecode, [data[at] for at in part])
        picked = array(data.typecode)
        for at in part:
            picked.extend(data[at * count : (at + 1) * count])
        return picked
    import numpy as np

    table = np.asarray(data)
    shape = table.shape
    rows = table.reshape(-1, count) if count > 1 else table.reshape(-1)
    return rows[np.asarray(part)].reshape(-1) if len(shape) == 1 else rows[np.asarray(part)]


def _score_rows(answers: Answers | None) -> list[list[float] | None]:
    if answers is None:
        return []
    if answers.scores is None or not answers.k:
        return [None] * answers.n
    k, values = answers.k, answers.scores
    if hasattr(values, "reshape"):
        return list(values.reshape(answers.n, k).tolist())
    flat = values.tolist()
    return [flat[start : start + k] for start in range(0, answers.n * k, k)]


def _scatter(values: list[Any], places: Sequence[int], n: int, blank: Any) -> list[Any]:
    result = [blank] * n
    for value, place in zip(values, places, strict=True):
        result[place] = value
    return result
