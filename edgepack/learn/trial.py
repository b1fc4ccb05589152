"""The rows of one comparison: who learns from what, and what both are judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from edgepack.candidate import lineage as lineages
from edgepack.candidate.measuring import Made, Measured, metrics_of
from edgepack.convert.feed import Scored
from edgepack.fitted import CLASSED, Fitted
from edgepack.learn import framed, streamed
from edgepack.learn.arrival import Arrivals
from edgepack.learn.bootstrap import Array, blocks_of
from edgepack.learn.dataset import cap
from edgepack.learn.judge import Side, Verdict, part
from edgepack.learn.reference import Reference
from edgepack.learn.window import Window, check_classes, choose
from edgepack.recipe import Recipe
from edgepack.registry import Registry
from edgepack.store.label_files import newest_number
from edgepack.store.labels import Labels, collect
from edgepack.store.view import View
from edgepack.tables import moment
from edgepack.taught import left_out
from edgepack.workspace import Workspace

LEFT_OUT = 4  # devices that are left out in turn, the largest first: one fit each


class Rows(Protocol):
    """The rows of a comparison: in memory (`framed`) or streamed (`streamed`).

    Another engine is one more of these.

    Attributes:
        held: Rows to judge by.
        held_device: Device of each.
        spread: Rows that got a label from their cluster.
        clustered: Devices whose rows such clusters were made of.
    """

    @property
    def held(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def held_device(self) -> Array: ...  # noqa: D102
    @property
    def spread(self) -> Sized: ...  # noqa: D102
    @property
    def clustered(self) -> tuple[str, ...]: ...  # noqa: D102

    def measure(self, onnxruntime: str) -> Measured:
        """Fit the challenger, prove it, and let it answer the rows to judge by."""

    def ship(self, found: Measured, onnxruntime: str) -> Made:
        """Fit what ships, on all rows, and prove it."""

    def without(self, keep: Array) -> Fitted:
        """Fit on the recipe's own rows and those returned rows that the mask names."""

    def traced(self, made: Made, /) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return rows, and what to say beside them, for lineage.json."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows and split of one comparison.

    Attributes:
        recipe: What is trained.
        champion: The newest signed bundle.
        labels: All labels.
        window: How returned rows are parted.
        learn: Mask: returned rows that the challenger learns from.
        device: Device of each returned row.
        dropped: Device → rows above its share.
        originals: The recipe's own rows.
        repeated: Returned rows left out because the same row is there already.
        rows: Who teaches, who judges.
        until: The recipe's own rows end here.
        serial: Newest import serial.
        files: Newest number of a base label file.
        left_out: Compromised device → the first import serial of it that taught nobody.
    """

    recipe: Recipe
    champion: Reference
    labels: Labels
    window: Window
    learn: Array
    device: Array
    dropped: Mapping[str, int]
    originals: int
    repeated: int
    rows: Rows
    until: Any
    serial: int
    files: int
    left_out: Mapping[str, int]

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
            RecipeError: The recipe asks for what its engine cannot do.
            DataError: More rows than memory holds.
        """
        view = View(ws, registry, recipe.name)
        files = newest_number(ws, recipe.name) if upto is None else upto[1]
        serial = view.progress() if upto is None else upto[0]
        labels = collect(view, champion.schema, upto=(serial, files))
        story = champion.json("lineage.json")
        until = story.get("original_until", story.get("until"))
        gather = streamed.gather if recipe.engine == "stream" else framed.gather
        data = gather(view, labels, champion.schema, recipe, until, serial)
        window = choose(
            data.order,
            seen(recipe, story, data),
            span_us=recipe.window_s * 1_000_000 if recipe.window_s and recipe.time else None,
            least=recipe.min_labels,
            what=recipe.name,
            aside=_aside(recipe, registry, data, serial),
        )
        capped = cap(data.device, window.learn, recipe.device_share, recipe.seed)
        if recipe.task in CLASSED:
            check_classes(recipe.task, data.truth[window.judge], recipe.name)
        rows = data.parted(capped.keep, window, _how(recipe, window))
        return cls(
            recipe, champion, labels, window, capped.keep, data.device, capped.dropped,
            data.originals, data.repeated, rows, until, serial, files, left_out(registry),
        )  # fmt: skip

    def blocks(self) -> Array:
        """Return which of the rows to judge by are drawn together."""
        time = self.recipe.time
        if time is None:
            return blocks_of(np.arange(len(self.rows.held)), timed=False)
        when = self.rows.held[time]
        plain = when if when.dt.tz is None else when.dt.tz_convert(None)
        return blocks_of(plain.to_numpy("datetime64[us]").astype(np.int64), timed=True)

    def traced(self, made: Made, verdict: Verdict | None = None) -> dict[str, Any]:
        """Return lineage.json of what ships; figures only with a verdict."""
        frame, more = self.rows.traced(made)
        return lineages.describe(
            self.recipe,
            frame,
            kind="retrain",
            seed=self.recipe.seed,
            until=None,
            parent=self.champion.row.digest,
            model=made.proven.onnx.model,
            extra=more if verdict is None else {**more, **self._story(verdict)},
        )

    def _story(self, verdict: Verdict) -> dict[str, Any]:
        """Return what lineage.json says beside the usual: enough to make the same rows again."""
        return {
            "original_until": None if self.until is None else str(self.until),
            "returned": {
                **self._by_whom(),
                "label_files": self.files,
                "rows": int(self.learn.sum() + self.window.judge.sum()),
                "labelled": len(self.device) + self.repeated,
                "spread": len(self.rows.spread),
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

    def _by_whom(self) -> dict[str, Any]:
        """Return what `taught` asks for: it says whether these devices are still trusted.

        A device of 0 rows had a part in how labels spread to rows of others.
        """
        counted = _by_device(self.device, self.learn | self.window.judge)
        return {
            "serial": self.serial,
            "devices": {**dict.fromkeys(self.rows.clustered, 0), **counted},
            "left_out": dict(self.left_out),
        }

    def facts(self, verdict: Verdict, old: Side, new: Side) -> dict[str, Any]:
        """Return the numbers of proposal.json."""
        held = self.rows.held_device
        n = len(held)
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
                "of": int(self.window.judge.sum()),
                "begin": readable(self.recipe, self.window.begin),
                "end": readable(self.recipe, self.window.end),
                "set_aside": self.window.late,
            },
            "rows": {
                "original": self.originals,
                "returned": int(self.learn.sum()),
                "judged": n,
                "spread": len(self.rows.spread),
                "repeated": self.repeated,
                "above_share": dict(self.dropped),
            },
            "devices": [
                {
                    "device": device,
                    "taught": int((self.learn & (self.device == device)).sum()),
                    "judged": int((held == device).sum()),
                    "champion": _plain(part(old.value, held == device, n)),
                    "challenger": _plain(part(new.value, held == device, n)),
                }
                for device in sorted(set(self.device))
            ],
            "returned": self._by_whom(),
            "without": self._without(),
            "conflicts": len(self.labels.conflicts),
            "wrong_labels": len(self.labels.wrong),
        }

    def _without(self) -> list[dict[str, Any]]:
        """Fit once without each of the largest devices: does one of them carry the gain?"""
        names, rows = np.unique(self.device[self.learn].astype(str), return_counts=True)
        if len(names) < 2:
            return []
        held, result = self.rows.held, []
        for place in np.argsort(-rows)[:LEFT_OUT]:
            keep = self.learn & (self.device != names[place])
            said = _said(self.rows.without(keep), self.champion, held)
            figures = metrics_of(self.champion.schema, held, said)
            result.append({**figures, "device": str(names[place]), "rows": int(rows[place])})
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


def seen(recipe: Recipe, story: Mapping[str, Any], data: framed.Frames | streamed.Places) -> Array:
    """Return which returned rows the champion may have seen, bool.

    With a time column: none newer than the newest row that it was trained on. Without: none of a
    later import than those that it was trained on.
    """
    if recipe.time is None:
        return np.asarray(data.serial <= story.get("returned", {}).get("serial", 0))
    last = story.get("data", {}).get("last")
    if last is None:
        return np.zeros(len(data.order), bool)
    return np.asarray(data.order <= moment(last, data.like[recipe.time]).timestamp() * 1_000_000)


def _aside(
    recipe: Recipe, registry: Registry, data: framed.Frames | streamed.Places, upto: int
) -> Array | None:
    """Return the rows of devices whose clock lies ahead; None where rows have no time."""
    if recipe.time is None:
        return None
    return Arrivals.of(registry, upto).impossible(data.order, data.serial)


def readable(recipe: Recipe, order: int) -> str:
    """Return a place in the order of rows for a person."""
    if recipe.time is None:
        return f"labelled row {order:,} in order of arrival"
    return str(pd.Timestamp(order, unit="us").round("s"))


def _how(recipe: Recipe, window: Window) -> str:
    begin, end = readable(recipe, window.begin), readable(recipe, window.end)
    return f"measured on labelled rows of the field from {begin} to {end}"


def _by_device(device: Array, mask: Array) -> dict[str, int]:
    names, rows = np.unique(device[mask].astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, rows, strict=True)}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
