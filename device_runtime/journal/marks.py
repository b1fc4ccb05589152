"""How far streams of input rows were journaled, for `--resume`: found without any key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from device_runtime.format.segment import Lane
from device_runtime.journal.active import Active
from device_runtime.journal.shelf import SealedInfo
from device_runtime.record import dataclass


@dataclass(frozen=True, slots=True)
class Marked:
    """The newest block of a stream of input rows in one lane: see `Rows.mark`."""

    lane: Lane
    prefix: str
    first_sequence: int
    count: int
    row: int


def newest_marks(
    stream: str, epoch: str, active: Mapping[Lane, Active], sealed: Sequence[SealedInfo]
) -> list[Marked]:
    """Return the newest mark of a stream in each lane.

    Args:
        stream: 16 hex characters.
        epoch: Only segments of this one count.
        active: Open segments of this process.
        sealed: Sealed ones, oldest first.
    """
    result: list[Marked] = []
    for lane in Lane:
        mine = active.get(lane)
        mark = None if mine is None else mine.marks.get(stream)
        if mine is not None and mark is not None:
            result.append(Marked(lane, mine.prefix, mark.first, mark.count, mark.row))
            continue
        for info in reversed(sealed):
            known = {mark.stream: mark for mark in info.header.marks}
            if info.epoch == epoch and info.lane == lane and stream in known:
                mark = known[stream]
                prefix = info.header.prefix
                result.append(Marked(lane, prefix, mark.first, mark.count, mark.row))
                break
    return result
