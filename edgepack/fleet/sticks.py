"""What was put on which stick, as far as this base knows.

A stick has no name of its own that could be trusted: it is called by the folder where it was
mounted, which is its volume's label nearly everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgepack.registry import Registry

_KEY = "sticks"
MOST = 64  # sticks that are remembered: those synced last


@dataclass(frozen=True, slots=True)
class StickNote:
    """One stick as it left.

    Attributes:
        name: Folder where it was mounted.
        at: When it was synced, nanoseconds by the base's clock.
        bundles: `name version` of what lies on it.
        acks: Whether it carries acknowledgements.
    """

    name: str
    at: int
    bundles: tuple[str, ...]
    acks: bool


def remember(
    registry: Registry, path: Path, at: int, bundles: Sequence[str], *, acks: bool
) -> None:
    """Note what a stick carries now."""
    name = path.absolute().name or str(path)
    others = [note for note in notes(registry) if note.name != name]
    kept = [StickNote(name, at, tuple(bundles), acks), *others][:MOST]
    registry.set(_KEY, json.dumps([asdict(note) for note in kept]))


def notes(registry: Registry) -> list[StickNote]:
    """Return the known sticks, the one synced last first."""
    found = json.loads(registry.get(_KEY, "[]"))
    return [StickNote(**{**item, "bundles": tuple(item["bundles"])}) for item in found]
