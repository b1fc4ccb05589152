"""Any tail, any byte: recovery never fails, keeps every whole frame, and says what is gone."""

from __future__ import annotations

import errno
import itertools
import os
import random
import struct
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import pytest

from device_runtime.clock import SystemClock
from device_runtime.crypt import sha256
from device_runtime.disk import RealDisk
from device_runtime.errors import FormatError, JournalError, SegmentError
from device_runtime.format.frames import (
    BLOCK,
    FRAME,
    MARKER,
    RECORDS,
    ROWS,
    frame_bytes,
    frame_head,
    read_frame,
    scan,
)
from device_runtime.format.header import (
    PREFIX,
    TRAILER,
    TRAILER_MAGIC,
    open_header,
    read_header,
    segment_message,
    write_header,
)
from device_runtime.format.segment import SEALED, Lane, Name
from device_runtime.journal import active
from device_runtime.journal.reader import open_segment
from device_runtime.journal.seal import new_key
from support import journalworld as jw
from support.journalworld import World
from support.zygote import Report, killed

BULK = Lane.BULK


@pytest.fixture(scope="module")
def small():
    """(file name, bytes, positions of frames) of an open segment with nine frames."""
    world = World()
    journal = world.open()
    for start in range(8):
        journal.append_rows(jw.rows(start), BULK)
    journal.append_rows(jw.rows(8, 3), BULK)
    (name,) = world.disk.list(jw.FOLDER)
    data = world.disk.read(jw.FOLDER / name)
    opened = open_header(data)
    found = scan(data, opened.end + 64)
    assert found.records == 11
    return name, data, found.frames


def recovered(name, data):
    """Open a journal over one file; return it and the rows that it still has."""
    world = World()
    world.disk.mkdir(jw.FOLDER)
    handle = world.disk.create(jw.FOLDER / name)
    handle.write(data)
    handle.sync()
    world.open()
    rows = sorted(what[1] for what in world.everything().values() if what[0] == "row")
    return world, rows


def whole(frames, damaged):
    """Row numbers whose frames do not touch a damaged byte."""
    return [
        row
        for frame in frames
        for row in range(frame.offset, frame.offset + frame.n)
        if not any(frame.position <= byte < frame.end for byte in damaged)
    ]


def holes_of(world):
    world.journal.seal("sync")
    return [hole for info in world.journal.sealed() for hole in info.header.holes]


def check_truncation(small, size):
    name, data, frames = small
    world, rows = recovered(name, data[:size])
    assert rows == [r for f in frames if f.end <= size for r in range(f.offset, f.offset + f.n)]
    world.journal.append_rows(jw.rows(100), BULK)
    world.journal.close()
    assert 100 in [what[1] for what in world.everything().values()]


def check_flip(small, bit):
    name, data, frames = small
    bad = bytearray(data)
    bad[bit // 8] ^= 1 << bit % 8
    world, rows = recovered(name, bytes(bad))
    start = frames[0].position
    if bit // 8 >= start:
        assert rows == whole(frames, [bit // 8])
    else:
        assert rows in ([], list(range(11)))
        if not rows:
            assert [hole.uid for hole in holes_of(world)] == [Name.parse(name).uid]


def test_truncation_anywhere(small):
    rng = random.Random(1)
    for size in [0, 1, 19, 20, *rng.sample(range(len(small[1])), 60)]:
        check_truncation(small, size)


def test_a_damaged_signature_of_the_header_costs_no_row(small):
    name, data, frames = small
    start = frames[0].position - 64
    for byte in (start, start + 17, start + 63):
        check_flip(small, byte * 8)
        bad = bytearray(data)
        bad[byte] ^= 1
        assert recovered(name, bytes(bad))[1] == list(range(11))


def test_a_flipped_bit_anywhere(small):
    rng = random.Random(2)
    for bit in rng.sample(range(len(small[1]) * 8), 120):
        try:
            check_flip(small, bit)
        except SegmentError:
            # A header whose CRC still holds cannot be; a flipped signature can: the base refuses.
            assert small[2][0].position - 64 <= bit // 8 < small[2][0].position


def test_garbage_in_the_middle_is_skipped_and_declared(small):
    name, data, frames = small
    third, fifth = frames[2], frames[4]
    bad = data[: third.position] + os.urandom(fifth.end - third.position) + data[fifth.end :]
    world, rows = recovered(name, bad)
    assert rows == [0, 1, 5, 6, 7, 8, 9, 10]
    (info,) = [info for info in world.journal.sealed() if info.lane == BULK]
    assert info.header.skipped == ((2, 4),)
    assert info.header.torn == fifth.end - third.position
    (hole,) = holes_of(world)
    assert (hole.reason, hole.first, hole.last, hole.count) == ("damaged", 2, 4, 3)


def test_old_frames_that_show_up_again_are_skipped(small):
    name, data, frames = small
    again = data + data[frames[1].position : frames[3].end]
    _, rows = recovered(name, again)
    assert rows == list(range(11))


def test_salvaging_twice_gives_the_same_hash(small):
    name, data, _ = small
    first, _ = recovered(name, data)
    second, _ = recovered(name, data)
    assert first.journal.sealed()[0].hash == second.journal.sealed()[0].hash


def test_open_and_sealed_of_one_uid_keeps_one(small):
    name, data, _ = small
    world, rows = recovered(name, data)
    handle = world.disk.create(jw.FOLDER / name)
    handle.write(data)
    world.open()
    assert world.disk.list(jw.FOLDER) == [name.replace(".open", ".seg")]
    assert len(world.everything()) == len(rows)


def test_an_open_form_with_more_than_the_sealed_one_loses_nothing(small):
    name, data, frames = small
    world, rows = recovered(name, data[: frames[5].end])
    assert len(rows) == 6
    handle = world.disk.create(jw.FOLDER / name)
    handle.write(data)
    world.open()
    assert world.disk.list(jw.FOLDER) == [name.replace(".open", ".seg")]
    assert len(world.everything()) == 11


@pytest.mark.parametrize("call", ["fsync_dir", "unlink"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("lane", Lane)
def test_a_segment_takes_no_rows_once_its_sealed_form_has_its_name(lane, code, call):
    world = World(policy=jw.policy(durability="each"))
    journal = world.open()
    for start in range(4):
        journal.append_rows(jw.rows(start), lane)
    world.disk.fail_at(1, code, times=2, kinds=[call])
    with pytest.raises(JournalError):
        journal.seal("age")
    world.disk.heal()
    journal.append_rows(jw.rows(4), lane)
    assert journal.durable_upto(lane) == 5
    world.disk.power_cut()
    world.open()
    assert sorted(what[1] for what in world.everything().values()) == [0, 1, 2, 3, 4]


def test_a_rotten_sealed_segment_is_declared_and_set_aside(small):
    name, data, _ = small
    world, _ = recovered(name, data)
    (info,) = world.journal.sealed()
    body = bytearray(world.disk.read(info.path))
    body[-300] ^= 1
    world.disk.unlink(info.path)
    world.disk.create(info.path).write(bytes(body))
    world.open()
    (info,) = world.journal.sealed()
    assert world.journal.read(info) is None
    assert not world.journal.sealed()
    (hole,) = holes_of(world)
    assert (hole.reason, hole.number, hole.hash, hole.first, hole.last) == (
        "damaged",
        1,
        info.hash,
        0,
        10,
    )
    assert any(text.endswith(".damaged") for text in world.disk.list(jw.FOLDER))
    world.journal.append_rows(jw.rows(50), BULK)
    world.journal.seal("sync")
    assert [info.number for info in world.journal.sealed() if info.lane == BULK] == [2]


def test_hostile_lengths_and_counts_are_bounded():
    markers = (MARKER.to_bytes(2, "little") + b"\1\0" + b"\xff\xff\xff\3") * 40_000
    tracemalloc.start()
    started = time.process_time()
    assert scan(bytes(4) + markers, 0).records == 0
    head = frame_head(1, 0, 0xFFFFFFFF, 0, 0, 1)
    assert read_frame(memoryview(b"0000" + head), 0, 24) is None
    with pytest.raises(FormatError):
        read_header(PREFIX.pack(b"EPSEGMNT", 1, 2, 0, 1 << 30, 0) + bytes(100))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert time.process_time() - started < 10
    assert FRAME.size == 24


def forged(small, kind, content):
    """A sealed segment with any content in its only frame, signed by the device itself."""
    identity, first, _ = jw.keys()
    header = open_header(small[1]).header
    header = header._replace(kind=SEALED, last=0, records=1, rows=1, reason="sync")
    aead, keys = new_key(header, [first[1]])
    start = write_header(header._replace(keys=keys))
    head = frame_head(kind, 0, len(content) + 16, 0, 0, 1)
    body = start + frame_bytes(head, aead.seal(0, content, sha256(start) + head))
    signature = identity.sign_fast(segment_message(sha256(body)))
    return body + TRAILER.pack(sha256(body), signature, TRAILER_MAGIC)


def test_a_captured_device_cannot_blow_up_the_base(small):
    identity, _, _ = jw.keys()
    deflate = zlib.compressobj(9)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(300)) + deflate.flush()
    stream = bytes([0, 1]) + struct.pack("<QBBBI", 0, 8, 0, 1, len(bomb)) + bomb
    spec = struct.pack("<HBB", 9, 4, 0) + b"_sequence" + len(stream).to_bytes(4, "little")
    columns = struct.pack("<6sBBIII", b"EPCOLS", 1, 0, 1, 1, 0) + spec + stream
    cases = [(RECORDS, bomb), (RECORDS, b"junk"), (BLOCK, columns), (BLOCK, b""), (ROWS, b"")]
    cases += [(RECORDS, zlib.compress(text)) for text in (b"{}", b"[1]", b"[[0,2,{}]]", b"[" * 99)]
    tracemalloc.start()
    for kind, content in cases:
        data = forged(small, kind, content)
        reader = open_segment(data, secrets=jw.secrets(), device=identity.public)
        with pytest.raises(FormatError):
            list(reader.records())
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a_stranger_file_is_never_read_as_a_segment():
    identity, _, _ = jw.keys()
    for data in (b"", b"EPSEGMNT", os.urandom(5000), b"PK\3\4" + bytes(500)):
        with pytest.raises(FormatError):
            open_segment(data, secrets=jw.secrets(), device=identity.public)
    for text in ("x.seg", "..", "0" * 16 + "-b-1-" + "0" * 16 + ".seg", "é" * 16 + ".open"):
        assert Name.parse(text) is None


def write_on(folder: Path, number: int, short: bool, report: Report) -> None:
    """Journal for ever, saying after each append which row comes next."""
    world = World(
        disk=RealDisk(),
        folder=folder,
        clock=SystemClock(),
        policy=jw.policy(durability="group", segment_bytes=30_000, group_ms=5),
        schema=jw.PLAIN if short else jw.SCHEMA,
    )
    journal = world.open()
    active._PUSH = 8000  # as after a MiB; this process ends in a moment
    for step in itertools.cycle((1, 2, 3, 200)):
        rows = jw.single(number) if short and step == 1 else jw.rows(number, step)
        journal.append_rows(rows, jw.Lane.BULK)
        number += step
        journal.append_event("e", {"n": number})
        report(str(number))


def kills(folder: Path, rounds: int, rng: random.Random) -> int:
    """Kill writers at random; every row that any of them reported must be there."""
    number = 0
    for index in range(rounds):
        short = index % 2 == 1
        told = killed(partial(write_on, folder, number, short), rng.random() ** 3 * 0.03)
        number = max(number, int(told[-1]))
        world = World(disk=RealDisk(), folder=folder, policy=jw.policy())
        world.open()
        found = [what[1] for what in world.everything().values() if what[0] == "row"]
        assert set(range(number)) <= set(found)
        number = max(found) + 1
    return number


def test_a_killed_process_loses_nothing_that_it_reported(tmp_path):
    assert kills(tmp_path / "journal", 4, random.Random(3)) > 0


@pytest.mark.soak
def test_soak_kills(tmp_path, soak_budget):
    done = rows = 0
    while soak_budget.more(done, 1000):
        rows += kills(tmp_path / str(done), 10, random.Random(done))
        done += 1
    print(f"{10 * done} kills, {rows} rows, 0 lost")


@pytest.mark.soak
def test_soak_every_truncation_and_every_bit(small, soak_budget):
    bits = list(range(len(small[1]) * 8))
    sizes = list(range(len(small[1])))
    random.Random(0).shuffle(bits)
    done = 0
    while soak_budget.more(done, len(bits)):
        check_flip(small, bits[done])
        if done < len(sizes):
            check_truncation(small, sizes[done])
        done += 1
    print(f"{done} of {len(bits)} bits, {min(done, len(sizes))} of {len(sizes)} truncations")
