"""What one import brought, counted and said in lines."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What an import brought.

    Attributes:
        segments: New segments.
        rows: Rows that no segment had brought before.
        labels: Labels likewise.
        records: All records likewise: rows, labels, events.
        duplicates: Segments that were here already.
        held: Segments that are newly held.
        quarantined: Files that are not valid.
        devices: Names of the devices that something came from.
        lines: One line for everything that a person should know.
        hashes: Hashes of all segments that lay on the stick, by device: they are acked again.
        done: Packs that the stick no longer needs.
    """

    segments: int = 0
    rows: int = 0
    labels: int = 0
    records: int = 0
    duplicates: int = 0
    held: int = 0
    quarantined: int = 0
    devices: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
