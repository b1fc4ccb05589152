"""Which rows have a label: coverage, delay, and what the figures over them do not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edgepack.learn.bootstrap import Array
from edgepack.learn.counting import numbers
from edgepack.learn.survey import Survey
from edgepack.store.label_files import QUEUED
from edgepack.store.labels import plain

GROUP_ROWS = 100  # fewest rows of a group whose share of labels is compared
GROUP_Z = 5.0  # a normal quantile far out: there may be many groups


@dataclass(frozen=True, slots=True)
class Coverage:
    """Labels of one group of rows.

    Attributes:
        what: `bundle`, `device` or `month`.
        group: Which.
        rows: Valid rows.
        labelled: Those with a label.
        delay_s: Median delay of these labels, seconds; None without clocks.
    """

    what: str
    group: str
    rows: int
    labelled: int
    delay_s: float | None


def coverage(found: Survey, now_ns: int | None) -> tuple[Coverage, ...]:
    """Return labelled and all rows by bundle version, device and month."""
    table = found.labelled
    seconds = delays(table, now_ns)
    result: list[Coverage] = []
    rows: dict[str, Counter[str]] = {"bundle": Counter(), "device": Counter()}
    for (version, device, _), n in found.totals.items():
        rows["bundle"][str(version)] += n
        rows["device"][device] += n
    for what, column in (("bundle", "_bundle_version"), ("device", "_device")):
        coded = table.column(column).cast(pa.string()).combine_chunks().dictionary_encode()
        codes, names = numbers(coded.indices, np.int64), coded.dictionary.to_pylist()
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
        places = {name: order[ends[i] : ends[i + 1]] for i, name in enumerate(names)}
        for group, n in sorted(rows[what].items()):
            here = places.get(group, order[:0])
            result.append(Coverage(what, group, n, len(here), _median(seconds[here])))
    for month, (n, some) in found.months.items():
        result.append(Coverage("month", month, n, some, None))
    return tuple(result)


def delays(table: pa.Table, now_ns: int | None) -> Array:
    """Return the delay of each label in seconds; NaN where unknown, or dated after `now_ns`."""
    seconds = numbers(table.column("_truth_delay_s").combine_chunks())
    said = numbers(table.column("_wall").combine_chunks()) / 1e9 + seconds
    late = np.zeros(len(said), bool) if now_ns is None else said > now_ns / 1e9 + 1
    return np.where(late, np.nan, seconds)


def _median(seconds: Array) -> float | None:
    here = seconds[~np.isnan(seconds)]
    return float(np.median(here)) if len(here) else None


def warnings(found: Survey, now_ns: int | None, names: Mapping[str, str]) -> Iterable[str]:
    """Yield what a person should know before believing figures over labels.

    Args:
        found: Of the returned rows.
        now_ns: The base's clock.
        names: Device id → name.
    """
    labels = found.labels
    if not found.rows:
        yield "no rows are home: nothing can be said"
        return
    if not labels.given:
        yield "no labels are home: quality is unknown, drift is all there is"
        return
    if labels.wrong:
        ref, value, why = labels.wrong[0]
        yield f"{len(labels.wrong):,} labels are not used: {value!r} for {ref} {why}"
    if labels.conflicts:
        one = labels.conflicts[0]
        yield (
            f"{len(labels.conflicts):,} rows have labels that contradict each other; the last "
            f"counts: {' / '.join(one.values)} for {one.ref}"
        )
    if found.held:
        yield f"{found.held:,} labels wait for rows that are not home"
    if found.early:
        yield f"{found.early:,} labels are dated before their rows: no delay is counted for them"
    ahead = int(np.count_nonzero(labels.observed > now_ns)) if now_ns is not None else 0
    if ahead:
        yield f"{ahead:,} labels are dated in the future: no delay is counted for them"
    if labels.new_classes:
        some = list(labels.new_classes.items())[:5]
        classes = ", ".join(f"{plain(name, 60)} ({n:,})" for name, n in some)
        yield f"labels name classes that the model lacks: {classes}"
    yield from _not_at_random(found, names)
    asked = queued(found)
    if asked.any():
        yield (
            f"{int(asked.sum()):,} labels were asked for by the queue: figures over them are not "
            "those of all rows; only those on rows drawn by chance are"
        )
    if found.labelled.num_rows and found.schema.task == "binary":
        truth = pc.count_distinct(found.labelled.column("_truth")).as_py()
        if truth == 1:
            yield "all labels name one class: AUC cannot be told"


def queued(found: Survey, *kinds: str) -> Array:
    """Return which labelled rows the queue asked for (of all kinds, or of these), bool."""
    source = found.labelled.column("_truth_source")
    if not kinds:
        mask = pc.starts_with(source, QUEUED)
    else:
        mask = pc.is_in(source, value_set=pa.array([QUEUED + kind for kind in kinds]))
    return np.asarray(pc.fill_null(mask, False).to_numpy(), bool)


def _not_at_random(found: Survey, names: Mapping[str, str]) -> Iterable[str]:
    """Warn where labels come from one kind of rows far more often than from another."""
    for place, what in ((2, "answered"), (1, "from")):
        column = ("_bundle_version", "_device", "_label")[place]
        if column not in found.labelled.schema.names:
            continue
        rows: Counter[str] = Counter()
        for key, n in found.totals.items():
            rows[str(key[place])] += n
        some = _counted(found.labelled.column(column))
        shares = {g: some[g] / n for g, n in rows.items() if n >= GROUP_ROWS}
        if len(shares) < 2:
            continue
        low, high = min(shares, key=lambda k: shares[k]), max(shares, key=lambda k: shares[k])
        if shares[high] <= 0.05 or shares[low] >= 0.7 * shares[high]:
            continue
        both = (some[low] + some[high]) / (rows[low] + rows[high])
        noise = np.sqrt(both * (1 - both) * (1 / rows[low] + 1 / rows[high]))
        if shares[high] - shares[low] > GROUP_Z * noise:
            yield (
                f"labels look missing not at random: {shares[high]:.0%} of rows {what} "
                f"{_name(high, names)} have one, {shares[low]:.0%} of rows {what} "
                f"{_name(low, names)}; figures may not hold for the rest"
            )


def _counted(column: pa.ChunkedArray) -> Counter[str]:
    found = pc.value_counts(pc.fill_null(column.cast(pa.string()), ""))
    return Counter({item["values"]: item["counts"] for item in found.to_pylist()})


def _name(text: str, names: Mapping[str, str]) -> str:
    return names.get(text) or plain(text, 60)
