"""Each rule is there because a schedule breaks without it: take it away, and the books notice."""

from __future__ import annotations

import sys

import pytest

from device_runtime.courier import acks as device_acks
from device_runtime.journal import quota
from edgepack.courier import registrar, sync
from edgepack.registry import Registry
from edgepack.sim.parts import BrokenError, files_on
from edgepack.sim.ports import MOUNT
from edgepack.spans import subtract


def test_duplicates_by_segment_hash_only_would_import_rows_twice(play, monkeypatch):
    monkeypatch.setattr(registrar.Registrar, "_fresh", lambda _self, parsed: parsed.sequences)
    with pytest.raises(BrokenError, match="twice"):
        play("row 0/1; clone 0/0; row 0/2; seal 0/0; dsync 0/0; dsync 2/1; bsync 0/0; bsync 0/1")


def test_tombstones_by_segment_hash_only_would_bring_rows_back(play, monkeypatch):
    def fresh(self, parsed):
        place = registrar._place(parsed)
        return subtract(parsed.sequences, [s[:2] for s in self._registry.spans_of(*place)])

    monkeypatch.setattr(registrar.Registrar, "_fresh", fresh)
    monkeypatch.setattr(registrar.Registrar, "_is_buried", lambda *_: False)
    with pytest.raises(BrokenError, match="purged"):
        play(
            """row 0/1; image 0/0; row 0/2; seal 0/0; dsync 0/0; bsync 0/0
               purge 0/0; purge 0/1; purge 0/2; irestore 0/1; dsync 0/1; bsync 0/1"""
        )


def test_acks_of_what_no_backup_holds_would_lose_rows_in_a_restore(play, monkeypatch):
    real = Registry.acknowledged
    monkeypatch.setattr(
        Registry, "acknowledged", lambda self, device, **_: real(self, device, backed_only=False)
    )
    lose = "; ".join(["row 0/1; dsync 0/0; bsync 0/0; dsync 0/0; prune 0/0"] * 2)
    with pytest.raises(BrokenError, match="undeclared"):
        play(f"backup; {lose}; slose 0/0; brestore 0/1; row 0/1")


def test_evicting_without_a_hole_would_lose_rows_undeclared(play, monkeypatch):
    def evict(shelf, name, _declare):
        shelf.drop(name)
        shelf.disk.fsync_dir(shelf.folder)

    monkeypatch.setattr(quota, "evict", evict)
    with pytest.raises(BrokenError, match="undeclared"):
        play("", devices=1, finish=False).fill()


def test_forgetting_what_the_base_holds_would_be_forgotten_twice(play, monkeypatch):
    # Every listed hash that is not on the disk as a contradiction: epochs without end.
    monkeypatch.setattr(device_acks, "contradicts", lambda facts, *_: bool(facts))
    world = play("row 0/1; dsync 0/0; bsync 0/0; dsync 0/0; bsync 0/0; dsync 0/0", finish=False)
    with Registry.open(world.ws.registry) as registry:
        assert len({row.epoch for row in registry.segments()}) > 1


def test_without_the_chain_a_clone_goes_unnoticed(play, monkeypatch):
    monkeypatch.setattr(registrar, "find_forks", lambda *_: [])
    with pytest.raises(BrokenError, match="unnoticed"):
        play("row 0/1; seal 0/0; clone 0/1; row 0/1; row 2/1; dsync 0/0; dsync 2/0; bsync 0/0")


def test_a_stick_that_nobody_tidies_stops_the_loop(play, monkeypatch):
    monkeypatch.setattr(sync, "clean_stick", lambda *_: 0)
    with pytest.raises(BrokenError, match=r"stuck|undeclared"):
        world = play("snew 0/0", finish=False)
        for _ in range(10):
            world.play("row 0/1; row 1/1; dsync 0/2; dsync 1/2; bsync 0/2")
        world.play("slose 0/0; slose 0/0")
        world.finish()


def test_a_pack_is_not_offered_by_its_name(play, monkeypatch):
    leave = sys.modules["device_runtime.courier.leave"]
    monkeypatch.setattr(leave, "whole_segments", lambda _stick, _path, index: index.header.segments)
    world = play("row 0/1; dsync 0/0", finish=False)
    stick = world.sticks[0].disk
    for path in files_on(stick, MOUNT):
        if path.suffix == ".segs":
            data = bytearray(stick.read(path))
            data[-1] ^= 1
            stick.unlink(path)
            stick.create(path).write(data)
    stick.flush()
    world.play("dsync 0/0; bsync 0/0")
    assert world.machines[0].device.durable - world.present()[0], "it stays at home"
