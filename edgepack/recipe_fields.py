"""Which fields bundle.toml has, and of what kind each is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgepack.units import is_duration

BOOST = 'pip install "edgepack[boost]"'  # brings XGBoost and LightGBM

# table → field → what it must be. "": the top level.
FIELDS: dict[str, dict[str, str]] = {
    "": {
        "name": "text",
        "task": "text",
        "class": "text",
        "data": "text",
        "model": "text",
        "samples": "text",
        "threshold": "share",
        "expires": "duration",
        "description": "text",
        "license": "text",
    },
    "columns": {
        "target": "text or texts",
        "key": "text",
        "time": "text",
        "inputs": "texts",
        "forbidden": "texts",
    },
    "labels": {"delay": "duration"},
    "abstain": {"confidence": "share", "unlike_rows": "count"},
    "retrain": {
        "window": "duration",
        "due": "due",
        "copy_new_classes": "switch",
        "device_share": "share",
        "min_labels": "count",
    },
    "training": {
        "engine": "text",
        "seed": "count",
        "test": "share",
        "refit": "switch",
        "memory": "text",
        "batch_rows": "count",
    },
    "output": {"names": "texts", "quantiles": "shares"},
    "journal": {"*": "text"},
    "ranges": {"*": "pair"},
    "categories": {"*": "text"},
    "parity": {"rtol": "number", "atol": "number"},
    "model_io": {
        "label": "text",
        "probabilities": "text",
        "scores": "text",
        "classes": "texts",
        "inputs": "table",
        "allow_pickle": "switch",
    },
}
_DUE = {"days": "count", "labels": "count", "psi": "number", "quality": "number"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all(value: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(test(item) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_pair(value: Any) -> bool:
    return _all(value, _is_number) and len(value) == 2 and value[0] <= value[1]


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, "a text"),
    "texts": (lambda v: _all(v, _is_text), "a list of texts"),
    "text or texts": (lambda v: _is_text(v) or _all(v, _is_text), "a text or a list of texts"),
    "share": (_is_share, "a number from 0 to 1"),
    "shares": (lambda v: _all(v, _is_share), "a list of numbers from 0 to 1"),
    "count": (_is_count, "a whole number, 0 or more"),
    "counts": (lambda v: _all(v, _is_count), "a list of whole numbers"),
    "number": (_is_number, "a number"),
    "duration": (is_duration, 'a duration such as "1d"'),
    "switch": (lambda v: isinstance(v, bool), "true or false"),
    "pair": (_is_pair, "a list [low, high]"),
    "table": (lambda v: isinstance(v, dict), "a table"),
    "due": (lambda v: isinstance(v, dict), "a table"),
}


def wrong_fields(value: Mapping[str, Any]) -> list[str]:
    """Return one line for each unknown, missing or mistyped field of bundle.toml."""
    mistakes: list[str] = []
    for key, item in value.items():
        if key in FIELDS and key:
            if isinstance(item, dict):
                mistakes += _wrong_table(f"[{key}] ", FIELDS[key], item)
            else:
                mistakes.append(f"{key} must be a table [{key}]")
        else:
            mistakes += _wrong_table("", FIELDS[""], {key: item}, also=list(FIELDS)[1:])
    due = value.get("retrain", {})
    if isinstance(due, dict) and isinstance(due.get("due"), dict):
        mistakes += _wrong_table("[retrain] due.", _DUE, due["due"])
    mistakes += [f"{key} is missing" for key in ("name", "task") if key not in value]
    return mistakes


def _wrong_table(
    where: str, fields: Mapping[str, str], table: Mapping[str, Any], also: Sequence[str] = ()
) -> list[str]:
    mistakes = []
    for key, item in table.items():
        kind = fields.get(key) or fields.get("*")
        if kind is None:
            near = difflib.get_close_matches(key, [*fields, *also], 1)
            hint = f" (meant {near[0]}?)" if near else ""
            mistakes.append(f"unknown key {where}{key}{hint}")
        elif not _KINDS[kind][0](item):
            mistakes.append(f"{where}{key} must be {_KINDS[kind][1]}")
    return mistakes
