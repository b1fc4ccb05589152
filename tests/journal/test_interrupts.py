"""Ctrl-C at any moment: no sequence twice, nothing lost that comes after it."""

from __future__ import annotations

import sys

import pytest

from device_runtime.format.segment import Lane
from device_runtime.journal import active
from support import journalworld as jw
from support.journalworld import World, block, plain

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_an_interrupt_inside_an_append_gives_no_sequence_twice(short, written):
    """Ctrl-C may come between the write and the note of it; the row was never answered."""
    world = World()
    journal = plain(world)
    row = jw.single
    journal.append_rows(row(0), BULK)
    active = journal._active[BULK]
    real = active.write

    def interrupted(data):
        if written:
            real(data)
        raise KeyboardInterrupt

    active.write = interrupted
    if short:
        jw.renew_short_way(journal, BULK)
    else:
        journal._hot[BULK] = None
    with pytest.raises(KeyboardInterrupt):
        journal.append_rows(row(1), BULK)
    active.write = real
    journal._hot[BULK] = None
    assert journal.append_rows(row(2), BULK)[0] == 2
    journal.close()
    ((_, _, found),) = world.segments()
    assert found[0] == ("row", 0)
    assert found[2] == ("row", 2)
    assert set(found) == ({0, 1, 2} if written else {0, 2})


@pytest.mark.parametrize(
    ("what", "n"), [("append", 1), ("append", 3), ("append", 300), ("seal", 1)]
)
def test_an_interrupt_at_any_line_loses_nothing_that_comes_after_it(what, n, monkeypatch):
    """Whoever catches Ctrl-C and goes on has every row that is answered from then on, once."""
    monkeypatch.setattr(active, "_PUSH", 8000)  # as after a MiB
    line = 1
    while interrupted_at(line, what, n):
        line += 1
    assert line > 20


def interrupted_at(line, what, n):
    """Interrupt one call at a line of the journal's code, and go on; whether it came so far."""
    world = World(policy=jw.policy(durability="group"))
    journal = plain(world)
    answered = {}

    def append():
        start = len(answered)
        sequence, prefix = journal.append_rows(block(start // n, n), BULK)
        for at in range(n):
            answered[sequence + at] = (prefix.split("/")[2], start + at)
        assert len(answered) == start + n, "a sequence twice"

    def trace(frame, event, _):
        nonlocal line
        if "/device_runtime/journal/" not in frame.f_code.co_filename:
            return None
        line -= event == "line"
        if line == 0:
            line = -1
            raise KeyboardInterrupt
        return trace

    append()
    append()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        append() if what == "append" else journal.seal("sync")
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    append()
    append()
    journal.close()
    found = {(key[3], key[2]): value for key, value in world.everything().items()}
    for sequence, (uid, start) in answered.items():
        assert found[sequence, uid] == ("row", start)
    rows = [sequence for (sequence, _), value in found.items() if value[0] == "row"]
    assert len(rows) == len(set(rows)), "a sequence twice"
    return line < 0
