"""Native categories of HistGradientBoosting: each set of categories becomes one 0/1 column."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepack.convert.forest import Tree, histogram_tree
from edgepack.errors import ConversionError

Array = np.ndarray[Any, Any]
ML = "ai.onnx.ml"


def split_categories(graph: Any, model: Any, x: str, *, double: bool) -> tuple[str, list[Tree]]:
    """Rewrite splits on categories as splits at 0.5 on added columns.

    A categorical split sends a set of codes to the left; codes that training never saw, and
    missing ones, go where missing values go. All this is known beforehand, so each distinct split
    becomes one row of a table that is looked up by the code.

    Args:
        graph: Where nodes are added.
        model: Fitted HistGradientBoosting model with `is_categorical_`.
        x: Name of the input matrix in the order of the model's own input.
        double: Whether it is double.

    Returns:
        Name of the wider matrix, and the trees over its columns.

    Raises:
        ConversionError: Categories that float32 does not hold.
    """
    categorical = np.asarray(model.is_categorical_)
    count = int(categorical.sum())
    order = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
    stages = model._predictors  # noqa: SLF001
    nodes = [(t, p.nodes, p.raw_left_cat_bitsets) for s in stages for t, p in enumerate(s)]
    encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
    known = [np.asarray(item) for item in encoder.categories_]
    tables: list[dict[bytes, int]] = [{} for _ in range(count)]
    rows: list[list[Array]] = [[] for _ in range(count)]
    places = []
    for _, table, bitsets in nodes:
        place = np.zeros(len(table), np.int64)
        for at in np.flatnonzero(table["is_categorical"] & (table["is_leaf"] == 0)):
            feature = int(table["feature_idx"][at])
            row = _row(
                bitsets[table["bitset_idx"][at]], known[feature], table["missing_go_to_left"][at]
            )
            place[at] = tables[feature].setdefault(row.tobytes(), len(tables[feature]))
            if place[at] == len(rows[feature]):
                rows[feature].append(row)
        places.append(place)
    first = np.concatenate([[len(order)], len(order) + np.cumsum([len(item) for item in rows])])
    wide = _widen(graph, x, order, known, rows, double=double)
    trees = []
    for (target, table, _), place in zip(nodes, places, strict=True):
        own = table["feature_idx"].astype(np.int64)
        split = (table["is_categorical"] != 0) & (table["is_leaf"] == 0)
        columns = np.where(split, first[np.where(split, own, 0)] + place, order[own])
        trees.append(histogram_tree(table, target, columns))
    return wide, trees


def _row(bitset: Array, known: Array, missing_left: int) -> Array:
    """Return 0 (left) or 1 (right) for each known category's code, then for all others."""
    codes = np.arange(len([item for item in known if item == item]))  # noqa: PLR0124 — NaN is none
    left = (bitset[codes // 32] >> (codes % 32).astype(np.uint32)) & 1
    return np.concatenate([1 - left, [1 - int(missing_left)]]).astype(np.float32)


def _widen(
    graph: Any, x: str, order: Array, known: list[Array], rows: list[list[Array]], *, double: bool
) -> str:
    from onnx import TensorProto

    parts = [x]
    for feature, table in enumerate(rows):
        if not table:
            continue
        keys = known[feature][~np.isnan(known[feature].astype(float))].astype(np.float64)
        if (keys.astype(np.float32) != keys).any():
            raise ConversionError(
                "a category is a number that float32 does not hold",
                next="put an OrdinalEncoder in front",
            )
        at = graph.constant([order[feature]], np.int64)
        column = graph.node("Gather", [x, at], version=13, axis=1)
        if double:
            column = graph.node("Cast", [column], version=13, to=TensorProto.FLOAT)
        code = graph.node(
            "LabelEncoder",
            [column],
            domain=ML,
            version=2,
            keys_floats=keys.tolist(),
            values_int64s=list(range(len(keys))),
            default_int64=len(keys),
        )
        flat = graph.node("Reshape", [code, graph.constant([-1], np.int64)], version=14)
        kind = np.float64 if double else np.float32
        lookup = graph.constant(np.stack(table, axis=1).astype(kind), kind)
        parts.append(graph.node("Gather", [lookup, flat], version=13, axis=0))
    if len(parts) == 1:
        return x
    return str(graph.node("Concat", parts, version=13, axis=1))
