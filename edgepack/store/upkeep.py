"""Upkeep of the store: check, rebuild, compact, export, purge."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from device_runtime.errors import EdgepackError, UsageError
from edgepack.errors import StoreError
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import Registry, SegmentRow
from edgepack.store.archive import Archive, purge
from edgepack.store.table import bring_up_to_date, by_name
from edgepack.store.view import Appended, View
from edgepack.workspace import Workspace, check_out


@dataclass(slots=True)
class Checked:
    """What `store check` found.

    Attributes:
        segments: Archived segments that were looked at.
        rows: Rows in the tables.
        problems: One line each; empty = all is well.
    """

    segments: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def check(
    ws: Workspace, registry: Registry, archive: Archive, progress: Progress = UNSEEN
) -> Checked:
    """Hold archive, registry and tables against each other; change nothing."""
    done = Checked()
    groups, archived = by_name(registry), registry.segments()
    progress.begin("reading the archive", sum(row.bytes for row in archived))
    for row in archived:
        done.segments += 1
        try:
            archive.read(row, whole=True)
        except EdgepackError as error:
            done.problems.append(error.what)
        progress.add(row.bytes)
    for name, segments in sorted(groups.items()):
        view = View(ws, registry, name)
        problem = view.problem()
        if problem:
            done.problems.append(f"table {name}: {problem}")
            continue
        done.problems += [f"table {name} was changed: {change}" for change in view.foreign()]
        newest, at = max(row.serial for row in segments), view.progress()
        if at < newest:
            done.problems.append(f"table {name} stands at import {at}, the registry at {newest}")
        there = [row for row in segments if row.serial <= at]
        done.rows += _compare(view, registry, there, done, progress)
    return done


def _compare(
    view: View,
    registry: Registry,
    segments: Sequence[SegmentRow],
    done: Checked,
    progress: Progress,
) -> int:
    """Every record of the tables must lie in a span of its segment, and none may stand twice."""
    found: dict[int, list[np.ndarray[Any, Any]]] = {}
    total = 0
    progress.begin(f"reading table {view.name}", view.count(), "rows")
    for what in ("rows", "labels", "events"):
        for batch in view.batches(["_serial", "_sequence"], what=what):
            serial, sequence = (np.asarray(column) for column in batch.columns)
            if what == "rows":
                total += batch.num_rows
                progress.add(batch.num_rows)
            for one in np.unique(serial):
                found.setdefault(int(one), []).append(sequence[serial == one])
    expected = {row.serial: registry.spans(row.hash) for row in segments}
    trusted = {row.device: row.since for row in registry.devices("compromised")}
    for row in segments:
        since = trusted.get(row.device)
        if row.device in trusted and row.serial >= (since or 0):
            continue
        parts = found.pop(row.serial, [])
        have = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        spans = expected[row.serial]
        want = sum(last - first + 1 for first, last in spans)
        if len(np.unique(have)) != len(have):
            done.problems.append(f"table {view.name}: records of import {row.serial} stand twice")
        elif len(have) != want:
            done.problems.append(
                f"table {view.name}: import {row.serial} has {len(have):,} of {want:,} records"
            )
    for stray in sorted(found):
        done.problems.append(f"table {view.name}: rows of import {stray}, which is not registered")
    return total


def rebuild(
    ws: Workspace,
    registry: Registry,
    archive: Archive,
    ring: Any,
    names: Sequence[str] = (),
    progress: Progress = UNSEEN,
) -> Appended:
    """Make the tables again from archive and registry.

    Raises:
        UsageError: Nothing came home under such a name.
    """
    known = by_name(registry)
    for name in names:
        if name not in known:
            raise UsageError(f"nothing of {name} came home", next=f"known: {', '.join(known)}")
    for name in names or sorted(known):
        View(ws, registry, name).remove()
    return bring_up_to_date(ws, registry, archive, ring, progress)


def compact(
    ws: Workspace, registry: Registry, progress: Progress = UNSEEN
) -> dict[str, tuple[int, int]]:
    """Merge small files of the tables and remove the old ones; return files before and after.

    Raises:
        StoreError: A table is not sound.
    """
    result = {}
    views = [View(ws, registry, name) for name in sorted(by_name(registry))]
    progress.begin("merging files", sum(len(view.everything()) for view in views), "tables")
    for view in views:
        problem = view.problem()
        if problem:
            raise StoreError(f"table {view.name}: {problem}", next="run: edgepack store rebuild")
        for path in view.everything():
            table = view.table(path)
            before = len(table.file_uris())
            table.optimize.compact(commit_properties=view.commit(view.serial(path)))
            table.vacuum(
                retention_hours=0,
                dry_run=False,
                enforce_retention_duration=False,
                commit_properties=view.commit(view.serial(path)),
            )
            result[path.name] = (before, len(view.table(path).file_uris()))
            progress.add(1)
    return result


def export(
    view: View,
    out: Path,
    *,
    more: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
    progress: Progress = UNSEEN,
) -> int:
    """Write the rows to one Parquet or CSV file in constant memory; return their number.

    Args:
        view: What to write.
        out: A `.parquet` or `.csv` file; list columns are left out of the latter.
        more: Adds columns to each batch: the truth, where it is known.
        progress: Hears of the rows.

    Raises:
        UsageError: The file is of another kind, or cannot be written there.
        StoreError: Nothing came home.
    """
    import pyarrow.parquet as pq
    from pyarrow import csv

    if out.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{out.name} is neither .parquet nor .csv", next="give another name")
    check_out(out)
    kind: Any = pq.ParquetWriter if out.suffix == ".parquet" else csv.CSVWriter
    temporary = out.with_name(out.name + ".part")
    writer, rows = None, 0
    progress.begin("writing rows", view.count(), "rows")
    try:
        for batch in view.batches():
            made = more(batch) if more else batch
            if out.suffix == ".csv":
                flat = [item.name for item in made.schema if not pa.types.is_list(item.type)]
                made = made.select(flat)
            writer = writer or kind(str(temporary), made.schema)
            writer.write_batch(made)
            rows += batch.num_rows
            progress.add(batch.num_rows)
        if writer is None:
            raise StoreError(f"nothing of {view.name} came home yet", next="sync a stick first")
        writer.close()
        writer = None
        shutil.move(temporary, out)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    return rows


@dataclass(frozen=True, slots=True)
class Purged:
    """What `store purge` removed for good.

    Attributes:
        segments: Imported ones.
        records: In them.
        aside: Files of the device that were held or in quarantine.
        appended: What the tables got, made again.
    """

    segments: int
    records: int
    aside: int
    appended: Appended


def purge_device(
    ws: Workspace,
    registry: Registry,
    archive: Archive,
    ring: Any,
    device: str,
    *,
    before: int | None = None,
    progress: Progress = UNSEEN,
) -> Purged:
    """Remove a device's records for good, with tombstones, and make the tables again.

    What was held or set aside of it goes, too. Nobody could read that, so no tombstone can name its
    records: brought once more, it is held once more.

    Args:
        ws: The workspace.
        registry: Where the device stands.
        archive: Where its segments lie.
        ring: Opens what stays.
        device: Name or id.
        before: Only imports with a serial below this; what was never imported stays then.
        progress: Hears of the tables that are made again.

    Raises:
        DeviceUnknownError: There is no such device.
    """
    row = registry.device(device)
    chosen = [
        item for item in registry.segments(row.device) if before is None or item.serial < before
    ]
    records = sum(item.rows for item in chosen)
    names = {item.bundle_name or row.bundle for item in chosen}
    purge(ws.disk, ws.root, archive, registry, chosen)
    aside = 0 if before is not None else _drop_aside(ws, registry, row.device)
    for name in sorted(names):
        if name:
            View(ws, registry, name).remove()
    made = bring_up_to_date(ws, registry, archive, ring, progress)
    return Purged(len(chosen), records, aside, made)


def _drop_aside(ws: Workspace, registry: Registry, device: str) -> int:
    """Remove what is held and what lies in quarantine of a device; return the number of files."""
    held = ws.held / device
    count = len(ws.disk.list(held))
    ws.disk.rmtree(held)
    with registry.commit():
        for row in registry.held(device):
            registry.drop_held(row.hash)
    for name in ws.disk.list(ws.quarantine):  # a file there is named after where it lay
        if device in name:
            ws.disk.unlink(ws.quarantine / name)
            count += 1
    for folder in (ws.held, ws.quarantine):
        if ws.disk.exists(folder):
            ws.disk.fsync_dir(folder)
    return count
