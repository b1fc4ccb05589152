"""`edgepack device …`, `sync`, `audit`, `backup`, `restore`, `sim`: the work with sticks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_runtime.clock import Clock
    from edgepack.fleet.devices import NewDevice
    from edgepack.keys.ring import Ring
    from edgepack.records import DeviceRow
    from edgepack.registry import Registry
    from edgepack.workspace import Workspace

_WORKSPACE = typer.Option("", "--workspace", "-C", help="The workspace; else found from here up.")
_JSON = typer.Option(False, "--json", help="Print one JSON object and nothing else.")
_OUT = typer.Argument(help="Where to write its kit.")
_WHEELS = typer.Option(None, "--wheels", help="A folder of wheels to take along.")
_BUNDLE = typer.Option(None, "--bundle", help="A signed bundle to take along.")
_STICK = typer.Argument(help="The folder where the stick is mounted.")
_TO = typer.Argument(help="A folder on another disk; the same one each time.")
_FROM = typer.Argument(help="The folder of a backup.")
_NEW = typer.Argument(help="Where the workspace shall stand: a new folder.")
_LOST = typer.Option(None, "--lost", help="What is left of the workspace it replaces.")
_ACCEPT = typer.Option([], "--accept", help="A new device whose words you compared.")


def register(app: typer.Typer) -> None:
    """Add the commands of the field."""
    device = typer.Typer(help="The machines: plan, write kits, accept, retire.")
    device.command("new")(new)
    device.command("kit")(kit)
    device.command("list")(list_devices)
    device.command("accept")(accept)
    device.command("retire")(retire)
    device.command("compromise")(compromise)
    app.add_typer(device, name="device")
    app.command()(sync)
    app.command()(audit)
    app.command()(backup)
    app.command()(restore)
    app.command()(sim)


# --- device ---------------------------------------------------------------------------------------


@guard
def new(
    name: str = typer.Argument(help="What people will call it: lower case, digits, hyphens."),
    device_class: str = typer.Option("", "--class", help="A [class.NAME] of edgepack.toml."),
    bundle: str = typer.Option("", "--bundle", help="The bundle that it will run."),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Plan a device."""
    from device_runtime.clock import SystemClock
    from edgepack.fleet import devices

    ws, screen = _open(workspace), Screen(json)
    with ws.lock(), _registry(ws) as registry:
        plan = devices.new_device(
            ws,
            registry,
            name,
            device_class=device_class or None,
            bundle=bundle or None,
            clock=SystemClock(),
        )
    screen.line(f"{plan.name}: class {plan.device_class}, runs {plan.bundle}")
    screen.done(
        {"name": plan.name, "class": plan.device_class, "bundle": plan.bundle},
        f"edgepack device kit {plan.name} {plan.name}.kit",
    )


@guard
def kit(
    name: str = typer.Argument(help="The device."),
    out: Path = _OUT,
    wheels: Path = _WHEELS,
    bundle: Path = _BUNDLE,
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Write the kit of a device, and show its words."""
    from device_runtime.clock import SystemClock
    from edgepack.cli.keys import show_kit
    from edgepack.fleet.kit import write_kit

    ws, screen = _open(workspace), Screen(json)
    with ws.lock():
        ring = _ring(ws)
        with screen.step("writing the kit"):
            kit = write_kit(ws, ring, name, out, wheels=wheels, bundle=bundle, clock=SystemClock())
    show_kit(screen, kit)


@guard
def list_devices(workspace: str = _WORKSPACE, json: bool = _JSON) -> None:
    """Show the devices, planned and enrolled."""
    ws, screen = _open(workspace), Screen(json)
    with _registry(ws) as registry:
        enrolled = registry.devices()
        known = {row.kit_id for row in enrolled}
        planned = [plan for plan in registry.plans() if plan.kit_id not in known or not plan.kit_id]
    rows = [
        {"name": d.name, "state": d.state, "class": d.device_class, "bundle": d.bundle,
         "id": d.device, "words": d.words}
        for d in enrolled
    ] + [
        {"name": p.name, "state": "kit written" if p.kit_id else "planned",
         "class": p.device_class, "bundle": p.bundle, "id": None, "words": None}
        for p in planned
    ]  # fmt: skip
    screen.table(
        ["name", "state", "class", "bundle", "id", "words"],
        [
            [r["name"], r["state"], r["class"], r["bundle"], (r["id"] or "-")[:8], r["words"]]
            for r in rows
        ],
    )
    waiting = [row["name"] for row in rows if row["state"] == "pending"]
    step = f"edgepack device accept {waiting[0]}" if waiting else ""
    if not rows:
        step = "edgepack device new NAME"
    screen.done({"devices": rows}, step)


@guard
def accept(
    name: str = typer.Argument(help="Name or id."),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Accept a device whose words you compared. What was held of it is imported at a sync."""
    from edgepack.fleet import devices

    screen, row = Screen(json), _decide(workspace, name, devices.accept)
    screen.line(f"{row.name} is accepted: {row.words}")
    screen.done({"name": row.name, "id": row.device, "words": row.words}, "edgepack sync STICK")


@guard
def retire(
    name: str = typer.Argument(help="Name or id."),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Stop sending bundles to a device. What it still sends is imported."""
    from edgepack.fleet import devices

    screen, row = Screen(json), _decide(workspace, name, devices.retire)
    screen.line(f"{row.name} is retired")
    screen.done({"name": row.name, "id": row.device, "state": row.state})


def _decide(
    workspace: str, name: str, verdict: Callable[[Registry, str, Clock], DeviceRow]
) -> DeviceRow:
    from device_runtime.clock import SystemClock

    ws = _open(workspace)
    with ws.lock(), _registry(ws) as registry:
        return verdict(registry, name, SystemClock())


@guard
def compromise(
    name: str = typer.Argument(help="Name or id."),
    since: str = typer.Option(
        "", "--since", help="Date of import (2026-05-31) or import serial; else everything."
    ),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Leave out the rows of a device whose keys may be stolen."""
    from device_runtime.clock import SystemClock
    from edgepack.fleet import devices

    ws, screen = _open(workspace), Screen(json)
    with ws.lock(), _registry(ws) as registry:
        row = devices.compromise(registry, name, since or None, SystemClock())
        left_out = sum(
            s.rows for s in registry.segments(row.device) if s.serial >= (row.since or 0)
        )
    screen.line(f"{row.name} is compromised: {left_out:,} records that it sent are left out")
    screen.done(
        {"name": row.name, "id": row.device, "since_serial": row.since, "left_out": left_out},
        "edgepack retrain, if a model has learned from them",
    )


# --- sync -----------------------------------------------------------------------------------------


@guard
def sync(
    stick: Path = _STICK,
    accept: list[str] = _ACCEPT,
    dry_run: bool = typer.Option(False, "--dry-run", help="Look and verify; write nothing."),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Import what a stick brings, hand out the newest bundles."""
    from device_runtime.clock import SystemClock
    from edgepack.courier import sync as courier

    ws, screen = _open(workspace), Screen(json)
    ring = _ring(ws)

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


# --- audit, backup, restore, sim ------------------------------------------------------------------


@guard
def audit(
    device: str = typer.Argument(help="Name or id."),
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Print what happened on a device, along its signed chain."""
    from dataclasses import asdict

    from edgepack.fleet.audit import audit as read_audit
    from edgepack.store.archive import Archive

    ws, screen = _open(workspace), Screen(json)
    with _registry(ws) as registry:
        row = registry.device(device)
        archive, secrets = Archive(ws.archive, ws.disk), _ring(ws).journal_secrets()
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
    workspace: str = _WORKSPACE,
    json: bool = _JSON,
) -> None:
    """Back this workspace up. From then on acks list only what the newest backup holds."""
    from device_runtime.clock import SystemClock
    from edgepack.store.backup import backup as make_backup

    ws, screen = _open(workspace), Screen(json)
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
    json: bool = _JSON,
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
    json: bool = _JSON,
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


# --- shared ---------------------------------------------------------------------------------------


def _open(workspace: str) -> Workspace:
    from edgepack.workspace import Workspace

    return Workspace.find(workspace or None)


def _registry(ws: Workspace) -> Registry:
    from edgepack.registry import Registry

    return Registry.open(ws.registry)


def _ring(ws: Workspace) -> Ring:
    from edgepack.keys.ring import Ring

    return Ring.open(ws.keys, ws.passphrase(), disk=ws.disk)
