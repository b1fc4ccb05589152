"""Rows as one frame of an open segment: the same bytes from arrays and from numpy, without numpy.

Content of a ROWS frame, little-endian:
    head: monotonic i64, wall i64, row number of the first row i64 (-1 unknown), latency u32,
        scores per row u16, what is there u16 (bits below)
    if PARTIAL: one bit per field of the layout, lowest first: the given ones
    flags u16[n]; label i16[n]; scores [n, k]; unlike f32[n]; row numbers i64[n];
    each given numeric field [n, *shape];
    each given text field in order, then the raw text: number of strings u32, their lengths u32[],
        the strings in UTF-8, codes u8/u16/u32[n] (all bits set: missing)
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from device_runtime.errors import JournalError
from device_runtime.format.batch import MISSING_CODE, Answers, Batch, Text, one_text, utf8
from device_runtime.format.schema import DTYPES, Schema
from device_runtime.format.segment import RAW, Field, Layout, Rows

HEAD = struct.Struct("<qqqIHH")
_PACK_HEAD = HEAD.pack
LABEL_BIT, SCORES_BIT, UNLIKE_BIT, PARTIAL, RAW_BIT, ROWS_BIT = 1, 2, 4, 8, 16, 32
_CODES = {2: "<u2", 4: "<u4"}


def layout_of(schema: Schema) -> Layout:
    """Return what the journal keeps of a row of this schema."""
    fields = tuple(
        Field(column.name, column.dtype, column.shape, "keep")
        if column.journal == "keep"
        else Field(column.name, "string", (), "hash")
        for column in schema.journaled
    )
    output = schema.output
    target = "" if schema.target is None else schema.target.name
    return Layout(fields, output.names, output.scores_dtype, schema.task, target)


class RowEncoder:
    """Turns rows of one layout into the content of frames.

    Attributes:
        layout: What a row is made of.
        plain: Whether no field is hashed.
        fixed: Names of the numeric columns.
        texts: Names of the text columns.
        get_fixed: Takes the numeric columns out of a mapping.
        get_texts: Takes the text columns out of a mapping.
        fixed_bytes: Bytes of the numeric columns of one row.
        score_bytes: Bytes of one score.
    """

    def __init__(self, layout: Layout, schema: Schema | None, hash_key: bytes) -> None:
        self.layout = layout
        self._hash_key = hash_key
        self._schema = schema
        self.fixed = tuple(field.name for field in layout.fields if field.dtype != "string")
        self.texts = tuple(field.name for field in layout.fields if field.dtype == "string")
        self._hashed = [field.name for field in layout.fields if field.journal == "hash"]
        self._sizes = {field.name: field_bytes(field) for field in layout.fields}
        self.get_fixed = _getter(self.fixed)
        self.get_texts = _getter(self.texts)
        self.fixed_bytes = sum(self._sizes[name] for name in self.fixed)
        self.score_bytes = DTYPES[layout.scores][1]
        self._vocabulary: dict[int, tuple[tuple[str, ...], bytes]] = {}
        self.plain = not self._hashed

    def encode(self, rows: Rows, monotonic: int, wall: int) -> bytes:
        """Return the content of one frame.

        Raises:
            JournalError: Buffers that do not have the size of n rows: a mistake of the caller.
        """
        batch, answers, flags, unlike, latency_us, numbers, _ = rows
        columns, n = batch.columns, batch.n
        if self._hashed:
            columns = {**columns, **self._hash_columns(batch)}
        parts: list[Any] = [b"", flags]
        bits, k, size, present = 0, 0, 2, b""
        if answers is not None:
            parts.append(answers.label)
            bits, size = LABEL_BIT, 4
            k = 0 if answers.scores is None else answers.k
            if k:
                parts.append(answers.scores)
                bits, size = LABEL_BIT | SCORES_BIT, 4 + k * self.score_bytes
        if unlike is not None:
            parts.append(unlike)
            bits, size = bits | UNLIKE_BIT, size + 4
        if numbers is not None:
            parts.append(numbers)
            bits, size = bits | ROWS_BIT, size + 8
        try:
            fixed, texts = self.get_fixed(columns), self.get_texts(columns)
            parts += fixed
            size += self.fixed_bytes
        except KeyError:
            bits, present = bits | PARTIAL, self._present(columns)
            given = [name for name in self.fixed if name in columns]
            parts += [columns[name] for name in given]
            texts = [columns[name] for name in self.texts if name in columns]
            size += sum(self._sizes[name] for name in given)
        if RAW in columns:
            bits |= RAW_BIT
            texts = [*texts, columns[RAW]]
        parts[0] = head = (
            _PACK_HEAD(monotonic, wall, batch.first_row, latency_us, k, bits) + present
        )
        words = list(map(one_text, texts)) if n == 1 else self._many_texts(texts, n)
        content = b"".join([*parts, *words])
        numbers_size = len(content) - len(head) - sum(map(len, words))
        if numbers_size != n * size:
            raise _wrong_size(numbers_size, n * size)
        return content

    def _many_texts(self, texts: Sequence[Text], n: int) -> list[bytes]:
        """Return text columns of n rows in parts; a vocabulary seen before is not made again."""
        words: list[bytes] = []
        for index, text in enumerate(texts):
            codes, values = text.codes, text.values
            if len(values) > n:
                codes, values = _used(text)
            before = self._vocabulary.get(index)
            if before is None or before[0] is not values:
                before = self._vocabulary[index] = (values, text_vocabulary(values))
            words += before[1], _narrow(codes, len(values))
        return words

    def hash_text(self, value: bytes) -> str:
        """Return 32 hex characters that stand for a value whose field is hashed."""
        import hmac  # and with it a second OpenSSL: only where a column is hashed

        return hmac.digest(self._hash_key, value, "sha256")[:16].hex()

    def _present(self, columns: Any) -> bytes:
        fields = self.layout.fields
        mask = sum((field.name in columns) << index for index, field in enumerate(fields))
        return mask.to_bytes((len(fields) + 7) // 8, "little")

    def _hash_columns(self, batch: Batch) -> dict[str, Text]:
        result: dict[str, Text] = {}
        for name in self._hashed:
            data = batch.columns.get(name)
            if isinstance(data, Text):
                result[name] = Text(
                    data.codes, tuple(self.hash_text(utf8(value)) for value in data.values)
                )
            elif data is not None:
                raw = memoryview(data).cast("B")
                size = len(raw) // batch.n
                rows = range(0, len(raw), size)
                result[name] = Text.of(self.hash_text(bytes(raw[at : at + size])) for at in rows)
        return result


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """Cut rows in two, without copying: a frame must stay below its limit."""
    n = rows.batch.n
    return _part(rows, 0, n // 2), _part(rows, n // 2, n)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    batch, answers, n = rows.batch, rows.answers, rows.batch.n

    def cut(data: Any) -> Any:
        if isinstance(data, Text):
            return Text(memoryview(data.codes)[start:stop], data.values)
        raw = memoryview(data).cast("B")
        size = len(raw) // n
        return raw[start * size : stop * size]

    columns = {name: cut(data) for name, data in batch.columns.items()}
    if answers is not None:
        scores = None if answers.scores is None else cut(answers.scores)
        answers = Answers(stop - start, cut(answers.label), scores, answers.k)
    first = batch.first_row if batch.first_row < 0 else batch.first_row + start
    part = Batch(stop - start, columns, first)
    return rows._replace(
        batch=part,
        answers=answers,
        flags=cut(rows.flags),
        unlike=None if rows.unlike is None else cut(rows.unlike),
        rows=None if rows.rows is None else cut(rows.rows),
    )


def _getter(names: Sequence[str]) -> Callable[[Any], Sequence[Any]]:
    """Return a function that takes these values out of a mapping, as fast as can be."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda columns: [columns[name] for name in names]


def _wrong_size(given: int, wanted: int) -> JournalError:
    return JournalError(
        f"rows for the journal have {given} bytes, not {wanted}",
        next="report this: a column has another dtype or length than its schema",
    )


def field_bytes(field: Field) -> int:
    """Return the bytes of one row of a numeric field; 0 for text."""
    total = DTYPES[field.dtype][1]
    for size in field.shape:
        total *= size
    return total


def value_bytes(dtype: str, text: str) -> bytes:
    """Return the bytes that a hashed column hashes for a value that a person typed."""
    code = DTYPES[dtype][0]
    try:
        number: Any = float(text) if code in ("f", "d") else int(text)
        return struct.pack(f"<{code}", number) if code else utf8(text)
    except (ValueError, OverflowError, struct.error):
        return utf8(text)  # no such number: it will match no row


def code_bytes(count: int) -> int:
    """Return the bytes per code for so many strings, all bits set being kept for missing."""
    return 1 if count < 0xFF else 2 if count < 0xFFFF else 4


def _used(text: Text) -> tuple[array[int], tuple[str, ...]]:
    """Return a text column without the strings that no row uses."""
    codes = [int(code) for code in text.codes]
    used = dict.fromkeys(code for code in codes if code != MISSING_CODE)
    order = {code: index for index, code in enumerate(used)} | {MISSING_CODE: MISSING_CODE}
    return array("I", [order[code] for code in codes]), tuple(text.values[code] for code in used)


def text_vocabulary(values: Sequence[str]) -> bytes:
    """Return the strings of a text column: how many, their lengths, their bytes."""
    raw = [utf8(value) for value in values]
    return b"".join([struct.pack(f"<{len(raw) + 1}I", len(raw), *map(len, raw)), *raw])


def _narrow(codes: Any, count: int) -> bytes:
    raw: bytes = codes.tobytes()
    size = code_bytes(count)
    if size == 1:
        return raw[::4]  # the lowest byte of each; a tenth of what numpy's machinery takes
    import numpy as np

    return np.frombuffer(raw, "<u4").astype(_CODES[size]).tobytes()
