"""How many rows have left this device after an acknowledgement: one number that survives."""

from __future__ import annotations

from device_runtime.disk import write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.home import Home

FILE = "pruned.json"


def rows_pruned(home: Home) -> int:
    """Return the rows pruned since this home was made; 0 where the note cannot be read."""
    try:
        return int(canonical.decode(home.disk.read(home.root / FILE, 1000), FILE)["rows"])
    except (OSError, FormatError, KeyError, TypeError, ValueError):
        return 0


def add_pruned(home: Home, rows: int) -> None:
    """Count rows that were just pruned."""
    if rows:
        data = canonical.encode({"rows": rows_pruned(home) + rows})
        write_durable(home.disk, home.root / FILE, data)
