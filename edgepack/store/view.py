"""One bundle name's tables: state, appending, reading. See `edgepack.store.table`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError

from edgepack.errors import StoreError
from edgepack.registry import Registry, SegmentRow
from edgepack.store import delta
from edgepack.store.ahead import ahead
from edgepack.store.arrow import EVENTS, LABELS, ROWS, fits, stored
from edgepack.store.decode import Side, Source
from edgepack.tables import delta_dataset
from edgepack.workspace import Workspace

MARK = "edgepack"  # in the custom metadata of each commit of ours
HARMLESS = ("OPTIMIZE", "VACUUM START", "VACUUM END", "CREATE TABLE")
MAX_READ = 131_072  # rows of one batch when reading


@dataclass(slots=True)
class Appended:
    """What one `catch_up` brought into the view."""

    rows: int = 0
    labels: int = 0
    events: int = 0
    notes: list[str] = field(default_factory=list)


class View:
    """The tables of one bundle name, for reading and for appending.

    Args:
        ws: The workspace.
        registry: Its base generation names the view; compromised devices are left out of reads.
        name: Bundle name.
    """

    def __init__(self, ws: Workspace, registry: Registry, name: str) -> None:
        self.ws = ws
        self.registry = registry
        self.name = name
        self.app = f"{MARK}-{registry.base_generation()[1]}"

    # --- where --------------------------------------------------------------------------------

    def paths(self) -> list[Path]:
        """Return the folders of rows that are there: NAME, then NAME.2 and so on."""
        first = self.ws.table(self.name)
        result = [first] if (first / "_delta_log").is_dir() else []
        number = 2
        while (first.with_name(f"{self.name}.{number}") / "_delta_log").is_dir():
            result.append(first.with_name(f"{self.name}.{number}"))
            number += 1
        return result

    def beside(self, what: str) -> Path:
        """Return the folder of `labels` or `events`."""
        return self.ws.table(self.name).with_name(f"{self.name}.{what}")

    def everything(self) -> list[Path]:
        """Return every folder of this view that is there."""
        extra = (self.beside("labels"), self.beside("events"))
        return [*self.paths(), *(path for path in extra if path.exists())]

    def remove(self) -> None:
        """Remove the view; archive and registry have everything."""
        first = self.ws.table(self.name)
        for path in {*self.everything(), first}:
            self.ws.disk.rmtree(path)

    # --- state --------------------------------------------------------------------------------

    def progress(self) -> int:
        """Return the last import serial that the view has; 0 for an empty one."""
        return max((self.serial(path) for path in self.paths()), default=0)

    def serial(self, path: Path) -> int:
        """Return the last import serial that one of the tables has."""
        if not (path / "_delta_log").is_dir():
            return 0
        return self.table(path).transaction_version(self.app) or 0

    def table(self, path: Path) -> DeltaTable:
        """Open one of the tables.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            return DeltaTable(path)
        except (DeltaError, OSError, ValueError) as error:
            raise StoreError(f"the table {path.name} cannot be read: {_short(error)}") from None

    def problem(self) -> str:
        """Return why the view cannot be trusted to be readable, or an empty text."""
        for path in self.everything():
            try:
                table = DeltaTable(path)
                if table.transaction_version(self.app) is None:
                    return "it belongs to another generation of this base"
                lost = _lost_file(table, path)
            except (DeltaError, OSError, ValueError) as error:
                return f"{path.name} cannot be read ({_short(error)})"
            if lost:
                return f"{path.name}: {lost}"
        return ""

    def foreign(self) -> list[str]:
        """Return the commits since the last of ours that somebody else made."""
        found = []
        for path in self.everything():
            for entry in DeltaTable(path).history(50):
                if MARK in entry:
                    break
                operation = str(entry.get("operation", "?"))
                if operation not in HARMLESS:
                    found.append(f"{path.name} version {entry.get('version')}: {operation}")
        return found

    # --- appending ----------------------------------------------------------------------------

    def append(self, source: Source, segments: Sequence[SegmentRow], done: Appended) -> None:
        """Append segments of one bundle: labels and events first, then rows in one transaction.

        The rows' transaction moves the progress, and it is the last: whatever is interrupted is
        repeated, and what stands already in labels and events is skipped by their own serials.
        """
        serial = segments[-1].serial
        have = {what: self.serial(self.beside(what)) for what in ("labels", "events")}
        sides = {"labels": Side(LABELS, have["labels"]), "events": Side(EVENTS, have["events"])}
        batches = ahead(source.decode(segments, sides))
        try:
            first = next(batches, None)
            schema = ROWS if first is None else first.schema
            path = self._fitting(schema)
            self.ws.disk.mkdir(path)
            parts = [] if first is None else delta.write_parts(path, chain([first], batches))
        finally:
            batches.close()
        for what, side in sides.items():
            if side.rows:
                table = pa.Table.from_pylist(side.rows, schema=side.schema)
                self._append_side(self.beside(what), table, serial)
        delta.ensure(path, schema, self.commit(max(self.serial(path), 0)))
        delta.commit(path, parts, self.commit(serial))
        done.rows += sum(part.rows for part in parts)
        done.labels += len(sides["labels"].rows)
        done.events += len(sides["events"].rows)

    def _append_side(self, path: Path, table: pa.Table, serial: int) -> None:
        self.ws.disk.mkdir(path)
        parts = delta.write_parts(path, table.to_batches())
        delta.ensure(path, table.schema, self.commit(self.serial(path)))
        delta.commit(path, parts, self.commit(serial))

    def _fitting(self, schema: pa.Schema) -> Path:
        """Return the newest table if its columns have these types, else the path of a new one."""
        paths = self.paths()
        if not paths:
            return self.ws.table(self.name)
        if fits(stored(arrow_schema(self.table(paths[-1]))), stored(schema)):
            return paths[-1]
        return self.ws.table(self.name).with_name(f"{self.name}.{len(paths) + 1}")

    def commit(self, serial: int) -> CommitProperties:
        """Return what marks a commit as ours, with the serial up to which the table is complete."""
        return CommitProperties(
            app_transactions=[Transaction(self.app, serial)],
            custom_metadata={MARK: str(serial)},
        )

    # --- reading ------------------------------------------------------------------------------

    def columns(self) -> dict[str, pa.DataType]:
        """Return every column of the rows; the newest table says the type."""
        result: dict[str, pa.DataType] = {}
        for path in self.paths():
            result |= stored(arrow_schema(self.table(path)))
        return result

    def batches(
        self,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        *,
        what: str = "rows",
        rows: int = MAX_READ,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the records in constant memory; rows of compromised devices are left out.

        Args:
            columns: Names; None for all. One that a table lacks is null.
            where: Filter over stored columns.
            what: `rows`, `labels` or `events`.
            rows: Most rows of one batch.

        Raises:
            StoreError: The table cannot be read.
        """
        where = _both(where, self._trusted())
        try:
            if what != "rows":
                path = self.beside(what)
                if (path / "_delta_log").is_dir():
                    yield from _scan(path, columns, where, rows)
                return
            wanted = self.columns()
            if columns is not None:
                wanted = {name: wanted[name] for name in columns if name in wanted}
            for path in self.paths():
                for batch in _scan(path, list(wanted), where, rows):
                    yield _as_wanted(batch, wanted)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise StoreError(
                f"the table of {self.name} cannot be read: {self._changed() or _short(error)}"
            ) from None

    def _changed(self) -> str:
        """Return who is to blame if it was not us, or an empty text."""
        try:
            found = self.foreign()
        except (DeltaError, OSError, ValueError):
            return ""
        return f"somebody else changed it ({', '.join(found[:3])})" if found else ""

    def in_order(
        self, columns: Sequence[str], upto: int | None = None, rows: int = MAX_READ
    ) -> Iterator[pa.Table]:
        """Yield the records by import serial and sequence, about `rows` at a time.

        The files of a table may stand in any order: `store compact` merges them.

        Args:
            columns: Names; `_serial` and `_sequence` come with them.
            upto: Only imports up to this serial.
            rows: A single import may have more.
        """
        counts: Counter[int] = Counter()
        for batch in self.batches(["_serial"]):
            found, n = np.unique(np.asarray(batch.column("_serial")), return_counts=True)
            counts.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
        names = list(dict.fromkeys([*columns, "_serial", "_sequence"]))
        order = [("_serial", "ascending"), ("_sequence", "ascending")]
        run: list[int] = []
        kept = sorted(serial for serial in counts if upto is None or serial <= upto)
        for serial in kept:
            run.append(serial)
            if serial == kept[-1] or sum(counts[item] for item in run) >= rows:
                where = (ds.field("_serial") >= run[0]) & (ds.field("_serial") <= run[-1])
                yield self.read(names, where).sort_by(order)
                run = []

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        *,
        what: str = "rows",
    ) -> pa.Table:
        """Return the records as one Arrow table; see `batches`."""
        found = list(self.batches(columns, where, what=what))
        if found:
            return pa.Table.from_batches(found)
        if what == "rows":
            kinds = self.columns() or stored(ROWS)
        else:
            kinds = stored(LABELS if what == "labels" else EVENTS)
        names = kinds if columns is None else [name for name in columns if name in kinds]
        return pa.table({name: pa.array([], kinds[name]) for name in names})

    def count(self) -> int:
        """Return the rows of all tables, from their metadata alone."""
        return sum(self.table(path).count() for path in self.paths())

    def _trusted(self) -> ds.Expression | None:
        result = None
        for device in self.registry.devices("compromised"):
            after = ds.field("_serial") >= (device.since or 0)
            result = _both(result, ~((ds.field("_device") == device.device) & after))
        return result


def arrow_schema(table: DeltaTable) -> pa.Schema:
    """Return the schema of a Delta table as pyarrow's."""
    return pa.schema(table.schema().to_arrow())


def _scan(
    path: Path, columns: Sequence[str] | None, where: ds.Expression | None, rows: int
) -> Iterator[pa.RecordBatch]:
    dataset = delta_dataset(path)
    if columns is not None:
        there = set(dataset.schema.names)
        columns = [name for name in columns if name in there]
    scanner = dataset.scanner(
        columns=columns, filter=where, batch_size=rows, batch_readahead=2, fragment_readahead=1
    )
    for batch in scanner.to_batches():
        if batch.num_rows:
            yield batch


def _as_wanted(batch: pa.RecordBatch, wanted: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """Give an older table's batch the newest columns and types; null where that is not possible."""
    if batch.schema.names == list(wanted) and batch.schema.types == list(wanted.values()):
        return batch
    there = set(batch.schema.names)
    arrays = []
    for name, kind in wanted.items():
        array = batch.column(name) if name in there else pa.nulls(batch.num_rows, kind)
        if array.type != kind:
            try:
                array = array.cast(kind)
            except pa.ArrowInvalid:
                array = pa.nulls(batch.num_rows, kind)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=list(wanted))


def _both(one: ds.Expression | None, other: ds.Expression | None) -> ds.Expression | None:
    if one is None or other is None:
        return one if other is None else other
    return one & other


def _lost_file(table: DeltaTable, path: Path) -> str:
    """Return what is wrong with the data files: deltalake does not sync, a power cut may cut."""
    actions = pa.table(table.get_add_actions(flatten=True))
    for name, size in zip(
        actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True
    ):
        try:
            there = (path / name).stat().st_size
        except FileNotFoundError:
            return f"{name} is missing"
        if there != size:
            return f"{name} has {there} bytes instead of {size}"
    return ""


def _short(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]  # more may be a trace of Rust
    return lines[0].strip()[:200]
