"""Rows as points, and k-means over them: for the labelling queue and for new classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from device_runtime.format.schema import Schema
from edgepack.learn.bootstrap import Array
from edgepack.learn.counting import numbers

WORDS = 20  # categories of a column that get a dimension of their own
SAMPLE = 100_000  # rows that are clustered at most


def points(rows: pa.Table, schema: Schema) -> Array:
    """Return float32 [n, d]: numbers standardised, a missing one in the middle; words one-hot."""
    parts: list[Array] = []
    for column in schema.fed:
        if column.name not in rows.schema.names:
            continue
        values = rows.column(column.name).combine_chunks()
        if column.dtype == "string":
            parts.append(_words(values))
        elif column.shape:
            flat = numbers(values.flatten()).reshape(rows.num_rows, -1)
            parts.append(np.stack([_scaled(flat[:, i]) for i in range(flat.shape[1])], axis=1))
        else:
            parts.append(_scaled(numbers(values))[:, None])
    if not parts:
        return np.zeros((rows.num_rows, 1), np.float32)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _scaled(values: Array) -> Array:
    here = np.isfinite(values)
    if not here.any():
        return np.zeros(len(values))
    middle, spread = values[here].mean(dtype=np.float64), values[here].std(dtype=np.float64)
    return np.where(here, (np.where(here, values, middle) - middle) / (spread or 1.0), 0.0)


def _words(values: pa.Array) -> Array:
    counts = sorted(pc.value_counts(values).to_pylist(), key=lambda item: -item["counts"])
    words = [item["values"] for item in counts[:WORDS] if item["values"] is not None]
    place = pc.fill_null(pc.index_in(values, value_set=pa.array(words, pa.string())), -1)
    codes = np.asarray(place.to_numpy(zero_copy_only=False))
    hot = (codes[:, None] == np.arange(len(words))[None, :]).astype(np.float64)
    return np.asarray(hot / np.sqrt(2.0))  # two different words lie one unit apart


def kmeans(table: Array, k: int, seed: int) -> tuple[Array, Array]:
    """Return (cluster of each point, the point nearest to each used centre)."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    k = max(1, min(k, len(table)))
    kind: Any = KMeans if len(table) * k <= 2_000_000 else MiniBatchKMeans
    model = kind(n_clusters=k, n_init=1, random_state=seed, max_iter=50).fit(table)
    cluster = np.asarray(model.labels_, np.int64)
    gap = np.linalg.norm(table - model.cluster_centers_[cluster], axis=1)
    order = np.lexsort((gap, cluster))
    first = np.r_[True, cluster[order][1:] != cluster[order][:-1]]
    return cluster, order[first]
