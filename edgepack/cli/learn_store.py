"""`edgepack store …`: upkeep of archive and tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgepack.cli.opened import JSON, WORKSPACE, open_ring, opened
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from edgepack.registry import Registry
    from edgepack.store.archive import Archive
    from edgepack.workspace import Workspace

_NAMES = typer.Argument(None, help="Bundle names; all if none.")
_FILE = typer.Option(..., "-o", "--out", help="A .parquet or .csv file.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    store = typer.Typer(help="Upkeep of what came home: check, rebuild, compact, export, purge.")
    store.command("check")(check)
    store.command("rebuild")(rebuild)
    store.command("compact")(compact)
    store.command("export")(export)
    store.command("purge")(purge)
    app.add_typer(store, name="store")


def _open(workspace: str) -> tuple[Workspace, Registry, Archive]:
    from edgepack.store.archive import Archive

    ws, registry, _ = opened(workspace)
    return ws, registry, Archive(ws.archive, ws.disk)


@guard
def check(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Hold archive, registry and tables against each other. Change nothing."""
    from edgepack.errors import StoreError
    from edgepack.store import upkeep

    screen = Screen(json)
    ws, registry, archive = _open(workspace)
    with screen.step("checking the store") as progress:
        found = upkeep.check(ws, registry, archive, progress)
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        if not json:
            for problem in found.problems:
                screen.line(problem)
        raise StoreError(f"{found.problems[0]}{more}")
    screen.line(f"{found.segments:,} segments, {found.rows:,} rows: all is well")
    screen.done({"segments": found.segments, "rows": found.rows, "problems": []})


@guard
def rebuild(
    names: list[str] = _NAMES,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Make the tables again from the archive. Nothing is only in the tables."""
    from edgepack.store import upkeep

    screen = Screen(json)
    ws, registry, archive = _open(workspace)
    ring = open_ring(ws)
    with ws.lock(), screen.step("making the tables again") as progress:
        done = upkeep.rebuild(ws, registry, archive, ring, names or (), progress)
    _said(screen, done)


def _said(screen: Screen, done: Any) -> None:
    screen.line(f"{done.rows:,} rows, {done.labels:,} labels, {done.events:,} events")
    for note in done.notes:
        screen.line(note)
    screen.done(
        {"rows": done.rows, "labels": done.labels, "events": done.events, "notes": done.notes}
    )


@guard
def compact(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Merge small files of the tables."""
    from edgepack.store import upkeep

    screen = Screen(json)
    ws, registry, _ = _open(workspace)
    with ws.lock(), screen.step("merging files") as progress:
        done = upkeep.compact(ws, registry, progress)
    screen.table(["table", "files before", "after"], [[name, *n] for name, n in done.items()])
    screen.done({"tables": {name: {"before": a, "after": b} for name, (a, b) in done.items()}})


@guard
def export(
    out: Path = _FILE,
    name: str = typer.Option("", "--name", help="Bundle name, where there are several."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Write the returned rows, with labels, to one file."""
    from edgepack.learn.actions import export_rows

    screen = Screen(json)
    ws, registry, _ = _open(workspace)
    with screen.step("writing rows") as progress:
        rows = export_rows(ws, registry, ws.recipe_folder(name or None).name, out, progress)
    screen.line(f"{rows:,} rows: {out}")
    screen.done({"rows": rows, "file": str(out)})


@guard
def purge(
    device: str = typer.Option(..., "--device", help="Whose records: name or id."),
    before: int | None = typer.Option(
        None, "--before", help="Only imports with a serial below this."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Remove a device's records for good. No stick, clone or backup brings them back."""
    from device_runtime.errors import UsageError
    from edgepack.store import upkeep

    screen = Screen(json)
    ws, registry, archive = _open(workspace)
    row = registry.device(device)
    if not yes:
        if json or not sys.stdin.isatty():
            raise UsageError("purge cannot be undone", next="add --yes")
        typer.confirm(f"Remove the records of {row.name} for good?", abort=True)
    ring = open_ring(ws)
    with ws.lock(), screen.step("purging") as progress:
        done = upkeep.purge_device(
            ws, registry, archive, ring, device, before=before, progress=progress
        )
    more = f", and {done.aside:,} files that were held or in quarantine" if done.aside else ""
    screen.line(f"{done.records:,} records in {done.segments:,} segments are gone for good{more}")
    screen.done({"segments": done.segments, "records": done.records, "aside": done.aside})
