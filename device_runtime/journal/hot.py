"""The shortest way of one row into an open segment: the journal's innermost loop.

The same bytes as `RowEncoder.encode` and `Active.append`, in one function without a detour: what a
request of one row pays is mostly this. Anything unusual is left to the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING
from zlib import crc32

from device_runtime.format.frames import FRAME, MARKER, ROWS
from device_runtime.format.rowframe import HEAD, LABEL_BIT, SCORES_BIT, UNLIKE_BIT, RowEncoder
from device_runtime.format.segment import RAW, Rows

if TYPE_CHECKING:
    from device_runtime.journal.active import Active

TAG = 16
_ANSWERED = LABEL_BIT | SCORES_BIT
OneRow = Callable[[Rows, int, int], int]


def one_row(active: Active, encoder: RowEncoder) -> OneRow:
    """Return a function that appends one plain row to a segment.

    The function takes (rows, monotonic, wall), returns the row's sequence, or -1 if it left the row
    alone, and raises OSError where the write fails; the segment is then as it was, or broken.
    """
    join, pack_head = b"".join, HEAD.pack
    pack_frame = Struct("<HBBIIII").pack
    get_fixed, get_texts, known = encoder.get_fixed, encoder.get_texts, encoder.known
    encrypt, write, hash_ = active.encrypt, active.write, active.hash
    score_bytes, fixed_bytes = encoder.score_bytes, HEAD.size + 4 + encoder.fixed_bytes
    extra, first = FRAME.size + TAG, active.header.first

    def append(rows: Rows, monotonic: int, wall: int) -> int:
        batch, answers, flags, unlike, latency_us, numbers, mark = rows
        columns = batch.columns
        if numbers is not None or mark is not None or answers is None or RAW in columns:
            return -1
        try:
            k = answers.k
            if unlike is None:
                head = pack_head(monotonic, wall, batch.first_row, latency_us, k, _ANSWERED)
                content = join((head, flags, answers.label, answers.scores, *get_fixed(columns)))
                size = fixed_bytes + k * score_bytes
            else:
                bits = _ANSWERED | UNLIKE_BIT
                head = pack_head(monotonic, wall, batch.first_row, latency_us, k, bits)
                scored = (head, flags, answers.label, answers.scores, unlike)
                content = join((*scored, *get_fixed(columns)))
                size = fixed_bytes + k * score_bytes + 4
            if len(content) != size or not k:
                return -1  # more rows than one, or a mistake that the long way explains
            for text in get_texts(columns):
                values = text.values
                if len(values) != 1 or text.codes[0] != 0:
                    return -1
                content += known[values]
        except (KeyError, TypeError):
            return -1  # a column, the scores or a string that is not there
        size = len(content)
        if size + extra >= active.room:
            return -1
        counter, offset = active.counter, active.offset
        active.counter = counter + 1
        head = pack_frame(MARKER, ROWS, 0, size + TAG, counter, offset, 1)
        data = head + encrypt(counter.to_bytes(12, "little"), content, hash_ + head)
        data = crc32(data).to_bytes(4, "little") + data
        size += extra
        if write(data) != size:
            active.short()
        active.size += size
        active.room -= size
        active.offset = offset + 1
        return first + offset

    return append
