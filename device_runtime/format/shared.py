"""Columns that move together: their distinct tuples are written once, and one index per row.

The weather of one hour at one place, the facts of one machine: such columns repeat as a whole.
Which ones do is judged on a sample, greedily, by what the bytes would cost.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.format.ints import U64
from device_runtime.later import every
from device_runtime.record import Protocol

_SHARED_SAMPLE = 16_384
_MIX = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits: spreads every bit of a product


class Bits(Protocol):
    """What is needed of a column: its shape, and one number per value that stands for it."""

    shape: tuple[int, ...]

    def bits(self) -> U64:
        """Return one uint64 per value, equal where the values are equal bit for bit."""


class Table:
    """Columns whose distinct tuples are written once."""

    def __init__(self, members: list[int], codes: U64, first: NDArray[np.int64]) -> None:
        self.members, self.codes, self.first = members, codes, first


class _Group:
    """Candidate for a shared table, judged on a sample of rows."""

    def __init__(self, member: int, codes: NDArray[np.int64], size: int) -> None:
        self.members = [member]
        self.codes, self.size = codes, size
        self.entry = self.entropy(codes)
        self.index_cost = self.alone = float(_cost(codes, size))

    @staticmethod
    def entropy(codes: NDArray[np.int64]) -> float:
        share = np.bincount(codes) / len(codes)
        share = share[share > 0]
        return float(-(share * np.log2(share)).sum() / 8)

    @property
    def cost(self) -> float:
        return self.index_cost + (self.size * self.entry if len(self.members) > 1 else 0.0)


def _cost(codes: NDArray[np.int64], size: int) -> int:
    width = 1 if size <= 256 else 2
    return len(
        zlib.compress(codes.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T.tobytes(), 1)
    )


def shared_tables(n: int, columns: Sequence[Bits]) -> list[Table]:
    """Find columns that move together (weather of one hour, facts of one machine)."""
    start = max(0, (n - _SHARED_SAMPLE) // 2)

    def group_of(index: int) -> _Group | None:
        if columns[index].shape:
            return None
        sample = columns[index].bits()[start : start + _SHARED_SAMPLE]
        entries, codes = np.unique(sample, return_inverse=True)
        if not 2 < len(entries) <= len(sample) // 8:
            return None
        group = _Group(index, codes.astype(np.int64), len(entries))
        return group if group.alone > 0.02 * len(sample) else None

    found = every(group_of, range(len(columns)), n)
    groups = sorted((group for group in found if group), key=lambda item: -item.alone)
    merged: list[_Group] = []
    for group in groups:
        if not any(_join_group(target, group) for target in merged):
            merged.append(group)
    chosen = [group.members for group in merged if len(group.members) > 1]
    tables = every(lambda members: _table(n, columns, members), chosen, n)
    return [table for table in tables if table is not None]


def _join_group(target: _Group, other: _Group) -> bool:
    """Merge `other` into `target` if that is cheaper."""
    size, codes = _ranks(target.codes * other.size + other.codes, target.size * other.size)
    if size > len(codes) // 4:
        return False
    index_cost = float(_cost(codes, size))
    entry = (
        target.entry if len(target.members) > 1 else target.entropy(target.codes)
    ) + other.entry
    if index_cost + size * entry >= 0.98 * (target.cost + other.cost):
        return False
    target.members += other.members
    target.codes, target.size = codes, size
    target.entry, target.index_cost = entry, index_cost
    return True


def _ranks(codes: NDArray[np.int64], limit: int) -> tuple[int, NDArray[np.int64]]:
    """Return how many distinct codes there are, and the rank of each; few are not sorted."""
    if limit > 8 * len(codes):
        entries, ranks = np.unique(codes, return_inverse=True)
        return len(entries), ranks.astype(np.int64)
    seen = np.zeros(limit, np.bool_)
    seen[codes] = True
    order = np.cumsum(seen)
    return int(order[-1]), order[codes] - 1


def _table(n: int, columns: Sequence[Bits], members: list[int]) -> Table | None:
    """Number the distinct tuples by a hash of their values; None if there are too many.

    Every row is then compared with the first of its hash: where two tuples share one, nothing is
    shared, which costs room and no row.
    """
    bits = [columns[member].bits() for member in members]
    hashed = np.zeros(n, np.uint64)
    for column in bits:
        hashed = (hashed ^ column) * _MIX
        hashed ^= hashed >> np.uint64(32)
    _, first, codes = np.unique(hashed, return_index=True, return_inverse=True)
    if len(first) > n // 2 or any((column != column[first[codes]]).any() for column in bits):
        return None
    order = np.argsort(first)
    rank = np.empty(len(order), np.uint64)
    rank[order] = np.arange(len(order), dtype=np.uint64)
    return Table(members, rank[codes], first[order])
