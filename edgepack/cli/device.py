"""`edgepack device …`: the machines, from their plan to the end of their trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgepack.cli.opened import JSON, WORKSPACE, open_registry, open_ring, open_workspace
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_runtime.clock import Clock
    from edgepack.records import DeviceRow
    from edgepack.registry import Registry

_OUT = typer.Argument(help="Where to write its kit.")
_WHEELS = typer.Option(None, "--wheels", help="A folder of wheels to take along.")
_BUNDLE = typer.Option(None, "--bundle", help="A signed bundle to take along.")


def register(app: typer.Typer) -> None:
    """Add the `device` commands."""
    device = typer.Typer(help="The machines: plan, write kits, accept, retire.")
    device.command("new")(new)
    device.command("kit")(kit)
    device.command("list")(list_devices)
    device.command("accept")(accept)
    device.command("retire")(retire)
    device.command("compromise")(compromise)
    app.add_typer(device, name="device")


@guard
def new(
    name: str = typer.Argument(help="What people will call it: lower case, digits, hyphens."),
    device_class: str = typer.Option("", "--class", help="A [class.NAME] of edgepack.toml."),
    bundle: str = typer.Option("", "--bundle", help="The bundle that it will run."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Plan a device."""
    from device_runtime.clock import SystemClock
    from edgepack.fleet import devices

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock(), open_registry(ws) as registry:
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
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Write the kit of a device, and show its words."""
    from device_runtime.clock import SystemClock
    from edgepack.cli.keys import show_kit
    from edgepack.fleet.kit import write_kit

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        with screen.step("writing the kit"):
            kit = write_kit(ws, ring, name, out, wheels=wheels, bundle=bundle, clock=SystemClock())
    show_kit(screen, kit)


@guard
def list_devices(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Show the devices, planned and enrolled."""
    ws, screen = open_workspace(workspace), Screen(json)
    with open_registry(ws) as registry:
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
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Accept a device whose words you compared. What was held of it is imported at a sync."""
    from edgepack.fleet import devices

    screen, row = Screen(json), _decide(workspace, name, devices.accept)
    screen.line(f"{row.name} is accepted: {row.words}")
    screen.done({"name": row.name, "id": row.device, "words": row.words}, "edgepack sync STICK")


@guard
def retire(
    name: str = typer.Argument(help="Name or id."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
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

    ws = open_workspace(workspace)
    with ws.lock(), open_registry(ws) as registry:
        return verdict(registry, name, SystemClock())


@guard
def compromise(
    name: str = typer.Argument(help="Name or id."),
    since: str = typer.Option(
        "", "--since", help="Date of import (2026-05-31) or import serial; else everything."
    ),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Leave out the rows of a device whose keys may be stolen."""
    from device_runtime.clock import SystemClock
    from edgepack.fleet import devices

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock(), open_registry(ws) as registry:
        row = devices.compromise(registry, name, since or None, SystemClock())
        left_out = sum(
            s.rows for s in registry.segments(row.device) if s.serial >= (row.since or 0)
        )
    screen.line(f"{row.name} is compromised: {left_out:,} records that it sent are left out")
    screen.done(
        {"name": row.name, "id": row.device, "since_serial": row.since, "left_out": left_out},
        "edgepack retrain, if a model has learned from them",
    )
