"""What is appended comes back; durable means durable; a lane is one contiguous chain."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.crypt import Identity
from device_runtime.disk import RealDisk
from device_runtime.errors import (
    FormatError,
    JournalError,
    JournalFullError,
    SegmentError,
    UndecryptableError,
)
from device_runtime.format.batch import Batch, Text
from device_runtime.format.frames import FRAME, frames, scan
from device_runtime.format.header import open_header, read_header
from device_runtime.format.segment import Epoch, Lane, RecordId
from device_runtime.journal.hot import one_row
from device_runtime.journal.reader import FrameOpener, RowBlock, open_segment
from device_runtime.journal.writer import Journal
from edgepack.sim.disk import SimDisk
from support import journalworld as jw
from support.journalworld import World

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


@pytest.fixture
def world():
    world = World()
    world.open()
    return world


def only(world, lane=BULK):
    found = [item for item in world.segments() if item[0].lane == lane]
    assert len(found) == 1
    return found[0]


def test_rows_labels_and_events_come_back(world):
    journal = world.journal
    first = journal.append_rows(jw.rows(0), BULK)
    more = journal.append_rows(jw.rows(1, 40), BULK)
    journal.append_rows(jw.invalid(41), BULK)
    label = journal.append_label(
        f"{first.prefix}0", True, by="record", source="op", observed_wall_ns=5
    )
    event = journal.append_event("install", {"n": 1})
    sketch = journal.append_sketch(b"\1\2", 0, 41)
    journal.seal("sync")
    assert (first.first_sequence, more.first_sequence) == (0, 1)
    _, header, found = only(world)
    assert found == {i: ("row", i) for i in range(42)}
    assert (header.bundle_name, header.bundle_version, header.layout.target) == (
        "flights",
        3,
        "truth",
    )
    _, header, found = only(world, PRIORITY)
    assert found == {
        label.sequence: ("label", True),
        event.sequence: ("event", 1),
        sketch.sequence: ("sketch", b"\1\2"),
    }
    assert RecordId.parse(label.text()) == label


def columns_of(world, lane=BULK):
    identity, _, _ = jw.keys()
    info = next(info for info in world.journal.sealed() if info.lane == lane)
    data = world.journal.read(info)
    reader = open_segment(data, secrets=jw.secrets(), device=identity.public)
    return [record for record in reader.records() if isinstance(record, RowBlock)]


@pytest.mark.parametrize("crash", [False, True], ids=["sealed", "salvaged"])
@pytest.mark.parametrize("step", [1, 3, 33])
def test_every_value_of_every_column_comes_back(world, crash, step):
    for start in range(0, 99, step):
        world.clock.advance(0.01)
        world.journal.append_rows(jw.rows(start, step), BULK)
    if crash:
        world.disk.kill()
        world.open()
        assert world.journal.salvaged == 1
    else:
        world.journal.seal("sync")
    (block,) = columns_of(world)
    want = jw.rows(0, 99)
    for name in ("id", "when", "a", "b", "t"):
        assert np.asarray(block.columns[name]).tobytes() == want.batch.columns[name].tobytes(), name
    assert block.columns["t"].shape == (99, 2, 2)
    assert block.columns["c"].strings() == want.batch.columns["c"].strings()
    hashed = block.columns["secret"].strings()
    assert len(set(hashed)) == 4
    assert all(len(value) == 32 and value != "s0" for value in hashed)
    assert "gone" not in block.columns
    assert (block.columns["_row"] == np.arange(99)).all()
    assert (block.columns["_sequence"] == np.arange(99)).all()
    assert (block.columns["_latency"] == 7).all()
    assert (np.diff(block.columns["_monotonic"]) >= 0).all()
    assert block.columns["_label"].tobytes() == want.answers.label.tobytes()
    assert block.columns["_scores"].shape == (99, 2)
    assert block.columns["_scores"].tobytes() == want.answers.scores.tobytes()
    assert block.columns["_unlike"].tolist() == [0.5] * 99


@given(st.integers(1, 40), st.integers(0, 50))
@settings(max_examples=40)
def test_arrays_and_numpy_give_the_same_bytes(n, start):
    journal = World().open()
    encode = journal._encoder.encode
    assert encode(jw.rows(start, n), 1, 2) == encode(jw.rows(start, n, numpy=True), 1, 2)


def test_input_row_numbers_may_jump(world):
    rows = jw.rows(0, 3)._replace(rows=array("q", [7, 3, 90]))
    world.journal.append_rows(rows, BULK)
    world.journal.append_rows(jw.rows(3, 2, first_row=-1), BULK)
    world.journal.seal("sync")
    found = {}
    for block in columns_of(world):
        found |= dict(
            zip(block.columns["_sequence"].tolist(), block.columns["_row"].tolist(), strict=True)
        )
    assert found == {0: 7, 1: 3, 2: 90, 3: -1, 4: -1}


@pytest.mark.parametrize("crash", [False, True])
def test_marks_are_found_without_a_key(world, crash):
    stream, other = b"12345678", b"abcdefgh"
    journal = world.journal
    journal.append_rows(jw.rows(0, 5)._replace(mark=(other, 0)), BULK)
    journal.append_rows(jw.rows(5, 3)._replace(mark=(stream, 10)), BULK)
    last = journal.append_rows(jw.rows(8, 4)._replace(mark=(stream, 13)), BULK)
    journal.append_rows(jw.rows(12), BULK)
    (mark,) = journal.marks(stream)
    if crash:
        world.disk.kill()
    else:
        journal.close()
    world.open()
    assert world.journal.marks(stream) == [mark]
    assert (mark.prefix, mark.first_sequence, mark.count, mark.row) == (last.prefix, 8, 4, 13)
    assert world.journal.marks(b"nobody..") == []
    assert len(world.everything()) == 13


def test_wrong_buffers_are_refused_before_anything_is_written(world):
    rows = jw.rows(0, 3)
    rows.batch.columns["b"] = array("i", [1, 2, 3])
    with pytest.raises(JournalError, match="bytes"):
        world.journal.append_rows(rows, BULK)
    world.journal.append_rows(jw.rows(0), BULK)
    with pytest.raises(JournalError, match="JSON"):
        world.journal.append_label("k", float("nan"), by="key", source="x", observed_wall_ns=0)


def test_a_block_too_large_for_a_frame_keeps_one_prefix(world, monkeypatch):
    monkeypatch.setattr("device_runtime.journal.writer._LARGE_CONTENT", 2000)
    world.journal._segment_bytes = 6000
    world.journal.append_rows(jw.rows(0), BULK)
    done = world.journal.append_rows(jw.rows(1, 500)._replace(mark=(b"12345678", 1)), BULK)
    assert world.journal.marks(b"12345678")[0].count == 500
    world.journal.seal("sync")
    records = world.everything()
    assert [records[(world.epoch.id, BULK, done.prefix.split("/")[2], i + 1)] for i in range(500)]
    assert sorted(what for what in records.values()) == [("row", i) for i in range(501)]


def test_segments_form_one_contiguous_chain(world):
    for start in range(0, 60, 3):
        world.journal.append_rows(jw.rows(start, 3), BULK)
        if start % 9 == 0:
            world.journal.seal("sync")
        if start % 15 == 0:
            world.disk.kill()
            world.open()
    world.journal.seal("sync")
    segments = world.segments()
    assert [info.number for info, _, _ in segments] == list(range(1, len(segments) + 1))
    before, expected = "", 0
    for info, header, found in segments:
        assert header.previous == before
        assert info.first == expected
        assert sorted(found) == list(range(info.first, info.last + 1))
        before, expected = info.hash, info.last + 1
    assert expected == 60


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
            prefix = journal.append_rows(jw.rows(start, 2), BULK).prefix
        durable = journal.durable_upto(BULK)
        world.disk.power_cut()
        world.open()
        found = {key[3] for key in world.everything() if key[1] == BULK}
        assert set(range(durable)) <= found <= set(range(30))
        assert all(prefix.split("/")[2] == key[2] for key in world.everything() if key[1] == BULK)


def test_age_and_size_seal():
    world = World(policy=jw.policy(segment_bytes=8000, segment_seconds=100))
    journal = world.open()
    for start in range(200):
        journal.append_rows(jw.rows(start), BULK)
    assert {info.header.reason for info in journal.sealed()} == {"size"}
    world.clock.advance(101)
    journal.tick()
    assert journal.sealed()[-1].header.reason == "age"
    assert sum(len(found) for _, _, found in world.segments()) == 200


def test_another_bundle_starts_another_segment(world):
    world.journal.append_rows(jw.rows(0), BULK)
    world.journal.use("flights", jw.SCHEMA, 4, "ee" * 32)
    world.journal.append_rows(jw.rows(1), BULK)
    world.journal.close()
    versions = [header.bundle_version for _, header, _ in world.segments()]
    assert versions == [3, 4]
    assert world.segments()[0][1].reason == "bundle"


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


def test_sketch_mode_keeps_no_row():
    world = World(policy=jw.policy(log_mode="sketch"))
    journal = world.open()
    assert not journal.append_rows(jw.rows(0), BULK).kept
    journal.append_sketch(b"s")
    journal.close()
    assert list(world.everything().values()) == [("sketch", b"s")]


def test_a_sketch_stays_when_its_rows_are_sealed(world):
    world.journal.on_seal = lambda lane, first, last: f"{lane}:{first}-{last}".encode()
    world.journal.append_rows(jw.rows(0, 9), BULK)
    world.journal.seal("sync")
    assert ("sketch", b"1:0-8") in world.everything().values()


@pytest.mark.parametrize(
    ("dtype", "data", "ref"),
    [
        ("string", Text.of(["customer 9"]), "customer 9"),
        ("int64", array("q", [-12]), "-12"),
        ("uint16", array("H", [70]), "70"),
        ("float32", array("f", [0.1]), "0.1"),
    ],
)
def test_labels_by_a_hashed_key_are_hashed_alike(dtype, data, ref):
    schema = replace(
        jw.SCHEMA,
        columns=tuple(
            replace(column, dtype=dtype, journal="hash") if column.name == "id" else column
            for column in jw.SCHEMA.columns
        ),
    )
    world = World()
    journal = world.open()
    journal.use("flights", schema, 4, "ee" * 32)
    rows = jw.rows(0)
    rows.batch.columns["id"] = data
    journal.append_rows(rows, BULK)
    journal.append_label(ref, 1, by="key", source="op", observed_wall_ns=0)
    journal.close()
    identity, _, _ = jw.keys()
    found = {info.lane: journal.read(info) for info in journal.sealed()}
    (block,) = open_segment(found[BULK], secrets=jw.secrets(), device=identity.public).records()
    (label,) = open_segment(found[PRIORITY], secrets=jw.secrets(), device=identity.public).records()
    assert block.columns["id"].strings() == [label.ref]
    assert ref not in label.ref


def test_no_plain_input_is_ever_on_the_disk(world):
    rows = jw.rows(0)
    rows.batch.columns["c"] = Text.of(["PLAINTEXT-MARKER"])
    world.journal.append_rows(rows, BULK)
    for name in world.disk.list(jw.FOLDER):
        assert b"PLAINTEXT" not in world.disk.read(jw.FOLDER / name)
    world.journal.close()
    for name in world.disk.list(jw.FOLDER):
        assert b"PLAINTEXT" not in world.disk.read(jw.FOLDER / name)


def test_no_nonce_is_used_twice_even_after_a_short_write():
    world = World()
    journal = world.open()
    journal.append_rows(jw.rows(0), BULK)
    seen = set()
    real = journal._active[BULK].encrypt

    def watched(nonce, data, aad):
        assert nonce not in seen
        seen.add(nonce)
        return real(nonce, data, aad)

    journal._active[BULK].encrypt = watched
    journal._active[BULK].one = one_row(journal._active[BULK], journal._encoder)
    for start in range(1, 20):
        if start % 4 == 0:
            world.disk.fail_at(1, errno.ENOSPC, kinds=["write"])
        journal.append_rows(jw.rows(start), BULK)
    assert len(seen) == 19 + 4
    journal.seal("sync")
    assert sorted(world.everything().values()) == [("row", i) for i in range(20)]


def test_each_seal_attempt_has_its_own_key(world):
    world.journal.append_rows(jw.rows(0, 5), BULK)
    (name,) = world.disk.list(jw.FOLDER)
    opened = open_header(world.disk.read(jw.FOLDER / name)).header
    world.disk.fail_at(1, errno.EROFS, times=1, kinds=["rename"])
    with pytest.raises(JournalError):
        world.journal.seal("sync")
    world.journal.seal("sync")
    sealed = world.journal.sealed()[0].header
    assert {key for _, key in opened.keys}.isdisjoint(key for _, key in sealed.keys)
    assert len(sealed.keys) == 2


# --- failing disks ---------------------------------------------------------------------------


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
    assert not journal.append_rows(jw.rows(1, 3), BULK).kept
    assert journal.append_event("x", {}) is None
    lenient.disk.heal()
    assert journal.append_rows(jw.rows(4), BULK).kept
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


@pytest.fixture
def segment(world):
    for start in range(12):
        world.journal.append_rows(jw.rows(start), BULK)
    world.journal.seal("sync")
    return world.disk.read(world.journal.sealed()[0].path)


def test_a_segment_of_another_device_is_refused(segment):
    stranger = Identity.generate()
    with pytest.raises(SegmentError, match="device"):
        open_segment(segment, secrets=jw.secrets(), device=stranger.public)


def test_without_the_key_it_is_held_not_refused(segment):
    identity, _, second = jw.keys()
    with pytest.raises(UndecryptableError):
        open_segment(segment, secrets={}, device=identity.public)
    assert read_header(segment).rows == 12
    recovered = open_segment(segment, secrets={second[1].id: second[0]}, device=identity.public)
    assert len(list(recovered.records())) == 1


def test_a_forged_segment_is_refused(segment):
    identity, _, _ = jw.keys()
    for position in range(0, len(segment), 11):
        bad = bytearray(segment)
        bad[position] ^= 4
        with pytest.raises((SegmentError, FormatError)):
            open_segment(bytes(bad), secrets=jw.secrets(), device=identity.public)
    for size in range(0, len(segment), 13):
        with pytest.raises((SegmentError, FormatError)):
            open_segment(segment[:size], secrets=jw.secrets(), device=identity.public)


def test_frame_walkers_agree(segment):
    start = open_header(segment).end
    end = len(segment) - 104
    assert list(frames(segment, start, end)) == scan(segment, start, end).frames
    assert FRAME.size == 24


def test_an_epoch_names_its_parent_and_starts_again(world):
    world.journal.append_rows(jw.rows(0, 3), BULK)
    heads = world.journal.heads()
    assert heads[BULK] == (1, "")
    epoch = world.journal.begin_epoch("disk")
    assert Epoch.from_json(json.loads(json.dumps(epoch.to_json()))) == epoch
    world.epoch = epoch
    done = world.journal.append_rows(jw.rows(3), BULK)
    assert done.first_sequence == 0
    world.journal.close()
    old, new = (header for _, header, _ in world.segments())
    assert old.reason == "epoch"
    assert new.parent.epoch == old.epoch
    assert new.parent.heads[BULK] == (1, world.segments()[0][0].hash)
    assert (new.number, new.previous) == (1, "")


def test_a_policy_without_recipients_is_refused():
    with pytest.raises(JournalError, match="encrypted"):
        World(policy=jw.policy(recipients=())).open()


def test_a_small_request_never_imports_numpy(tmp_path):
    script = """
import sys
from array import array
from pathlib import Path
from support import journalworld as jw
assert "numpy" not in sys.modules, "the helper imports numpy"
from device_runtime.disk import RealDisk
world = jw.World(disk=RealDisk(), folder=Path(sys.argv[1]))
journal = world.open()
journal.append_rows(jw.rows(0, 32), jw.Lane.BULK)
journal.append_rows(jw.rows(32), jw.Lane.BULK)
journal.append_event("x", {})
journal.sync()
assert "numpy" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "j")],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "tests:."},
    )
    assert done.returncode == 0, done.stderr


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


@given(st.integers(0, 400), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_the_short_way_of_one_row_writes_what_the_long_way_writes(start, scored, raw):
    schema = replace(
        jw.SCHEMA,
        columns=tuple(c for c in jw.SCHEMA.columns if c.name not in ("secret", "gone")),
    )
    rows = jw.rows(start)
    if not scored:
        rows = rows._replace(unlike=None)
    if raw:
        rows.batch.columns["_raw"] = Text.of(["x"])
    contents = []
    for short in (True, False):
        world = World()
        journal = world.open()
        journal.use("flights", schema, 4, "ee" * 32)
        for _ in range(3):
            done = journal.append_rows(rows, BULK)
            if not short:
                journal._active[BULK].one = None
        assert done.first_sequence == 2
        active = journal._active[BULK]
        data = memoryview(world.disk.read(jw.FOLDER / active.name.text()))
        opener = FrameOpener(data, active.hash, active.aead)
        found = scan(data, open_header(data).end + 64).frames
        contents.append([(frame[1:], opener.content(frame)) for frame in found])
        assert (active.size, active.offset) == (len(data), 3)
    assert contents[0] == contents[1]


def test_a_failed_short_way_loses_nothing_and_reuses_no_nonce():
    schema = replace(jw.SCHEMA, columns=jw.SCHEMA.columns[:4])
    world = World()
    journal = world.open()
    journal.use("flights", schema, 4, "ee" * 32)
    for start in range(12):
        if start % 3 == 2:
            world.disk.fail_at(1, (errno.ENOSPC, errno.EIO)[start % 2], kinds=["write"])
        assert journal.append_rows(jw.rows(start), BULK).kept
    journal.close()
    assert sorted(world.everything().values()) == [("row", i) for i in range(12)]
