"""The report: one self-contained HTML file. No script, no request, no font: it opens anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from device_runtime.clock import Clock
from device_runtime.disk import write_durable
from device_runtime.errors import EdgepackError
from edgepack.fleet.overview import events
from edgepack.learn.drift import Drift, moved
from edgepack.learn.quality import Quality
from edgepack.learn.reference import Reference
from edgepack.learn.retrain import Proposal
from edgepack.learn.returned import Slice, of_table
from edgepack.learn.state import NameState, State, state
from edgepack.learn.survey import UNDATED
from edgepack.registry import Registry
from edgepack.report import figures
from edgepack.report.figures import Table, word
from edgepack.report.html import Raw, badge, bullets, count, e, figure, span, table, when
from edgepack.report.style import CSS
from edgepack.store.view import View
from edgepack.workspace import Workspace, check_out

DISTRIBUTIONS = 24  # columns whose distribution is drawn: those that moved most
EVENTS = 60
MOST_GROUPS = 200  # lines of the table of labels
QUIET = ("start", "stop", "sync", "seal")


def write_report(ws: Workspace, registry: Registry, clock: Clock, out: Path) -> dict[str, Any]:
    """Write the report; return what `report --json` prints.

    Raises:
        UsageError: No file can be written there.
    """
    check_out(out)
    found = state(ws, registry, clock)
    text = Page(ws, registry, clock, found).text()
    data = text.encode()
    write_durable(ws.disk, out.absolute(), data, 0o644)
    whole = found.as_json()
    return {
        "file": str(out),
        "bytes": len(data),
        "same_rows": whole["same_rows"],
        "bundles": whole["bundles"],
        "due": whole["due"],
    }


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the page shows."""

    ws: Workspace
    registry: Registry
    clock: Clock
    state: State

    def text(self) -> str:
        """Return the whole file."""
        title = f"{self.ws.root.name}: what came home"
        sections = [
            ("next", "What to do next", self._next()),
            ("fleet", "Fleet", self._fleet()),
            *self._names(),
            ("bundles", "Bundles: parity, signatures, lineage", self._bundles()),
            ("record", "On record", self._events()),
        ]
        made = pd.Timestamp(self.clock.wall_ns(), unit="ns").strftime("%Y-%m-%d %H:%M UTC")
        links = "".join(f'<a href="#{key}">{e(name)}</a>' for key, name, body in sections if body)
        body = "".join(
            f'<section id="{key}"><h2>{e(name)}</h2>{text}</section>'
            for key, name, text in sections
            if text
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<link rel="icon" href="data:,">'
            f"<title>{e(title)}</title><style>{CSS}</style></head><body>"
            f'<header><h1>{e(title)}</h1><p class="muted">Made {made} by edgepack, from the '
            f"registry and the returned journals.</p><nav>{links}</nav></header>"
            f"<main>{self._cards()}{body}</main>"
            "<footer>One file, no script, nothing loaded from elsewhere. Drift says that inputs "
            "changed, never that a model is wrong; quality comes from labels only.</footer>"
            "</body></html>\n"
        )

    # --- at a glance -------------------------------------------------------------------------

    def _cards(self) -> str:
        fleet = self.state.fleet.devices
        home = sum(item.records.home for item in fleet)
        out = sum(item.records.out or 0 for item in fleet)
        lost = sum(item.records.lost for item in fleet)
        alarms = sum(len(item.alarms) for item in fleet) + len(self.state.fleet.alarms)
        cards = [
            (f"{len(fleet):,}", "device" if len(fleet) == 1 else "devices"),
            (f"{home:,}", "rows home"),
            (f"{out:,}", "rows still out"),
            (f"{lost:,}", "records declared lost"),
            (f"{alarms:,}", "alarm" if alarms == 1 else "alarms"),
        ]
        for item in self.state.names:
            if item.same:
                version = max(item.same.scores)
                value = item.same.scores[version]
                cards.append((f"{value:.3f}", f"{word(item.same.main)}, {item.name} {version}"))
        text = "".join(
            f'<div class="card"><b>{e(v)}</b><span>{e(n)}</span></div>' for v, n in cards
        )
        return f'<div class="cards">{text}</div>'

    def _next(self) -> str:
        steps = [
            f"compare the words of {e(device.name)}, then "
            f"<code>edgepack device accept {e(device.name)}</code>"
            for device in self.state.fleet.devices
            if device.state == "pending"
        ]
        for item in self.state.names:
            name = e(item.name)
            if item.waiting:
                steps.append(
                    f"read proposal {item.waiting.number} of {name}, then "
                    f"<code>edgepack retrain {name} --accept</code>, "
                    f"<code>edgepack build {name}</code>, <code>edgepack sign</code>"
                )
            elif item.due.due:
                why = "; ".join(item.due.reasons)
                if item.refused:
                    why += f"; but the last challenger was not better: {item.refused}"
                steps.append(f"<code>{e(item.next)}</code>: {e(why)}")
            elif item.found and item.found.rows and not item.found.labels.given:
                steps.append(
                    f"<code>edgepack label queue --name {name} -o queue.csv</code>: no label of "
                    f"{name} is home"
                )
            steps += [e(note) for note in item.notes]
        waiting = [d for d in self.state.fleet.devices if d.state == "accepted" and d.waits]
        if waiting:
            names = ", ".join(d.name for d in waiting[:8]) + (" …" if len(waiting) > 8 else "")
            steps.append(f"carry a stick to {e(names)}: <code>edgepack sync STICK</code>")
        if not self.registry.get("backup_at"):
            steps.append("there is no backup yet: <code>edgepack backup</code>")
        elif unsaved := self.registry.unbacked():
            steps.append(
                f"{unsaved} segments are in no backup, and not acknowledged: "
                "<code>edgepack backup</code>"
            )
        text = "".join(f"<li>{step}</li>" for step in steps) or "<li>nothing is due</li>"
        return f'<div class="next"><ol>{text}</ol></div>'

    # --- fleet -------------------------------------------------------------------------------

    def _fleet(self) -> str:
        fleet = self.state.fleet
        if not fleet.devices:
            return "<p>No device is enrolled yet: <code>edgepack device new NAME</code></p>"
        rows = [
            [
                item.name, item.state, item.bundle_version or "-", item.age_days,
                badge(item.temperature), count(item.records.produced), count(item.records.home),
                count(item.records.out), count(item.records.lost), when(item.seen),
            ]
            for item in fleet.devices
        ]  # fmt: skip
        columns = ["device", "state", "bundle", "age (days)", "temperature", "produced", "home"]
        columns += ["out", "lost", "last seen"]
        notes = [
            f"{item.name}: {text}"
            for item in fleet.devices
            if (text := _short([*(t for _, t in item.alarms), *item.waits, *item.reasons]))
        ]
        names = {item.id: item.name for item in fleet.devices}
        classes = {item.device_class for item in fleet.devices}
        limits = [kind.policy for name, kind in self.ws.classes.items() if name in classes]
        fresh = min((policy.fresh_days for policy in limits), default=None)
        cold = min((policy.cold_days for policy in limits), default=None)
        timelines = "".join(
            figure(figures.fleet_timeline(item.found, names))
            for item in self.state.names
            if item.found and item.found.grid
        )
        alarms = bullets([f"{kind}: {text}" for kind, text in fleet.alarms])
        return (
            table(Table(columns, rows), text=(0, 1), label="Devices")
            + alarms
            + bullets(notes)
            + '<p class="muted">Temperature is what a device says of its own model: fresh, cooling '
            "or cold. Cold is a model that is old, or one that sees inputs unlike those of its "
            "training. Produced, home, out and lost count rows.</p>"
            + timelines
            + figure(figures.accounting(fleet))
            + figure(figures.temperature(fleet, fresh, cold))
        )

    # --- one bundle name ---------------------------------------------------------------------

    def _names(self) -> list[tuple[str, str, str]]:
        result = []
        for item in self.state.names:
            result.append((f"quality-{item.name}", f"Quality of {item.name}", self._quality(item)))
            result.append((f"drift-{item.name}", f"Drift of {item.name}", self._drift(item)))
        return result

    def _quality(self, item: NameState) -> str:
        found = item.quality
        if found is None:
            return ""
        parts = [f'<p class="muted">{e(figures.MEANING.get(found.main, ""))}</p>']
        parts.append(bullets(found.warnings))
        if item.same and len(item.same.scores) > 1:
            parts.append(figure(figures.on_same_rows(item.same)))
        parts += [
            figure(figures.over_time(found)),
            figure(figures.by_version(found)),
            figure(figures.calibration(found)),
        ]
        if found.spots:
            parts.append(
                "<h3>Where it fails</h3>"
                '<p class="muted">Groups of labelled rows in which the newest bundle errs far more '
                "often than elsewhere (share of wrong answers, or mean absolute error).</p>"
                + bullets([s.text for s in found.spots])
            )
        parts.append(self._labels(found))
        if found.delay_s:
            middle, late = (span(value) for value in found.delay_s)
            parts.append(
                f'<p class="muted">Labels come {middle} after their row (median); nine of ten '
                f"within {late}.</p>"
            )
        if item.proposals:
            rows = [
                [p.number, _standing(p, item.waiting), p.candidate, p.facts["text"]]
                for p in reversed(item.proposals)
            ]
            columns = ["proposal", "state", "candidate", "what it showed"]
            made = table(Table(columns, rows), text=(1, 3), label="Proposals")
            parts.append("<h3>Proposals</h3>" + made)
        return "".join(parts)

    def _labels(self, found: Quality) -> str:
        """Return how many rows have a label, by bundle, device and month."""
        if not found.versions:
            return ""
        names = {device.id: device.name for device in self.state.fleet.devices}
        rows = [
            [item.what, names.get(item.group, item.group), count(item.rows), count(item.labelled),
             f"{item.labelled / item.rows:.1%}" if item.rows else "-",
             "-" if item.delay_s is None else span(item.delay_s)]
            for item in found.coverage[:MOST_GROUPS]
        ]  # fmt: skip
        columns = ["by", "which", "rows", "with a label", "share", "median delay"]
        body = table(Table(columns, rows), text=(0, 1), label="Labels")
        return (
            f"<h3>Labels</h3><details><summary>By bundle, device, month</summary>{body}</details>"
        )

    def _drift(self, item: NameState) -> str:
        if not item.drifts:
            return ""
        latest = item.drifts[0]
        changes = sorted((*latest.columns, *latest.answers), key=moved)
        grid = "".join(figure(figures.distribution(c), small=True) for c in changes[:DISTRIBUTIONS])
        flags = ", ".join(
            f"{name} {now:.1%}" + (f" (at training {before:.1%})" if before is not None else "")
            for name, (before, now) in latest.flags.items()
        )
        return (
            figure(figures.drift_by_column(latest))
            + figure(figures.drift_over_time(self._apart(item, "month")))
            + figure(figures.drift_by_device(self._apart(item, "device")))
            + f"<p>Flagged on the devices, share of rows: {e(flags or 'nothing')}.</p>"
            + f'<h3>Distributions: at training and now</h3><div class="grid">{grid}</div>'
        )

    def _apart(self, item: NameState, by: str) -> list[tuple[str, Drift]]:
        """Return the newest bundle's drift by `month` or `device`."""
        names = {device.id: device.name for device in self.state.fleet.devices}
        view = View(self.ws, self.registry, item.name)
        newest = [ref for ref in item.refs if any(_of(ref, drift) for drift in item.drifts[:1])]
        parts = of_table(view, newest, Slice(), by=(by,))
        return [
            (names.get(key[1], key[1]), drift)
            for key, drift in sorted(parts.items())
            if key[1] != UNDATED
        ]

    # --- bundles -----------------------------------------------------------------------------

    def _bundles(self) -> str:
        return "".join(self._bundle(ref) for item in self.state.names for ref in item.refs)

    def _bundle(self, ref: Reference) -> str:
        story = ref.json("lineage.json")
        row = ref.row
        checked, signers = self._verified(ref)
        data = story.get("data", {})
        facts = [
            ("signatures and digests, checked for this report", checked),
            ("signed by", signers),
            ("digest", row.digest),
            ("issued", when(row.issued * 1_000_000_000)),
            ("root version", row.root_version),
            ("parity with the trained model", self._parity(ref)),
            ("taught by", f"{data.get('rows', '?'):,} rows" if data.get("rows") else "-"),
            ("their times", f"{data.get('first', '?')} to {data.get('last', '?')}"),
            ("their digest", data.get("sha256")),
            ("made by", f"{story.get('kind')}, seed {story.get('seed')}"),
            ("parent bundle", story.get("parent")),
            ("recipe", ", ".join(f"{k} {v[:12]}" for k, v in story.get("recipe", {}).items())),
            ("model.onnx", story.get("model_sha256")),
            ("train it again", f"edgepack retrain {row.name} --again {row.version}"),
            ("packages", ", ".join(f"{k} {v}" for k, v in story.get("packages", {}).items())),
        ]
        rows = [[name, Raw(f"<code>{e(v)}</code>") if _is_hash(v) else v] for name, v in facts if v]
        return f"<h3>{e(row.name)} {row.version}</h3>" + table(
            Table(["", "what it says"], rows), text=(0, 1), label=f"Bundle {row.version}"
        )

    def _verified(self, ref: Reference) -> tuple[str, str]:
        from edgepack.packing.inspect import verify_file

        try:
            found = verify_file(ref.path, workspace=str(self.ws.root), disk=self.ws.disk)
        except EdgepackError as error:
            return f"REFUSED [{error.code}]: {error.what}", ""
        signers = found.get("signers") or ()
        return "all hold", ", ".join(str(one)[:16] for one in signers)

    def _parity(self, ref: Reference) -> str:
        folder = self.ws.candidates(ref.row.name) / str(ref.row.candidate)
        path = folder / "parity.json"
        if not path.is_file():
            return ""
        facts = json.loads(path.read_text(encoding="utf-8"))
        groups = facts.get("groups", {})
        rows = sum(int(group.get("rows", 0)) for group in groups.values())
        different = sum(int(group.get("different", 0)) for group in groups.values())
        worst = max((float(group.get("worst") or 0) for group in groups.values()), default=0.0)
        return (
            f"{rows:,} rows in {len(groups)} groups, {different} different, largest difference "
            f"{worst:.2g} (allowed {facts.get('atol')} + {facts.get('rtol')} relative)"
        )

    # --- events ------------------------------------------------------------------------------

    def _events(self) -> str:
        names = {item.id: item.name for item in self.state.fleet.devices}
        rows: list[list[object]] = []
        for item in self.state.names:
            found = events(self.ws, self.registry, item.name)
            for row in found.slice(max(0, found.num_rows - 5 * EVENTS)).to_pylist():
                if row["kind"] not in QUIET:
                    device = names.get(row["_device"], row["_device"][:8])
                    rows.append([device, row["kind"], when(row["_wall"]), row["data"][:300]])
        if not rows:
            return ""
        return (
            '<p class="muted">The newest events that devices put on record, in order of import; '
            "times are the devices' own and may be wrong.</p>"
            + table(
                Table(["device", "what", "device's clock", "facts"], rows[-EVENTS:][::-1]),
                text=(0, 1, 3),
                label="Events",
            )
        )


def _standing(proposal: Proposal, waiting: Proposal | None) -> str:
    if proposal.accepted:
        return "accepted"
    return "waits" if proposal is waiting else "left"


def _of(ref: Reference, drift: Drift) -> bool:
    return drift.bundle == f"{ref.row.name} {ref.row.version}"


def _short(notes: Sequence[str], most: int = 3) -> str:
    more = f" (and {len(notes) - most} more)" if len(notes) > most else ""
    return "; ".join(notes[:most]) + more


def _is_hash(value: object) -> bool:
    return (
        isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    )
