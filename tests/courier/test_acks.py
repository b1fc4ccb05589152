"""Forged, stale and foreign acks prune nothing; true ones may be replayed for ever."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest

from device_runtime.crypt import Identity
from device_runtime.format.receipt import Ack, Fact, decode_ack, encode_ack
from edgepack.registry import Registry


@pytest.fixture
def visited(lab):
    """A device whose rows are home, acknowledged on the stick, and not yet told so."""
    device, stick = lab.accepted(), lab.stick()
    device.rows([1, 2, 3], sync=True)
    device.sync(stick)
    lab.sync(stick)
    return device, stick


def ack_file(stick):
    (path,) = stick.glob("EDGEPACK/acks/*/*.ack")
    return path


def acked(device):
    return device.home.generation().acked


def test_a_true_ack_marks_and_the_journal_may_prune(visited):
    device, stick = visited
    before = acked(device)
    report = device.sync(stick)
    assert report.acked.marked == 3
    assert len(acked(device) - before) == 3
    gone = device.journal.prune(acked(device))
    assert {info.hash for info in gone} <= acked(device)


def test_an_ack_by_another_key_marks_nothing(visited):
    device, stick = visited
    path = ack_file(stick)
    ack = decode_ack(path.read_bytes())[0]
    path.write_bytes(encode_ack(ack, Identity.generate().sign_both))
    report = device.sync(stick)
    assert report.acked.marked == 0
    assert any("signature does not hold" in note for note in report.notes)


def test_an_ack_that_nobody_signed_is_never_parsed(visited):
    """Its JSON could take gigabytes before the signature is looked at."""
    device, stick = visited
    path = ack_file(stick)
    whole = path.read_bytes()
    lists = b'{"body":{"facts":[' + b"[]," * 3_000_000 + b"[]]}"
    path.write_bytes(lists + whole[whole.rindex(b',"format"') :])
    tracemalloc.start()
    report = device.sync(stick)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("signature does not hold" in note for note in report.notes)
    assert peak < 8 * path.stat().st_size  # its JSON would take thirty times its size


def test_an_ack_of_a_base_that_the_policy_does_not_name_marks_nothing(visited):
    device, stick = visited
    path = ack_file(stick)
    stranger = Identity.generate()
    ack = replace(decode_ack(path.read_bytes())[0], base=stranger.public.id)
    path.unlink()
    path.with_name(f"{stranger.public.id}.ack").write_bytes(encode_ack(ack, stranger.sign_both))
    report = device.sync(stick)
    assert (report.acked.acks, report.acked.marked) == (0, 0)
    assert any("does not know" in note for note in report.notes)


def test_an_ack_to_another_device_marks_nothing(lab, visited):
    device, stick = visited
    path = ack_file(stick)
    ack = replace(decode_ack(path.read_bytes())[0], device="f" * 32)
    path.write_bytes(encode_ack(ack, lab.ring.base.sign_both))
    assert device.sync(stick).acked.marked == 0


@pytest.mark.parametrize("family", ["ed25519", "ml-dsa"])
def test_both_signature_families_are_needed(visited, family):
    device, stick = visited
    path = ack_file(stick)
    value = json.loads(path.read_bytes())
    raw = bytearray.fromhex(value["signature"])
    raw[0 if family == "ed25519" else 1000] ^= 1
    value["signature"] = raw.hex()
    path.write_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    assert device.sync(stick).acked.marked == 0


def test_every_flipped_bit_of_an_ack_marks_nothing(visited):
    device, stick = visited
    path = ack_file(stick)
    whole = path.read_bytes()
    for place in range(0, len(whole), 411):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert device.sync(stick).acked.marked == 0, place


def test_an_ack_from_before_a_restore_is_stale(lab, visited):
    device, stick = visited
    stale = ack_file(stick).read_bytes()
    with Registry.open(lab.ws.registry) as registry:
        registry.raise_generation(registry.base_generation()[0])
    lab.sync(stick)
    device.sync(stick)
    newer = acked(device)
    assert newer
    ack_file(stick).write_bytes(stale)
    report = device.sync(stick)
    assert any("before it was restored" in note for note in report.notes)
    assert acked(device) == newer


def test_a_higher_generation_drops_the_marks_and_offers_again(lab, visited):
    device, stick = visited
    device.sync(stick)
    assert acked(device)
    with Registry.open(lab.ws.registry) as registry:
        generation = registry.raise_generation(registry.base_generation()[0])
    empty = Ack(
        lab.ring.base.public.id, device.home.card.device_id, generation, "archive", ()
    )  # fmt: skip
    ack_file(stick).write_bytes(encode_ack(empty, lab.ring.base.sign_both))
    report = device.sync(stick)
    assert report.acked.forgotten == 3
    assert report.left.segments >= 2
    assert not acked(device)


def test_an_equal_generation_with_another_random_is_ignored_and_the_base_rises(lab, visited):
    device, stick = visited
    device.sync(stick)
    number = device.home.generation().ack_generations[lab.ring.base.public.id][0]
    with Registry.open(lab.ws.registry) as registry:
        registry.raise_generation(number - 1)  # a second restore of one backup
    result = lab.sync(stick)
    assert any("raised above it" in line for line in result.lines)
    with Registry.open(lab.ws.registry) as registry:
        assert registry.base_generation()[0] > number


def test_replaying_an_ack_is_harmless(visited):
    device, stick = visited
    device.sync(stick)
    before = (acked(device), device.home.generation().epoch)
    for _ in range(3):
        report = device.sync(stick)
        assert (report.acked.marked, report.acked.new_epoch) == (0, False)
    assert (acked(device), device.home.generation().epoch) == before


@pytest.mark.parametrize("case", ["above our head", "another hash of ours"])
def test_facts_that_contradict_the_journal_begin_a_new_epoch(lab, visited, case):
    device, stick = visited
    path = ack_file(stick)
    ack = decode_ack(path.read_bytes())[0]
    mine = ack.facts[-1]
    wrong = Fact(mine.epoch, mine.lane, 99 if case.startswith("above") else mine.number, "a" * 64)
    others = () if case.startswith("another") else ack.facts
    path.write_bytes(encode_ack(replace(ack, facts=(*others, wrong)), lab.ring.base.sign_both))
    before = device.home.generation().epoch
    report = device.sync(stick)
    assert report.acked.new_epoch
    assert device.home.generation().epoch != before
    assert device.home.generation().epoch_parent == before


def test_acks_do_not_grow_for_ever(lab):
    device, stick = lab.accepted(), lab.stick()
    sizes = []
    for turn in range(8):
        device.rows([turn], sync=True)
        device.sync(stick)
        lab.sync(stick)
        device.sync(stick)
        device.journal.prune(acked(device))
        device.sync(stick)
        lab.sync(stick)
        sizes.append(len(decode_ack(ack_file(stick).read_bytes())[0].facts))
    assert max(sizes[4:]) <= 6, sizes


@pytest.mark.parametrize("days", [0, 2])
def test_acknowledged_segments_go_after_their_days_of_powered_on_time(lab, days):
    device, stick = lab.accepted(keep_acked_days=days), lab.stick()
    device.rows([1, 2, 3], sync=True)
    device.sync(stick)
    lab.sync(stick)
    lab.clock.wall += 10**9 * 86_400 * 400  # what the wall clock says does not count
    first = device.sync(stick)
    assert first.acked.pruned == (1 if days == 0 else 0)  # the newest of a lane always stays
    device.rows([4], sync=True)
    device.sync(stick)
    lab.sync(stick)
    device.sync(stick)
    lab.clock.advance(86_400 * days)
    device.rows([5], sync=True)
    report = device.sync(stick)
    assert report.acked.pruned_rows >= 3 or days == 0
    assert not [info for info in device.journal.sealed() if info.first == 0 and info.lane]


def test_acks_of_a_former_identity_leave_the_stick_once_their_device_believes_the_new_one(lab):
    """Who has not heard of the rotation yet keeps them: nothing else lets his journal go."""
    devices = {name: lab.accepted(name) for name in ("press-1", "press-2")}
    stick, former = lab.stick(), lab.ring.base.public.id
    for device in devices.values():
        device.rows([1, 2, 3], sync=True)
        device.sync(stick)
    lab.sync(stick)
    lab.ring = replace(lab.ring, base=Identity.generate())
    current = lab.ring.base.public.id
    told, untold = devices.values()

    def there(device):
        folder = stick / "EDGEPACK" / "acks" / device.home.card.device_id
        return {path.stem for path in folder.iterdir()}

    lab.sync(stick)
    assert there(told) == there(untold) == {former, current}
    told.home.commit(replace(told.home.generation(), policy=lab.policy()))
    assert any(former in note for note in told.sync(stick).notes)
    assert untold.sync(stick).acked.marked
    lab.sync(stick)
    assert there(told) == {current}
    assert there(untold) == {former, current}
    assert not told.sync(stick).notes
    with lab.registry() as registry:
        registry.alarm("fork", untold.home.card.device_id, "", "copied", 0)
    untold.home.commit(replace(untold.home.generation(), policy=lab.policy()))
    untold.sync(stick)
    lab.sync(stick)
    assert there(untold) == {former, current}, "another copy of it may not have heard"
