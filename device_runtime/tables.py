"""Rows as Python has them → a block; and one real row to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from device_runtime.errors import InputError
from device_runtime.format.batch import Text
from device_runtime.format.schema import Schema
from device_runtime.model.rows import RawBlock, from_columns, from_rows
from device_runtime.trust.load import LoadedSlot


def block_of(rows: Any, schema: Schema) -> RawBlock:
    """Return rows as a block: mappings, a dict of columns, or a DataFrame.

    Raises:
        InputError: They have no shape that could be understood.
    """
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        return from_columns({str(c): rows[c].to_numpy() for c in rows.columns}, len(rows))
    if isinstance(rows, Mapping):
        sizes = {len(v) if hasattr(v, "__len__") else -1 for v in rows.values()}
        if -1 in sizes or any(isinstance(values, str) for values in rows.values()):
            raise InputError("a dict holds columns, not one row", next="give a list of rows: [row]")
        if len(sizes) != 1:
            raise InputError("the columns do not have the same number of rows")
        return from_columns(rows, sizes.pop())
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        return from_rows(rows, schema)
    raise InputError("rows must be mappings, a dict of columns, or a DataFrame")


def example(slot: LoadedSlot) -> str:
    """Return a CSV header and, from the self-test, one real row."""
    if "selftest.cols" not in slot.files:
        return template(slot.schema)
    from device_runtime.format.columns import decode_columns

    _, columns, _ = decode_columns(slot.read("selftest.cols"))
    row = {
        column.name: columns[column.name].strings()[0]
        if isinstance(columns[column.name], Text)
        else columns[column.name][0].tolist()
        for column in slot.schema.given
        if column.name in columns
    }
    return template(slot.schema, row)


def template(schema: Schema, example: Mapping[str, Any] | None = None) -> str:
    """Return a CSV header of all given columns and, with `example`, one row of real values."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in schema.given])
    if example is not None:
        writer.writerow([_cell(column.dtype, example.get(column.name)) for column in schema.given])
    return out.getvalue()


def _cell(dtype: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if dtype == "timestamp" and isinstance(value, int):
        from datetime import UTC, datetime, timedelta

        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return json.dumps(value)
    return str(value)
