"""What `edgepack drift`, `label import`, `label queue` and `store export` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from device_runtime.clock import Clock
from device_runtime.disk import write_durable
from edgepack.errors import DataError
from edgepack.learn.drift import Drift
from edgepack.learn.queue import queue
from edgepack.learn.reference import references
from edgepack.learn.returned import Slice, of_table
from edgepack.learn.state import lag
from edgepack.learn.survey import survey
from edgepack.progress import UNSEEN, Progress
from edgepack.recipe import load_recipe
from edgepack.registry import Registry
from edgepack.store.label_files import keep
from edgepack.store.labels import Conflict, attach, collect, plain
from edgepack.store.view import View
from edgepack.tables import moment
from edgepack.workspace import Workspace, check_out


def drift_of(
    ws: Workspace,
    registry: Registry,
    name: str,
    device: str | None,
    since: str | None,
    until: str | None = None,
    by: Sequence[str] = (),
) -> tuple[list[Drift], list[str]]:
    """Return drift by bundle, newest first, and what a person should know beside.

    Args:
        ws: The workspace.
        registry: What came home.
        name: Bundle name.
        device: Only this one (name or id).
        since: Only rows from this time on.
        until: Only rows before this time.
        by: Also apart by `device` and `month`.

    Raises:
        DeviceUnknownError, DataError: No such device; a time is none; nothing is home.
    """
    refs = references(ws, registry, name)
    view = View(ws, registry, name)
    piece = Slice(
        registry.device(device).device if device else None,
        *(int(moment(text).timestamp() * 1e6) if text else None for text in (since, until)),
    )
    found = list(of_table(view, refs, piece, by=by).values())
    cut = bool(device or since or until)
    notes = lag(view, registry)
    if not found and notes:
        raise DataError(f"nothing to compare: {notes[0]}", next="run: edgepack store rebuild")
    if not found:
        raise DataError(
            f"no row of {name} is home{' in this slice' if cut else ''}",
            next="widen the slice" if cut else "sync a stick first",
        )
    if (since or until) and refs and refs[0].schema.time is None:
        notes.append("--since and --until are left out: the recipe names no time column")
    elif (since or until) and _has_sketches(view):
        notes.append("sketches are left out: they carry no time of their rows")
    names = {row.device: row.name for row in registry.devices()}
    named = [replace(item, group=_named(item.group, names)) for item in found]
    versions = [item.bundle for item in named]  # newest first; within one, devices by name
    return sorted(named, key=lambda item: (versions.index(item.bundle), item.group)), notes


def _has_sketches(view: View) -> bool:
    found = view.batches(["_sequence"], ds.field("kind") == "sketch", what="events")
    return any(batch.num_rows for batch in found)


def _named(group: str, names: Mapping[str, str]) -> str:
    return " ".join(names.get(part, part) for part in group.split(" "))


def import_labels(
    ws: Workspace,
    registry: Registry,
    name: str,
    path: Path,
    clock: Clock,
    progress: Progress = UNSEEN,
) -> dict[str, Any]:
    """Keep a file of labels and say what became of them.

    Raises:
        DataError: It cannot be read, or holds no label.
    """
    recipe = load_recipe(ws.recipe_folder(name))
    hidden = recipe.key is not None and recipe.journal.get(recipe.key) in ("hash", "drop")
    refs = references(ws, registry, name)
    schema = refs[0].schema if refs else None
    kept = keep(
        ws,
        name,
        path,
        key=None if hidden else recipe.key,
        key_dtype=schema.key.dtype if schema and schema.key else "string",
        targets=recipe.target,
        observed=clock.wall_ns(),
    )
    view = View(ws, registry, name)
    labels = collect(view, schema)
    notes = []
    if hidden and kept.by == "key":
        notes.append(
            f"{recipe.key} is not journaled as it is: only record ids, or the devices themselves, "
            "can label these rows"
        )
    if kept.again:
        notes.append("the same labels were imported before: nothing changed")
    if kept.empty:
        notes.append(f"{kept.empty:,} lines without id or value were left out")
    matched = held = 0
    if schema:
        found = survey(view, labels, schema, progress=progress)
        matched, held = found.labelled.num_rows, found.held
        waiting = labels.ref.take(pa.array(found.waiting))
        waiting = waiting.filter(pc.is_in(waiting, value_set=kept.refs))
        if len(waiting):
            some = ", ".join(plain(ref, 60) for ref in waiting[:3].to_pylist())
            notes.append(f"{len(waiting):,} of these name no row that is home ({some}): they wait")
    shown = _shown(kept.refs, [*(item[0] for item in labels.wrong), *map(_ref, labels.conflicts)])
    said = _shown(kept.values, [item[1] for item in labels.wrong])
    wrong = [item for item in labels.wrong if item[0] in shown and item[1] in said]
    conflicts = [item for item in labels.conflicts if item.ref in shown]
    notes += _some([f"not used: {value!r} for {ref} {why}" for ref, value, why in wrong])
    notes += _some(
        [
            f"contradiction for {item.ref}: {' / '.join(item.values)}; {item.holds} counts"
            for item in conflicts
        ]
    )
    return {
        "labels": kept.rows,
        "by": kept.by,
        "file": kept.number,
        "again": kept.again,
        "matched": matched,
        "held": held,
        "conflicts": len(conflicts),
        "wrong": len(wrong),
        "new_classes": dict(labels.new_classes),
        "notes": notes,
    }


def _shown(texts: pa.Array, wanted: list[str]) -> set[str]:
    """Return which of the wanted texts, as `plain` shows them, are among these."""
    same = texts.filter(pc.is_in(texts, value_set=pa.array(wanted, pa.string())))
    odd = pc.or_(pc.invert(pc.utf8_is_printable(texts)), pc.greater(pc.utf8_length(texts), 120))
    return {*same.to_pylist(), *(plain(text) for text in texts.filter(odd).to_pylist())}


def _ref(conflict: Conflict) -> str:
    return conflict.ref


def _some(lines: list[str], most: int = 10) -> list[str]:
    more = [f"… and {len(lines) - most:,} more like the last"] if len(lines) > most else []
    return lines[:most] + more


def write_queue(
    ws: Workspace, registry: Registry, name: str, rows: int, out: Path
) -> dict[str, Any]:
    """Write the labelling queue as CSV.

    Raises:
        EvidenceError: Nothing is there to label.
        DataError: No bundle is signed.
        UsageError: No file can be written there.
    """
    import io

    from pyarrow import csv

    check_out(out)
    refs = references(ws, registry, name)
    if not refs:
        raise DataError(f"no bundle of {name} is signed yet", next=f"edgepack train {name}")
    view = View(ws, registry, name)
    recipe = load_recipe(ws.recipe_folder(name))
    made = queue(view, collect(view, refs[0].schema), refs[0].schema, rows, seed=recipe.seed)
    text = io.BytesIO()
    csv.write_csv(_no_formulas(made.table), text)
    write_durable(ws.disk, out.absolute(), text.getvalue(), 0o644)
    why = made.table.column("why").to_pylist()
    counts = {kind: why.count(kind) for kind in ("spread", "unknown", "random")}
    return {
        "rows": made.table.num_rows,
        "unlabelled": made.unlabelled,
        "why": counts,
        "file": str(out),
    }


def _no_formulas(table: pa.Table) -> pa.Table:
    """Put an apostrophe before texts of devices that a spreadsheet would calculate."""
    for place, item in enumerate(table.schema):
        if item.name not in ("record", "why", "value") and pa.types.is_string(item.type):
            column = table.column(place)
            marked = pc.binary_join_element_wise("'", column, "")
            formula = pc.match_substring_regex(column, r"^[=+\-@\t\r]")
            table = table.set_column(place, item.name, pc.if_else(formula, marked, column))
    return table


def export_rows(
    ws: Workspace, registry: Registry, name: str, out: Path, progress: Progress = UNSEEN
) -> int:
    """Write returned rows with their truth; see `store.upkeep.export`."""
    from edgepack.store.upkeep import export

    refs = references(ws, registry, name)
    view = View(ws, registry, name)
    if not refs:
        return export(view, out, progress=progress)
    labels = collect(view, refs[0].schema)
    key = refs[0].schema.key

    def more(batch: pa.RecordBatch) -> pa.RecordBatch:
        table = attach(pa.table(batch), labels, key.name if key else None)
        return table.combine_chunks().to_batches()[0] if table.num_rows else batch

    return export(view, out, more=more, progress=progress)
