"""The shortest way of one row into an open segment: the journal's innermost loop.

The same bytes as `RowEncoder.encode` and `Active.append`, in one function without a detour: what a
request of one row pays is mostly this. Anything unusual is left to the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from types import CodeType
from typing import Any
from zlib import crc32

from device_runtime.format.batch import SingleRow
from device_runtime.format.frames import FRAME, MARKER, ROWS
from device_runtime.format.rowframe import HEAD, LABEL_BIT, SCORES_BIT, UNLIKE_BIT, RowEncoder
from device_runtime.format.segment import RAW, Rows
from device_runtime.journal.active import Active, short_write
from device_runtime.journal.seal import TAG
from device_runtime.record import NamedTuple


class Appended(NamedTuple):
    """Where rows stand now: row i is `prefix` + str(first_sequence + i).

    Not `kept`: nothing was journaled (log mode `sketch`, or a journal that cannot be written and
    is not strict); the first sequence is -1 and the prefix empty.
    """

    first_sequence: int
    prefix: str
    kept: bool = True


_SPACE = {
    "ANSWERED": LABEL_BIT | SCORES_BIT,
    "SCORED": LABEL_BIT | SCORES_BIT | UNLIKE_BIT,
    "MARKER": MARKER,
    "ROWS": ROWS,
    "RAW": RAW,
    "FRAME": FRAME.size,
    "Appended": Appended,
    "crc32": crc32,
    "join": b"".join,
    "new": tuple.__new__,  # three times as fast as calling the class
    "pack_head": HEAD.pack,
    "pack_frame": Struct("<HBBIIII").pack,  # a frame's header without its CRC
    "pack_nonce": Struct("<I8x").pack,
    "pack_crc": Struct("<I").pack,
    "short_write": short_write,
}
OneRow = Callable[[Rows, int], Appended | None]

_ONE_ROW = """
def append(rows, monotonic):
    batch, answers, flags, unlike, latency_us, numbers, mark = rows
    columns = batch.columns
    if numbers is not None or mark is not None or answers is None or RAW in columns:
        return None
    try:
        k = answers.k
        size = fixed_bytes + k * score_bytes
        bits, scored = ANSWERED, answers.scores
        if unlike is not None:
            bits, scored, size = SCORED, join((scored, unlike)), size + 4
        head = pack_head(monotonic, wall_ns(), batch.first_row, latency_us, k, bits)
        content = join((head, flags, answers.label, scored, {fixed}))
        if len(content) != size or not k:
            return None  # more rows than one, or a mistake that the long way explains
        {texts}
    except (KeyError, TypeError):
        return None  # a column, the scores or a string that is not there
    size = len(content) + extra
    end = active.size + size
    if end > active.limit:
        return None
    counter, offset = active.counter, active.offset
    active.counter = counter + 1  # used up, even if the write fails
    head = pack_frame(MARKER, ROWS, 0, size - FRAME, counter, offset, 1)
    data = head + encrypt(pack_nonce(counter), content, hash + head)
    # Before the write: an interrupt must not give a sequence twice.
    active.offset, active.size = offset + 1, end
    done = new(Appended, (first + offset, prefix, True))
    try:
        if write(pack_crc(crc32(data)) + data) == size:
            return done
        raise short_write()
    except OSError:
        active.take_back(offset, size)
        raise
"""
_TEXTS = """{takes}
        if {missing}:
            return None
        content = join((content, {known}))"""


def one_row(active: Active, encoder: RowEncoder, wall_ns: Callable[[], int]) -> OneRow:
    """Return a function that appends one plain row to a segment.

    The function takes (rows, monotonic), returns where the row stands, or None if it left the row
    alone, and raises OSError where the write fails; the segment is then as it was, or broken.
    """
    space: dict[str, Any] = {
        "active": active,
        "wall_ns": wall_ns,
        "encrypt": active.encrypt,
        "write": active.write,
        "hash": active.hash,
        "first": active.header.first,
        "prefix": active.prefix,
        "known": encoder.known,
        "score_bytes": encoder.score_bytes,
        "fixed_bytes": HEAD.size + 4 + encoder.fixed_bytes,
        "extra": FRAME.size + TAG,
        **_SPACE,
    }
    exec(_code(tuple(encoder.fixed), tuple(encoder.texts)), space)  # noqa: S102  (names as literals)
    made: OneRow = space["append"]
    return made


@lru_cache(4)
def _code(fixed: tuple[str, ...], texts: tuple[str, ...]) -> CodeType:
    """Return the function for these columns: every loop over them is written out."""
    words = ""
    if texts:
        takes = "; ".join(f"t{at} = columns[{name!r}]" for at, name in enumerate(texts))
        missing = " or ".join(f"t{at}.codes[0]" for at in range(len(texts)))
        known = "".join(f"known[t{at}.values], " for at in range(len(texts)))
        words = _TEXTS.format(takes=takes, missing=missing, known=known)
    numbers = "".join(f"columns[{name!r}], " for name in fixed)
    return compile(_ONE_ROW.format(fixed=numbers, texts=words), "<one row>", "exec")
