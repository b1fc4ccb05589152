"""Is this row unlike the training data? Confidence and distance, combined after Fisher.

unlike.bin (an optional payload) carries up to 1,000 reference rows, one byte per feature: a number
becomes one of 16 levels between its 1st and 99th percentile, a category its index. A row's
distance is the smallest sum of squared differences to a reference row *of the predicted class*.
Distance and 1 - confidence are looked up in 256-point tables of calibration rows; the two tail
shares are multiplied (Fisher's method). A score above 1 is called unlike.

What it can: clearly foreign rows are caught. What it cannot: classes between known ones mostly go
through; on average about a third is found, at 7 to 10 % false alarms in a new place. The reference
rows are training data: leave the file out where that is confidential.

Up to 32 rows run without numpy: one `bytes.translate` per feature gives the differences to all
reference rows at once, and whole columns are added as one big integer with 16-bit lanes. Both ways
work on whole numbers and give the same bits.

File: magic, uint32 length, canonical JSON, then per class and feature one byte per reference row.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from functools import cache
from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.batch import MISSING_CODE, Answers, Batch
from device_runtime.format.binner import SMALL, confidence, flat
from device_runtime.format.schema import MISSING_TIME, Schema
from device_runtime.record import dataclass

FILE = "unlike.bin"
MAGIC = b"EDGEPACK UNLIKE1"
TOP = 15  # highest level of a number
MISSING = 16  # a number that is not there: stands at level 8, 6 away from all that are
MISSING_TEXT = 251
UNSEEN_TEXT = 252
PAD = 255
MAX_FEATURES = 256  # 256 x 225 fits into 16 bits
MAX_VALUES = 250
OTHER_VALUE = 40  # squared distance of two categories
UNSEEN_VALUE = 100  # added where a category is new, whatever the reference row
POINTS = 256  # of each table of calibration rows
_NEGLOG = tuple(-math.log((POINTS + 1 - rank) / (POINTS + 1)) for rank in range(POINTS + 1))
_CACHE = 4096


@dataclass(frozen=True, slots=True)
class Feature:
    """One byte of a reference row: element `index` of a number column, or a text column."""

    column: str
    index: int
    low: float
    scale: float
    values: Mapping[str, int] | None


@cache
def _number_table(code: int) -> bytes:
    """Squared difference of `code` to every level, as a translation table."""
    mine = (8, 6) if code == MISSING else (code, 0)
    levels = [(mine[0] - level) ** 2 + mine[1] ** 2 for level in range(TOP + 1)]
    gone = (mine[0] - 8) ** 2 + (mine[1] - 6) ** 2
    return bytes([*levels, gone]) + bytes(256 - TOP - 2)


@cache
def _text_table(code: int) -> bytes:
    """Distance of category `code` to every category, as a translation table."""
    table = bytearray([OTHER_VALUE]) * 256
    table[code] = 0
    table[PAD] = 0
    return bytes(table)


class Unlike:
    """Scores rows: above 1 is unlike the training data."""

    def __init__(self, schema: Schema, header: Mapping[str, Any], codes: bytes) -> None:
        self._schema = schema
        self._features = tuple(read_feature(item) for item in header["features"])
        self._rows = [int(rows) for rows in header["classes"]]
        self._confidence = [float(value) for value in header["confidence"]]
        self._distance = [int(value) for value in header["distance"]]
        self.limit = float(header["limit"])
        self._codes = codes
        self._lanes: dict[tuple[int, int], bytes] = {}
        self._sums: dict[tuple[int, int, int], int] = {}
        self._many: dict[int, Any] = {}

    @classmethod
    def from_bytes(cls, data: bytes, schema: Schema) -> Unlike:
        """Read unlike.bin after its digest was verified.

        Raises:
            FormatError: It does not follow the format, or does not fit the schema.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise FormatError(f"{FILE} is not a table of reference rows")
        start = len(MAGIC) + 4
        size = int.from_bytes(data[len(MAGIC) : start], "little")
        header = canonical.decode(data[start : start + size], FILE)
        codes = data[start + size :]
        try:
            made = cls(schema, header, codes)
            names = {column.name for column in schema.columns}
            fits = all(item.column in names for item in made._features)
            features = len(made._features)
            total = sum(made._rows) * features
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{FILE} does not follow its format: {error!r}") from None
        if not fits or total != len(codes) or features > MAX_FEATURES or not made.limit > 0:
            raise FormatError(f"{FILE} does not fit the schema or its own header")
        return made

    def score(self, batch: Batch, answers: Answers) -> Any:
        """Return the score of each row.

        Args:
            batch: n checked rows.
            answers: What the model said about them.

        Returns:
            float32 per row: `array('f')` up to 32 rows, a numpy array above.
        """
        confident = confidence(self._schema, answers) if self._confidence else None
        if batch.n <= SMALL:
            return self._score_small(batch, answers, confident)
        return self._score_many(batch, answers, confident)

    # --- up to 32 rows, without numpy ---

    def _score_small(self, batch: Batch, answers: Answers, confident: Any) -> array[float]:
        coded = [_codes_small(item, self._schema, batch) for item in self._features]
        labels = flat(answers.label) if len(self._rows) > 1 else [0] * batch.n
        result = array("f")
        for row in range(batch.n):
            codes = [codes[row] for codes, _ in coded]
            distance = min(self._nearest(group, codes) for group in self._groups(labels[row]))
            distance += sum(extra[row] for _, extra in coded)
            rank = bisect_left(self._distance, distance)
            total = _NEGLOG[min(rank, POINTS)]
            if confident is not None:
                total += _NEGLOG[min(bisect_left(self._confidence, 1.0 - confident[row]), POINTS)]
            result.append(total / self.limit)
        return result

    def _groups(self, label: int) -> list[int]:
        if 0 <= label < len(self._rows) and self._rows[label]:
            return [label]
        return [group for group, rows in enumerate(self._rows) if rows]

    def _nearest(self, group: int, codes: list[int]) -> int:
        sums = self._sums
        if len(sums) > _CACHE:
            sums.clear()
        total = 0
        for feature, code in enumerate(codes):
            key = (group, feature, code)
            part = sums.get(key)
            if part is None:
                table = _text_table if self._features[feature].values is not None else _number_table
                lanes = self._lane(group, feature).translate(table(code))
                part = sums[key] = int.from_bytes(lanes, "little")
            total += part
        lanes16 = array("H", total.to_bytes(2 * self._rows[group], "little"))
        return min(lanes16)

    def _column(self, group: int, feature: int) -> bytes:
        width = len(self._features)
        start = sum(self._rows[:group]) * width + feature * self._rows[group]
        return self._codes[start : start + self._rows[group]]

    def _lane(self, group: int, feature: int) -> bytes:
        found = self._lanes.get((group, feature))
        if found is None:
            padded = bytearray([PAD]) * (2 * self._rows[group])
            padded[::2] = self._column(group, feature)
            found = self._lanes[group, feature] = bytes(padded)
        return found

    # --- more rows ---

    def distances(self, batch: Batch, answers: Answers) -> Any:
        """Return the distance of each row to its nearest reference row, int64 (numpy)."""
        import numpy as np

        coded = [codes_many(item, self._schema, batch) for item in self._features]
        distance = np.full(batch.n, 1 << 30, dtype=np.int64)
        labels = np.asarray(answers.label) if len(self._rows) > 1 else np.zeros(batch.n, np.int16)
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            for group in self._groups(label):
                near = self._nearest_many(group, [codes[rows] for codes, _ in coded])
                distance[rows] = np.minimum(distance[rows], near)
        for _, extra in coded:
            distance += extra
        return distance

    def _score_many(self, batch: Batch, answers: Answers, confident: Any) -> Any:
        import numpy as np

        neglog = np.array(_NEGLOG)
        distance = self.distances(batch, answers)
        total = neglog[np.searchsorted(np.array(self._distance), distance, side="left")]
        if confident is not None:
            total = total + neglog[np.searchsorted(np.array(self._confidence), 1.0 - confident)]
        return (total / self.limit).astype(np.float32)

    def _nearest_many(self, group: int, codes: list[Any]) -> Any:
        import numpy as np

        numbers = [at for at, item in enumerate(self._features) if item.values is None]
        texts = [at for at, item in enumerate(self._features) if item.values is not None]
        kept = self._many.get(group)
        if kept is None:
            columns = {
                at: np.frombuffer(self._column(group, at), dtype=np.uint8)
                for at in range(len(self._features))
            }
            table = _embed([columns[at] for at in numbers], self._rows[group])
            half = (table.astype(np.float32) ** 2).sum(axis=1)
            kept = self._many[group] = (np.ascontiguousarray(table.T), half, columns)
        table, squares, columns = kept
        n = len(codes[0]) if codes else 0
        nearest = np.empty(n, dtype=np.int64)
        for start in range(0, n, 1024):  # bounded memory: 1024 x rows x 4 bytes
            part = [item[start : start + 1024] for item in codes]
            mine = _embed([part[at] for at in numbers], len(part[0]))
            far = mine @ table  # whole numbers below 2^24: exact in float32
            far *= -2.0
            far += squares
            for at in texts:
                far += np.float32(OTHER_VALUE) * (part[at][:, None] != columns[at][None, :])
            near = far.min(axis=1) + (mine**2).sum(axis=1)
            nearest[start : start + 1024] = near.astype(np.int64)
        return nearest


def _embed(codes: list[Any], n: int) -> Any:
    """Return levels as float32 [n, 2f]: the level (8 if missing) and 6 where it is missing."""
    import numpy as np

    table = np.zeros((n, 2 * len(codes)), dtype=np.float32)
    for at, item in enumerate(codes):
        gone = item == MISSING
        table[:, at] = np.where(gone, 8, item)
        table[:, len(codes) + at] = np.where(gone, 6, 0)
    return table


def read_feature(item: Any) -> Feature:
    """Read one feature of the header. Raises FormatError."""
    if "values" in item:
        values = {str(value): code for code, value in enumerate(item["values"])}
        if len(values) > MAX_VALUES:
            raise FormatError(f"{FILE}: too many categories in {item['column']}")
        return Feature(str(item["column"]), 0, 0.0, 0.0, values)
    low, high = float(item["low"]), float(item["high"])
    return Feature(str(item["column"]), int(item["index"]), low, TOP / (high - low), None)


def _codes_small(item: Feature, schema: Schema, batch: Batch) -> tuple[list[int], list[int]]:
    """Return per row the code, and the distance that is added whatever the reference row."""
    data: Any = batch.columns[item.column]
    codes: list[int] = []
    extra: list[int] = []
    if item.values is not None:
        for string in data.strings():
            code = MISSING_TEXT if string is None else item.values.get(string, UNSEEN_TEXT)
            codes.append(code)
            extra.append(UNSEEN_VALUE if code == UNSEEN_TEXT else 0)
        return codes, extra
    column = schema.column(item.column)
    low, scale = item.low, item.scale
    values = data if column.count == 1 else flat(data)[item.index :: column.count]
    clock = column.dtype == "timestamp"
    for value in values:
        place = (value - low) * scale
        if 0.0 <= place <= TOP and not (clock and value == MISSING_TIME):
            codes.append(int(place + 0.5))
            extra.append(0)
        elif place != place or (clock and value == MISSING_TIME):  # noqa: PLR0124 (NaN)
            codes.append(MISSING)
            extra.append(0)
        else:
            place = min(max(place, -TOP), 2.0 * TOP)
            inside = min(max(place, 0.0), float(TOP))
            codes.append(int(inside + 0.5))
            extra.append(int(abs(place - inside)) ** 2)
    return codes, extra


def codes_many(item: Feature, schema: Schema, batch: Batch) -> tuple[Any, Any]:
    """Return what `_codes_small` does, as numpy uint8 and int64."""
    import numpy as np

    data: Any = batch.columns[item.column]
    if item.values is not None:
        table = np.array(
            [*(item.values.get(value, UNSEEN_TEXT) for value in data.values), MISSING_TEXT],
            dtype=np.uint8,
        )
        picks = np.asarray(data.codes).astype(np.int64)
        codes = table[np.where(picks == MISSING_CODE, len(data.values), picks)]
        return codes, np.where(codes == UNSEEN_TEXT, UNSEEN_VALUE, 0)
    column = schema.column(item.column)
    values = np.asarray(data).reshape(batch.n, column.count)[:, item.index]
    gone = values == MISSING_TIME if column.dtype == "timestamp" else np.isnan(floats(values))
    place = np.clip((floats(values) - item.low) * item.scale, -TOP, 2.0 * TOP)
    place = np.where(gone, 0.0, place)
    inside = np.clip(place, 0.0, float(TOP))
    codes = np.where(gone, MISSING, np.floor(inside + 0.5)).astype(np.uint8)
    return codes, np.abs(place - inside).astype(np.int64) ** 2


def floats(values: Any) -> Any:
    """Return an array as float64."""
    import numpy as np

    return values.astype(np.float64)
