"""Truth that became known on the device: one label, or a file of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

from device_runtime.errors import FormatError, InputError, NoSlotError
from device_runtime.format.schema import Schema
from device_runtime.format.segment import RecordId
from device_runtime.journal.writer import Journal

VALUE_NAMES = ("label", "truth", "value")


def is_record_id(ref: str) -> bool:
    """Whether this is the id of a record, and not a key of the user's own."""
    if ref.count("/") != 3:
        return False
    try:
        RecordId.parse(ref)
    except FormatError:
        return False
    return True


def as_truth(schema: Schema | None, value: object) -> object:
    """Return a label in the form that is journaled: a number for regression, else text.

    Raises:
        InputError: It is no number where one is wanted, or empty.
    """
    text = str(value).strip()
    if not text:
        raise InputError("a label has no value")
    if schema is not None and schema.task in ("regression", "quantiles"):
        try:
            return float(text)
        except ValueError:
            raise InputError(f"the label {text[:80]!r} is not a number") from None
    return text


def read_labels(stream: BinaryIO, schema: Schema | None) -> Iterator[tuple[str, str]]:
    """Yield (record id or key, value) of each line of a CSV file; lines without a value are left.

    Columns: `record`, or the bundle's key column; and the target column, or `label`, `truth`,
    `value`. With exactly two columns of other names: the first is the id, the second the value.

    Raises:
        InputError: There are no such columns, or a line has another number of fields.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        lines = csv.reader(text, strict=True)
        names = next(lines, [])
        ref, value = _columns(names, schema)
        for number, line in enumerate(lines, 2):
            if not line:
                continue
            if len(line) != len(names):
                raise InputError(f"line {number} of the labels has {len(line)} fields")
            if line[value].strip():
                yield line[ref].strip(), line[value]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"the file of labels is not CSV: {error}") from None
    finally:
        with suppress(ValueError):  # Ctrl-C: the file was closed before this generator
            text.detach()


def _columns(names: list[str], schema: Schema | None) -> tuple[int, int]:
    """Return the positions of the id and of the value."""
    keys = [column.name for column in schema.by_role("key")] if schema else []
    targets = [column.name for column in schema.by_role("target")] if schema else []
    refs = [name for name in ("record", *keys) if name in names]
    values = [name for name in (*targets, *VALUE_NAMES) if name in names]
    if refs and values:
        return names.index(refs[0]), names.index(values[0])
    if len(names) == 2:
        return 0, 1
    wanted = " or ".join(("record", *keys)), " or ".join((*targets, *VALUE_NAMES))
    raise InputError(f"the file of labels needs a column {wanted[0]}, and one {wanted[1]}")


def journal_labels(
    journal: Journal,
    schema: Schema | None,
    pairs: Iterable[tuple[str, object]],
    source: str,
    observed_wall_ns: int,
    progress: Callable[[int], None],
) -> int:
    """Journal truths; return how many, when they are durable.

    Raises:
        InputError: A value cannot be one of this bundle's target.
        NoSlotError: A key was given, and there is no bundle that says what a key is.
    """
    count = 0
    for ref, value in pairs:
        by = "record" if is_record_id(ref) else "key"
        if by == "key" and schema is None:
            raise NoSlotError("there is no bundle on this device that says what a key is")
        truth = as_truth(schema, value)
        journal.append_label(ref, truth, by=by, source=source, observed_wall_ns=observed_wall_ns)
        count += 1
        if count % 1000 == 0:
            progress(count)
    journal.sync()
    return count
