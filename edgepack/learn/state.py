"""Everything that commands and report ask about a workspace, put together once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from device_runtime.clock import Clock
from edgepack.fleet.overview import Fleet, overview
from edgepack.learn.drift import CHANGED, Change, Drift
from edgepack.learn.due import DueNow, due
from edgepack.learn.quality import Quality, Score, quality
from edgepack.learn.reference import Reference, references
from edgepack.learn.retrain import Proposal, proposals, refused
from edgepack.learn.returned import Slice, of_table
from edgepack.learn.same_rows import SameRows, same_rows
from edgepack.learn.survey import Survey, survey
from edgepack.recipe import Recipe, load_recipe
from edgepack.registry import Registry
from edgepack.store.label_files import newest_number
from edgepack.store.labels import collect
from edgepack.store.table import by_name
from edgepack.store.view import View
from edgepack.taught import left_out
from edgepack.workspace import Workspace


@dataclass(frozen=True, slots=True)
class NameState:
    """One bundle name.

    Attributes:
        recipe: Its recipe.
        refs: Signed bundles, newest first.
        found: Survey of returned rows; None before anything is signed.
        quality: From labels.
        same: Every bundle on the same newest rows; None if it was not asked for.
        drifts: Of each bundle that has rows, newest first.
        due: Whether to retrain.
        proposals: Oldest first.
        notes: What the view lacks.
        refused: Why the last challenger was refused, if no label came home since; else empty.
        left_out: Compromised devices, as `taught.left_out`.
    """

    recipe: Recipe
    refs: tuple[Reference, ...]
    found: Survey | None
    quality: Quality | None
    same: SameRows | None
    drifts: tuple[Drift, ...]
    due: DueNow
    proposals: tuple[Proposal, ...]
    notes: tuple[str, ...]
    refused: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Bundle name."""
        return self.recipe.name

    @property
    def waiting(self) -> Proposal | None:
        """The newest proposal, if somebody may accept it."""
        newest = self.proposals[-1] if self.proposals else None
        version = self.refs[0].row.version if self.refs else 0
        return newest if newest and newest.waits(version, self.left_out) else None

    @property
    def next(self) -> str:
        """What to type next about it; empty: nothing."""
        if self.notes:
            return "edgepack store rebuild"
        if self.waiting:
            return f"edgepack retrain {self.name} --accept"
        if not self.due.due:
            return ""
        if not (self.found and self.found.rows):
            return "edgepack sync STICK"
        if self.refused or not self.found.labelled.num_rows:
            return f"edgepack label queue --name {self.name} -o queue.csv"
        return f"edgepack retrain {self.name}"

    def lines(self) -> list[str]:
        """Return what `status` says about it."""
        result = []
        if self.quality:
            for version, score in self.quality.versions.items():
                some, rows = self.quality.rows_of(version)
                value = "-" if score.value is None else f"{score.value:.3f}"
                result.append(
                    f"{self.name} {version}: {self.quality.main} {value}{_band(score)} "
                    f"on {some:,} labelled of {rows:,} rows"
                )
            chance = self.quality.by_chance
            if chance and chance.value is not None:
                result.append(
                    f"{self.name}: {chance.main} {chance.value:.3f}{_band(chance)} on the "
                    f"{chance.n:,} labelled rows that the queue drew by chance"
                )
            result += [f"{self.name}: {text}" for text in self.quality.warnings]
            result += [f"{self.name} fails at {spot.text}" for spot in self.quality.spots[:3]]
        if self.same and len(self.same.scores) > 1:
            result.append(self.same.text)
        for item in self.drifts:
            if item.worst:
                result.append(_inputs(item, item.worst))
        result += list(self.notes)
        mark = "due" if self.due.due else "not due"
        reasons = self.due.reasons if self.due.due else self.due.left
        result.append(f"retraining of {self.name} is {mark}: {'; '.join(reasons) or 'no limits'}")
        if self.refused:
            result.append(f"the last challenger of {self.name} was not better: {self.refused}")
        if self.waiting:
            result.append(f"proposal {self.waiting.number} of {self.name} waits for --accept")
        return result

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "name": self.name,
            "bundles": [
                {
                    "version": ref.row.version,
                    "digest": ref.row.digest,
                    "issued": ref.row.issued,
                    "rows": self.quality.rows_of(ref.row.version)[1] if self.quality else 0,
                    "metrics": _metrics(self.quality, ref.row.version),
                }
                for ref in self.refs
            ],
            "quality": self.quality.as_json() if self.quality else None,
            "same_rows": self.same.as_json() if self.same else None,
            "drift": [
                {
                    "bundle": item.bundle,
                    "n": item.n,
                    "worst": {"name": item.worst.name, "psi": item.worst.psi}
                    if item.worst
                    else None,
                }
                for item in self.drifts
            ],
            "due": asdict(self.due),
            "refused": self.refused or None,
            "proposals": [
                {"number": p.number, "candidate": p.candidate, "accepted": p.accepted,
                 "text": p.facts["text"]}
                for p in self.proposals
            ],
            "rows": self.found.rows if self.found else 0,
            "labels": {
                "given": self.found.labels.given if self.found else 0,
                "used": self.found.labelled.num_rows if self.found else 0,
                "held": self.found.held if self.found else 0,
                "conflicts": len(self.found.labels.conflicts) if self.found else 0,
                "wrong": len(self.found.labels.wrong) if self.found else 0,
            },
            "notes": list(self.notes),
        }  # fmt: skip


def _band(score: Score) -> str:
    return "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"


def _inputs(found: Drift, worst: Change) -> str:
    if not worst.sure:
        return f"{found.bundle}: {found.n:,} rows are too few to tell whether inputs changed"
    words = worst.words if worst.excess >= CHANGED else "as in training"
    return f"{found.bundle}: inputs {words}, most {worst.name} (PSI {worst.psi:.2f})"


def _metrics(found: Quality | None, version: int) -> dict[str, float]:
    score = found.versions.get(version) if found else None
    return dict(score.metrics) if score else {}


@dataclass(frozen=True, slots=True)
class State:
    """The whole workspace."""

    fleet: Fleet
    names: tuple[NameState, ...]

    @property
    def next(self) -> str:
        """What to type next."""
        for item in self.names:
            if item.next:
                return item.next
        for device in self.fleet.devices:
            if device.state == "pending":
                return f"edgepack device accept {device.name}"
        return ""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; what concerns the only bundle name stands at the top, too."""
        names = [item.as_json() for item in self.names]
        alone = names[0] if len(names) == 1 else {}
        return {
            "devices": [item.as_json() for item in self.fleet.devices],
            "alarms": [{"kind": kind, "text": text} for kind, text in self.fleet.alarms],
            "bundles": [{"name": item["name"], **one} for item in names for one in item["bundles"]],
            "due": {item["name"]: item["due"] for item in names},
            "same_rows": alone.get("same_rows"),
            "names": names,
            "backup": self.fleet.backup,
            "held": self.fleet.held,
        }


def state(
    ws: Workspace, registry: Registry, clock: Clock, *, device: str | None = None, same: bool = True
) -> State:
    """Describe fleet and models.

    Args:
        ws: The workspace.
        registry: What came home.
        clock: The base's.
        device: Only this device of the fleet (name or id).
        same: Whether to run every bundle on the same newest rows, too.

    Raises:
        DeviceUnknownError: There is no such device.
    """
    fleet = overview(ws, registry, clock, device=device)
    names = tuple(name_state(ws, registry, name, clock, same=same) for name in ws.recipe_names())
    return State(fleet, names)


def name_state(
    ws: Workspace, registry: Registry, name: str, clock: Clock, *, same: bool = True
) -> NameState:
    """Describe one bundle name.

    Args:
        ws: The workspace.
        registry: What came home.
        name: Bundle name.
        clock: The base's.
        same: Whether to run every bundle on the same newest rows, too.
    """
    recipe = load_recipe(ws.recipe_folder(name))
    refs = tuple(references(ws, registry, name))
    made = tuple(proposals(ws, name))
    if not refs:
        return NameState(
            recipe,
            (),
            None,
            None,
            None,
            (),
            due(recipe, None, None, (), clock, new_labels=0),
            made,
            (),
        )
    view = View(ws, registry, name)
    notes = tuple(lag(view, registry))
    labels = collect(view, refs[0].schema)
    columns = [column.name for column in refs[0].schema.fed]
    found = survey(view, labels, refs[0].schema, columns)
    names = {row.device: row.name for row in registry.devices()}
    judged = quality(found, now_ns=clock.wall_ns(), names=names)
    if notes and not found.rows:
        judged = replace(judged, warnings=())  # rows are home; it is the table that lacks them
    compared = same_rows(refs, found) if same else None
    drifts = tuple(of_table(view, refs, Slice()).values())
    ours = f"{name} {refs[0].row.version}"
    latest = [item for item in drifts if item.bundle == ours]  # an older one's is learned by now
    now = due(recipe, refs[0], judged, latest, clock, new_labels=_new_labels(refs[0], found))
    lost = refused(
        ws, name, refs[0].row.version, (found.labelled.num_rows, newest_number(ws, name))
    )
    out = left_out(registry)
    return NameState(recipe, refs, found, judged, compared, drifts, now, made, notes, lost, out)


def lag(view: View, registry: Registry) -> list[str]:
    """Return what the view lacks, for a person."""
    segments = by_name(registry).get(view.name, [])
    problem = view.problem()
    if problem:
        return [f"the table of {view.name} is not sound ({problem}): edgepack store rebuild"]
    if segments and not view.paths():
        missing = f"the table of {view.name} is missing; the archive has its rows"
        return [f"{missing}: edgepack store rebuild makes it again"]
    newest = max((row.serial for row in segments), default=0)
    if view.progress() < newest:
        return [f"the table of {view.name} lacks the newest imports: edgepack store rebuild"]
    return []


def _new_labels(newest: Reference, found: Survey) -> int:
    """Return the labelled rows that came home after the newest model was trained."""
    story = newest.json("lineage.json")
    returned = story.get("returned", {}) if isinstance(story, dict) else {}
    used = 0
    if isinstance(returned, dict):  # what was left out (a device's share) is not new either
        used = int(returned.get("labelled") or returned.get("rows") or 0)
    return max(0, int(found.labelled.num_rows) - used)
