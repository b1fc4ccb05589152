"""Sets of sequences as sorted lists of (first, last), both inclusive and never touching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgepack.records import Span


def normal(spans: Iterable[Span]) -> list[Span]:
    """Return the same set: sorted, overlapping and touching spans joined, empty ones left out."""
    result: list[Span] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def subtract(spans: Sequence[Span], gone: Iterable[Span]) -> list[Span]:
    """Return what is in `spans` and not in `gone`."""
    result = normal(spans)
    for low, high in normal(gone):
        cut: list[Span] = []
        for first, last in result:
            cut += [(first, min(last, low - 1)), (max(first, high + 1), last)]
        result = [span for span in cut if span[0] <= span[1]]
    return result


def intersect(spans: Sequence[Span], others: Iterable[Span]) -> list[Span]:
    """Return what is in both."""
    return subtract(spans, subtract(spans, others))


def count(spans: Iterable[Span]) -> int:
    """Return how many sequences there are."""
    return sum(last - first + 1 for first, last in spans)
