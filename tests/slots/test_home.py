"""Generations and the home: what is committed is read back, and nothing is ever half made."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime import generation as generations
from device_runtime.disk import RealDisk
from device_runtime.errors import (
    BusyError,
    IncompatibleError,
    MachineError,
    NotInitialisedError,
    UnsupportedVersionError,
)
from device_runtime.format import canonical
from device_runtime.generation import Generation, SlotRecord, Trusted
from device_runtime.home import apply_kit, create_home, disk_identity, open_home
from device_runtime.policy import Policy
from edgepack.sim.clock import FixedClock
from support.memdisk import Dead, MemDisk
from support.slotworld import POLICY, ROOT, Bundle, Device, crash_out, root_bytes

KIT = SimpleNamespace(
    kit_id="ab" * 8,
    device_name="buoy-1",
    device_class="test",
    bundle_name="demo",
    floor=1_700_000_000,
    roots={1: root_bytes(1), 2: root_bytes(2)},
    policy=POLICY,
)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
SETS = st.frozensets(HEX, max_size=4)
SLOT = st.builds(
    SlotRecord,
    digest=HEX,
    version=st.integers(1, 1 << 40),
    state=st.sampled_from(["trial", "good", "rejected", "suspended"]),
    ever_good=st.booleans(),
    root_sha256=HEX,
    issued=st.integers(0, 1 << 40),
    signers=st.lists(HEX, max_size=3).map(tuple),
)
TRUSTED = st.builds(
    Trusted,
    root=st.binary(min_size=1, max_size=50),
    timestamp=st.none() | st.binary(max_size=50),
    snapshot=st.none() | st.binary(max_size=50),
    targets=st.none() | st.binary(max_size=50),
    floor=st.integers(0, 1 << 40),
)
TEXT = st.text(max_size=20)
GENERATION = st.builds(
    Generation,
    number=st.integers(1, 1 << 30),
    trusted=TRUSTED,
    policy=st.builds(Policy, TEXT, threads=st.integers(1, 9), quota_bytes=st.integers(0, 1 << 50)),
    epoch=TEXT,
    epoch_parent=st.none() | TEXT,
    epoch_heads=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1 << 40), HEX)).map(tuple),
    slots=st.lists(SLOT, max_size=2).map(tuple),
    active=st.none() | HEX,
    trusted_version=st.integers(0, 1 << 40),
    rejected=SETS,
    revoked_digests=SETS,
    revoked_keys=SETS,
    stopped_digests=SETS,
    tokens=SETS,
    kit_floor=st.integers(0, 1 << 40),
    acked=SETS,
    trial_since_s=st.none() | st.integers(0, 1 << 40),
    ack_generations=st.dictionaries(TEXT, st.tuples(st.integers(0, 1 << 40), TEXT), max_size=3),
    events=st.lists(
        st.tuples(TEXT, st.dictionaries(TEXT, st.integers() | TEXT, max_size=3)), max_size=3
    ).map(tuple),
)


@settings(max_examples=60)
@given(GENERATION)
def test_what_is_committed_is_read_back_equal(value):
    disk = MemDisk()
    disk.mkdir(ROOT)
    generations.commit(disk, ROOT, value)
    assert generations.current_number(disk, ROOT) == value.number
    assert generations.read(disk, ROOT, value.number) == value


@pytest.mark.parametrize("file", ["generation.json", "root.json"])
def test_a_flipped_byte_in_the_state_is_noticed(file):
    device = Device()
    device.good(Bundle(1))
    folder = device.home.state / f"gen-{device.generation.number}"
    data = device.disk._find(folder / file).seen
    for place in range(0, len(data), 37):
        data[place] ^= 1
        home = open_home(ROOT, disk=device.disk, clock=FixedClock(), disk_id="d")
        with pytest.raises(MachineError, match="damaged"):
            home.generation()
        data[place] ^= 1


def test_the_state_of_a_newer_runtime_is_refused_as_such(monkeypatch):
    device = Device()
    monkeypatch.setattr(generations, "VERSION", 2)
    newer = replace(device.generation, number=99)
    generations.commit(device.disk, device.home.state, newer)
    monkeypatch.setattr(generations, "VERSION", 1)
    with pytest.raises(UnsupportedVersionError):
        device.home.generation()


def test_a_commit_on_top_of_somebody_elses_is_refused():
    device = Device()
    old = device.generation
    device.home.commit(replace(old, trial_rows=1))
    with pytest.raises(BusyError):
        device.home.commit(replace(old, trial_rows=2))


def test_init_cut_off_at_any_step_is_repeated_or_done():
    fuse, done = 0, False
    while not done:
        disk = MemDisk()
        disk.fuse = fuse
        try:
            create_home(ROOT, KIT, disk=disk, clock=FixedClock(), disk_id="d")
            done = True
        except Dead:
            pass
        for after in (disk.after_power_cut(), disk.after_power_cut(seed=fuse), disk):
            after.revive()
            try:
                home = open_home(ROOT, disk=after, clock=FixedClock(), disk_id="d")
            except NotInitialisedError:
                home = create_home(ROOT, KIT, disk=after, clock=FixedClock(), disk_id="d")
            assert home.identity().public.id == home.card.device_id
            assert home.generation().trusted.root == root_bytes(2)
        fuse += 1
    assert fuse > 20


def test_init_on_an_initialised_home_is_refused():
    device = Device()
    with pytest.raises(MachineError, match="already"):
        create_home(ROOT, KIT, disk=device.disk, clock=FixedClock(), disk_id="d")


def test_a_newer_kit_replaces_the_policy_and_keeps_the_model():
    device = Device()
    first = device.good(Bundle(1))
    kit = SimpleNamespace(**{**vars(KIT), "policy": replace(POLICY, threads=3), "floor": 5})
    apply_kit(device.home, kit)
    now = device.generation
    assert now.policy.threads == 3
    assert now.trusted.floor >= KIT.floor
    assert device.record(first).state == "good"
    for other in ({"device_name": "x"}, {"device_class": "x"}, {"bundle_name": "x"}):
        with pytest.raises(IncompatibleError):
            apply_kit(device.home, SimpleNamespace(**{**vars(kit), **other}))


def kit_signed_at(moment: int, threads: int) -> SimpleNamespace:
    """A kit of a base whose latest signed time is `moment`."""
    floor = KIT.floor + moment
    return SimpleNamespace(
        **{**vars(KIT), "policy": replace(POLICY, threads=threads), "floor": floor}
    )


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["kit", "bundle"]), st.integers(1, 9)), max_size=8))
def test_a_bundle_brings_its_policy_only_if_it_was_signed_after_the_kit(steps):
    """A bundle of version v is signed at v, a kit with floor v was written before v + 1."""
    device, kit, newest, now = Device(), 0, 0, POLICY.threads
    for step, (what, at) in enumerate(steps, 10):
        if what == "kit":
            apply_kit(device.home, kit_signed_at(at, step))
            kit, now = at, step
        elif at > newest:
            device.install(Bundle(at, policy=replace(POLICY, threads=step)))
            newest, now = at, step if at > kit else now
        assert device.generation.policy.threads == now


def test_a_rejected_bundle_that_is_tried_again_does_not_bring_its_old_policy_back():
    device = Device()
    bundle = Bundle(2, kind="crash", policy=replace(POLICY, threads=3))
    device.good(Bundle(1))
    assert device.install(bundle).outcome == "installed"
    assert device.generation.policy.threads == 3
    crash_out(device)
    device.start()
    assert device.record(bundle).state == "rejected"
    apply_kit(device.home, kit_signed_at(2, 5))
    assert device.install(bundle, retry=True).outcome == "installed"
    assert device.generation.policy.threads == 5


def test_a_kit_of_a_base_in_2099_does_not_shut_out_policies_after_the_floor_is_set_back():
    device = Device()
    apply_kit(device.home, kit_signed_at(73 * 365 * 86400, 5))
    now = device.generation
    device.home.commit(replace(now, trusted=replace(now.trusted, floor=KIT.floor)))
    device.install(Bundle(1, policy=replace(POLICY, threads=3)))
    assert device.generation.policy.threads == 3


def test_the_state_of_a_runtime_that_did_not_note_the_time_of_its_kit_is_read():
    device = Device()
    folder = device.home.state / f"gen-{device.generation.number}"
    node = device.disk._find(folder / "generation.json")
    value = json.loads(bytes(node.seen).split(b"\n", 1)[1])
    del value["kit_floor"]
    body = canonical.encode(value)
    node.seen[:] = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    home = open_home(ROOT, disk=device.disk, clock=FixedClock(), disk_id="d")
    assert home.generation() == replace(device.generation, kit_floor=0)


def test_the_secret_key_is_readable_by_its_owner_only(tmp_path):
    home = create_home(tmp_path / "home", KIT, disk=RealDisk(), clock=FixedClock())
    mode = stat.S_IMODE(os.stat(home.identity_dir / "device.key").st_mode)
    assert mode == 0o600
    assert b"ed25519" in (home.identity_dir / "device.json").read_bytes()
    secret = home.identity().to_bytes()
    for path in home.root.rglob("*"):
        if path.is_file() and path.name != "device.key":
            data = path.read_bytes()
            assert secret[:32] not in data
            assert secret[:32].hex().encode() not in data


def test_a_copied_home_is_on_another_disk_until_it_is_settled(tmp_path):
    import shutil

    home = create_home(tmp_path / "one", KIT, disk=RealDisk(), clock=FixedClock())
    assert not open_home(home.root, disk=RealDisk(), clock=FixedClock()).moved
    shutil.copytree(home.root, tmp_path / "two", symlinks=True)
    other = open_home(tmp_path / "two", disk=RealDisk(), clock=FixedClock())
    assert other.moved
    with other.lock():
        other.settle_disk()
    assert not open_home(other.root, disk=RealDisk(), clock=FixedClock()).moved


def test_the_identity_of_a_disk_is_stable(tmp_path):
    assert disk_identity(tmp_path) == disk_identity(tmp_path)
    (tmp_path / "other").mkdir()
    assert disk_identity(tmp_path) != disk_identity(tmp_path / "other")


def test_leftovers_of_a_crash_are_cleaned_up_after_a_sync():
    device = Device()
    device.good(Bundle(1))
    home = device.home
    for folder in (home.state / "gen-999", home.slots / ("0" * 64), home.tmp / "stage-1"):
        device.disk.mkdir(folder)
    home.recover()
    assert [n for n in device.disk.list(home.state) if n.startswith("gen-")] == [
        f"gen-{device.generation.number}"
    ]
    assert device.disk.list(home.slots) == [Bundle(1).digest]
    assert device.disk.list(home.tmp) == []


def test_no_home_says_how_to_make_one(tmp_path):
    with pytest.raises(NotInitialisedError, match="no device home") as caught:
        open_home(tmp_path, disk=RealDisk(), clock=FixedClock())
    assert "init KIT" in caught.value.next
