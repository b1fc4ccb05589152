"""A lane is one contiguous chain of segments that only their reader opens."""

from __future__ import annotations

import errno
import json

import pytest

from device_runtime.crypt import Identity, generate_recipient
from device_runtime.errors import (
    FormatError,
    JournalError,
    SegmentError,
    UndecryptableError,
)
from device_runtime.format.batch import Text
from device_runtime.format.frames import FRAME, frames, scan
from device_runtime.format.header import open_header, read_header
from device_runtime.format.segment import Epoch, Lane
from device_runtime.journal.reader import open_segment
from support import journalworld as jw
from support.journalworld import World

BULK, PRIORITY = Lane.BULK, Lane.PRIORITY


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


def test_sketch_mode_keeps_no_row():
    world = World(policy=jw.policy(log_mode="sketch"))
    journal = world.open()
    assert journal.append_rows(jw.rows(0), BULK) == (-1, "")
    journal.append_sketch(b"s")
    journal.close()
    assert list(world.everything().values()) == [("sketch", b"s")]


def test_sketch_mode_keeps_no_row_of_either_lane_behind_an_event():
    world = World(policy=jw.policy(log_mode="sketch"))
    journal = world.open()
    journal.use("flights", jw.PLAIN, 4, "ee" * 32)
    journal.append_event("install", {"n": 1})
    assert journal.append_rows(jw.single(0), PRIORITY) == (-1, "")
    journal.close()
    assert list(world.everything().values()) == [("event", 1)]


def test_a_sketch_stays_when_its_rows_are_sealed(world):
    world.journal.on_seal = lambda lane, first, last: f"{lane}:{first}-{last}".encode()
    world.journal.append_rows(jw.rows(0, 9), BULK)
    world.journal.seal("sync")
    assert ("sketch", b"1:0-8") in world.everything().values()


def test_an_epoch_names_its_parent_and_starts_again(world):
    world.journal.append_rows(jw.rows(0, 3), BULK)
    heads = world.journal.heads()
    assert heads[BULK] == (1, "")
    epoch = world.journal.begin_epoch("disk")
    assert Epoch.from_json(json.loads(json.dumps(epoch.to_json()))) == epoch
    world.epoch = epoch
    sequence, _ = world.journal.append_rows(jw.rows(3), BULK)
    assert sequence == 0
    world.journal.close()
    old, new = (header for _, header, _ in world.segments())
    assert old.reason == "epoch"
    assert new.parent.epoch == old.epoch
    assert new.parent.heads[BULK] == (1, world.segments()[0][0].hash)
    assert (new.number, new.previous) == (1, "")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_recipient_alone_reads_all(count):
    pairs = [generate_recipient() for _ in range(count)]
    world = World(policy=jw.policy(recipients=tuple(public.raw.hex() for _, public in pairs)))
    journal = world.open()
    journal.append_rows(jw.rows(0, 3), BULK)
    journal.seal("sync")
    (info,) = journal.sealed()
    data = journal.read(info)
    for secret, public in pairs:
        reader = open_segment(data, secrets={public.id: secret}, device=jw.keys()[0].public)
        assert [record.n for record in reader.records()] == [3]


def test_a_policy_without_recipients_is_refused():
    with pytest.raises(JournalError, match="encrypted"):
        World(policy=jw.policy(recipients=())).open()


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
    journal.use("flights", jw.PLAIN, 4, "ee" * 32)
    journal.append_rows(jw.single(0), BULK)
    seen = set()
    active = journal._active[BULK]

    def watched(real):
        def encrypt(nonce, *rest):
            assert nonce not in seen
            seen.add(nonce)
            return real(nonce, *rest)

        return encrypt

    active.encrypt = watched(active.encrypt)
    active.aead.encrypt_into = watched(active.aead.encrypt_into)
    jw.renew_short_way(journal, BULK)
    for start in range(1, 20):
        if start % 4 == 0:
            world.disk.fail_at(1, errno.ENOSPC, kinds=["write"])
        journal.append_rows(jw.single(start), BULK)
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
