"""The rows of a comparison in constant memory: `[training] engine = "stream"`.

The recipe's own rows come file by file, returned ones by import serial. What is held for each
labelled row is its place, order, device and digest: 32 bytes (and, without a time column, what
orders it: 32 more while they are sorted). The rows to judge by are thinned out if they are many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from device_runtime.format.schema import Schema
from edgepack.candidate.measuring import Made, Measured, made_of, measured
from edgepack.candidate.streaming import Thinned, data_facts, fit_rows, streamed
from edgepack.convert.prove import prove
from edgepack.errors import RecipeError
from edgepack.fitted import CLASSED, Fitted
from edgepack.learn.arrival import COLUMNS, Arrivals
from edgepack.learn.bootstrap import Array
from edgepack.learn.dataset import as_frame, row_digests, told_apart_by
from edgepack.learn.survey import labelled_in_order, order_of, unlabelled
from edgepack.learn.window import Window
from edgepack.recipe import Recipe
from edgepack.store.labels import Labels
from edgepack.store.view import View
from edgepack.tables import batches, inputs_of
from edgepack.train.engines import check_stream
from edgepack.train.fit import Split

if TYPE_CHECKING:
    from collections.abc import Iterable

DEVICE = "_device"
_SEQUENCES = 1 << 40


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows come from.

    Attributes:
        recipe: What is trained.
        view: Returned rows.
        labels: All labels.
        schema: Of the champion.
        until: The recipe's own rows end here.
        serial: Imports after this one are left alone.
        head: First rows of the recipe: names, dtypes and classes.
    """

    recipe: Recipe
    view: View
    labels: Labels
    schema: Schema
    until: Any
    serial: int
    head: pd.DataFrame

    def original(self) -> Iterator[pd.DataFrame]:
        """Yield the recipe's own rows."""
        yield from batches(self.recipe, self.recipe.batch_rows, self.until)

    def returned(self) -> Iterator[tuple[pa.Table, pd.DataFrame]]:
        """Yield labelled rows as they are stored, and in the recipe's form."""
        columns = [column.name for column in self.schema.given]
        for table in labelled_in_order(self.view, self.labels, self.schema, columns, self.serial):
            yield table, as_frame(self.recipe, self.schema, table, self.head)

    def at(self, places: Array) -> Iterator[pd.DataFrame]:
        """Yield the returned rows at these places (ascending), with a column `_device`."""
        for table, frame in self.returned():
            mask = np.isin(place_of(table), places, assume_unique=True)
            if mask.any():
                device = np.array(table.column(DEVICE).to_pylist(), dtype=object)[mask]
                yield frame[mask].reset_index(drop=True).assign(**{DEVICE: device})


def place_of(table: pa.Table) -> Array:
    """Return one number per row that no other row has."""
    serial, sequence = (np.asarray(table.column(n).to_numpy()) for n in ("_serial", "_sequence"))
    return np.asarray(serial * _SEQUENCES + sequence, np.int64)


@dataclass(frozen=True, slots=True)
class Places:
    """Labelled rows from both sources, each once; oldest first. See `dataset.Dataset`.

    Attributes:
        source: Where their values come from.
        place: See `place_of`.
        device: Device id of each returned row.
        order: What returned rows are cut by: own time in µs, or their place by arrival.
        truth: Class of each, as text; empty where the task has none.
        originals: Number of the recipe's own rows.
        repeated: Returned rows left out because the same row is there already.
    """

    source: Source
    place: Array
    device: Array
    order: Array
    truth: Array
    originals: int
    repeated: int

    @property
    def like(self) -> pd.DataFrame:
        """Rows of the recipe: names and dtypes."""
        return self.source.head

    @property
    def serial(self) -> Array:
        """Import serial of each returned row."""
        return self.place // _SEQUENCES

    def parted(self, learn: Array, window: Window, how: str) -> Streamed:
        """Part them: who teaches, and who judges.

        Raises:
            DataError: More rows will be learned from than the model can hold.
        """
        recipe = self.source.recipe
        most = int((learn | window.judge if recipe.refit else learn).sum())
        check_stream(recipe, self.originals + most, len(inputs_of(recipe, self.source.head)))
        held = Thinned()
        for frame in self.source.at(np.sort(self.place[window.judge])):
            held.add(frame)
        sample = held.whole()
        device = sample.pop(DEVICE).to_numpy()
        return Streamed(self, learn, window.judge, how, sample, device)


def gather(
    view: View, labels: Labels, schema: Schema, recipe: Recipe, until: Any, serial: int
) -> Places:
    """Walk once over both sources.

    Raises:
        EvidenceError: No row is labelled; or an input is not journaled.
        RecipeError: The recipe asks for what needs all rows at once.
    """
    if recipe.copy_new_classes:
        raise RecipeError(
            "[retrain] copy_new_classes needs all rows in memory",
            next='leave it out, or write engine = "memory" in [training]',
        )
    head = next(iter(batches(recipe, recipe.batch_rows, until)))
    source = Source(recipe, view, labels, schema, until, serial, head)
    apart = told_apart_by(recipe, head)
    parts = [_narrow(table, frame, source, apart) for table, frame in source.returned()]
    if not parts:
        raise unlabelled(view, labels)
    place, device, truth, digest, *when = (
        np.concatenate(item) for item in zip(*parts, strict=True)
    )
    order = when[0]
    if recipe.time is None:
        arrivals = Arrivals.of(view.registry, serial)
        order = arrivals.order_of(place // _SEQUENCES, place % _SEQUENCES, *when)
    again = pd.Series(digest).duplicated(keep="last").to_numpy() if apart else None
    known = np.zeros(len(place), bool) if again is None else np.array(again)
    originals = 0
    for frame in source.original():  # theirs are not kept: there may be any number of them
        originals += len(frame)
        if apart:
            known |= np.isin(digest, row_digests(frame[apart]))
    fresh = ~known
    sort = np.flatnonzero(fresh)[np.argsort(order[fresh], kind="stable")]
    return Places(
        source, place[sort], device[sort], order[sort], truth[sort] if len(truth) else truth,
        originals, int((~fresh).sum()),
    )  # fmt: skip


def _narrow(
    table: pa.Table, frame: pd.DataFrame, source: Source, apart: list[str]
) -> tuple[Array, ...]:
    """Return what is held of each row: place, device, truth, digest, and what orders it."""
    digest = row_digests(frame[apart]) if apart else np.empty(0, np.uint64)
    classed = source.recipe.task in CLASSED
    truth = _shared(table.column("_truth")) if classed else np.empty(0, object)
    if source.recipe.time is not None:
        when = [order_of(table, source.schema, None)]
    else:
        when = [np.asarray(table.column(name).to_numpy(), np.int64) for name in COLUMNS[2:]]
    return place_of(table), _shared(table.column(DEVICE)), truth, digest, *when


def _shared(column: Any) -> Array:
    """Return texts as objects; equal ones are one object."""
    coded = column.combine_chunks().dictionary_encode()
    words = np.array(coded.dictionary.to_pylist(), dtype=object)
    return np.asarray(words[np.asarray(coded.indices)])


@dataclass(slots=True)
class Streamed:
    """Rows of one comparison, streamed. See `framed.Framed`.

    Attributes:
        places: All labelled rows.
        learn: Mask: returned rows that the challenger learns from.
        judge: Mask: returned rows to judge by.
        how: How they were parted.
        held: The rows to judge by, or a sample of them.
        held_device: Device of each of these.
        taught: Sample of the rows that taught the shipped model.
    """

    places: Places
    learn: Array
    judge: Array
    how: str
    held: pd.DataFrame
    held_device: Array
    taught: Thinned = field(default_factory=Thinned)

    @property
    def spread(self) -> list[int]:
        """No row takes its label from a cluster here."""
        return []

    @property
    def clustered(self) -> tuple[str, ...]:
        """There are no clusters."""
        return ()

    def measure(self, onnxruntime: str) -> Measured:
        """Fit the challenger, prove it, and let it answer the rows to judge by."""
        sample = Thinned(self._recipe.time)
        fitted = fit_rows(self._recipe, self.rows(self.learn), sample)
        return measured(self._recipe, fitted, sample.whole(), self.held, onnxruntime)

    def ship(self, found: Measured, onnxruntime: str) -> Made:
        """Fit what ships, on all rows, and prove it."""
        mask = self.learn | self.judge if self._recipe.refit else self.learn
        self.taught = Thinned(self._recipe.time)
        fitted = fit_rows(self._recipe, self.rows(mask), self.taught)
        whole = self.taught.whole()
        proven = prove(fitted, whole, self.held, onnxruntime=onnxruntime)
        parts = Split(whole, self.held, self.how)
        return streamed(made_of(self._recipe, found, proven, whole, parts), self.taught)

    def without(self, keep: Array) -> Fitted:
        """Fit on the recipe's own rows and those returned rows that the mask names."""
        return fit_rows(self._recipe, self.rows(keep), Thinned())

    def traced(self, made: Made) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return a sample, and `data` of lineage.json over all rows."""
        facts = data_facts(self._recipe, self.taught)
        digest = hashlib.sha256(facts["sha256"].encode())
        for table, frame in self.places.source.returned():
            digest.update(place_of(table).tobytes() + row_digests(frame).tobytes())
        return made.train, {"data": {**facts, "sha256": digest.hexdigest()}}

    def rows(self, mask: Array) -> Iterable[pd.DataFrame]:
        """Yield the recipe's own rows, then the returned ones that the mask names."""
        source = self.places.source
        names = list(source.head.columns)
        yield from source.original()
        for frame in source.at(np.sort(self.places.place[mask])):
            yield frame[names]

    @property
    def _recipe(self) -> Recipe:
        return self.places.source.recipe
