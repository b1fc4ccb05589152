"""The rows of one comparison: who learns from what, and what both are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from edgepack.candidate import making
from edgepack.convert.feed import Scored
from edgepack.errors import EvidenceError
from edgepack.learn.dataset import Dataset, assemble, cap
from edgepack.learn.judge import Side, Verdict, part
from edgepack.learn.reference import Reference
from edgepack.learn.spread import spread_new_classes
from edgepack.learn.survey import Survey, survey
from edgepack.learn.window import Window, check_classes, choose
from edgepack.recipe import Recipe
from edgepack.registry import Registry
from edgepack.store.label_files import newest_number
from edgepack.store.labels import collect
from edgepack.store.view import View
from edgepack.tables import moment
from edgepack.train.fit import Split, fit
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    from edgepack.learn.bootstrap import Array

LEFT_OUT = 4  # devices that are left out in turn, the largest first: one fit each


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows and split of one comparison.

    Attributes:
        recipe: What is trained.
        champion: The newest signed bundle.
        found: Labelled rows that came home.
        data: Both sources.
        window: How returned rows are parted.
        learn: Mask: returned rows that the challenger learns from.
        spread: Rows that got a label from their cluster (`copy_new_classes`).
        dropped: Device → rows above its share.
        split: Challenger's training rows, and the rows to judge by.
        until: The recipe's own rows end here.
        serial: Newest import serial.
        files: Newest number of a base label file.
    """

    recipe: Recipe
    champion: Reference
    found: Survey
    data: Dataset
    window: Window
    learn: Array
    spread: pd.DataFrame
    dropped: Mapping[str, int]
    split: Split
    until: Any
    serial: int
    files: int

    @classmethod
    def prepare(
        cls,
        ws: Workspace,
        registry: Registry,
        recipe: Recipe,
        champion: Reference,
        *,
        upto: tuple[int, int] | None = None,
    ) -> Trial:
        """Bring the rows together and part them.

        Args:
            ws: The workspace.
            registry: What came home.
            recipe: What to train.
            champion: Against whom.
            upto: (import serial, label file): as if nothing later had come; None: everything.

        Raises:
            EvidenceError: Too little.
        """
        view = View(ws, registry, recipe.name)
        files = newest_number(ws, recipe.name) if upto is None else upto[1]
        serial = view.progress() if upto is None else upto[0]
        labels = collect(view, champion.schema, upto=(serial, files))
        found = survey(view, labels, champion.schema, inputs_in(champion), upto=serial)
        if not found.labelled.num_rows:
            raise EvidenceError(
                f"no labelled row of {recipe.name} is home",
                why=f"{found.rows:,} rows and {labels.given:,} labels are",
                next="label rows (edgepack label queue says which), then repeat the command",
            )
        story = champion.json("lineage.json")
        until = story.get("original_until", story.get("until"))
        data = assemble(recipe, found, until)
        window = choose(
            data.order,
            seen_until(recipe, story, found, data),
            span_us=recipe.window_s * 1_000_000 if recipe.window_s and recipe.time else None,
            least=recipe.min_labels,
            what=recipe.name,
        )
        capped = cap(data.device, window.learn, recipe.device_share, recipe.seed)
        target = recipe.target[0]
        check_classes(recipe.task, data.returned[window.judge][target], recipe.name)
        extra = pd.DataFrame()
        if recipe.copy_new_classes:
            extra = spread_new_classes(
                view, labels, champion.schema, recipe, data, capped.keep, until=window.begin
            )
        train = pd.concat([data.rows(capped.keep), extra], ignore_index=True)
        held = data.returned[window.judge].reset_index(drop=True)
        split = Split(train, held, _how(recipe, window))
        return cls(
            recipe, champion, found, data, window, capped.keep, extra, capped.dropped, split,
            until, serial, files,
        )  # fmt: skip

    @property
    def whole(self) -> pd.DataFrame:
        """All rows that the shipped model is fitted on."""
        return pd.concat([self.split.train, self.split.test], ignore_index=True)

    def story(self, verdict: Verdict) -> dict[str, Any]:
        """Return what lineage.json says beside the usual: enough to make the same rows again."""
        return {
            "original_until": None if self.until is None else str(self.until),
            "returned": {
                "serial": self.serial,
                "label_files": self.files,
                "rows": int(self.learn.sum() + self.window.judge.sum()),
                "spread": len(self.spread),
                "devices": _by_device(self.data.device, self.learn | self.window.judge),
            },
            "window": {"begin": self.window.begin, "end": self.window.end},
            "champion": {
                "version": self.champion.row.version,
                "digest": self.champion.row.digest,
                "metrics": verdict.champion,
            },
            "metrics": verdict.challenger,
            "gain": asdict(verdict.paired),
        }

    def facts(self, verdict: Verdict, old: Side, new: Side) -> dict[str, Any]:
        """Return the numbers of proposal.json."""
        n = len(self.split.test)
        judged = self.data.device[self.window.judge]
        return {
            "champion": {"version": self.champion.row.version, **verdict.champion},
            "challenger": dict(verdict.challenger),
            "main": verdict.main,
            "gain": verdict.paired.gain,
            "interval": [verdict.paired.low, verdict.paired.high],
            "chance": verdict.paired.chance,
            "text": verdict.text,
            "window": {
                "rows": n,
                "begin": readable(self.recipe, self.window.begin),
                "end": readable(self.recipe, self.window.end),
                "set_aside": self.window.late,
            },
            "rows": {
                "original": len(self.data.original),
                "returned": int(self.learn.sum()),
                "judged": n,
                "spread": len(self.spread),
                "repeated": self.data.repeated,
                "above_share": dict(self.dropped),
            },
            "devices": [
                {
                    "device": device,
                    "taught": int((self.learn & (self.data.device == device)).sum()),
                    "judged": int((judged == device).sum()),
                    "champion": _plain(part(old.value, judged == device, n)),
                    "challenger": _plain(part(new.value, judged == device, n)),
                }
                for device in sorted(set(self.data.device))
            ],
            "without": self._without(),
            "conflicts": len(self.found.labels.conflicts),
            "wrong_labels": len(self.found.labels.wrong),
        }

    def _without(self) -> list[dict[str, Any]]:
        """Fit once without each of the largest devices: does one of them carry the gain?"""
        names, rows = np.unique(self.data.device[self.learn].astype(str), return_counts=True)
        if len(names) < 2:
            return []
        held, result = self.split.test, []
        for place in np.argsort(-rows)[:LEFT_OUT]:
            keep = self.learn & (self.data.device != names[place])
            train = pd.concat([self.data.rows(keep), self.spread], ignore_index=True)
            fitted = fit(self.recipe, train)
            figures = making.metrics_of(
                self.champion.schema, held, _said(fitted, self.champion, held)
            )
            result.append({"device": str(names[place]), "rows": int(rows[place]), **figures})
        return result


def _said(fitted: Any, champion: Reference, held: pd.DataFrame) -> Any:
    scores = fitted.predict_scores(held)
    task, names = champion.schema.task, champion.schema.output.names
    label = np.full(len(held), -1)
    if task == "binary":
        label = (scores[:, -1] >= champion.schema.threshold).astype(int)
    elif task == "classes":
        place = {name: i for i, name in enumerate(names)}
        label = np.array([place.get(name, -1) for name in fitted.names])[scores.argmax(axis=1)]
        scores = None if tuple(fitted.names) != names else scores
    return Scored(label, scores)


def inputs_in(champion: Reference) -> list[str]:
    """Return the input columns that the champion's rows carry."""
    return [column.name for column in champion.schema.fed]


def seen_until(
    recipe: Recipe, story: Mapping[str, Any], found: Survey, data: Dataset
) -> int | None:
    """Return the order from which on the champion has seen no row.

    With a time column: just after the newest row that it was trained on. Without: after the last
    import whose rows it was trained on.
    """
    if recipe.time is not None:
        last = story.get("data", {}).get("last")
        if last is None:
            return None
        like = data.original[recipe.time]
        return int(moment(last, like).timestamp() * 1_000_000) + 1
    serial = story.get("returned", {}).get("serial", 0)
    older = int((np.asarray(found.labelled.column("_serial").to_numpy()) <= serial).sum())
    return older or None


def readable(recipe: Recipe, order: int) -> str:
    """Return a place in the order of rows for a person."""
    if recipe.time is None:
        return f"row {order:,} in order of import"
    return str(pd.Timestamp(order, unit="us"))


def _how(recipe: Recipe, window: Window) -> str:
    begin, end = readable(recipe, window.begin), readable(recipe, window.end)
    return f"measured on labelled rows of the field from {begin} to {end}"


def _by_device(device: Array, mask: Array) -> dict[str, int]:
    names, rows = np.unique(device[mask].astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, rows, strict=True)}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
