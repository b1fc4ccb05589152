"""NDJSON → `RawBlock`s: one JSON object a line; what is none costs its own line only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from device_runtime.format.schema import Schema
from device_runtime.model.rows import (
    MAX_RECORD,
    NO_OBJECT,
    TOO_LONG,
    ByteStream,
    Cutter,
    Fault,
    RawBlock,
    from_rows,
    portions,
    readable,
)


def ndjson_blocks(stream: ByteStream, schema: Schema, cutter: Cutter) -> Iterator[RawBlock]:
    """Read one JSON object a line. Blank lines are passed over and are no rows."""
    for lines in _line_groups(stream):
        for part, first_row in cutter.cut(len(lines)):
            rows: list[Mapping[str, Any]] = []
            faults: dict[int, Fault] = {}
            for line in lines[part]:
                value, reason = _object(line)
                if reason:
                    faults[len(rows)] = Fault(reason, readable(line))
                rows.append(value)
            block = from_rows(rows, schema, first_row=first_row)
            yield RawBlock(block.n, block.columns, first_row, faults)


def _object(line: bytes | None) -> tuple[Mapping[str, Any], str]:
    if line is None:
        return {}, TOO_LONG
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return {}, "is not UTF-8"
    except (ValueError, RecursionError):
        return {}, "is not valid JSON"
    return (value, "") if isinstance(value, dict) else ({}, NO_OBJECT)


def _line_groups(stream: ByteStream) -> Iterator[list[bytes | None]]:
    """Yield groups of non-blank lines without their ends; None stands for one that is too long."""
    tail, too_long = b"", False
    for chunk, final in portions(stream):
        pieces = (tail + chunk).split(b"\n")
        tail = b"" if final else pieces.pop()
        lines: list[bytes | None] = [piece for piece in pieces if piece.strip()]
        if too_long and pieces:
            # The first end of a line ends the one that was too long.
            lines = [None, *lines[bool(pieces[0].strip()) :]]
            too_long = False
        lines = [None if line and len(line) > MAX_RECORD else line for line in lines]
        if len(tail) > MAX_RECORD:
            tail, too_long = b"", True
        yield lines
