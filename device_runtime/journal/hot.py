"""The short way of rows into an open segment: the journal's innermost loop.

The same bytes as `RowEncoder.encode` and `Active.append`, with as few functions in between as can
be: what a request of one row pays is mostly this, and next to a model, which leaves nothing of the
journal in the processor's caches, each function that a block passes through costs 1 to 5 µs.
Anything unusual is left to the long way.
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
_LARGE = 4096  # bytes of a frame from which on a copy of it costs more than working in place
LARGEST = 8 << 20  # bytes; a block beyond it goes the long way, which cuts it in pieces

ShortWay = Callable[[Rows], "Placed"]
Placed = tuple[int, str]
"""Where rows stand now, (first sequence, prefix): row i is prefix + str(first sequence + i).

A plain tuple: a class of its own would take a tenth of the time of the whole append.
"""


def short_way(
    active: Active,
    encoder: RowEncoder,
    clock: Clock,
    late: Callable[[Placed, int, int], Placed],
    long: Callable[[Rows, int], Placed],
) -> ShortWay:
    """Return a function that appends rows to a segment at once, or by `long` what is unusual.

    Args:
        active: The segment.
        encoder: Of the rows' layout, none of whose fields is hashed.
        clock: Asked for both times of each block of rows.
        late: Called with where the rows stand, their number and the time once a sync is due.
        long: Appends rows given the monotonic time; it also meets a disk that failed here again.
    """
    join, pack_head, now, wall_ns = b"".join, HEAD.pack, clock.monotonic_ns, clock.wall_ns
    fixed, texts, encrypt, hash_ = encoder.fixed, encoder.texts, active.encrypt, active.hash
    encode, large_frame = encoder.encode, active.frame
    score_bytes, fixed_bytes = encoder.score_bytes, HEAD.size + 4 + encoder.fixed_bytes
    first, prefix, header, extra = active.header.first, active.prefix, FRAME.size, FRAME.size + TAG
    whole: Form | None = None  # rows of this form have exactly these columns, in this order

    def append(rows: Rows) -> Placed:
        nonlocal whole
        monotonic = now()
        batch, answers, flags, unlike, latency_us, numbers, mark = rows
        if mark is not None:
            return long(rows, monotonic)
        if batch.n != 1 or numbers is not None:
            content = encode(rows, monotonic, wall_ns())
        else:
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
                return long(rows, monotonic)  # a column, the answer, a score is not there
            if len(content) - len(words) != size or not k:
                return long(rows, monotonic)  # a mistake, which the long way explains
        size = len(content) + extra
        if (end := active.size + size) > active.limit or size > LARGEST:
            content = b""  # the long way makes its own, which may be large: never two at a time
            return long(rows, monotonic)
        counter, offset, n = active.counter, active.offset, batch.n
        active.counter = counter + 1  # used up, even if the write fails
        head = _FRAME(MARKER, ROWS, 0, size - header, counter, offset, n)
        if size > _LARGE:
            frame: bytes | memoryview = large_frame(head, content, counter)
        else:
            frame = head + encrypt(_NONCE(counter), content, hash_ + head)
            frame = _CRC(crc32(frame)) + frame
        # Before the write: an interrupt must not give a sequence twice.
        active.offset, active.size = offset + n, end
        try:
            if active.write(frame) != size:
                raise short_write()
        except OSError:
            active.take_back(offset, size)
            content = b""
            return long(rows, monotonic)
        placed = first + offset, prefix
        return placed if monotonic < active.due else late(placed, n, monotonic)

    return append
