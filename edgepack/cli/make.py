"""From nothing to a signed file: init, recipes, train, build, sign, verify, inspect, diff."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from device_runtime.errors import UsageError
from edgepack.cli.opened import JSON, WORKSPACE, open_ring, open_workspace
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from edgepack.workspace import Workspace

NAME = typer.Argument("", help="Bundle name; may be left out if there is one recipe only.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (init, recipes, train, build, sign, verify, inspect, diff, doctor):
        app.command()(guard(command))


def init(
    directory: str = typer.Argument(..., help="A new or empty folder."),
    from_: str = typer.Option("", "--from", help="Start from a recipe; see: edgepack recipes."),
    data: str = typer.Option("", "--data", help="Write a recipe by looking at this table."),
    target: str = typer.Option("", "--target", help="With --data: the column to predict."),
    model: str = typer.Option("", "--model", help="Write a recipe around this trained model."),
    samples: str = typer.Option("", "--samples", help="With --model: real rows for it."),
    allow_pickle: bool = typer.Option(
        False, "--allow-pickle", help="With --model: unpickle it. A pickle runs any code it likes."
    ),
    json: bool = JSON,
) -> None:
    """Make a workspace: folders, keys, and a recipe in bundles/."""
    from device_runtime.errors import UsageError
    from edgepack.setup.beginning import Beginning, ask_new, begin

    screen = Screen(json)
    if sum(bool(item) for item in (from_, data, model)) > 1:
        raise UsageError("give one of --from, --data, --model")
    if bool(data) != bool(target):
        raise UsageError("--data and --target go together")
    if bool(model) != bool(samples):
        raise UsageError("--model and --samples go together")
    wish = Beginning(from_, data, target, model, samples, allow_pickle)

    def ask() -> str:
        with screen.paused():
            return ask_new()

    with screen.step("making keys"):
        begun = begin(Path(directory), wish, ask=ask)
    for note in begun.notes:
        screen.note(note)
    screen.line(f"workspace {begun.root}")
    if begun.recipe:
        screen.line(f"recipe    bundles/{begun.recipe}/bundle.toml")
    screen.line("keys      keys/ (one passphrase; keep a copy of this folder elsewhere)")
    then = f"cd {directory} && edgepack train" if begun.recipe else "edgepack recipes"
    screen.done({"workspace": str(begun.root), "recipe": begun.recipe}, next=then)


def recipes(json: bool = JSON) -> None:
    """List the recipes that come along. `init DIR --from RECIPE` copies one."""
    from edgepack.setup.starts import stories

    screen = Screen(json)
    found = stories()
    screen.table(
        ("recipe", "task", "what"), [(one.name, one.task, one.description) for one in found]
    )
    rows = [
        {
            "name": one.name,
            "task": one.task,
            "description": one.description,
            "folder": str(one.folder),
        }
        for one in found
    ]
    screen.done({"recipes": rows}, next="edgepack init DIR --from RECIPE")


def train(
    name: str = NAME,
    until: str = typer.Option("", "--until", help="Only rows before this time, like 2013-03-01."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Fit, convert to ONNX, prove that it answers the same."""
    from edgepack.candidate.training import train_recipe

    screen = Screen(json)
    begun = time.monotonic()
    _check_time(until)
    ws = open_workspace(workspace)
    with ws.lock(), screen.step("training"):
        candidate, ignored = train_recipe(ws, name or None, until or None)
    if ignored:
        screen.note(f"columns in no role, ignored: {', '.join(ignored)}")
    for note in candidate.facts["notes"]:
        screen.note(note)
    took = time.monotonic() - begun
    parity = candidate.json("parity.json")
    figures = {
        key: value
        for key, value in candidate.metrics.items()
        if isinstance(value, float) and not isinstance(value, bool)
    }
    rows = f"{candidate.facts['rows']:,} rows"
    screen.line(f"candidate {candidate.number} of {candidate.name}, {rows}, {took:.1f} s")
    screen.line(
        f"measured  {'  '.join(f'{k} {v:.4g}' for k, v in figures.items()) or 'no truth'} "
        f"on {candidate.metrics['rows']:,} rows held out {candidate.facts['split']}"
    )
    screen.line(
        f"parity    {parity['rows']:,} real and {parity['hostile_rows']:,} hostile rows, largest "
        f"difference {parity['worst']:.1g}, {parity['ties']} ties"
    )
    result = {
        "candidate": candidate.number,
        "name": candidate.name,
        "folder": str(candidate.folder),
        "metrics": dict(candidate.metrics),
        "parity": {k: parity[k] for k in ("ok", "rows", "hostile_rows", "worst", "ties")},
        "rows": candidate.facts["rows"],
        "bytes": candidate.facts["model_bytes"],
        "seconds": round(took, 3),
    }
    screen.done(result, next=f"edgepack build {candidate.name}")


def build(
    name: str = NAME,
    number: int = typer.Option(0, "--candidate", help="Number; else the newest accepted one."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Pack a candidate into an unsigned bundle in out/."""
    from edgepack.candidate import find_candidate
    from edgepack.packing import build as building

    screen = Screen(json)
    ws = open_workspace(workspace)
    candidate = find_candidate(ws, bundle_of(ws, name), number or None)
    with screen.step("packing"):
        made = building.build(ws, candidate)
    screen.line(f"{made.path.relative_to(ws.root)}  {made.size:,} bytes  sha256 {made.digest[:16]}")
    screen.done(
        {
            "file": str(made.path),
            "bytes": made.size,
            "digest": made.digest,
            "candidate": candidate.number,
        },
        next=f"edgepack sign {made.path.relative_to(ws.root)}",
    )


def bundle_of(ws: Workspace, name: str) -> str:
    """Return the bundle name that is meant: of a recipe, or of a model packed from a notebook.

    Args:
        ws: The workspace.
        name: What was typed; empty: the only recipe.

    Raises:
        UsageError: No such recipe or candidates, or several recipes and none was named.
        RecipeError: The recipe has mistakes.
    """
    from edgepack.recipe import load_recipe

    if name and name not in ws.recipe_names() and ws.candidates(name).is_dir():
        return name
    return load_recipe(ws.recipe_folder(name or None)).name


def sign(
    file: str = typer.Argument("", help="Unsigned bundle; else the newest in out/."),
    force_time: bool = typer.Option(
        False, "--force-time", help="Sign although the host's clock looks wrong."
    ),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Sign an unsigned bundle. Draws its version, adds metadata and signatures."""
    from device_runtime.clock import SystemClock
    from device_runtime.errors import UsageError
    from edgepack.keys.sign import sign_file

    screen = Screen(json)
    ws = open_workspace(workspace)
    path = Path(file) if file else newest(ws.out, ".unsigned")
    if path is None:
        raise UsageError("there is no unsigned bundle in out/", next="run: edgepack build")
    if not path.is_file() and (ws.root / path).is_file():
        path = ws.root / path
    if not path.is_file():
        raise UsageError(f"there is no file {path}", next="give a file that edgepack build wrote")
    ring = open_ring(ws)
    with ws.lock(), screen.step("signing"):
        signed = sign_file(ws, ring, path, clock=SystemClock(), force_time=force_time)
    if not signed.complete:
        missing = ", ".join(keyid[:16] for keyid in signed.missing)
        screen.line(f"half-signed: {signed.path}; still missing: {missing}")
    else:
        screen.line(
            f"{signed.path.name}  {signed.size:,} bytes  version {signed.version}  "
            f"digest {signed.digest[:16]}"
        )
    result = {
        "file": str(signed.path),
        "name": signed.name,
        "version": signed.version,
        "digest": signed.digest,
        "bytes": signed.size,
        "complete": signed.complete,
        "missing": list(signed.missing),
    }
    then = "edgepack sync STICK" if signed.complete else f"take {signed.path} to the next custodian"
    screen.done(result, next=then)


def newest(folder: Path, suffix: str) -> Path | None:
    """Return the file that was written last, or None."""
    found = [path for path in folder.glob(f"*{suffix}") if path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def verify(
    file: str = typer.Argument(..., help="A signed bundle."),
    root: str = typer.Option("", "--root", help="Trusted root.json; else the workspace's."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Check every signature and digest of a signed bundle."""
    from edgepack.packing.inspect import verify_file

    screen = Screen(json)
    with screen.step("verifying"):
        found = verify_file(Path(file), root=root or None, workspace=workspace or None)
    screen.line(f"good: {found['name']} version {found['version']}, digest {found['digest']}")
    screen.line(f"signed by {', '.join(key[:16] for key in found['signers'])}")
    screen.line(f"under root {found['root_version']}, its words: {found['root_words']}")
    screen.line(f"{found['files']} files, {found['bytes']:,} bytes, every digest as signed")
    screen.done(found)


def inspect(
    file: str = typer.Argument(..., help="A bundle (signed or not) or a candidate's folder."),
    lineage: bool = typer.Option(False, "--lineage", help="Where it comes from."),
    sbom: bool = typer.Option(False, "--sbom", help="Its software bill of materials."),
    card: bool = typer.Option(False, "--card", help="Its model card."),
    json: bool = JSON,
) -> None:
    """Show what a bundle or candidate holds. Verifies nothing: that is `edgepack verify`."""
    from device_runtime.errors import UsageError
    from edgepack.packing.inspect import inspect_file

    screen = Screen(json)
    if lineage + sbom + card > 1:
        raise UsageError("give one of --lineage, --sbom, --card")
    part = "lineage" if lineage else "sbom" if sbom else "card" if card else ""
    with screen.step("reading"):
        found, text = inspect_file(Path(file), part)
    screen.line(text)
    screen.done(found)


def diff(
    one: str = typer.Argument(..., help="A bundle or a candidate's folder."),
    two: str = typer.Argument(..., help="Another one."),
    json: bool = JSON,
) -> None:
    """Show what differs between two bundles or candidates."""
    from edgepack.packing.inspect import diff_files

    screen = Screen(json)
    with screen.step("comparing"):
        changes = diff_files(Path(one), Path(two))
    if not changes:
        screen.line("no difference")
    else:
        rows = [(c["what"], _short(c["one"]), _short(c["two"])) for c in changes]
        screen.table(("what", "one", "two"), rows)
    screen.done({"changes": changes})


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def doctor(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Say whether this machine and workspace are able."""
    from edgepack.doctor import examine
    from edgepack.errors import WorkspaceError

    screen = Screen(json)
    try:
        ws = open_workspace(workspace)
    except WorkspaceError:
        if workspace:
            raise
        ws = None
    with screen.step("looking"):
        findings = examine(ws)
    screen.table(("check", "state", "what"), [(f.name, f.state, f.what) for f in findings])
    bad = [f for f in findings if f.state == "bad"]
    if bad:
        from device_runtime.errors import DoctorError

        raise DoctorError(f"doctor found {len(bad)}: {bad[0].what}", next=bad[0].next)
    screen.done(
        {"findings": [{"name": f.name, "state": f.state, "what": f.what} for f in findings]}
    )


def _check_time(until: str) -> None:
    import pandas as pd

    try:
        pd.Timestamp(until or "2013-03-01")
    except ValueError:
        what = f"--until {until!r} is no time"
        raise UsageError(what, next="give a date such as 2013-03-01") from None
