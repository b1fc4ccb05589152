"""Room made in advance: neither rows nor damage, and inside the quota."""

from __future__ import annotations

import errno
import random
from array import array
from dataclasses import replace

import pytest

from device_runtime.disk import RealDisk
from device_runtime.format.segment import Lane
from device_runtime.journal import active
from edgepack.sim import disk as sim_disk
from edgepack.sim.disk import SimDisk
from support import journalworld as jw
from support.journalworld import World, block, plain

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


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
