"""Labels given at the base: `label import F` keeps them as numbered, durable Parquet files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from device_runtime.disk import write_durable
from edgepack.errors import DataError, StoreError
from edgepack.store.truth import key_text
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
QUEUED = "queue/"  # source of labels that `label queue` asked for, and why: `queue/random` …


@dataclass(frozen=True, slots=True)
class Kept:
    """What an import kept.

    Attributes:
        rows: Labels written.
        by: `record` or `key`.
        number: Of the file in `labels/NAME/`.
        empty: Lines without id or value, left out.
        again: Whether the same content was imported before.
        refs: What they name, each once.
        values: What they say, each once.
    """

    rows: int
    by: str
    number: int
    empty: int
    again: bool
    refs: pa.Array
    values: pa.Array


def keep(
    ws: Workspace,
    name: str,
    path: Path,
    *,
    key: str | None,
    key_dtype: str = "string",
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
        key_dtype: Its type in the newest bundle: `7.0` names 7 where keys are whole numbers.
        targets: Names of the target.
        observed: When it became known: nanoseconds by the base's clock.

    Raises:
        DataError: It cannot be read, or lacks one of the columns, or holds no label.
    """
    table = read_file(path, words=True)
    by, ref = _pick(table, {"record": _RECORD, "key": (*([key] if key else []), "key", "id")}, path)
    _, value = _pick(table, {"value": (*targets, *_VALUE)}, path)
    refs, values = _words(table, ref, path), _words(table, value, path)
    if by == "record" or key_dtype != "string":
        refs = pc.utf8_trim_whitespace(refs)
    if by == "key" and "int" in key_dtype:
        refs = pc.replace_substring_regex(refs, r"^([+-]?[0-9]+)\.0*$", r"\1")
    good = pc.and_(_filled(refs), _filled(values))
    source = _source(table, path)
    rows = pa.table(
        {
            "_device": pa.array([""] * table.num_rows, pa.string()),
            "ref": refs,
            "by": pa.array([by] * table.num_rows, pa.string()),
            "value": values,
            "source": source,
            "observed": pa.array(np.full(table.num_rows, observed, np.int64)),
        },
        schema=SCHEMA,
    ).filter(good)
    if not rows.num_rows:
        raise DataError(f"{path} holds no label", next=f"it needs {ref} and {value} in each line")
    empty = table.num_rows - rows.num_rows
    said = tuple(rows.column(name).unique() for name in ("ref", "value"))
    digest = _digest(rows)
    for old in files(ws, name):
        if old.stem.endswith(digest):
            return Kept(rows.num_rows, by, _number(old), empty, True, *said)
    number = max((_number(old) for old in files(ws, name)), default=0) + 1
    folder = ws.labels / name
    ws.disk.mkdir(folder)
    out = io.BytesIO()
    pq.write_table(rows, out, compression="zstd")
    write_durable(ws.disk, folder / f"{number:06d}-{digest}.parquet", out.getvalue())
    return Kept(rows.num_rows, by, number, empty, False, *said)


def _source(table: pa.Table, path: Path) -> pa.Array:
    """Return who says so: a column of its own, or that the queue asked for it."""
    if "source" in table.column_names:
        return _words(table, "source", path)
    if {"record", "why"} <= set(table.column_names):
        return pc.binary_join_element_wise(QUEUED, _words(table, "why", path), "")
    return pa.array(["base"] * table.num_rows, pa.string())


def _digest(rows: pa.Table) -> str:
    """Return 16 hex characters of what the labels say, a piece at a time."""
    digest = hashlib.sha256()
    for name in ("ref", "by", "value"):
        lead = b"["
        for batch in rows.select([name]).to_batches(100_000):
            digest.update(lead + repr(batch.column(0).to_pylist())[1:-1].encode())
            lead = b", "
        digest.update(b"]")
    return digest.hexdigest()[:16]


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
            table = pq.read_table(path)
        elif path.suffix in (".ndjson", ".jsonl", ".json"):
            try:
                table = json.read_json(path)
            except pa.ArrowInvalid:  # one column, several types: as words it is one
                if not words:
                    raise
                table = _as_words(path)
        else:
            options = csv.ConvertOptions()
            if words:
                kinds = {name: pa.string() for name in csv.open_csv(path).schema.names}
                options = csv.ConvertOptions(
                    column_types=kinds, strings_can_be_null=True, null_values=[""]
                )
            table = csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", next="check the name") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        reason, help_ = _why(path, " ".join(str(error).split()))
        raise DataError(f"{path} cannot be read: {reason}", next=help_) from None
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns {twice[0]}", next="leave one of them out")
    return table


def _as_words(path: Path) -> pa.Table:
    """Read NDJSON whose columns hold words and numbers side by side, each value as a word.

    Raises:
        pyarrow.ArrowInvalid: A line is no object of plain values.
    """
    rows: list[dict[str, str | None]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append({name: _word(value) for name, value in loads(line).items()})
        except (ValueError, AttributeError, RecursionError):
            raise pa.ArrowInvalid(f"line {number} is no JSON object of plain values") from None
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    return pa.table(texts)


def _word(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value).removesuffix(".0")
    raise ValueError(value)


def _why(path: Path, reason: str) -> tuple[str, str]:
    """Return the reason in words that help, and what to do."""
    kinds, utf8 = "give CSV, NDJSON or Parquet", "save it as UTF-8"
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                return "it is UTF-16", utf8
    if "UTF8" in reason:
        return "it is not UTF-8", utf8
    if "straddling" in reason or "cannot infer number of columns" in reason:
        return "a line is longer than 1 MB", "is it the right file? Each label is a line of its own"
    return reason[:200], kinds


def as_text(column: Any) -> pa.Array:
    """Return a column as text: whole numbers without a point, bools as true and false.

    Raises:
        pyarrow.ArrowException: Its values are no text and no numbers.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        return key_text(pc.if_else(pc.is_nan(array), None, array))
    return array.cast(pa.string())


def _words(table: pa.Table, name: str, path: Path) -> pa.Array:
    try:
        return as_text(table.column(name))
    except pa.ArrowException:
        kind = table.column(name).type
        raise DataError(
            f"column {name} of {path} holds {kind}", next="give one word or number in each line"
        ) from None


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
