"""Labels given at the base: `label import F` keeps them as numbered, durable Parquet files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from device_runtime.crypt import sha256
from device_runtime.disk import write_durable
from edgepack.errors import DataError, StoreError
from edgepack.workspace import Workspace

SCHEMA = pa.schema(
    [
        ("_device", pa.string()),
        *((name, pa.string()) for name in ("ref", "by", "value", "source")),
        ("observed", pa.int64()),
    ]
)
_VALUE = ("value", "label", "truth")
_RECORD = ("record", "record_id")


@dataclass(frozen=True, slots=True)
class Kept:
    """What an import kept.

    Attributes:
        rows: Labels written.
        by: `record` or `key`.
        number: Of the file in `labels/NAME/`.
        empty: Lines without id or value, left out.
        again: Whether the same content was imported before.
        refs: What they name.
    """

    rows: int
    by: str
    number: int
    empty: int
    again: bool
    refs: frozenset[str]


def keep(
    ws: Workspace,
    name: str,
    path: Path,
    *,
    key: str | None,
    targets: Sequence[str] = (),
    observed: int,
) -> Kept:
    """Read a file of labels and keep it, durably.

    Args:
        ws: The workspace.
        name: Bundle name.
        path: CSV, NDJSON or Parquet with an id column (`record`, the key's own name, or `key`) and
            a value column (the target's own name, `value`, `label` or `truth`); `source` optional.
        key: Name of the recipe's key column.
        targets: Names of the target.
        observed: When it became known: nanoseconds by the base's clock.

    Raises:
        DataError: It cannot be read, or lacks one of the columns, or holds no label.
    """
    table = read_file(path, words=True)
    by, ref = _pick(table, {"record": _RECORD, "key": (*([key] if key else []), "key", "id")}, path)
    _, value = _pick(table, {"value": (*targets, *_VALUE)}, path)
    refs, values = as_text(table.column(ref)), as_text(table.column(value))
    good = pc.and_(_filled(refs), _filled(values))
    source = as_text(table.column("source")) if "source" in table.column_names else None
    rows = pa.table(
        {
            "_device": pa.array([""] * table.num_rows, pa.string()),
            "ref": refs,
            "by": pa.array([by] * table.num_rows, pa.string()),
            "value": values,
            "source": source if source is not None else pa.array(["base"] * table.num_rows),
            "observed": pa.array(np.full(table.num_rows, observed, np.int64)),
        },
        schema=SCHEMA,
    ).filter(good)
    if not rows.num_rows:
        raise DataError(f"{path} holds no label", next=f"it needs {ref} and {value} in each line")
    empty = table.num_rows - rows.num_rows
    named = frozenset(rows.column("ref").to_pylist())
    digest = sha256(*(repr(rows.column(n).to_pylist()).encode() for n in ("ref", "by", "value")))
    for old in files(ws, name):
        if old.stem.endswith(digest.hex()[:16]):
            return Kept(rows.num_rows, by, _number(old), empty, True, named)
    number = max((_number(old) for old in files(ws, name)), default=0) + 1
    folder = ws.labels / name
    ws.disk.mkdir(folder)
    out = io.BytesIO()
    pq.write_table(rows, out, compression="zstd")
    write_durable(ws.disk, folder / f"{number:06d}-{digest.hex()[:16]}.parquet", out.getvalue())
    return Kept(rows.num_rows, by, number, empty, False, named)


def files(ws: Workspace, name: str) -> list[Path]:
    """Return the kept files of a bundle name, oldest first."""
    folder = ws.labels / name
    return [folder / item for item in ws.disk.list(folder) if item.endswith(".parquet")]


def base_labels(ws: Workspace, name: str, upto: int | None = None) -> pa.Table:
    """Return every label given at the base, oldest first.

    Args:
        ws: The workspace.
        name: Bundle name.
        upto: Only files up to this number: to make an older training set again.

    Raises:
        StoreError: A kept file cannot be read.
    """
    tables = [SCHEMA.empty_table()]
    for path in files(ws, name):
        if upto is not None and _number(path) > upto:
            continue
        try:
            tables.append(pq.read_table(path, schema=SCHEMA))
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{path} cannot be read: {error}", next="restore it from a backup, or remove it"
            ) from None
    return pa.concat_tables(tables)


def newest_number(ws: Workspace, name: str) -> int:
    """Return the number of the newest kept file; 0 when there is none."""
    return max((_number(path) for path in files(ws, name)), default=0)


def read_file(path: Path, *, words: bool = False) -> pa.Table:
    """Read a CSV, NDJSON or Parquet file of a person.

    Args:
        path: The file.
        words: Whether every column of a CSV is text: ids and classes are words, also where digits.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    from pyarrow import csv, json

    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".ndjson", ".jsonl", ".json"):
            return json.read_json(path)
        if not words:
            return csv.read_csv(path)
        kinds = {name: pa.string() for name in csv.open_csv(path).schema.names}
        options = csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
        return csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", next="check the name") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} cannot be read: {reason}", next="give CSV, NDJSON or Parquet"
        ) from None


def as_text(column: Any) -> pa.Array:
    """Return a column as text: whole numbers without a point, bools as true and false."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        numbers = pc.if_else(pc.is_nan(array), None, array).to_pylist()
        return pa.array([None if v is None else f"{v:.17g}" for v in numbers], pa.string())
    return array.cast(pa.string())


def _filled(texts: pa.Array) -> pa.Array:
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False)


def _pick(table: pa.Table, choices: dict[str, tuple[str, ...]], path: Path) -> tuple[str, str]:
    for kind, names in choices.items():
        for name in names:
            if name in table.column_names:
                return kind, name
    wanted = ", ".join(dict.fromkeys(name for names in choices.values() for name in names))
    raise DataError(
        f"{path} has none of the columns {wanted}",
        next=f"it has {', '.join(table.column_names)}; name one of them so",
    )


def _number(path: Path) -> int:
    head = path.stem.split("-")[0]
    return int(head) if head.isdigit() else 0
