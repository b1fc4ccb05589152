"""The shortest way of one row into an open segment: the journal's innermost loop.

The same bytes as `RowEncoder.encode` and `Active.append`, in one function without a detour: what a
request of one row pays is mostly this. Anything unusual is left to the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any
from zlib import crc32

from device_runtime.format.batch import Form, SingleRow
from device_runtime.format.frames import FRAME, MARKER, ROWS
from device_runtime.format.rowframe import HEAD, LABEL_BIT, SCORES_BIT, UNLIKE_BIT, RowEncoder
from device_runtime.format.segment import Rows
from device_runtime.journal.active import Active, short_write
from device_runtime.journal.seal import TAG
from device_runtime.record import NamedTuple

_ANSWERED = LABEL_BIT | SCORES_BIT
_SCORED = _ANSWERED | UNLIKE_BIT
_FRAME = Struct("<HBBIIII").pack  # a frame's header without its CRC
_NONCE, _CRC = Struct("<I8x").pack, Struct("<I").pack
_NEW: Any = tuple.__new__  # three times as fast as calling the class


class Appended(NamedTuple):
    """Where rows stand now: row i is `prefix` + str(first_sequence + i).

    Not `kept`: nothing was journaled (log mode `sketch`, or a journal that cannot be written and
    is not strict); the first sequence is -1 and the prefix empty.
    """

    first_sequence: int
    prefix: str
    kept: bool = True


OneRow = Callable[[Rows, int], Appended | None]


def one_row(active: Active, encoder: RowEncoder, wall_ns: Callable[[], int]) -> OneRow:
    """Return a function that appends one plain row to a segment.

    The function takes (rows, monotonic), returns where the row stands, or None if it left the row
    alone, and raises OSError where the write fails; the segment is then as it was, or broken.
    """
    join, pack_head = b"".join, HEAD.pack
    fixed, get_texts, known = encoder.fixed, encoder.get_texts, encoder.known
    encrypt, hash_ = active.encrypt, active.hash
    score_bytes, fixed_bytes = encoder.score_bytes, HEAD.size + 4 + encoder.fixed_bytes
    first, prefix, header = active.header.first, active.prefix, FRAME.size
    extra = header + TAG
    whole: Form | None = None  # rows of this form have exactly these numbers, in this order

    def append(rows: Rows, monotonic: int) -> Appended | None:
        nonlocal whole
        batch, answers, flags, unlike, latency_us, numbers, mark = rows
        columns = batch.columns
        if type(columns) is not SingleRow or numbers is not None or mark is not None:
            return None
        try:
            k, scores, bits = answers.k, answers.scores, _ANSWERED  # type: ignore[union-attr]
            size = fixed_bytes + k * score_bytes
            if unlike is not None:
                scores, bits, size = join((scores, unlike)), _SCORED, size + 4
            packed = columns.packed
            if columns.form is not whole:
                packed = columns.pack(fixed)
                whole = columns.form if packed is columns.packed else None
            head = pack_head(monotonic, wall_ns(), batch.first_row, latency_us, k, bits)
            content = join((head, flags, answers.label, scores, packed))  # type: ignore[union-attr]
            if len(content) != size or not k:
                return None  # a mistake, which the long way explains
            for text in get_texts(columns.rest):
                content += known[text.values]
        except (AttributeError, KeyError, TypeError):
            return None  # a column, the answer, the scores or a string that is not there
        size = len(content) + extra
        end = active.size + size
        if end > active.limit:
            return None
        counter = active.counter
        offset = active.offset
        active.counter = counter + 1  # used up, even if the write fails
        head = _FRAME(MARKER, ROWS, 0, size - header, counter, offset, 1)
        data = head + encrypt(_NONCE(counter), content, hash_ + head)
        # Before the write: an interrupt must not give a sequence twice.
        active.offset = offset + 1
        active.size = end
        done: Appended = _NEW(Appended, (first + offset, prefix, True))
        try:
            if active.write(_CRC(crc32(data)) + data) == size:
                return done
            raise short_write()
        except OSError:
            active.take_back(offset, size)
            raise

    return append
