"""Builds profile.json and unlike.bin at the base, with numpy.

`format.sketch` and `model.unlike` read them and say what they are.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from device_runtime.format import canonical
from device_runtime.format.batch import MISSING_CODE, Answers, Batch, Text
from device_runtime.format.binner import Binner, confidence, first, flat, numpy_rows
from device_runtime.format.schema import MISSING_TIME, Schema
from device_runtime.format.sketch import Histogram, Profile, Sketch, compare
from device_runtime.model.sentinel import MIN_ROWS, WINDOW
from device_runtime.model.unlike import (
    MAGIC,
    MAX_FEATURES,
    MAX_VALUES,
    POINTS,
    Unlike,
    codes_many,
    floats,
    read_feature,
)

COUNTED_VALUES = 256
RHYTHM_LOOKS = 32
RHYTHM_SLACK = 1.5  # a longer time shows more than the few windows that were seen
CONFIDENCE_EDGES = tuple(step / 20 for step in range(1, 20))


def build_profile(
    schema: Schema,
    batch: Batch,
    answers: Answers | None,
    *,
    bins: int = 10,
    rates: Mapping[str, float] | None = None,
) -> Profile:
    """Count the reference rows of a new bundle.

    Numeric columns get up to `bins` bins of about equal size; a column with a shape is counted by
    the mean of its values in each row; free text (no categories) is left out.

    Args:
        schema: Of the candidate.
        batch: Reference rows, all valid: those that the model was trained on, or held-out ones of
            the same time. Numpy arrays (n or n x count values) and `Text`.
        answers: What the ONNX model says about these rows, or None.
        bins: Most bins of a numeric column.
        rates: Share of reference rows that were flagged: `unlike`, `abstained`.
    """
    blank = []
    for column in schema.by_role("input"):
        data = batch.columns[column.name]
        if isinstance(data, Text):
            if column.categories is None:
                continue
            frequent = [
                code for code, _ in Counter(flat(data.codes)).most_common(COUNTED_VALUES + 1)
            ]
            known = [data.values[code] for code in frequent if code != MISSING_CODE]
            values = tuple(value for value in known if value in column.categories)[:COUNTED_VALUES]
            blank.append(Histogram(column.name, "text", (), values, ()))
        else:
            edges = _quantile_edges(numpy_rows(data, column, batch.n), bins)
            blank.append(Histogram(column.name, "number", edges, (), ()))
    prediction = confident = None
    if answers is not None:
        if schema.task in ("binary", "classes"):
            prediction = Histogram("prediction", "text", (), schema.output.names, ())
            if confidence(schema, answers) is not None:
                confident = Histogram("confidence", "number", CONFIDENCE_EDGES, (), ())
        elif schema.task in ("regression", "quantiles"):
            edges = _quantile_edges(first(answers), bins)
            prediction = Histogram("prediction", "number", edges, (), ())
    shell = Profile(batch.n, tuple(blank), prediction, confident, dict(rates or {}))
    sketch = Sketch.empty(shell)
    Binner(shell, schema).add(sketch, batch, answers, array("H", bytes(2 * batch.n)))

    def filled(item: Histogram | None) -> Histogram | None:
        if item is None:
            return None
        counts = tuple(sketch.counts[item.name])
        return Histogram(item.name, item.kind, item.edges, item.values, counts)

    columns = tuple(one for one in map(filled, blank) if one is not None)
    return Profile(batch.n, columns, filled(prediction), filled(confident), shell.rates)


def rhythm(
    schema: Schema,
    profile: Profile,
    rows: Callable[[int, int], tuple[Batch, Answers | None]],
    n: int,
) -> dict[str, float]:
    """Return what windows of reference rows that follow one another show at most, times n.

    Five days of flights are not two months of them, though nothing changed; a device sees days.
    Half as much again is granted.

    Args:
        schema: Of the candidate.
        profile: Of the reference rows.
        rows: From row, to row (in the order of time) → batch and answers.
        n: Number of reference rows.
    """
    size = min(WINDOW, n // 4)
    if size < MIN_ROWS:
        return {}
    found: dict[str, float] = {}
    binner = Binner(profile, schema)
    for start in np.linspace(0, n - size, RHYTHM_LOOKS).astype(int).tolist():
        sketch = Sketch.empty(profile)
        batch, answers = rows(start, start + size)
        binner.add(sketch, batch, answers, np.zeros(size, np.uint16))
        for item in compare(profile, sketch):
            if item.n:
                found[item.name] = max(found.get(item.name, 0.0), item.excess * item.n)
    return {name: round(RHYTHM_SLACK * value, 3) for name, value in found.items()}


def _quantile_edges(values: Any, bins: int) -> tuple[float, ...]:
    table = np.asarray(values, dtype=np.float64)
    table = table[np.isfinite(table)]
    if not len(table):
        return ()
    distinct = np.unique(table)
    if len(distinct) <= bins:  # one bin per value: cut halfway between neighbours
        cuts = (distinct[1:] + distinct[:-1]) / 2
    else:
        cuts = np.unique(np.quantile(table, np.arange(1, bins) / bins))
        cuts = cuts[cuts > distinct[0]]
    return tuple(float(cut) for cut in np.unique(cuts))


def build_unlike(
    schema: Schema,
    reference: Batch,
    reference_answers: Answers,
    calibration: Batch,
    calibration_answers: Answers,
    *,
    seed: int,
    rows: int = 1000,
    alarm: float = 0.05,
    groups: Any = None,
) -> tuple[bytes, Mapping[str, Any]]:
    """Return (bytes of unlike.bin, facts for the card) of a new bundle.

    Args:
        schema: Of the candidate.
        reference: Training rows to draw reference rows from (numpy columns and `Text`).
        reference_answers: What the ONNX model says about them.
        calibration: Rows that are not among `reference`: they set the tables and the limit.
        calibration_answers: What the ONNX model says about them.
        seed: Which rows are drawn.
        rows: Most reference rows, shared equally by the predicted classes.
        alarm: Share of calibration rows that may be called unlike.
        groups: One place or day per calibration row; the limit then is the median of the groups'.

    Returns:
        The file, and {"rows", "features", "alarm", "limit", "by_group", "bytes"}. Empty bytes
        where no column can be compared (free text only) or there is no calibration row.
    """
    features = _choose_features(schema, reference)
    if not features or not calibration.n or not reference.n:
        return b"", {}
    by_class = schema.task in ("binary", "classes")
    labels = np.asarray(reference_answers.label) if by_class else np.zeros(reference.n, np.int16)
    count = len(schema.output.names) if by_class else 1
    generator = np.random.default_rng(seed)
    made = [codes_many(read_feature(item), schema, reference)[0] for item in features]
    kept: list[int] = []
    parts: list[bytes] = []
    for label in range(count):
        here = np.flatnonzero(labels == label)
        share = max(1, rows // count)
        picked = np.sort(generator.choice(here, min(share, len(here)), replace=False))
        kept.append(len(picked))
        parts.extend(codes[picked].tobytes() for codes in made)
    confident = confidence(schema, calibration_answers)
    header: dict[str, Any] = {
        "format": "edgepack-unlike",
        "version": 1,
        "features": features,
        "classes": kept,
        "confidence": [] if confident is None else _points(1.0 - np.asarray(confident)),
        "distance": [1 << 30] * POINTS,
        "limit": 1.0,
        "alarm": alarm,
        "by_group": groups is not None,
    }
    codes = b"".join(parts)
    distances = Unlike(schema, header, codes).distances(calibration, calibration_answers)
    header["distance"] = [int(value) for value in _points(distances)]
    raw = Unlike(schema, header, codes).score(calibration, calibration_answers)
    header["limit"] = _limit(raw, alarm, groups)
    text = canonical.encode(header)
    data = MAGIC + len(text).to_bytes(4, "little") + text + codes
    facts = {
        "rows": sum(kept),
        "features": len(features),
        "alarm": alarm,
        "limit": header["limit"],
        "by_group": groups is not None,
        "bytes": len(data),
    }
    return data, facts


def _choose_features(schema: Schema, reference: Batch) -> list[dict[str, Any]]:
    found: list[tuple[float, dict[str, Any]]] = []
    for column in schema.by_role("input"):
        data = reference.columns[column.name]
        if isinstance(data, Text):
            if column.categories and len(column.categories) <= MAX_VALUES:
                found.append((math.inf, {"column": column.name, "values": list(column.categories)}))
            continue
        table = floats(np.asarray(data).reshape(reference.n, column.count))
        if column.dtype == "timestamp":
            table = np.where(table == float(MISSING_TIME), np.nan, table)
        for index in range(column.count):
            values = table[:, index]
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            low, high = (float(value) for value in np.quantile(values, (0.01, 0.99)))
            if not high > low:
                low, high = float(values.min()), float(values.max())
            if not high > low:
                low, high = low - 0.5, low + 0.5
            spread = float(np.std(np.clip(values, low, high))) / (high - low)
            entry = {"column": column.name, "index": index, "low": low, "high": high}
            found.append((spread, entry))
    best = sorted(range(len(found)), key=lambda at: -found[at][0])[:MAX_FEATURES]
    return [found[at][1] for at in sorted(best)]


def _points(values: Any) -> list[float]:
    """Return the 256 quantiles that stand for a sorted list of values."""
    shares = (np.arange(POINTS) + 0.5) / POINTS
    return [float(value) for value in np.quantile(values, shares, method="inverted_cdf")]


def _limit(scores: Any, alarm: float, groups: Any) -> float:
    parts = [scores]
    if groups is not None:
        names = np.asarray(groups)
        parts = [scores[names == name] for name in np.unique(names)]
    limits = [float(np.quantile(part, 1 - alarm, method="higher")) for part in parts if len(part)]
    return max(float(np.median(limits)), 1e-6)
