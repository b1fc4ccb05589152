"""What is appended comes back, whichever way it went in."""

from __future__ import annotations

import errno
import subprocess
import sys
import tracemalloc
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import (
    JournalError,
)
from device_runtime.format.batch import Answers, Batch, Text
from device_runtime.format.frames import scan
from device_runtime.format.header import open_header
from device_runtime.format.rowframe import HEAD
from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.format.segment import Lane, RecordId, Rows
from device_runtime.journal.hot import short_way
from device_runtime.journal.reader import FrameOpener, RowBlock, open_segment
from device_runtime.model.check import Checker
from device_runtime.model.rows import RawBlock
from support import journalworld as jw
from support.journalworld import World

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


def only(world, lane=BULK):
    found = [item for item in world.segments() if item[0].lane == lane]
    assert len(found) == 1
    return found[0]


def test_rows_labels_and_events_come_back(world):
    journal = world.journal
    first, prefix = journal.append_rows(jw.rows(0), BULK)
    more, _ = journal.append_rows(jw.rows(1, 40), BULK)
    journal.append_rows(jw.invalid(41), BULK)
    label = journal.append_label(f"{prefix}0", True, by="record", source="op", observed_wall_ns=5)
    event = journal.append_event("install", {"n": 1})
    sketch = journal.append_sketch(b"\1\2", 0, 41)
    journal.seal("sync")
    assert (first, more) == (0, 1)
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
    _, prefix = journal.append_rows(jw.rows(8, 4)._replace(mark=(stream, 13)), BULK)
    journal.append_rows(jw.rows(12), BULK)
    (mark,) = journal.marks(stream)
    if crash:
        world.disk.kill()
    else:
        journal.close()
    world.open()
    assert world.journal.marks(stream) == [mark]
    assert (mark.prefix, mark.first_sequence, mark.count, mark.row) == (prefix, 8, 4, 13)
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
    monkeypatch.setattr("device_runtime.journal.writer.LARGEST", 2000)
    world.journal._segment_bytes = 6000
    world.journal.append_rows(jw.rows(0), BULK)
    _, prefix = world.journal.append_rows(jw.rows(1, 500)._replace(mark=(b"12345678", 1)), BULK)
    assert world.journal.marks(b"12345678")[0].count == 500
    world.journal.seal("sync")
    records = world.everything()
    assert [records[(world.epoch.id, BULK, prefix.split("/")[2], i + 1)] for i in range(500)]
    assert sorted(what for what in records.values()) == [("row", i) for i in range(501)]


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


@given(st.integers(0, 400), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_the_short_way_of_one_row_writes_what_the_long_way_writes(start, scored, shuffled):
    schema = jw.PLAIN
    if shuffled:  # then the row's own piece is not what the journal wants
        schema = replace(schema, columns=(*schema.columns[2:], *schema.columns[:2]))
    contents = []
    for make in (jw.single, jw.rows):
        world = World()
        journal = world.open()
        journal.use("flights", schema, 4, "ee" * 32)
        for _ in range(3):
            rows = make(start)
            sequence, _ = journal.append_rows(rows if scored else rows._replace(unlike=None), BULK)
        assert sequence == 2
        contents.append(_contents(world))
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


@pytest.mark.parametrize(
    ("count", "width"), [(1, 1), (254, 1), (255, 2), (256, 2), (65_534, 2), (65_535, 4)]
)
def test_codes_are_as_wide_as_the_number_of_strings_needs(count, width):
    """One value of each width stands for a missing string: it must be no string's."""
    world = World()
    journal = world.open()
    columns = (Column("c", "input", "string", missing=True),)
    journal.use("flights", Schema("number", columns, (), ModelOutput((), "p")), 4, "ee" * 32)
    strings = [f"{i:x}" for i in range(count)] + [None]
    n = len(strings)
    batch = Batch(n, {"c": Text.of(strings)}, 0)
    journal.append_rows(Rows(batch, None, array("H", bytes(2 * n)), None, 0), BULK)
    ((_, content),) = _contents(world)
    words = sum(4 + len(text) for text in strings[:-1])
    assert len(content) == HEAD.size + 2 * n + 4 + words + n * width
    journal.close()
    assert [text for part in columns_of(world) for text in part.columns["c"].strings()] == strings


def test_a_block_that_goes_the_long_way_is_not_held_twice():
    """Scores of many classes are most of what a device holds in memory at that moment."""
    world = World()
    journal = world.open()
    journal.use("flights", jw.PLAIN, 4, "ee" * 32)
    journal.append_rows(jw.single(0), BULK)
    held = []

    def long(rows, monotonic):
        held.append(tracemalloc.get_traced_memory()[0])
        return 0, ""

    def ill(data):
        raise OSError(errno.EIO, "")

    active = journal._active[BULK]
    short = short_way(active, journal._encoder, world.clock, lambda *_: None, long)
    block = jw.rows(1, 16)
    block = block._replace(answers=replace(block.answers, scores=bytes(4 * 16 * 9000), k=9000))
    tracemalloc.start()
    active.limit = 0  # the segment is full: it is sealed first
    short(block)
    active.limit = 1 << 40
    huge = jw.rows(1, 64)
    huge = huge._replace(answers=replace(huge.answers, scores=bytes(4 * 64 * 40_000), k=40_000))
    before = tracemalloc.get_traced_memory()[0]
    short(huge)  # more than a frame holds
    held.append(held.pop() - before)
    active.write = ill
    before = tracemalloc.get_traced_memory()[0]
    short(block)  # a disk that fails
    held.append(held.pop() - before - len(active._scratch))  # a block in a frame of its own
    tracemalloc.stop()
    assert len(held) == 3
    assert max(held) < 10_000


_VALUES = {"string": ("a", "b", "ü", "", None, "x" * 70), "bool": (True, False)}
_MAYBE = (1.5, 0.0, -2.0, None, float("nan"))


@st.composite
def _plans(draw):
    """Two bundles that differ in the order of their columns, and what is to be journaled."""
    columns = []
    for at in range(draw(st.integers(2, 6))):
        dtype = draw(st.sampled_from(["string", "string", "float32", "float64", "int16", "bool"]))
        shape = (2,) if dtype != "string" and draw(st.integers(0, 7)) == 0 else ()
        journal = draw(st.sampled_from(["keep"] * 16 + ["drop", "drop", "hash"]))
        columns.append(Column(f"c{at}", "input", dtype, missing=True, shape=shape, journal=journal))
    other = draw(st.permutations(columns))
    more = draw(st.sampled_from([(), (Column("more", "input", "string"),)]))
    kept = (*draw(st.sampled_from([columns, other])), *more)
    output = ModelOutput(("x", "y", "z"), "p", "l")
    return [Schema("classes", tuple(part), (), output) for part in (columns, other, kept)]


@given(_plans(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_checked_row_is_journaled_as_its_columns_are(plans, data):
    """Of one bundle after another, complete or not, answered or not: the same frames."""
    *given_plans, kept = plans
    checkers = [Checker(plan) for plan in given_plans]
    worlds = [World(), World()]
    for world in worlds:
        world.open().use("flights", kept, 4, "ee" * 32)
    for _ in range(8):
        checker = checkers[data.draw(st.sampled_from((0, 0, 1)))]
        columns = {}
        for column in checker.schema.given:
            value = st.sampled_from(_VALUES.get(column.dtype, _MAYBE))
            if column.dtype == "int16":
                value = st.integers(-5, 5)
            if data.draw(st.integers(0, 15)):
                columns[column.name] = [
                    data.draw(st.tuples(value, value) if column.shape else value)
                ]
        batch = checker.check(RawBlock(1, columns, data.draw(st.sampled_from((-1, 7))))).whole
        k = data.draw(st.sampled_from((3, 3, 3, 3, 3, 0)))
        answers = Answers(1, array("h", [1]), array("f", [0.25] * k) if k else None, k)
        unlike = data.draw(st.sampled_from((None, array("f", [0.5]))))
        rows = Rows(batch, answers, array("H", [2]), unlike, 7)
        named = Batch(1, {name: batch.columns[name] for name in batch.columns}, batch.first_row)
        done = worlds[0].journal.append_rows(rows, BULK)
        assert done[0] == worlds[1].journal.append_rows(rows._replace(batch=named), BULK)[0]
    first, second = map(_contents, worlds)
    assert first == second


def _contents(world):
    """Return the frames of the open segment: what is in front of each, and what is in it."""
    active = world.journal._active[BULK]
    data = memoryview(world.disk.read(jw.FOLDER / active.name.text()))
    opener = FrameOpener(data, active.hash, active.aead)
    found = scan(data, open_header(data).end + 64).frames
    assert (active.size, active.offset) == (len(data), sum(frame.n for frame in found))
    return [(frame[1:], opener.content(frame)) for frame in found]


def test_a_row_that_the_short_way_leaves_alone_is_kept_whole():
    """One lacks nothing but a text, one the answer; one brings its number along."""
    world = World()
    journal = world.open()
    journal.use("flights", jw.PLAIN, 4, "ee" * 32)
    row = jw.single(0)
    texts = row.batch.columns
    row = row._replace(batch=Batch(1, {name: texts[name] for name in texts if name != "c"}, 0))
    journal.append_rows(jw.single(9), BULK)
    journal.append_rows(row, BULK)
    journal.append_rows(jw.single(1)._replace(answers=None, unlike=None), BULK)
    journal.append_rows(jw.single(2)._replace(rows=array("q", [7])), BULK)
    journal.seal("sync")
    assert sorted(world.everything().values()) == [("row", n) for n in (0, 1, 2, 9)]
    numbers = [number for block in columns_of(world) for number in block.columns["_row"].tolist()]
    assert numbers == [9, 0, 1, 7]
