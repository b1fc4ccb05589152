"""Labels: what was true, by record id or by key, from devices and from the base.

A label is held until its row comes: labels and rows are joined when they are read, never before.
Of several labels for one row the last in journal order wins; one given at the base overrides those
of devices. A device speaks about its own rows only; a key from the base reaches the rows of all.
Two different values for one reference are a conflict: listed, and the rule above decides.

Order never hangs on a clock. When a label was observed is shown as its delay, and used for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from device_runtime.format.schema import Schema
from edgepack.store.truth import Reading, key_text, read_values
from edgepack.store.view import View

RECORD = (
    r"^(?P<device>[0-9a-f]{32})/(?P<epoch>[0-9a-f]{16})/(?P<uid>[0-9a-f]{16})/(?P<seq>[0-9]{1,18})$"
)
WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"  # a whole number as `key_text` writes it
LEAST, MOST = (pa.scalar(n, pa.int64()).cast(pa.decimal128(20, 0)) for n in (-(2**63), 2**63 - 1))
PLACE = ("_device", "_epoch", "_uid", "_sequence")
BASE = "base"
_COLUMNS = ("_device", "_serial", "_sequence", "ref", "by", "value", "source", "observed")
_SEQUENCES = 1 << 40  # a place and a sequence in one int64


@dataclass(frozen=True, slots=True)
class Conflict:
    """One reference with different values; the last in order holds."""

    ref: str
    values: tuple[str, ...]
    holds: str


@dataclass(frozen=True, slots=True)
class Labels:
    """Every label of one bundle name, resolved.

    Attributes:
        ref: Record id or key, one per label that holds, in order (later overrides).
        by_key: Whether `ref` is a key.
        device: Device that gave it; empty = the base.
        truth: Its value, read by the task: class text, or float64.
        source: Who says so.
        observed: Nanoseconds by the giver's clock; 0 unknown.
        given: Labels in all, also repeated ones.
        wrong: (ref, value, why) of labels that cannot be a truth of this task.
        conflicts: References with different values.
        new_classes: Classes that the bundle lacks, with their labels.
        names: Classes of the bundle.
    """

    ref: pa.Array
    by_key: np.ndarray[Any, Any]
    device: pa.Array
    truth: pa.Array
    source: pa.Array
    observed: np.ndarray[Any, Any]
    given: int
    wrong: tuple[tuple[str, str, str], ...]
    conflicts: tuple[Conflict, ...]
    new_classes: Mapping[str, int]
    names: tuple[str, ...]
    _index: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.ref)

    def join(self, rows: pa.RecordBatch | pa.Table, key: str | None) -> np.ndarray[Any, Any]:
        """Return the place in these labels per row, -1 where there is none.

        Args:
            rows: With the columns of `PLACE` and, if the schema has one, the key column.
            key: Name of the key column, or None.
        """
        return np.asarray(np.maximum.reduce(self.candidates(rows, key)))

    def candidates(
        self, rows: pa.RecordBatch | pa.Table, key: str | None
    ) -> list[np.ndarray[Any, Any]]:
        """Return, by each way to name a row, the place in these labels per row, or -1.

        The largest holds; the others are labels of the same row that it overrides.
        """
        found = [self._by_record(rows)]
        if key is not None and key in rows.schema.names and self.by_key.any():
            found += self._by_key(rows, key)
        return found

    def _by_record(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray[Any, Any]:
        result = np.full(rows.num_rows, -1, np.int64)
        places, numbers, order = self._records()
        if not len(order) or not rows.num_rows:
            return result
        codes, names = _place_codes(rows)
        known = np.array([places.get(name, -1) for name in names], np.int64)[codes]
        sequence = _numpy(rows.column("_sequence"))
        wanted = np.where(known >= 0, known * _SEQUENCES + sequence, -1)
        at = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
        hit = numbers[at] == wanted
        result[hit] = order[at[hit]]
        return result

    def _records(self) -> tuple[dict[str, int], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return place → code, sorted code-and-sequence numbers, and the label behind each."""
        if "records" not in self._index:
            order = np.flatnonzero(~self.by_key)
            parts = pc.extract_regex(self.ref.take(pa.array(order)), RECORD)
            valid = _numpy(pc.is_valid(parts))
            order, parts = order[valid], parts.filter(pa.array(valid))
            place = pc.binary_join_element_wise(
                parts.field("device"), parts.field("epoch"), parts.field("uid"), "/"
            )
            coded = place.dictionary_encode()
            sequence = _numpy(parts.field("seq").cast(pa.int64()))
            numbers = _numpy(coded.indices).astype(np.int64) * _SEQUENCES + sequence
            small = sequence < _SEQUENCES
            rank = np.argsort(numbers[small], kind="stable")
            places = {name: code for code, name in enumerate(coded.dictionary.to_pylist())}
            self._index["records"] = (places, numbers[small][rank], order[small][rank])
        return self._index["records"]  # type: ignore[no-any-return]

    def _by_key(self, rows: pa.RecordBatch | pa.Table, key: str) -> list[np.ndarray[Any, Any]]:
        values = _flat(rows.column(key))
        whole = pa.types.is_integer(values.type)
        text = values.cast(pa.int64()) if whole else key_text(values)
        own = np.full(rows.num_rows, -1, np.int64)
        devices = _flat(rows.column("_device")).dictionary_encode()
        codes = _numpy(devices.indices)
        for code, device in enumerate(devices.dictionary.to_pylist()):
            here = codes == code
            own[here] = self._one_giver(text.filter(pa.array(here)), device)
        return [self._one_giver(text, ""), own]

    def _one_giver(self, text: pa.Array, device: str) -> np.ndarray[Any, Any]:
        whole = pa.types.is_integer(text.type)
        index = f"key {device} {whole}"
        if index not in self._index:
            mine = self.by_key & _numpy(pc.equal(self.device, device))
            if whole:
                mine &= _numpy(pc.match_substring_regex(self.ref, WHOLE))
            order = np.flatnonzero(mine)
            refs = self.ref.take(pa.array(order))
            if whole:  # sorted once: a table of texts would be made again for each batch
                exact = refs.cast(pa.decimal128(20, 0))
                fits = pc.equal(exact, pc.max_element_wise(pc.min_element_wise(exact, MOST), LEAST))
                numbers, order = _numpy(exact.filter(fits).cast(pa.int64())), order[_numpy(fits)]
                rank = np.argsort(numbers, kind="stable")
                refs, order = numbers[rank], order[rank]
            self._index[index] = (refs, order)
        refs, order = self._index[index]
        if not len(order):
            return np.full(len(text), -1, np.int64)
        if whole:
            wanted = _numpy(pc.fill_null(text, 0))
            near = np.minimum(np.searchsorted(refs, wanted), len(refs) - 1)
            hit = (refs[near] == wanted) & _numpy(pc.is_valid(text))
            return np.where(hit, order[near], -1)
        at = pc.index_in(text, value_set=refs)
        place = _numpy(pc.fill_null(at, -1)).astype(np.int64)
        return np.where(place >= 0, order[np.maximum(place, 0)], -1)


def collect(view: View, schema: Schema | None, *, upto: tuple[int, int] | None = None) -> Labels:
    """Read and resolve every label of a bundle name.

    Args:
        view: Of the bundle name; labels of compromised devices are left out.
        schema: Of the newest bundle: which values are truths; None: any text.
        upto: (import serial, label file): as if nothing later had come.
    """
    from edgepack.store.label_files import base_labels

    serial, number = upto or (None, None)
    where = None if serial is None else ds.field("_serial") <= serial
    table = view.read(_COLUMNS, where, what="labels").sort_by(
        [("_serial", "ascending"), ("_sequence", "ascending")]
    )
    given = pa.concat_tables(
        [table.select(["_device", "ref", "by", "value", "source", "observed"]),
         base_labels(view.ws, view.name, number)],
        promote_options="permissive",
    ).combine_chunks()  # fmt: skip
    return resolve(given, schema)


def resolve(given: pa.Table, schema: Schema | None) -> Labels:
    """Resolve labels that stand in journal order, those of the base last.

    Args:
        given: Columns `_device` (empty = base), `ref`, `by`, `value`, `source`, `observed`.
        schema: See `collect`.
    """
    reading = read_values(_flat(given.column("value")), schema)
    by_key = _numpy(pc.equal(_flat(given.column("by")), "key"))
    device = _flat(given.column("_device"))
    ref = _flat(given.column("ref"))
    good = _numpy(pc.is_valid(reading.truth))
    scope = pc.if_else(pa.array(by_key), device, pa.scalar("/"))  # a record id names its device
    allowed = good & _own_rows(ref, device, by_key)
    name = pc.binary_join_element_wise(scope, ref, "\n")
    order = np.flatnonzero(allowed)
    last = _last_of_each(name.take(pa.array(order)))
    holds = order[last]
    take = pa.array(holds)
    return Labels(
        ref=ref.take(take),
        by_key=by_key[holds],
        device=device.take(take),
        truth=reading.truth.take(take),
        source=_flat(given.column("source")).take(take),
        observed=_numpy(pc.fill_null(_flat(given.column("observed")).take(take), 0)),
        given=given.num_rows,
        wrong=_wrong(given, reading, good, allowed),
        conflicts=_conflicts(name, ref, reading, order),
        new_classes=reading.new_classes,
        names=reading.names,
    )


def attach(rows: pa.Table, labels: Labels, key: str | None) -> pa.Table:
    """Return the rows with `_truth`, `_truth_source` and `_truth_delay_s`; null where unknown.

    The delay is what the giver's clock said less what the row's clock said: seconds, null where
    that is negative or one of them is unknown.
    """
    at = labels.join(rows, key)
    none = at < 0
    take = pa.array(np.where(none, 0, at), mask=none)
    observed = np.where(none, 0, labels.observed[np.maximum(at, 0)] if len(labels) else 0)
    delay = (observed - _numpy(pc.fill_null(_flat(rows.column("_wall")), 0))) / 1e9
    return (
        rows.append_column("_truth", labels.truth.take(take))
        .append_column("_truth_source", labels.source.take(take))
        .append_column("_truth_delay_s", pa.array(delay, mask=none | (observed <= 0) | (delay < 0)))
    )


def record_ids(rows: pa.RecordBatch | pa.Table) -> pa.Array:
    """Return the record id of each row, as `label` and the device's output write it."""
    parts = [_flat(rows.column(name)) for name in PLACE[:3]]
    return pc.binary_join_element_wise(*parts, rows.column("_sequence").cast(pa.string()), "/")


def _own_rows(ref: pa.Array, device: pa.Array, by_key: Any) -> np.ndarray[Any, Any]:
    own = pc.equal(pc.utf8_slice_codeunits(ref, 0, 32), device)
    shaped = pc.match_substring_regex(ref, RECORD)
    base = pc.equal(device, "")
    allowed: np.ndarray[Any, Any] = by_key | _numpy(pc.and_(shaped, pc.or_(own, base)))
    return allowed


def _last_of_each(name: pa.Array) -> np.ndarray[Any, Any]:
    """Return the places of the last row of each distinct name, ascending."""
    codes = _numpy(name.dictionary_encode().indices)
    place = np.full(int(codes.max()) + 1 if len(codes) else 0, -1, np.int64)
    place[codes] = np.arange(len(codes))  # the last assignment of each code stays
    return np.sort(place)


def _conflicts(
    name: pa.Array, ref: pa.Array, reading: Reading, order: np.ndarray[Any, Any], limit: int = 1000
) -> tuple[Conflict, ...]:
    codes = _numpy(name.take(pa.array(order)).dictionary_encode().indices)
    if len(np.unique(codes)) == len(codes):
        return ()
    truth = reading.truth.take(pa.array(order)).cast(pa.string())
    value = _numpy(truth.dictionary_encode().indices)
    pairs = np.unique(np.stack([codes, value], axis=1), axis=0)
    several, counts = np.unique(pairs[:, 0], return_counts=True)
    result = []
    for code in several[counts > 1][:limit]:
        places = np.flatnonzero(codes == code)
        values = truth.take(pa.array(places)).to_pylist()
        text = ref[int(order[places[-1]])].as_py()
        seen = tuple(dict.fromkeys(map(plain, values)))
        result.append(Conflict(plain(text), seen, plain(values[-1])))
    return tuple(result)


def _wrong(
    given: pa.Table, reading: Reading, good: Any, allowed: Any, limit: int = 1000
) -> tuple[tuple[str, str, str], ...]:
    result = []
    for place in np.flatnonzero(~allowed)[:limit]:
        ref, value = (given.column(n)[int(place)].as_py() for n in ("ref", "value"))
        why = reading.why
        if good[place]:
            own = given.column("_device")[int(place)].as_py()
            why = "names no record of its own device" if own else "is no record id"
        result.append((plain(ref), plain(value), why))
    return tuple(result)


def plain(text: object, most: int = 120) -> str:
    """Return what a stranger wrote so that it can be shown: printable, and not too long."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)[:most])
    return shown + ("…" if len(str(text)) > most else "")


def _place_codes(rows: pa.RecordBatch | pa.Table) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return one code per row and the `device/epoch/uid` behind each code."""
    coded = [_flat(rows.column(name)).dictionary_encode() for name in PLACE[:3]]
    sizes = [max(len(one.dictionary), 1) for one in coded]
    mixed = np.zeros(rows.num_rows, np.int64)
    for one, size in zip(coded, sizes, strict=True):
        mixed = mixed * size + _numpy(one.indices)
    distinct, codes = np.unique(mixed, return_inverse=True)
    texts = [one.dictionary.to_pylist() for one in coded]
    names = []
    for number in distinct.tolist():
        rest, third = divmod(number, sizes[2])
        first, second = divmod(rest, sizes[1])
        names.append(f"{texts[0][first]}/{texts[1][second]}/{texts[2][third]}")
    return codes, names


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    return np.asarray(_flat(column).to_numpy(zero_copy_only=False))


__all__: Sequence[str] = (
    "BASE", "Conflict", "Labels", "attach", "collect", "key_text", "record_ids", "resolve",
)  # fmt: skip
