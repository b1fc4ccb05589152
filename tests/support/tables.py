"""A small table with columns and targets of each kind."""

from __future__ import annotations

import numpy as np
import pandas as pd


def table(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return rows with numbers, words, gaps, and targets of each kind."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "a": rng.normal(size=rows).astype(np.float32),
            "b": rng.normal(10, 3, size=rows),
            "n": rng.integers(0, 9, size=rows).astype(np.int16),
            "word": rng.choice(["red", "green", "blue"], rows).astype(object),
        }
    )
    frame["gap"] = np.where(rng.random(rows) < 0.2, np.nan, frame["b"]).astype(np.float32)
    raw = frame["a"] + 0.3 * frame["n"] + (frame["word"] == "red") + rng.normal(0, 0.5, rows)
    frame["y"] = (raw > raw.median()).to_numpy()
    frame["kind"] = pd.cut(raw, 3, labels=["low", "middle", "high"]).astype(str).astype(object)
    frame["value"] = raw.astype(np.float64)
    return frame
