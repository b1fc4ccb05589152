"""Protobuf's wire format, bounded: one pass, no recursion, nothing is copied.

Long runs of equal fields (a tree ensemble has millions of unpacked numbers) are skipped by one
regular expression each, so a model of 100 MB is walked in a second or two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from device_runtime.errors import ModelLoadError
from device_runtime.record import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Item(NamedTuple):
    """One field of a message, or a run of equal ones.

    Attributes:
        field: Its number.
        wire: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        start: First byte of the content of `BYTES`; else of the run, tags included.
        stop: Behind its last byte.
    """

    field: int
    wire: int
    start: int
    stop: int


def items(data: memoryview, start: int, stop: int, strings: int = 0) -> Iterator[Item]:
    """Yield the fields of the message that lies in data[start:stop].

    Args:
        data: The file.
        start: First byte of the message.
        stop: Behind its last byte.
        strings: Number of a field that is a list of plain strings: of a run of short ones only the
            first is yielded. 0: there is none.

    Raises:
        ModelLoadError: The bytes are no protobuf message.
    """
    at = start
    while at < stop:
        begin = at
        tag, at = varint(data, at, stop)
        field, wire = tag >> 3, tag & 7
        if field == 0 or tag >= 1 << 32:
            raise broken("a field without a valid number")
        if wire == BYTES:
            size, at = varint(data, at, stop)
            if size > stop - at:
                raise broken("a field ends behind its message")
            yield Item(field, wire, at, at + size)
            at += size
            if field == strings and size < 32:
                at = _skip_short(data, at, stop, tag)
        elif wire in (VARINT, FIXED64, FIXED32):
            at = _run(tag, wire, data, begin, stop)
            yield Item(field, wire, begin, at)
        else:
            raise broken("a group, which ONNX never uses")


def _skip_short(data: memoryview, at: int, stop: int, tag: int) -> int:
    found = _short(tag).match(data, at, stop)
    return found.end() if found else at


@cache
def _short(tag: int) -> re.Pattern[bytes]:
    mark = re.escape(_encoded(tag))
    sizes = b"|".join(re.escape(bytes([n])) + b".{%d}" % n for n in range(32))
    return re.compile(b"(?:" + mark + b"(?:" + sizes + b"))++", re.DOTALL)


def _run(tag: int, wire: int, data: memoryview, begin: int, stop: int) -> int:
    found = _number(tag, wire).match(data, begin, stop)
    if found is None:
        raise broken("a number is cut off")
    return found.end()


@cache
def _number(tag: int, wire: int) -> re.Pattern[bytes]:
    """Match one or more numbers with this tag; there are few tags, so few patterns."""
    mark = re.escape(_encoded(tag))
    body = {VARINT: rb"[\x80-\xff]{0,9}+[\x00-\x7f]", FIXED64: b".{8}", FIXED32: b".{4}"}[wire]
    return re.compile(b"(?:" + mark + body + b")++", re.DOTALL)


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """Return the unsigned number at data[at] and the place behind it."""
    value = shift = 0
    while True:
        if at >= stop or shift > 63:
            raise broken("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7


def numbers(data: memoryview, item: Item, limit: int) -> list[int]:
    """Return up to `limit` + 1 signed varints of a run, or of a packed field."""
    found: list[int] = []
    at = item.start
    while at < item.stop and len(found) <= limit:
        if item.wire != BYTES:
            _, at = varint(data, at, item.stop)
        value, at = varint(data, at, item.stop)
        found.append(value - 2**64 if value >= 2**63 else value)
    return found


def broken(why: str) -> ModelLoadError:
    """Return the error for bytes that are no protobuf message."""
    return ModelLoadError(f"the model file is damaged: {why}")
