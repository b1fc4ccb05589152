"""`edgepack status, drift, retrain, label, store`: what came home, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgepack.cli import learn_store
from edgepack.cli.opened import JSON, WORKSPACE, opened
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from edgepack.learn.drift import Change, Drift

_NAME = typer.Argument("", help="Bundle name; needed where the workspace has several.")
_REFERENCE = typer.Option(None, "--reference", help="A plain file: before.")
_CURRENT = typer.Option(None, "--current", help="A plain file: now.")
_HTML = typer.Option(..., "-o", "--out", help="The HTML file to write.")
_CSV = typer.Option(..., "-o", "--out", help="The CSV file to write.")
_LABELS = typer.Argument(help="CSV, NDJSON or Parquet: an id and a value in each line.")
_DEVICE = typer.Option("", "--device", help="Only this device (name or id).")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status")(status)
    app.command("drift")(drift)
    app.command("retrain")(retrain)
    app.command("report")(report)
    labels = typer.Typer(help="Labels: import what is known, ask for what is worth knowing.")
    labels.command("import")(label_import)
    labels.command("queue")(label_queue)
    app.add_typer(labels, name="label")
    learn_store.register(app)


@guard
def status(device: str = _DEVICE, workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Show where every device stands, and what is due."""
    from edgepack.fleet.overview import day
    from edgepack.learn.state import state

    screen = Screen(json)
    with screen.step("reading what came home"):
        found = state(*opened(workspace), device=device or None, same=False)
    screen.table(
        [
            "device", "state", "bundle", "age d", "temperature", "last seen", "produced", "home",
            "out", "lost",
        ],
        [
            [
                item.name, item.state, item.bundle_version, item.age_days, item.temperature,
                day(item.seen), item.records.produced, item.records.home, item.records.out,
                item.records.lost,
            ]
            for item in found.fleet.devices
        ],
    )  # fmt: skip
    for item in found.fleet.devices:
        for kind, text in item.alarms:
            screen.line(f"alarm [{kind}] {item.name}: {text}")
        for text in (*item.reasons, *item.waits):
            screen.line(f"{item.name}: {text}")
    for kind, text in found.fleet.alarms:
        screen.line(f"alarm [{kind}]: {text}")
    for name in found.names:
        for line in name.lines():
            screen.line(line)
    screen.line(f"backup: {found.fleet.backup}")
    screen.done(found.as_json(), found.next)


@guard
def drift(
    name: str = _NAME,
    device: str = _DEVICE,
    since: str = typer.Option("", "--since", help="Only rows from this time on (2013-03-01)."),
    until: str = typer.Option("", "--until", help="Only rows before this time."),
    by: str = typer.Option("", "--by", help="Apart by device, by month, or by device,month."),
    reference: Path | None = _REFERENCE,
    current: Path | None = _CURRENT,
    fail_above: float | None = typer.Option(
        None,
        "--fail-above",
        help="Exit 75 if an input moved by more than this PSI since the newest bundle.",
    ),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Show how far the inputs moved since training. Not whether the model is wrong."""
    from device_runtime.errors import UsageError
    from edgepack.errors import DriftError
    from edgepack.learn.actions import drift_of
    from edgepack.learn.files import of_files

    screen = Screen(json)
    notes: list[str] = []
    _check_time("--since", since)
    _check_time("--until", until)
    parts = tuple(part for part in ("device", "month") if part in by.split(","))
    if set(by.split(",")) - {"", *parts}:
        raise UsageError(f"--by {by!r} is neither device nor month", next="give --by device,month")
    if (reference is None) != (current is None):
        raise UsageError("--reference and --current belong together")
    if reference is not None and (name or device or since or until or by):
        raise UsageError(
            "--reference and --current compare two whole files",
            next="leave out the name, --device, --since, --until and --by",
        )
    if fail_above is not None and not 0 <= fail_above < float("inf"):
        raise UsageError(f"--fail-above {fail_above:g} is no PSI", next="give one such as 0.25")
    with screen.step("comparing with the rows of training"):
        if reference is not None and current is not None:
            alone, notes = of_files(reference, current)
            found = [alone]
        else:
            ws, registry, _ = opened(workspace)
            bundle = ws.recipe_folder(name or None).name
            found, notes = drift_of(
                ws, registry, bundle, device or None, since or None, until or None, parts
            )
    show = _show_groups if parts and not reference else _show_drift
    show(screen, found, "before" if reference else "in training")
    for note in notes:
        screen.line(note)
    judged = found if since or until else _newest(found)
    worst = _worst(judged)
    bundles = list(dict.fromkeys(item.bundle for item in judged))
    whose = " and ".join(bundles)
    answered = "" if reference else f" in the rows that {whose} answered"
    if fail_above is not None and answered:
        text = f"what moved{answered}" if judged else "nothing, there are too few rows"
        screen.line(f"held against {fail_above:g}: {text}")
    result = {**_drift_json(found, notes), "judged": bundles}
    if fail_above is not None and worst and worst.sure and worst.excess > fail_above:
        if not json:
            screen.done(result)
        raise DriftError(
            f"{worst.name} moved by PSI {worst.psi:.3f} ({worst.excess:.3f} beyond "
            f"{'chance and rhythm' if worst.rhythm else 'chance'}){answered}, above {fail_above:g}",
            why="inputs changed; whether the answers are worse, only labels can say",
        )
    screen.done(
        result, "" if reference else "edgepack report -o report.html shows the distributions"
    )


def _check_time(option: str, text: str) -> None:
    from device_runtime.errors import UsageError
    from edgepack.errors import DataError
    from edgepack.tables import moment

    try:
        moment(text or "2013-03-01")
    except DataError:
        what = f"{option} {text!r} is no time"
        raise UsageError(what, next="give a date such as 2013-03-01") from None


def _worst(found: list[Drift]) -> Change | None:
    columns = (item.worst for item in found if item.worst)
    return max(columns, key=lambda c: (c.sure, c.excess), default=None)


def _newest(found: list[Drift]) -> list[Drift]:
    """Return the rows of the newest bundle that answered enough of them, in one group or several.

    What moved under an older bundle was learned by a newer one: judged again, a nightly check
    would never be quiet any more.
    """
    enough = (item.bundle for item in found if item.worst and item.worst.sure)
    bundle = next(enough, None)  # newest first
    return [item for item in found if item.bundle == bundle]


def _drift_json(found: list[Drift], notes: list[str]) -> dict[str, Any]:
    first = found[0] if found else None
    worst = _worst(found)
    return {
        "name": first.bundle if first else None,
        "n": sum(item.n for item in found),
        "columns": [change.as_json() for change in first.columns] if first else [],
        "answers": [change.as_json() for change in first.answers] if first else [],
        "worst": None
        if worst is None
        else {
            "name": worst.name,
            "psi": worst.psi,
            "excess": worst.excess,
            "words": worst.words,
            "sure": worst.sure,
        },
        "groups": [
            {
                "group": item.group,
                "bundle": item.bundle,
                "n": item.n,
                "flags": {k: {"before": a, "now": b} for k, (a, b) in item.flags.items()},
                "columns": {c.name: {"psi": c.psi, "ks": c.ks, "n": c.n} for c in item.columns},
            }
            for item in found
        ],
        "notes": notes,
    }


def _show_groups(screen: Screen, found: list[Drift], then: str) -> None:
    rows = []
    for item in found:
        worst = item.worst
        moved = [] if worst is None else [
            worst.name, round(worst.psi, 4), f"{worst.low:.3f}-{worst.high:.3f}",
            round(worst.ks, 4), worst.words.replace("in training", then),
        ]  # fmt: skip
        rows.append([item.bundle, item.group, item.n, *(moved or ["-"] * 5)])
    screen.table(
        ["bundle", "which rows", "rows", "moved most", "psi", "95 %", "ks", ""],
        rows,
        f"inputs against those {then}",
    )


def _show_drift(screen: Screen, found: list[Drift], then: str) -> None:
    from edgepack.learn.drift import moved

    for item in found:
        screen.table(
            ["column", "psi", "95 %", "rhythm", "ks", "missing", "now", "unseen", "rows", ""],
            [
                [
                    c.name, round(c.psi, 4), f"{c.low:.3f}-{c.high:.3f}", round(c.rhythm, 3),
                    round(c.ks, 4),
                    f"{c.missing[0]:.1%}", f"{c.missing[1]:.1%}", f"{c.unseen:.1%}", c.n,
                    c.words.replace("in training", then),
                ]
                for c in sorted((*item.columns, *item.answers), key=moved)
            ],
            f"{item.bundle}, {item.group}: {item.n:,} rows against those {then}",
        )  # fmt: skip
        flags = [f"{k} {b:.1%}" for k, (_, b) in item.flags.items() if b]
        if flags:
            screen.line("flagged on the device: " + ", ".join(flags))
    if any(not c.exact for item in found for c in item.columns):
        screen.line(
            "ks of numbers: at the edges of the bins, a lower bound (bundles carry no rows)"
        )


@guard
def retrain(
    name: str = _NAME,
    accept: bool = typer.Option(False, "--accept", help="Take the newest proposal; train nothing."),
    again: int | None = typer.Option(
        None, "--again", help="Train this signed version again from its lineage; compare the bytes."
    ),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Let a challenger learn, and propose it if it is better."""
    from edgepack.learn import retrain as learn

    screen = Screen(json)
    ws, registry, clock = opened(workspace)
    bundle = ws.recipe_folder(name or None).name
    if again is not None:
        _again(screen, ws, registry, bundle, again)
        return
    with ws.lock():
        if accept:
            proposal = learn.accept_newest(ws, registry, bundle)
        else:
            with screen.step("champion against challenger"):
                proposal = learn.retrain(ws, registry, bundle, clock)
    facts = proposal.facts
    folder = ws.proposals(bundle) / str(proposal.number)
    screen.line(f"proposal {proposal.number}: {facts['text']}")
    for item in facts["devices"] if len(facts["devices"]) > 1 else ():
        name_of = facts.get("names", {}).get(item["device"], item["device"][:8])
        screen.line(f"  {name_of}: {item['judged']:,} rows judged")
    screen.line(f"read {folder / 'proposal.md'}")
    result = {
        "proposal": proposal.number,
        "candidate": proposal.candidate,
        "accepted": proposal.accepted,
        "champion": facts["champion"],
        "challenger": facts["challenger"],
        "gain": facts["gain"],
        "interval": facts["interval"],
        "rows": facts["rows"],
        "window": facts["window"],
        "without": facts["without"],
        "folder": str(folder),
    }
    after = f"edgepack build {bundle}" if accept else f"edgepack retrain {bundle} --accept"
    screen.done(result, after)


def _again(screen: Screen, ws: Any, registry: Any, bundle: str, version: int) -> None:
    from dataclasses import asdict

    from edgepack.learn.again import again

    with screen.step("training again"):
        found = again(ws, registry, bundle, version)
    screen.line(
        f"bundle {version}, trained again on the same {found.rows:,} rows: the same model.onnx, "
        f"byte for byte (sha256 {found.model_sha256})"
    )
    screen.done({"name": bundle, "same": True, **asdict(found)})


@guard
def report(
    out: Path = _HTML,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Write one HTML file that says it all. Fleet, quality, drift, records, lineage, what next."""
    from edgepack.report.page import write_report

    screen = Screen(json)
    with screen.step("writing the report"):
        result = write_report(*opened(workspace), out)
    screen.line(f"written: {out} ({result['bytes'] / 1e6:.2f} MB)")
    screen.done(result)


@guard
def label_import(
    file: Path = _LABELS,
    name: str = typer.Option("", "--name", help="Bundle name, where there are several."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Keep labels given at the base; they override those of devices."""
    from edgepack.learn.actions import import_labels

    screen = Screen(json)
    ws, registry, clock = opened(workspace)
    bundle = ws.recipe_folder(name or None).name
    with ws.lock(), screen.step("reading labels") as progress:
        result = import_labels(ws, registry, bundle, file, clock, progress)
    screen.line(
        f"{result['labels']:,} labels by {result['by']}: {result['matched']:,} rows have one now, "
        f"{result['held']:,} labels wait for rows that are not home"
    )
    for note in result["notes"]:
        screen.line(note)
    screen.done(result, f"edgepack status, then edgepack retrain {bundle}")


@guard
def label_queue(
    out: Path = _CSV,
    rows: int = typer.Option(100, "--rows", "-n", min=1, help="Rows to ask for."),
    name: str = typer.Option("", "--name", help="Bundle name, where there are several."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Write the rows that are most worth a label. Fill in `value` and import the file."""
    from edgepack.learn.actions import write_queue

    screen = Screen(json)
    ws, registry, _ = opened(workspace)
    bundle = ws.recipe_folder(name or None).name
    with screen.step("choosing rows"):
        result = write_queue(ws, registry, bundle, rows, out)
    screen.line(f"{result['rows']} of {result['unlabelled']:,} unlabelled rows: {out}")
    screen.done(result, f"fill in the column value, then: edgepack label import {out}")
