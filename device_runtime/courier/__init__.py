"""What goes on and comes off a stick, from the device's side.

A visit, in this order (the order was found by a model: every other one loses rows or stalls):

    with Stick.open(path, disk) as stick:
        acked = arrive(home, journal, stick)          # sync record, acks, room
        left = leave_all(home, journal, stick)        # seal, export
        ...                                           # install the newest bundle (slots.install)
        write_report(home, journal, stick, status)
        write_last_sync(home, stick, line)
        verified = stick.finish()                     # only now: "safe to remove"
"""

from __future__ import annotations

from device_runtime.courier.acks import (
    Acked,
    apply_acks,
    begin_epoch,
    epoch_of,
    overdue,
    with_epoch,
)
from device_runtime.courier.leave import Left, leave
from device_runtime.courier.report import bundles_on, write_last_sync, write_report
from device_runtime.courier.stick import Stick
from device_runtime.home import Home
from device_runtime.journal.writer import Journal
from device_runtime.record import replace
from device_runtime.totals import add_pruned

__all__ = [
    "Acked",
    "Left",
    "Stick",
    "arrive",
    "begin_epoch",
    "bundles_on",
    "epoch_of",
    "leave_all",
    "with_epoch",
    "write_last_sync",
    "write_report",
]


def arrive(home: Home, journal: Journal, stick: Stick) -> Acked:
    """Apply the acks on the stick, make room with what they allow, record the visit.

    Acknowledged segments go when they are overdue (`keep_acked_days` of powered-on time), or when
    room is needed.

    Raises:
        StickError: The stick was pulled or fails.
        JournalFullError: The policy is strict and nothing can be journaled any more.
    """
    before = {info.hash: info for info in journal.sealed()}
    acked = apply_acks(home, journal, stick)
    journal.prune(overdue(home))
    journal.append_event("sync", {"generation": home.generation().number, "acks": acked.acks})
    journal.free_room()
    gone = set(before) - {info.hash for info in journal.sealed()}
    pruned = [before[item] for item in gone if item in home.generation().acked]
    rows = sum(max(0, info.header.rows) for info in pruned)
    add_pruned(home, rows)
    return replace(acked, pruned=len(pruned), pruned_rows=rows)


def leave_all(home: Home, journal: Journal, stick: Stick) -> Left:
    """Seal what is open and write everything that no base has acknowledged; see `leave`."""
    journal.seal("sync")
    return leave(home, journal, stick)
