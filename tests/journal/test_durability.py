"""Durable means durable; a failing disk costs no row that was."""

from __future__ import annotations

import errno
import random
import sys
from array import array
from contextlib import suppress
from dataclasses import replace

import pytest

from device_runtime.disk import RealDisk
from device_runtime.errors import (
    JournalError,
    JournalFullError,
)
from device_runtime.format.batch import Batch
from device_runtime.format.frames import scan
from device_runtime.format.header import open_header
from device_runtime.format.segment import Lane
from device_runtime.journal import active
from device_runtime.journal.writer import Journal
from edgepack.sim import disk as sim_disk
from edgepack.sim.disk import SimDisk
from support import journalworld as jw
from support.journalworld import World

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


def test_durability_of_each_policy():
    for mode, expected in (("each", 1), ("group", 0), ("os", 0)):
        world = World(policy=jw.policy(durability=mode))
        journal = world.open()
        journal.append_rows(jw.rows(0), BULK)
        assert journal.durable_upto(BULK) == expected
        world.clock.advance(0.2)
        journal.append_rows(jw.rows(1), BULK)
        assert journal.durable_upto(BULK) == {"each": 2, "group": 2, "os": 0}[mode]
        journal.append_rows(jw.rows(2), BULK)
        world.clock.advance(0.2)
        journal.tick()
        assert journal.durable_upto(BULK) == {"each": 3, "group": 3, "os": 0}[mode]
        journal.sync()
        assert journal.durable_upto(BULK) == 3


def test_what_is_durable_survives_and_nothing_else_is_promised():
    for seed in range(60):
        world = World(disk=SimDisk(seed), policy=jw.policy(durability="group"))
        journal = world.open()
        prefix = ""
        for start in range(0, 30, 2):
            world.clock.advance(0.03)
            _, prefix = journal.append_rows(jw.rows(start, 2), BULK)
        durable = journal.durable_upto(BULK)
        world.disk.power_cut()
        world.open()
        found = {key[3] for key in world.everything() if key[1] == BULK}
        assert set(range(durable)) <= found <= set(range(30))
        assert all(prefix.split("/")[2] == key[2] for key in world.everything() if key[1] == BULK)


def test_a_wall_clock_that_jumps_is_on_record(world):
    world = World(policy=jw.policy(durability="group"))
    journal = world.open()
    world.clock.advance(1)
    journal.append_rows(jw.rows(0), BULK)
    world.clock.wall += 86_400 * 10**9
    world.clock.advance(1)
    journal.append_rows(jw.rows(1), BULK)
    journal.seal("sync")
    assert ("event", None) in world.everything().values()


def test_a_failed_sync_abandons_the_file_and_loses_nothing(world):
    for start in range(5):
        world.journal.append_rows(jw.rows(start), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    world.journal.sync()
    assert world.journal.durable_upto(BULK) == 5
    world.journal.append_rows(jw.rows(5), BULK)
    world.journal.seal("sync")
    world.disk.power_cut()
    world.open()
    assert sorted(world.everything().values()) == [("row", i) for i in range(6)]
    assert world.segments()[0][1].reason == "error"


def test_a_failed_write_moves_on_to_another_segment(world):
    world.journal.append_rows(jw.rows(0), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["write"])
    world.journal.append_rows(jw.rows(1), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", 0), ("row", 1)]
    assert len(world.segments()) == 2


def test_a_strict_journal_raises_and_a_lenient_one_declares():
    world = World()
    journal = world.open()
    journal.append_rows(jw.rows(0), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000)
    with pytest.raises(JournalError):
        journal.append_rows(jw.rows(1), BULK)
    world.disk.heal()
    lenient = World(policy=jw.policy(strict=False))
    journal = lenient.open()
    journal.append_rows(jw.rows(0), BULK)
    lenient.disk.fail_at(1, errno.EIO, times=1000)
    assert journal.append_rows(jw.rows(1, 3), BULK) == (-1, "")
    assert journal.append_event("x", {}) is None
    lenient.disk.heal()
    assert journal.append_rows(jw.rows(4), BULK)[0] >= 0
    journal.close()
    what = list(lenient.everything().values())
    holes = [hole for kind, value in what if kind == "hole" for hole in value]
    assert sum(hole.count for hole in holes if hole.reason == "unjournaled") == 4
    assert journal.usage().unjournaled == 4
    assert ("row", 0) in what
    assert ("row", 4) in what


def test_a_full_disk_shows_as_a_short_write_and_costs_nothing(world):
    world.journal.append_rows(jw.rows(0), BULK)
    used = sum(world.disk.size(jw.FOLDER / name) for name in world.disk.list(jw.FOLDER))
    world.disk.capacity = used + 100
    with pytest.raises(JournalFullError):
        world.journal.append_rows(jw.rows(1), BULK)
    world.disk.capacity = 1 << 40
    world.journal.append_rows(jw.rows(2), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", 0), ("row", 2)]


# --- what the base sees ----------------------------------------------------------------------


def test_it_works_on_a_real_disk(tmp_path):
    world = World(disk=RealDisk(), folder=tmp_path / "journal", policy=jw.policy(durability="each"))
    world.open()
    for start in range(10):
        world.journal.append_rows(jw.rows(start), BULK)
    world.open()
    assert world.journal.salvaged == 1
    world.journal.append_rows(jw.rows(10), BULK)
    world.journal.close()
    assert sorted(world.everything().values()) == [("row", i) for i in range(11)]
    assert isinstance(world.journal, Journal)
    assert Batch(0, {}).n == 0


SIZES = [1, 3, 300]  # rows: one, a block in a small frame, one in a frame that is made in place


def block(index, n):
    """The index-th of blocks of n rows."""
    return jw.single(index) if n == 1 else jw.rows(index * n, n)


@pytest.mark.parametrize("n", SIZES)
def test_a_failed_short_way_loses_nothing_and_reuses_no_nonce(n):
    world = World()
    journal = plain(world)
    for index in range(12):
        if index % 3 == 2:
            world.disk.fail_at(1, (errno.ENOSPC, errno.EIO)[index % 2], kinds=["write"])
        assert journal.append_rows(block(index, n), BULK)[0] >= 0
    journal.close()
    assert sorted(world.everything().values()) == [("row", i) for i in range(12 * n)]


def plain(world):
    """A journal whose rows may take the short way: no column is hashed."""
    journal = world.open()
    journal.use("flights", jw.PLAIN, 4, "ee" * 32)
    return journal


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("mode", ["each", "group", "os"])
def test_the_short_way_is_as_durable_as_the_long_one(mode, n):
    world = World(policy=jw.policy(durability=mode))
    journal = plain(world)
    for index in range(4):
        journal.append_rows(block(index, n), BULK)
        assert journal.durable_upto(BULK) == (n * (index + 1) if mode == "each" else 0)
    world.clock.advance(0.2)
    journal.append_rows(block(4, n), BULK)
    assert journal.durable_upto(BULK) == (0 if mode == "os" else 5 * n)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("strict", [False, True])
def test_a_sync_that_fails_after_the_short_way_loses_nothing(strict, n):
    world = World(policy=jw.policy(durability="each", strict=strict))
    journal = plain(world)
    journal.append_rows(block(0, n), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    done = journal.append_rows(block(1, n), BULK)
    assert done[0] >= 0
    assert journal.durable_upto(BULK) == 2 * n
    assert journal.append_rows(block(2, n), BULK)[0] == 2 * n
    world.disk.power_cut()
    plain(world)
    assert sorted(v for v in world.everything().values() if v[0] == "row") == [
        ("row", i) for i in range(3 * n)
    ]


@pytest.mark.parametrize("n", SIZES)
def test_rows_of_the_short_way_that_no_file_takes_are_counted_one_by_one(n):
    """The disk syncs nothing and gives no second file: that many rows are missing, and said."""
    world = World(policy=jw.policy(durability="each", strict=False))
    journal = plain(world)
    journal.append_rows(block(0, n), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["sync", "create"])
    assert journal.append_rows(block(1, n), BULK) == (-1, "")
    assert journal.usage().unjournaled == n


def test_after_a_group_sync_rows_wait_for_the_next_one_in_every_segment():
    """Also in one that was begun meanwhile: a sync for each row would take the flash with it."""
    world = World(policy=jw.policy(durability="group"))
    journal = plain(world)
    appended = dict.fromkeys((BULK, PRIORITY), 0)
    for turn in range(4):
        for lane in (BULK, BULK, PRIORITY, PRIORITY):
            before = {lane: journal.durable_upto(lane) for lane in appended}
            journal.append_rows(jw.single(turn), lane)
            appended[lane] += 1
            assert {lane: journal.durable_upto(lane) for lane in appended} == before
        world.clock.advance(0.2)
        journal.append_rows(jw.single(turn), BULK)
        appended[BULK] += 1
        assert {lane: journal.durable_upto(lane) for lane in appended} == appended


@pytest.mark.parametrize("mode", ["each", "group", "os"])
def test_a_journal_whose_close_failed_goes_on_in_another_segment(mode):
    """No sequence twice, and what could not be sealed is recovered."""
    world = World(policy=jw.policy(durability=mode))
    journal = plain(world)
    journal.append_rows(jw.single(0), BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["create"])
    with pytest.raises(JournalError):
        journal.close()
    world.disk.heal()
    for start in (1, 2, 3):
        sequence, _ = journal.append_rows(jw.single(start), BULK)
        assert sequence == start
    journal.close()
    rows = {key[3]: what for key, what in world.everything().items()}
    assert rows == {start: ("row", start) for start in range(4)}


def roomy(mode, monkeypatch, seed=0, **policy):
    """A journal on a simulated disk that makes room in advance, as a real one does after a MiB."""
    monkeypatch.setattr(active, "_PUSH", 20_000)
    world = World(disk=SimDisk(seed), policy=jw.policy(durability=mode, **policy))
    return world, plain(world)


@pytest.mark.parametrize(("mode", "n", "zeros"), [("each", 3, 50_000), ("group", 300, 9000)])
@pytest.mark.parametrize("cut", ["power", "kill", "close"])
def test_room_made_in_advance_is_neither_damage_nor_sealed_along(mode, n, zeros, cut, monkeypatch):
    for seed in range(20 if cut == "power" else 1):
        world, journal = roomy(mode, monkeypatch, seed)
        for index in range(5):
            journal.append_rows(block(index, n), BULK)
        (name,) = world.disk.list(jw.FOLDER)
        assert world.disk.size(jw.FOLDER / name) - journal._active[BULK].size >= zeros
        journal.sync()
        {"power": world.disk.power_cut, "kill": world.disk.kill, "close": journal.close}[cut]()
        world.open()
        ((info, header, found),) = world.segments()
        assert found == {i: ("row", i) for i in range(5 * n)}
        assert header.torn == 0
        assert info.bytes < 70 * 5 * n + 12_000


def test_of_a_torn_frame_before_room_only_the_frame_is_torn(monkeypatch):
    world, journal = roomy("group", monkeypatch)
    sizes = []
    for index in range(6):
        journal.append_rows(block(index, 300), BULK)
        sizes.append(journal._active[BULK].size)
    (name,) = world.disk.list(jw.FOLDER)
    data = bytearray(world.disk.read(jw.FOLDER / name))
    data[sizes[5] - 4000 : sizes[5]] = bytes(4000)
    last = len(bytes(data).rstrip(b"\0"))
    assert len(data) > sizes[5]
    world.disk.unlink(jw.FOLDER / name)
    world.disk.create(jw.FOLDER / name).write(data)
    world.open()
    ((_, header, found),) = world.segments()
    assert found == {i: ("row", i) for i in range(1500)}
    assert header.torn == last - sizes[4] > 1000


def on_disk(world):
    return sum(world.disk.size(jw.FOLDER / name) for name in world.disk.list(jw.FOLDER))


@pytest.mark.parametrize("mode", ["each", "group"])
@pytest.mark.parametrize("seed", range(4))
def test_room_made_in_advance_counts_as_used_and_stays_inside_the_quota(mode, seed, monkeypatch):
    """Also where one block takes more than half of what is left, and the other lane goes on."""
    rng = random.Random(seed)
    world, journal = roomy(mode, monkeypatch, quota_bytes=1 << 20, reserve_bytes=24_000)
    start = made = 0
    for _ in range(300):
        n = rng.choice([1, 20, 300, 300, rng.randint(400, 6000)])
        rows = jw.rows(start, n)  # of numbers that no seal makes smaller
        columns = {**rows.batch.columns, "id": array("q", rng.randbytes(8 * n))}
        rows = rows._replace(batch=replace(rows.batch, columns=columns))
        journal.append_rows(rows, rng.choice([BULK, BULK, PRIORITY] if n < 100 else [BULK]))
        assert journal.usage().used == on_disk(world) <= (1 << 20) - 24_000
        made += any(a.prepared > a.size for a in journal._active.values())
        start += n
    assert journal.usage().evicted > 0
    assert made > 20


def test_a_large_block_leaves_the_other_lane_no_more_than_there_is():
    rng = random.Random(0)
    world = World(policy=jw.policy(quota_bytes=1 << 20, reserve_bytes=0, strict=False))
    journal = plain(world)

    def append(n, lane):
        rows = jw.rows(0, n)
        columns = {**rows.batch.columns, "id": array("q", rng.randbytes(8 * n))}
        columns["when"] = array("q", rng.randbytes(8 * n))
        journal.append_rows(rows._replace(batch=replace(rows.batch, columns=columns)), lane)

    append(1, PRIORITY)
    append(1, BULK)
    before = on_disk(world)
    append(1000, BULK)
    each = (on_disk(world) - before) / 1000
    append(int(((1 << 20) - on_disk(world) - 20_000) / each), BULK)
    for _ in range(30):
        append(40, PRIORITY)
        assert on_disk(world) <= 1 << 20


def test_a_file_that_is_left_counts_with_its_room(monkeypatch):
    world, journal = roomy("each", monkeypatch, strict=False)
    journal.append_rows(jw.single(0), BULK)
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    world.disk.fail_at(1, errno.EIO, kinds=["create"])
    journal.append_rows(jw.single(1), BULK)
    assert journal.usage().used == on_disk(world)


def test_room_that_the_file_system_does_not_make_does_not_count(monkeypatch):
    monkeypatch.setattr(sim_disk._Handle, "prepare", lambda *_: False)
    world, journal = roomy("each", monkeypatch)
    journal.append_rows(jw.single(0), BULK)
    assert journal.usage().used == on_disk(world)
    assert journal._active[BULK].prepared == 0


def test_room_is_never_said_to_be_less_than_was_made(monkeypatch):
    """When the segment's share of the quota shrinks, what was made before is still there."""
    world, journal = roomy("each", monkeypatch)
    journal.append_rows(jw.single(0), BULK)
    one = journal._active[BULK]
    one.limit = one.size + 1000
    one._room(50_000)
    assert journal.usage().used == on_disk(world)


def test_a_real_disk_makes_room_that_the_next_write_fills(tmp_path):
    handle = RealDisk().create(tmp_path / "file")
    handle.write(bytes(range(100)))
    assert handle.prepare(100, 70_000)
    assert not handle.prepare(150, 150)
    assert not handle.prepare(150, 100)
    handle.write(b"next")
    handle.close()
    assert not handle.prepare(100, 70_000)
    data = (tmp_path / "file").read_bytes()
    assert data == bytes(range(100)) + b"next" + bytes(70_000 - 104)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("then", ["row", "sync", "nothing"])
def test_a_hole_that_the_disk_refuses_costs_no_label_that_is_called_durable(kind, strict, then):
    for seed in range(12):
        policy = jw.policy(durability="group", strict=strict)
        world = World(disk=SimDisk(seed), policy=policy)
        journal = plain(world)
        journal.append_event("x", {"n": 0})
        journal.sync()
        for number in range(1, 5):
            journal.append_event("x", {"n": number})
        journal._lost += 1  # a row that no file took: a HOLE is owed
        journal._alarm()
        for start in range(2):
            world.disk.fail_at(1, errno.EIO, kinds=[kind])
            with suppress(JournalError):
                journal.append_rows(jw.single(start), BULK)
        if then == "row":
            journal.append_rows(jw.single(9), BULK)
        durable = journal.durable_upto(PRIORITY)
        if then == "sync":
            journal.sync()
            durable = 5
        world.disk.power_cut()
        world.open()
        found = {key[3] for key in world.everything() if key[1] == PRIORITY}
        assert set(range(durable)) <= found
        assert durable >= 1


def test_room_is_made_again_after_a_write_that_failed(monkeypatch):
    world, journal = roomy("each", monkeypatch)
    journal.append_rows(jw.single(0), BULK)
    world.disk.fail_at(1, errno.ENOSPC, kinds=["write"])
    journal.append_rows(jw.single(1), BULK)
    (name,) = world.disk.list(jw.FOLDER)
    assert world.disk.read(jw.FOLDER / name).endswith(bytes(50_000))


@pytest.mark.parametrize(("mode", "pushes"), [("each", 0), ("group", 4), ("os", 0)])
def test_the_disk_is_set_to_work_only_where_a_sync_comes_later(mode, pushes, monkeypatch):
    """`each` has synced it already, and `os` wants it in memory."""
    _, journal = roomy(mode, monkeypatch)
    journal.append_rows(block(0, 300), BULK)
    handle, pushed = journal._active[BULK]._handle, []
    monkeypatch.setattr(handle, "push", lambda *place: pushed.append(place))
    for index in range(1, 9):
        journal.append_rows(block(index, 300), BULK)
    assert len(pushed) == pushes


def left_behind(strict):
    """A journal whose file of labels failed and was left: four labels, the first of them synced."""
    world = World(policy=jw.policy(durability="group", strict=strict))
    journal = plain(world)
    journal.append_event("x", {"n": 0})
    journal.sync()
    for number in range(1, 4):
        journal.append_event("x", {"n": number})
    left = journal._active[PRIORITY].name
    journal._lost += 1  # a row that no file took: a HOLE is owed
    journal._alarm()
    world.disk.fail_at(1, errno.EIO, kinds=["sync"])
    with suppress(JournalError):
        journal.append_rows(jw.single(0), BULK)
    return world, journal, left


def test_what_a_file_that_was_left_had_lost_is_declared():
    world, journal, left = left_behind(strict=False)
    journal._pay(BULK)  # goes into another file
    data = world.disk.read(jw.FOLDER / left.text())
    first = scan(data, open_header(data).end + 64).frames[0]
    world.disk.unlink(jw.FOLDER / left.text())
    world.disk.create(jw.FOLDER / left.text()).write(data[: first.end])  # what was synced
    journal.append_rows(jw.single(1), BULK)
    journal.close()
    holes = [hole for what in world.everything().values() if what[0] == "hole" for hole in what[1]]
    assert [(hole.first, hole.last) for hole in holes if hole.uid == left.uid] == [(1, 4)]


@pytest.mark.parametrize("strict", [False, True])
def test_a_sync_that_cannot_read_back_a_file_that_was_left_says_so(strict):
    world, journal, _ = left_behind(strict)
    with suppress(JournalError):
        journal._pay(BULK)
    world.disk.fail_at(1, errno.EIO, times=1000, kinds=["create"])
    if strict:
        with pytest.raises(JournalError, match="could not be made durable"):
            journal.sync()
    else:
        journal.sync()
    assert journal.durable_upto(PRIORITY) == 1
    world.disk.heal()
    journal.sync()
    world.disk.power_cut()
    world.open()
    assert {key[3] for key in world.everything() if key[1] == PRIORITY} >= set(range(4))


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


def test_a_wall_clock_that_jumps_is_on_record_whatever_the_policy():
    for mode in ("each", "group", "os"):
        world = World(policy=jw.policy(durability=mode))
        journal = world.open()
        journal.append_rows(jw.rows(0), BULK)
        world.clock.wall += 86_400 * 10**9
        world.clock.advance(1)
        journal.tick()
        journal.seal("sync")
        assert ("event", None) in world.everything().values(), mode
