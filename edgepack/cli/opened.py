"""What most commands begin with: the workspace, its registry and its keys, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from device_runtime.clock import Clock
    from edgepack.keys.ring import Ring
    from edgepack.registry import Registry
    from edgepack.workspace import Workspace

WORKSPACE = typer.Option("", "--workspace", "-C", help="The workspace; else found from here up.")
JSON = typer.Option(False, "--json", help="Print one JSON object and nothing else.")


def open_workspace(workspace: str) -> Workspace:
    """Find the workspace: the named one, else the one that stands here or above."""
    from edgepack.workspace import Workspace

    return Workspace.find(workspace or None)


def open_registry(ws: Workspace) -> Registry:
    """Open its registry; the caller closes it."""
    from edgepack.registry import Registry

    return Registry.open(ws.registry)


def open_ring(ws: Workspace) -> Ring:
    """Open its keys, with the passphrase."""
    from edgepack.keys.ring import Ring

    return Ring.open(ws.keys, ws.passphrase(), disk=ws.disk)


def opened(workspace: str) -> tuple[Workspace, Registry, Clock]:
    """Open workspace, registry and clock."""
    from device_runtime.clock import SystemClock

    ws = open_workspace(workspace)
    return ws, open_registry(ws), SystemClock()
