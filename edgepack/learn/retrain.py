"""The next model: challenge the champion, and propose the winner to a person.

1. Everything labelled: the recipe's own rows up to where the first model was trained, and what came
   home with its truth, each row once, no device above its share.
2. The newest labelled rows that neither model has seen are kept to judge by.
3. The challenger learns from the rest; both answer the kept rows, each through its own ONNX.
4. It wins if the whole 95 % interval of its gain (paired bootstrap) lies above zero.
5. A winner is fitted again on all labelled rows with the same recipe and seed, proven again, and
   written as a candidate that waits for `--accept`. Thin evidence, or no gain: refused, exit 74.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_runtime.clock import Clock
from device_runtime.disk import write_durable
from edgepack.candidate import Candidate, accept, find_candidate, making, score_onnx
from edgepack.candidate.refused import explained
from edgepack.errors import EvidenceError
from edgepack.learn.drift import moved
from edgepack.learn.judge import Verdict, judge, side
from edgepack.learn.reference import Reference, references
from edgepack.learn.returned import Slice, of_table
from edgepack.learn.trial import Trial
from edgepack.recipe import load_recipe
from edgepack.registry import Registry
from edgepack.store.view import View
from edgepack.taught import left_out, untrusted
from edgepack.workspace import Workspace

FILE = "proposal.json"
REFUSAL = "last-refusal.json"
_MOVED = ("name", "psi", "low", "high", "excess", "ks", "n", "unseen", "words")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A winner that waits for a person.

    Attributes:
        number: 1, 2, 3 … within the name.
        name: Bundle name.
        facts: proposal.json.
        accepted: Whether somebody accepted it.
    """

    number: int
    name: str
    facts: Mapping[str, Any]
    accepted: bool

    @property
    def candidate(self) -> int:
        """Number of its candidate."""
        return int(self.facts["candidate"])

    @property
    def against(self) -> int:
        """Version of the champion."""
        return int(self.facts["champion"]["version"])

    def void(self, newest: int, left_out: Mapping[str, int]) -> str:
        """Return why nobody may accept it any more, or an empty text.

        Args:
            newest: Version of the newest signed bundle: one signed since was not challenged.
            left_out: Compromised devices, as `taught.left_out`.
        """
        if self.against != newest:
            return f"it was held against bundle {self.against}, but bundle {newest} is signed since"
        names = self.facts.get("names", {})
        found = untrusted(self.facts.get("returned", {}), left_out)
        who = ", ".join(names.get(device, device[:8]) for device in found)
        return f"{who} taught it, and is compromised since" if found else ""

    def waits(self, newest: int, left_out: Mapping[str, int]) -> bool:
        """Whether somebody may accept it."""
        return not self.accepted and not self.void(newest, left_out)


def retrain(ws: Workspace, registry: Registry, name: str, clock: Clock) -> Proposal:
    """Challenge the newest signed bundle; write a proposal if the challenger wins.

    Raises:
        EvidenceError: Nothing is signed, the evidence is thin, or the challenger is not better.
        RecipeError, DataError, ConversionError, ParityError: As training says.
    """
    recipe = load_recipe(ws.recipe_folder(name))
    champion = _champion(ws, registry, name)
    runtime = ws.device_class(recipe.device_class).onnxruntime
    trial = Trial.prepare(ws, registry, recipe, champion)
    held = trial.rows.held
    with explained(ws, name):
        found = trial.rows.measure(runtime)
    old = side(champion.schema, held, *score_onnx(champion.model, champion.schema, held))
    # The schema of the measured model: the shipped one may know classes beyond it.
    new = side(found.proven.onnx.schema, held, found.answers.label, found.answers.scores)
    verdict = judge(old, new, len(held), recipe.seed, trial.blocks())
    if not verdict.wins:
        _remember_refusal(ws, name, verdict, trial, clock)
        raise EvidenceError(
            f"the challenger is not better: {verdict.text}",
            why=f"bundle {champion.row.version} stays",
        )
    facts = {
        **trial.facts(verdict, old, new),
        "names": {row.device: row.name for row in registry.devices()},
        "changed": _changed(ws, registry, champion),
    }
    with explained(ws, name):
        made = trial.rows.ship(found, runtime)
    story = trial.traced(made, verdict)
    candidate = making.write(ws, recipe, made, story, kind="retrain")
    return write_proposal(ws, name, candidate, facts, clock)


def _changed(ws: Workspace, registry: Registry, champion: Reference) -> list[dict[str, Any]]:
    """Return how the rows that the champion answered differ from those that taught it."""
    found = of_table(View(ws, registry, champion.row.name), [champion], Slice())
    return [
        {
            **{key: getattr(c, key) for key in _MOVED},
            "beyond": list(c.beyond),
            "missing": c.missing[1],
        }
        for item in found.values()
        for c in sorted((*item.columns, *item.answers), key=moved)
    ]


def _champion(ws: Workspace, registry: Registry, name: str) -> Reference:
    refs = references(ws, registry, name)
    if not refs:
        raise EvidenceError(
            f"no bundle of {name} is signed: there is no champion to challenge",
            next=f"run: edgepack train {name}, build, sign",
        )
    return refs[0]


# --- proposals -------------------------------------------------------------------------------


def write_proposal(
    ws: Workspace,
    name: str,
    candidate: Candidate,
    facts: Mapping[str, Any],
    clock: Clock,
) -> Proposal:
    """Write `proposals/NAME/N/`: proposal.json, proposal.md and plots."""
    from edgepack.learn.proposal import pages

    folder = ws.proposals(name)
    ws.disk.mkdir(folder)
    number = 1 + max((int(n) for n in ws.disk.list(folder) if n.isdigit()), default=0)
    whole = {
        "format": "edgepack-proposal",
        "version": 1,
        "name": name,
        "number": number,
        "candidate": candidate.number,
        "made_ns": clock.wall_ns(),
        **facts,
    }
    here = folder / f".{number}.part"
    ws.disk.rmtree(here)
    ws.disk.mkdir(here)
    for file, text in pages(whole).items():
        write_durable(ws.disk, here / file, text.encode(), 0o644)
    write_durable(ws.disk, here / FILE, (json.dumps(whole, indent=1) + "\n").encode(), 0o644)
    ws.disk.rename(here, folder / str(number))
    ws.disk.fsync_dir(folder)
    return Proposal(number, name, whole, accepted=False)


def proposals(ws: Workspace, name: str) -> list[Proposal]:
    """Return the proposals of a name, oldest first."""
    folder, result = ws.proposals(name), []
    for number in sorted(int(n) for n in ws.disk.list(folder) if n.isdigit()):
        facts = json.loads(ws.disk.read(folder / str(number) / FILE))
        try:
            accepted = find_candidate(ws, name, int(facts["candidate"])).accepted
        except Exception:  # noqa: BLE001 (a candidate may have been removed by hand)
            accepted = False
        result.append(Proposal(number, name, facts, accepted))
    return result


def accept_newest(ws: Workspace, registry: Registry, name: str) -> Proposal:
    """Accept the newest proposal: `build` takes its candidate. Nothing is trained.

    Raises:
        EvidenceError: There is none, or its champion is not the newest signed bundle any more.
    """
    known = proposals(ws, name)
    if not known:
        raise EvidenceError(
            f"there is no proposal for {name}", next=f"make one with: edgepack retrain {name}"
        )
    newest = known[-1]
    signed = max((ref.row.version for ref in references(ws, registry, name)), default=0)
    why = "" if newest.accepted else newest.void(signed, left_out(registry))
    if why:
        raise EvidenceError(
            f"proposal {newest.number} of {name} is void: {why}",
            next=f"challenge again: edgepack retrain {name}",
        )
    accept(ws, name, newest.candidate)
    return Proposal(newest.number, name, newest.facts, accepted=True)


def _remember_refusal(
    ws: Workspace, name: str, verdict: Verdict, trial: Trial, clock: Clock
) -> None:
    folder = ws.proposals(name)
    ws.disk.mkdir(folder)
    value = {
        "made_ns": clock.wall_ns(),
        "against": trial.champion.row.version,
        "labels": [len(trial.device) + trial.repeated, trial.files],
        **verdict.as_json(),
    }
    text = json.dumps(value, indent=1) + "\n"
    write_durable(ws.disk, folder / REFUSAL, text.encode(), 0o644)


def refused(ws: Workspace, name: str, against: int, labels: tuple[int, int]) -> str:
    """Return why a challenger of this champion was refused on these rows; empty: none was.

    Args:
        ws: The workspace.
        name: Bundle name.
        against: Version of the champion.
        labels: Labelled rows that are home, and the number of the newest label file.
    """
    try:
        value = json.loads(ws.disk.read(ws.proposals(name) / REFUSAL))
        same = value["against"] == against and tuple(value["labels"]) == labels
        return str(value["text"]) if same else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
