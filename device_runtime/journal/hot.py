"""The shortest way of one row into an open segment: the journal's innermost loop.

The same bytes as `RowEncoder.encode` and `Active.append`, in one function without a detour: what a
request of one row pays is mostly this. Anything unusual is left to the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from zlib import crc32

from device_runtime.clock import Clock
from device_runtime.format.batch import Form
from device_runtime.format.frames import FRAME, MARKER, ROWS
from device_runtime.format.rowframe import HEAD, LABEL_BIT, SCORES_BIT, UNLIKE_BIT, RowEncoder
from device_runtime.format.segment import Rows
from device_runtime.journal.active import Active, short_write
from device_runtime.journal.seal import TAG

_ANSWERED = LABEL_BIT | SCORES_BIT
_SCORED = _ANSWERED | UNLIKE_BIT
_FRAME = Struct("<HBBIIII").pack  # a frame's header without its CRC
_NONCE, _CRC = Struct("<I8x").pack, Struct("<I").pack

OneRow = Callable[[Rows], "Placed"]
Placed = tuple[int, str]
"""Where rows stand now, (first sequence, prefix): row i is prefix + str(first sequence + i).

A plain tuple: a class of its own would take a tenth of the time of the whole append.
"""


def one_row(
    active: Active,
    encoder: RowEncoder,
    clock: Clock,
    late: Callable[[Placed, int], Placed],
    long: Callable[[Rows, int], Placed],
) -> OneRow:
    """Return a function that appends rows to a segment: one plain row at once, others by `long`.

    Args:
        active: The segment.
        encoder: Of the rows' layout, none of whose fields is hashed.
        clock: Asked twice for each row.
        late: Called with where the row stands and the monotonic time once a sync is due.
        long: Appends rows given the monotonic time; it also meets a disk that failed here again.
    """
    join, pack_head, now, wall_ns = b"".join, HEAD.pack, clock.monotonic_ns, clock.wall_ns
    fixed, texts, encrypt, hash_ = encoder.fixed, encoder.texts, active.encrypt, active.hash
    score_bytes, fixed_bytes = encoder.score_bytes, HEAD.size + 4 + encoder.fixed_bytes
    first, prefix, header = active.header.first, active.prefix, FRAME.size
    extra = header + TAG
    whole: Form | None = None  # rows of this form have exactly these columns, in this order

    def append(rows: Rows) -> Placed:
        nonlocal whole
        monotonic = now()
        batch, answers, flags, unlike, latency_us, numbers, mark = rows
        if numbers is not None or mark is not None:
            return long(rows, monotonic)
        columns = batch.columns
        try:
            form = columns.form  # type: ignore[attr-defined] # only a SingleRow has one
            k, scores, bits = answers.k, answers.scores, _ANSWERED  # type: ignore[union-attr]
            size = fixed_bytes + k * score_bytes
            if unlike is not None:
                scores, bits, size = join((scores, unlike)), _SCORED, size + 4
            if form is whole:
                packed, words = columns.packed, columns.words  # type: ignore[attr-defined]
            else:
                packed, words = columns.pack(fixed), columns.spell(texts)  # type: ignore[attr-defined]
                whole = form if (form.numbers, form.texts) == (fixed, texts) else None
            head = pack_head(monotonic, wall_ns(), batch.first_row, latency_us, k, bits)
            content = join((head, flags, answers.label, scores, packed, words))  # type: ignore[union-attr]
        except (AttributeError, KeyError, TypeError):
            return long(rows, monotonic)  # many rows; or a column, the answer, a score is not there
        length = len(content)
        if length - len(words) != size or not k:
            return long(rows, monotonic)  # a mistake, which the long way explains
        size = length + extra
        end = active.size + size
        if end > active.limit:
            return long(rows, monotonic)
        counter, offset = active.counter, active.offset
        active.counter = counter + 1  # used up, even if the write fails
        head = _FRAME(MARKER, ROWS, 0, size - header, counter, offset, 1)
        data = head + encrypt(_NONCE(counter), content, hash_ + head)
        # Before the write: an interrupt must not give a sequence twice.
        active.offset = offset + 1
        active.size = end
        try:
            if active.write(_CRC(crc32(data)) + data) != size:
                raise short_write()
        except OSError:
            active.take_back(offset, size)
            return long(rows, monotonic)
        placed = first + offset, prefix
        return placed if monotonic < active.due else late(placed, monotonic)

    return append
