"""Drift the plain way: pandas, one column after the other, `numpy.histogram` and `value_counts`."""

from __future__ import annotations

import numpy as np
import pandas as pd


def psi(before: pd.DataFrame, now: pd.DataFrame, bins: int = 10) -> dict[str, float]:
    """Return the PSI of each column."""
    result = {}
    for name in before.columns:
        if before[name].dtype == object or str(before[name].dtype) in ("str", "string"):
            p = before[name].value_counts(normalize=True)
            q = now[name].value_counts(normalize=True)
            p, q = p.align(q, fill_value=0)
        else:
            edges = np.unique(np.nanquantile(before[name], np.arange(1, bins) / bins))
            edges = np.r_[-np.inf, edges, np.inf]
            p, _ = np.histogram(before[name].dropna(), edges)
            q, _ = np.histogram(now[name].dropna(), edges)
            p, q = p / p.sum(), q / q.sum()
        p, q = np.asarray(p) + 1e-6, np.asarray(q) + 1e-6
        result[str(name)] = float(((q - p) * np.log(q / p)).sum())
    return result
