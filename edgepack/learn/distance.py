"""How far two counted distributions lie apart: PSI with its interval, KS with its p-value."""

from __future__ import annotations

import math

import numpy as np

from edgepack.learn.counting import Array

_Z = 1.959964  # normal quantile of .975


def psi_interval(before: Array, now: Array) -> tuple[float, float, float]:
    """Return PSI and its 95 % interval by the delta method over both multinomials.

    Half a row is added to each slot, as `format.sketch.psi` does.
    """
    if not before.sum() or not now.sum():
        return 0.0, 0.0, 0.0
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    ratio = np.log(q / p)
    psi = float(((q - p) * ratio).sum())
    to_q, to_p = ratio + 1 - p / q, -ratio + 1 - q / p
    spread = math.sqrt(_variance(q, to_q) / now.sum() + _variance(p, to_p) / before.sum())
    return psi, max(0.0, psi - _Z * spread), psi + _Z * spread


def _variance(share: Array, slope: Array) -> float:
    return float((share * slope**2).sum() - (share * slope).sum() ** 2)


def ks_distance(kind: str, before: Array, now: Array) -> tuple[float, float | None]:
    """Return the largest distance of the cumulative shares and its p-value.

    Categories have no order: total variation, without a p-value. What is missing is left out.
    """
    first, second = before[:-2], now[:-2]
    if kind == "text":
        first, second = np.delete(before, -2), np.delete(now, -2)
    rows, n = first.sum(), second.sum()
    if not rows or not n:
        return 0.0, None
    if kind == "text":
        return float(np.abs(first / rows - second / n).sum() / 2), None
    ks = float(np.abs(np.cumsum(first) / rows - np.cumsum(second) / n).max())
    return ks, ks_p(ks, int(rows), int(n))


def ks_p(ks: float, rows: int, n: int) -> float:
    """Return the asymptotic p-value of a two-sample KS distance (Smirnov 1939)."""
    x = ks * math.sqrt(rows * n / (rows + n))
    if x < 0.2:  # 1 but for less than 1e-12
        return 1.0
    if x < 1:  # the same series by Jacobi's identity: converges fast where the other does not
        odd = (math.exp(-((k * math.pi) ** 2) / (8 * x * x)) for k in (1, 3, 5, 7))
        return 1 - math.sqrt(2 * math.pi) / x * sum(odd)
    return 2 * sum(math.exp(-2 * (k * x) ** 2) * (1 if k % 2 else -1) for k in range(1, 8))
