"""CSV → `RawBlock`s: a careful way for the odd chunk, a fast one (`fields`) for the plain chunk.

A chunk without quotes whose rows all have the right number of fields is cut by numpy. Any other is
cut here, line by line: a quoted field may hold separators and line ends; a quote that is never
closed costs one row and not the rest of the file.
"""

from __future__ import annotations

import _csv as csv  # the reader alone: `csv` adds dialects and 0.5 ms to a start
import codecs
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from device_runtime.errors import InputError
from device_runtime.format.batch import SMALL
from device_runtime.format.schema import Schema
from device_runtime.model.rows import (
    MAX_RECORD,
    TOO_LONG,
    ByteStream,
    Cutter,
    Fault,
    RawBlock,
    Rest,
    portions,
    read_some,
    readable,
)

SEPARATORS = ",;\t"
BROKEN = "has broken quotes or line ends"
csv.field_size_limit(MAX_RECORD)  # else 128 KiB: too long is what we call too long
_CLOSE = re.compile(rb'(?:[^"]|"")*+"')


class _Utf16:
    """A UTF-16 stream, read as UTF-8; what cannot be decoded becomes U+FFFD."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")

    def read(self, size: int, /) -> bytes:  # noqa: ARG002  (as much as the stream gives)
        while True:
            raw = read_some(self._stream)
            text = self._decoder.decode(raw, final=not raw).encode("utf-8", "replace")
            if text or not raw:
                return text


class CsvSource:
    """A CSV stream whose header was read.

    Args:
        stream: Opened for bytes.
        schema: Names the columns.

    Attributes:
        names: The header.
        ignored: Columns that the schema does not know.

    Raises:
        InputError: The header lacks a column, names one twice, or there is none.
    """

    def __init__(self, stream: ByteStream, schema: Schema) -> None:
        head = read_some(stream)
        stream = Rest(head, stream)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            stream = _Utf16(stream)
        self._portions = portions(stream)
        line, rest = b"", b""
        while not line:
            line, rest = self._first_line(rest)
        self._rest = rest
        self._choose(line, [column.name for column in schema.given])
        self._opens = _open_pattern(self.separator)

    def _first_line(self, head: bytes) -> tuple[bytes, bytes]:
        while b"\n" not in head and len(head) <= MAX_RECORD:
            more, self._final = next(self._portions, (b"", True))
            if not more:
                if not head.strip():
                    raise InputError("the input is empty: not even a header")
                break
            head += more
        line, _, rest = head.removeprefix(codecs.BOM_UTF8).partition(b"\n")
        if len(line) > MAX_RECORD:
            raise InputError(f"the header {TOO_LONG}; this is no CSV")
        return line.rstrip(b"\r"), rest

    def _choose(self, line: bytes, wanted: Sequence[str]) -> None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise InputError("the header is not UTF-8", next="save the file as UTF-8") from None
        if "\0" in text:
            raise InputError("the header holds a NUL byte; this is no CSV")
        best: list[str] = []
        for separator in SEPARATORS:
            try:
                names = next(csv.reader([text], delimiter=separator, strict=True), [])
            except csv.Error:
                continue  # broken quotes under this separator
            names = [name.strip() for name in names]
            if not best or len(set(names) & set(wanted)) > len(set(best) & set(wanted)):
                best, self.separator = names, separator
        if not best:
            raise InputError("the header cannot be read: its quotes are broken")
        self.names = best
        issues = [f"column {name} is not there" for name in wanted if name not in best]
        issues += [f"column {name} stands twice" for name in wanted if best.count(name) > 1]
        if issues:
            raise InputError(f"the header does not fit: {'; '.join(issues)}", issues)
        self.ignored = tuple(name for name in best if name not in wanted)
        self._places = {name: best.index(name) for name in wanted}

    def blocks(self, cutter: Cutter) -> Iterator[RawBlock]:
        """Yield the rows as blocks, cut where the cutter says."""
        for data in self._chunks():
            yield from self._cut(data, cutter)

    def _chunks(self) -> Iterator[bytes | list[bytes | None]]:
        """Yield whole lines: bytes where any way may cut them, or lists of records already cut."""
        data, too_long = self._rest, False
        for chunk, final in chain([(b"", self._final)], self._portions):
            data += chunk
            if too_long:
                _, end, after = data.partition(b"\n")
                if not (end or final):
                    data = b""
                    continue
                data, too_long = after, False
                yield [None]
            if final:
                break
            if b'"' in data:
                records, data = self._records(data, final=False)
                yield records
            else:
                cut = data.rfind(b"\n") + 1
                if cut:
                    yield data[:cut]
                    data = data[cut:]
            if len(data) > MAX_RECORD and b"\n" not in data:
                data, too_long = b"", True
        if data:
            data += b"" if data.endswith(b"\n") else b"\n"
            yield self._records(data, final=True)[0] if b'"' in data else data

    def _records(self, data: bytes, *, final: bool) -> tuple[list[bytes | None], bytes]:
        """Cut records with quotes; returns them and the rest that is not complete yet."""
        lines = data.split(b"\n")
        last = b"" if final else lines.pop()
        records: list[bytes | None] = []
        place = 0
        while place < len(lines):
            line = lines[place]
            end, size, inside = place + 1, len(line), self._leaves_open(line, inside=False)
            while inside and end < len(lines) and size <= MAX_RECORD:
                size += len(lines[end]) + 1
                inside = self._leaves_open(lines[end], inside=True)
                end += 1
            if inside and size <= MAX_RECORD and not final:
                return records, b"\n".join([*lines[place:], last])
            record = b"\n".join(lines[place:end])
            if inside or (end - place > 1 and self._is_broken(record)):
                # Never closed, or closed by the quote of another row: this line alone is broken.
                end = place + 1
                record = lines[place]
            records.append(record)
            place = end
        return records, last

    def _is_broken(self, record: bytes) -> bool:
        try:
            self._fields(record.decode("utf-8", "replace"))
        except csv.Error:
            return True
        return False

    def _fields(self, text: str) -> list[str]:
        if '"' not in text and "\r" not in text:
            return text.split(self.separator)
        return next(csv.reader([text], delimiter=self.separator, strict=True))

    def _leaves_open(self, line: bytes, *, inside: bool) -> bool:
        """Whether a line ends inside a quoted field."""
        if inside:
            closed = _CLOSE.match(line)
            if closed is None:
                return True
            _, found, line = line[closed.end() :].partition(self.separator.encode())
            if not found:
                return False
        return b'"' in line and self._opens.match(line) is not None

    def _cut(self, data: bytes | list[bytes | None], cutter: Cutter) -> Iterator[RawBlock]:
        if isinstance(data, bytes):
            if data.count(b"\n", 0, 1 << 16) > SMALL or len(data) > 1 << 16:
                from device_runtime.model.fields import split

                found = split(data, self.separator, len(self.names), self._places)
                if found is not None:
                    for part, first_row in cutter.cut(len(next(iter(found.values())))):
                        columns = {name: values[part] for name, values in found.items()}
                        yield RawBlock(part.stop - part.start, columns, first_row, text=True)
                    return
            data = [*data.split(b"\n")]
        records = [r if r is None else r.removesuffix(b"\r") for r in data]
        records = [record for record in records if record != b""]
        for part, first_row in cutter.cut(len(records)):
            yield self._parse(records[part], first_row)

    def _parse(self, records: Sequence[bytes | None], first_row: int) -> RawBlock:
        rows: list[list[str]] = []
        faults: dict[int, Fault] = {}
        empty: list[str] = [""] * len(self.names)
        for place, record in enumerate(records):
            row, reason = self._row(record)
            if reason:
                faults[place] = Fault(reason, readable(record))
            rows.append(empty if reason else row)
        columns = {name: [row[at] for row in rows] for name, at in self._places.items()}
        return RawBlock(len(rows), columns, first_row, faults, text=True)

    def _row(self, record: bytes | None) -> tuple[list[str], str]:
        if record is None or len(record) > MAX_RECORD:
            return [], TOO_LONG
        if b"\0" in record:
            return [], "holds a NUL byte"
        try:
            text = record.decode()
        except UnicodeDecodeError:
            return [], "is not UTF-8"
        try:
            row = self._fields(text)
        except csv.Error:
            return [], BROKEN
        if len(row) != len(self.names):
            return [], f"has {len(row)} fields where {len(self.names)} were wanted"
        return row, ""


def _open_pattern(separator: str) -> re.Pattern[bytes]:
    s = re.escape(separator).encode()
    field = rb'(?:"(?:[^"]|"")*+"[^' + s + rb"]*+|[^" + s + rb'"][^' + s + rb"]*+|)"
    return re.compile(rb"(?:" + field + s + rb')*+"(?:[^"]|"")*+\Z')
