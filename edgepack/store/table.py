"""The Delta table of a bundle name: a view of archive and registry, one row per record.

Nothing is only here. `catch_up` appends what the view lacks, in the order of import serials, each
append one Delta transaction that carries the application id and the last serial. A crash between
registry and table is healed by the next call; a table that cannot be read is made again.

`table/NAME/` is the table; where a column changed its dtype, `table/NAME.2/` goes on (nothing is
narrowed). Beside it lie `NAME.labels/` and `NAME.events/`: labels from devices, and what happened.
Any reader of Delta Lake can read them (DuckDB, Polars, Spark); only edgepack may write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from edgepack.progress import UNSEEN, Progress
from edgepack.registry import Registry, SegmentRow
from edgepack.store.decode import Source
from edgepack.store.view import Appended, View
from edgepack.workspace import Workspace


def catch_up(
    ws: Workspace, registry: Registry, archive: Any, ring: Any, progress: Progress = UNSEEN
) -> int:
    """Append to the view what archive and registry have and it lacks; return the rows appended.

    Args:
        ws: The workspace; its lock is held by the caller.
        registry: Says which segments and which of their sequences are imported.
        archive: Gives the bytes of a segment.
        ring: Opens them: `journal_secrets()`.
        progress: Hears of the bytes of each segment.
    """
    done = bring_up_to_date(ws, registry, archive, ring, progress)
    return done.rows


def bring_up_to_date(
    ws: Workspace, registry: Registry, archive: Any, ring: Any, progress: Progress = UNSEEN
) -> Appended:
    """As `catch_up`, and say what was found: labels, events, notes (raised as alarms, too)."""
    done = Appended()
    secrets: Mapping[str, bytes] | None = None
    segments = by_name(registry)
    for name in sorted(segments):
        view = _sound_view(ws, registry, name, done)
        after = view.progress()
        pending = [row for row in segments[name] if row.serial > after]
        if not pending:
            continue
        secrets = ring.journal_secrets() if secrets is None else secrets
        progress.begin(f"filling table {name}", sum(row.bytes for row in pending))
        source = Source(registry, archive, secrets, done.notes, progress)
        for group in _alike(pending):
            view.append(source, group, done)
    for note in done.notes:
        registry.alarm("table", "", note, note, 0)
    return done


def by_name(registry: Registry) -> dict[str, list[SegmentRow]]:
    """Return the imported segments of each bundle name, in import order.

    What a device wrote before its first bundle belongs to the name that was planned for it.
    """
    planned = {device.device: device.bundle for device in registry.devices()}
    result: dict[str, list[SegmentRow]] = {}
    for row in registry.segments():
        name = row.bundle_name or planned.get(row.device, "")
        if name:
            result.setdefault(name, []).append(row)
    return result


def _alike(segments: Iterable[SegmentRow]) -> Iterator[list[SegmentRow]]:
    """Cut into runs of segments of one bundle: they share a schema and become one transaction."""
    run: list[SegmentRow] = []
    for row in segments:
        if run and row.bundle_digest != run[0].bundle_digest:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _sound_view(ws: Workspace, registry: Registry, name: str, done: Appended) -> View:
    """Open the view; one that cannot be read, or belongs to another base, is begun anew."""
    view = View(ws, registry, name)
    problem = view.problem()
    if problem:
        done.notes.append(f"the table of {name} was made again: {problem}")
        view.remove()
        view = View(ws, registry, name)
    changed = view.foreign()
    if changed:
        done.notes.append(
            f"the table of {name} was changed by somebody else ({', '.join(changed)}): "
            "it is a view; edgepack store rebuild makes it again"
        )
    return view


def read(ws: Workspace, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records of a bundle name as one Arrow table; see `View.read`."""
    with Registry.open(ws.registry) as registry:
        return View(ws, registry, name).read(columns)
