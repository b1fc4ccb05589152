"""The report: one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_runtime.clock import Clock
from edgepack.registry import Registry
from edgepack.workspace import Workspace


def write_report(ws: Workspace, registry: Registry, clock: Clock, out: Path) -> dict[str, Any]:
    """Write the report; return what `report --json` prints."""
    raise NotImplementedError
