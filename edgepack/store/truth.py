"""What a label's text means for a task: a class, or a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from device_runtime.format.schema import Schema

VALUES = ("regression", "quantiles", "scores")
_YES = frozenset({"1", "true", "yes", "y", "t"})
_NO = frozenset({"0", "false", "no", "n", "f"})


@dataclass(frozen=True, slots=True)
class Reading:
    """Labels read by a task.

    Attributes:
        truth: One value per label (string or float64); null where the text is none.
        why: What is wrong with those that are null.
        new_classes: Class that the model lacks → labels that name it.
        names: Classes of the model.
    """

    truth: pa.Array
    why: str
    new_classes: Mapping[str, int]
    names: tuple[str, ...]


def read_values(texts: pa.Array, schema: Schema | None) -> Reading:
    """Read label texts.

    Args:
        texts: One per label.
        schema: Of the newest bundle; None: every text is a truth.
    """
    if schema is None or schema.task == "labels":
        return Reading(texts, "is empty", {}, schema.output.names if schema else ())
    coded = texts.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    if schema.task in VALUES:
        numbers = pa.array([as_number(text) for text in distinct], pa.float64())
        return Reading(numbers.take(coded.indices), "is no finite number", {}, ())
    names = schema.output.names
    read = [as_class(text, names, schema.task == "classes") for text in distinct]
    truth = pa.array(read, pa.string()).take(coded.indices)
    rows = Counter[str]()
    for item in pc.value_counts(truth).to_pylist():
        if item["values"] is not None and item["values"] not in names:
            rows[item["values"]] = item["counts"]
    why = f"is none of {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
    return Reading(truth, why, dict(rows), names)


def key_text(values: pa.Array) -> pa.Array:
    """Return keys as the text that labels name them by."""
    if pa.types.is_floating(values.type):
        whole = pc.cast(values, pa.int64(), safe=False)
        same = pc.equal(pc.cast(whole, values.type), values)
        return pc.if_else(same, whole.cast(pa.string()), values.cast(pa.string()))
    return values if pa.types.is_string(values.type) else values.cast(pa.string())


def as_number(text: str | None) -> float | None:
    """Return the finite number in a text, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def as_class(text: str | None, names: tuple[str, ...], open_set: bool) -> str | None:
    """Return the class that a text means, or None.

    `1`, `1.0`, `true` and `yes` mean the same where a model has two such classes. A class that the
    model does not know is taken where classes are words (`open_set`): a world may bring new ones.
    """
    text = (text or "").strip()
    if not text:
        return None
    if text in names:
        return text
    for name in names:
        if name.casefold() == text.casefold() or _same_number(name, text):
            return name
    yes_no = _yes_no(names)
    word = text.casefold().removesuffix(".0")
    if yes_no and word in _YES | _NO:
        return yes_no[word in _YES]
    words = any(as_number(name) is None for name in names) and as_number(text) is None
    return text if open_set and words and len(text) <= 200 else None


def _yes_no(names: tuple[str, ...]) -> tuple[str, str] | None:
    if len(names) != 2:
        return None
    low, high = (name.casefold().removesuffix(".0") for name in names)
    return (names[0], names[1]) if low in _NO and high in _YES else None


def _same_number(one: str, other: str) -> bool:
    first, second = as_number(one), as_number(other)
    return first is not None and first == second
