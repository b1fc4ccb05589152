"""`edgepack sync`, `audit`, `backup`, `restore`, `sim`: the work with sticks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgepack.cli.opened import JSON, WORKSPACE, open_registry, open_ring, open_workspace
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from edgepack.fleet.devices import NewDevice

_STICK = typer.Argument(help="The folder where the stick is mounted.")
_TO = typer.Argument(help="A folder on another disk; the same one each time.")
_FROM = typer.Argument(help="The folder of a backup.")
_NEW = typer.Argument(help="Where the workspace shall stand: a new folder.")
_LOST = typer.Option(None, "--lost", help="What is left of the workspace it replaces.")
_ACCEPT = typer.Option([], "--accept", help="A new device whose words you compared.")


def register(app: typer.Typer) -> None:
    """Add the commands of the field."""
    app.command()(sync)
    app.command()(audit)
    app.command()(backup)
    app.command()(restore)
    app.command()(sim)


@guard
def sync(
    stick: Path = _STICK,
    accept: list[str] = _ACCEPT,
    dry_run: bool = typer.Option(False, "--dry-run", help="Look and verify; write nothing."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Import what a stick brings, hand out the newest bundles."""
    from device_runtime.clock import SystemClock
    from edgepack.courier import sync as courier

    ws, screen = open_workspace(workspace), Screen(json)
    ring = open_ring(ws)

    def ask(item: NewDevice) -> bool:
        with screen.paused():
            return _ask(item)

    with screen.step("reading and writing the stick") as progress:
        result = courier.sync(
            ws,
            ring,
            stick,
            accept=accept,
            dry_run=dry_run,
            clock=SystemClock(),
            ask=ask if not json and not dry_run and sys.stdin.isatty() else None,
            progress=progress,
        )
    for line in result.lines:
        screen.note(line) if json else screen.line(line)
    for item in result.new_devices:
        screen.line(f"new device {item.name} ({item.id[:8]}): {item.words}")
        if item.note:
            screen.line(f"  look twice: {item.note}")
    screen.line(result.came())
    screen.line(result.went())
    if result.error is not None:
        raise result.error
    screen.done(result.as_json(), result.next())


def _ask(item: NewDevice) -> bool:
    typer.echo(f"new device {item.name} ({item.id[:8]}) shows these words:")
    typer.echo(f"  {item.words}")
    if item.note:
        typer.echo(f"  look twice: {item.note}")
    return typer.confirm("Are they the words that init showed on that device?")


@guard
def audit(
    device: str = typer.Argument(help="Name or id."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Print what happened on a device, along its signed chain."""
    from dataclasses import asdict

    from edgepack.fleet.audit import audit as read_audit
    from edgepack.store.archive import Archive

    ws, screen = open_workspace(workspace), Screen(json)
    with open_registry(ws) as registry:
        row = registry.device(device)
        archive, secrets = Archive(ws.archive, ws.disk), open_ring(ws).journal_secrets()
        with screen.step("reading the archive") as progress:
            found = read_audit(registry, archive, row, secrets, progress)
        alarms = registry.alarms(row.device)
    lines = [_entry_line(entry) for entry in found.entries]
    for line in [*lines, *(f"gap: {gap}" for gap in found.gaps), *found.notes]:
        screen.line(line)
    for alarm in alarms:
        screen.line(f"ALARM {alarm.text}")
    screen.line(f"{row.name} ({row.device}) is {row.state}: {len(lines)} entries")
    screen.done(
        {
            "device": row.device,
            "name": row.name,
            "state": row.state,
            "entries": [asdict(entry) for entry in found.entries],
            "gaps": list(found.gaps),
            "notes": list(found.notes),
            "alarms": [asdict(alarm) for alarm in alarms],
        }
    )


def _entry_line(entry: Any) -> str:
    from datetime import UTC, datetime

    from device_runtime.format import canonical

    try:
        when = datetime.fromtimestamp(entry.wall_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        when = f"{entry.wall_ns} ns"
    data = canonical.encode(dict(entry.data)).decode()
    mark = "" if entry.trusted else " (compromised)"
    return f"{entry.epoch[:6]} {entry.sequence:>8}  {when}  {entry.kind:<12} {data}{mark}"


@guard
def backup(
    folder: Path = _TO,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Back this workspace up. From then on acks list only what the newest backup holds."""
    from device_runtime.clock import SystemClock
    from edgepack.store.backup import backup as make_backup

    ws, screen = open_workspace(workspace), Screen(json)
    with screen.step("backup") as progress:
        result = make_backup(ws, folder, clock=SystemClock(), progress=progress)
    screen.line(
        f"{result.segments} segments are in {result.folder}; {result.copied} files,"
        f" {result.bytes:,} bytes copied now"
    )
    if result.first:
        screen.line("from now on devices keep what is not in the newest backup: back up often")
    screen.done(
        {
            "folder": str(result.folder),
            "segments": result.segments,
            "copied": result.copied,
            "bytes": result.bytes,
        }
    )


@guard
def restore(
    folder: Path = _FROM,
    directory: Path = _NEW,
    lost: Path = _LOST,
    json: bool = JSON,
) -> None:
    """Make a workspace from a backup. Devices offer again what it lacks."""
    from edgepack.store.backup import restore as make_workspace

    screen = Screen(json)
    with screen.step("restore") as progress:
        result = make_workspace(folder, directory, lost=lost, progress=progress)
    for line in result.lines:
        screen.line(line)
    screen.line(f"{result.segments} segments restored; base generation {result.generation[0]}")
    screen.done(
        {
            "workspace": str(result.root),
            "segments": result.segments,
            "generation": list(result.generation),
            "lines": list(result.lines),
        },
        f"edgepack store rebuild -C {directory}, then sync every stick",
    )


@guard
def sim(
    seed: int = typer.Option(1, "--seed", help="The first seed; each one is a world of its own."),
    devices: int = typer.Option(3, "--devices", min=1, help="Devices in each world."),
    trips: int = typer.Option(20, "--trips", min=1, help="Steps of each schedule."),
    worlds: int = typer.Option(1, "--worlds", min=1, help="How many worlds."),
    json: bool = JSON,
) -> None:
    """Play devices, sticks and power cuts by seed.

    The real code on simulated disks: nothing may be lost. Everything happens in a temporary
    folder. A failing seed is printed and can be played again.
    """
    from device_runtime.errors import EdgepackError
    from edgepack.sim.schedule import run_worlds

    screen = Screen(json)
    with screen.step("playing") as progress:
        result = run_worlds(seed, worlds, devices=devices, trips=trips, progress=progress)
    if result["broken"]:
        again = f"--seed {result['first_seed']} --devices {devices} --trips {trips}"
        raise EdgepackError(
            f"{result['broken']} of {worlds} worlds broke a promise, first seed"
            f" {result['first_seed']}: {result['problem']}",
            why="a bug of ours",
            next=f"play it again: edgepack sim {again}",
        )
    screen.table(list(result), [list(result.values())])
    screen.done(result)
