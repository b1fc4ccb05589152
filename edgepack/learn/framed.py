"""The rows of a comparison in memory: `[training] engine = "memory"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from device_runtime.format.schema import Schema
from edgepack.candidate.measuring import Made, Measured, measured, shipped
from edgepack.fitted import Fitted
from edgepack.learn.dataset import Dataset, assemble
from edgepack.learn.spread import spread_new_classes
from edgepack.learn.survey import Survey, survey, unlabelled
from edgepack.learn.window import Window
from edgepack.recipe import Recipe
from edgepack.store.labels import Labels
from edgepack.store.view import View
from edgepack.train.engines import check_beforehand
from edgepack.train.fit import Split, fit

if TYPE_CHECKING:
    from edgepack.learn.bootstrap import Array


@dataclass(frozen=True, slots=True)
class Frames:
    """Labelled rows from both sources, each once; oldest first. See `streamed.Places`.

    Attributes:
        recipe: What is trained.
        view: Returned rows.
        found: Those with a truth.
        schema: Of the champion.
        data: Both sources, in the recipe's form.
        upto: Newest import serial that counts.
    """

    recipe: Recipe
    view: View
    found: Survey
    schema: Schema
    data: Dataset
    upto: int

    @property
    def order(self) -> Array:
        """What returned rows are cut by."""
        return self.data.order

    @property
    def device(self) -> Array:
        """Device id of each returned row."""
        return self.data.device

    @property
    def truth(self) -> Array:
        """Truth of each returned row."""
        return np.asarray(self.data.returned[self.recipe.target[0]])

    @property
    def like(self) -> pd.DataFrame:
        """Rows of the recipe: names and dtypes."""
        return self.data.original

    @property
    def originals(self) -> int:
        """Number of the recipe's own rows."""
        return len(self.data.original)

    @property
    def repeated(self) -> int:
        """Returned rows left out because the same row is there already."""
        return self.data.repeated

    @property
    def serial(self) -> Array:
        """Import serial of each returned row."""
        return self.data.serial

    def parted(self, learn: Array, window: Window, how: str) -> Framed:
        """Part them: who teaches, and who judges."""
        extra = pd.DataFrame()
        clustered: tuple[str, ...] = ()
        if self.recipe.copy_new_classes:
            extra, clustered = spread_new_classes(
                self.view, self.found.labels, self.schema, self.recipe, self.data, learn,
                until=window.begin, upto=self.upto,
            )  # fmt: skip
        train = pd.concat([self.data.rows(learn), extra], ignore_index=True)
        held = self.data.returned[window.judge].reset_index(drop=True)
        split = Split(train, held, how)
        return Framed(self.recipe, self.data, split, self.device[window.judge], extra, clustered)


def gather(
    view: View, labels: Labels, schema: Schema, recipe: Recipe, until: Any, serial: int
) -> Frames:
    """Read both sources.

    Args:
        view: Returned rows.
        labels: All labels.
        schema: Of the champion.
        recipe: What is trained.
        until: The recipe's own rows end here.
        serial: Imports after this one are left alone.

    Raises:
        EvidenceError: No row is labelled; or an input is not journaled.
        DataError: The recipe's own rows will not fit into memory.
    """
    if until is None:
        check_beforehand(recipe)
    found = survey(view, labels, schema, [column.name for column in schema.fed], upto=serial)
    if not found.labelled.num_rows:
        raise unlabelled(view, labels)
    return Frames(recipe, view, found, schema, assemble(recipe, found, until), serial)


@dataclass(frozen=True, slots=True)
class Framed:
    """Rows of one comparison, as frames.

    Attributes:
        recipe: What is trained.
        data: Both sources.
        split: Challenger's training rows, and the rows to judge by.
        held_device: Device of each row to judge by.
        spread: Rows that got a label from their cluster (`copy_new_classes`); among `split.train`.
        clustered: Devices whose rows the clusters were made of; none where no label spread.
    """

    recipe: Recipe
    data: Dataset
    split: Split
    held_device: Array
    spread: pd.DataFrame
    clustered: tuple[str, ...]

    @property
    def held(self) -> pd.DataFrame:
        """The rows to judge by."""
        return self.split.test

    @property
    def whole(self) -> pd.DataFrame:
        """All rows that the shipped model is fitted on."""
        return pd.concat([self.split.train, self.split.test], ignore_index=True)

    def measure(self, onnxruntime: str) -> Measured:
        """Fit the challenger, prove it, and let it answer the rows to judge by."""
        fitted = fit(self.recipe, self.split.train)
        return measured(self.recipe, fitted, self.split.train, self.split.test, onnxruntime)

    def ship(self, found: Measured, onnxruntime: str) -> Made:
        """Fit what ships, on all rows, and prove it."""
        return shipped(self.recipe, found, self.split, self.whole, onnxruntime)

    def without(self, keep: Array) -> Fitted:
        """Fit on the recipe's own rows and those returned rows that the mask names."""
        rows = pd.concat([self.data.rows(keep), self.spread], ignore_index=True)
        return fit(self.recipe, rows)

    def traced(self, _made: Made) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the rows for lineage.json, and nothing beside."""
        return self.whole, {}
