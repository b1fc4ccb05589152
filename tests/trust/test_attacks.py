"""The attack table: what somebody with the stick, the clock or a stolen key can and cannot do.

Each test tells one attack in a few lines: a base signs, somebody interferes, a device decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import (
    DigestMismatchError,
    EdgepackError,
    ExpiredError,
    ForkError,
    FormatError,
    IncompatibleError,
    LengthMismatchError,
    NotCanonicalError,
    RevokedError,
    RollbackError,
    RootChainError,
    ThresholdError,
    UnknownKeyError,
    VerificationError,
)
from device_runtime.trust import quorum
from edgepack.keys import ceremony, roles
from support import trustsim
from support.trustsim import DAY, NAME, NOW, Base, change_document, document, forge, relink

YEAR = 365 * DAY


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base.at(tmp_path / "ws")


def signer(base: Base, role: str, kind: str = "ed25519") -> Any:
    keyid = next(k.id for k in base.ring.of_role(role) if k.kind == kind)
    found = base.ring.signer(keyid)
    assert found is not None
    return found


def quorum_of(base: Base, role: str) -> list[Any]:
    return [signer(base, role), signer(base, role, "ml-dsa")]


def refused(error: type[EdgepackError], device: trustsim.Device, file: Path) -> EdgepackError:
    """The device refuses the file and trusts afterwards what it trusted before."""
    before = device.trusted
    with pytest.raises(error) as caught:
        device.verify(file)
    assert device.trusted == before
    assert caught.value.what
    assert caught.value.next
    return caught.value


# --- A1, A4: the carrier edits or mixes -------------------------------------------------------


def test_an_honest_bundle_is_accepted(base: Base) -> None:
    device = base.device()
    bundle = device.install(base.publish(model=b"hello"))
    assert (bundle.name, bundle.version, len(bundle.signers)) == (NAME, 1, 2)


def test_tampered_payload(base: Base) -> None:
    bad = forge(base.publish(model=b"good"), lambda e: e.update({"payload/model.onnx": b"evil"}))
    refused(DigestMismatchError, base.device(), bad)


def test_truncated_payload(base: Base) -> None:
    bad = forge(base.publish(model=b"good"), lambda e: e.update({"payload/model.onnx": b"goo"}))
    refused(VerificationError, base.device(), bad)


def test_truncated_file(base: Base) -> None:
    file = base.publish()
    file.write_bytes(file.read_bytes()[:-1024])
    refused(FormatError, base.device(), file)


@pytest.mark.parametrize("name", ["targets", "snapshot", "timestamp"])
def test_tampered_metadata(base: Base, name: str) -> None:
    def tamper(entries: dict[str, bytes]) -> None:
        value = document(entries, name)
        value["signed"]["version"] = 7
        entries[f"metadata/{name}.json"] = trustsim.canonical.encode(value)

    refused(VerificationError, base.device(), forge(base.publish(), tamper))


def test_signed_by_the_attackers_own_keys(base: Base, tmp_path: Path) -> None:
    evil = Base(tmp_path / "evil")
    ws = trustsim.Workspace.create(evil.folder)
    ceremony.found(ws, evil.passphrase, evil.clock)
    refused(ThresholdError, base.device(), evil.publish())


def test_attackers_root_in_front_of_our_device(base: Base, tmp_path: Path) -> None:
    evil = Base(tmp_path / "evil")
    ceremony.found(trustsim.Workspace.create(evil.folder), evil.passphrase, evil.clock)
    evil.rotate("root")  # offers itself as root 2 of our device
    device = base.device()
    refused(VerificationError, device, evil.publish())
    with pytest.raises(VerificationError):
        device.install(evil.publish())


def test_mix_and_match_old_targets_in_a_new_bundle(base: Base) -> None:
    old = trustsim.unpack(base.publish(model=b"1").read_bytes())
    key = "metadata/targets.json"
    mixed = forge(base.publish(model=b"2"), lambda e: e.update({key: old[key]}))
    refused(DigestMismatchError, base.device(), mixed)


def test_mix_and_match_old_timestamp_in_a_new_bundle(base: Base) -> None:
    old = trustsim.unpack(base.publish().read_bytes())
    key = "metadata/timestamp.json"
    mixed = forge(base.publish(), lambda e: e.update({key: old[key]}))
    refused(VerificationError, base.device(), mixed)


def test_unsigned_extra_file(base: Base) -> None:
    bad = forge(base.publish(), lambda e: e.update({"payload/run_me.sh": b"#!"}))
    refused(VerificationError, base.device(), bad)


def test_signed_file_left_out(base: Base) -> None:
    bad = forge(base.publish(), lambda e: {k: v for k, v in e.items() if "schema" not in k})
    refused(VerificationError, base.device(), bad)


def test_surplus_metadata(base: Base) -> None:
    bad = forge(base.publish(), lambda e: e.update({"metadata/mirrors.json": b"{}"}))
    refused(FormatError, base.device(), bad)


def test_a_file_of_an_older_bundle_cannot_linger(base: Base, tmp_path: Path) -> None:
    device = base.device()
    first = device.install(base.publish(extra={"notes.txt": b"old"}))
    second = device.install(base.publish())
    assert "notes.txt" in first.installed
    assert "notes.txt" not in second.installed
    assert first.digest != second.digest  # and so another folder


# --- A2: rollback, replay, fork ---------------------------------------------------------------


def test_rollback_to_a_genuine_older_bundle(base: Base) -> None:
    device, old, new = base.device(), base.publish(), base.publish()
    device.install(new)
    refused(RollbackError, device, old)


def test_rollback_after_the_device_state_was_wiped_is_accepted(base: Base) -> None:
    """Not preventable in software, and THREAT-MODEL says so."""
    old, new = base.publish(), base.publish()
    device = base.device()
    fresh = replace(device.trusted)
    device.install(new)
    device.trusted = fresh
    assert device.install(old).version == 1


def test_rollback_below_the_floor_set_at_provisioning(base: Base) -> None:
    old = base.publish(days=30)
    base.clock.advance(60 * DAY)
    device = base.device()
    device.trusted = replace(device.trusted, floor=base.now)
    refused(ExpiredError, device, old)


def test_replay_of_the_installed_bundle_changes_nothing(base: Base) -> None:
    device, file = base.device(), base.publish()
    first = device.install(file)
    trusted = device.trusted
    assert device.install(file).digest == first.digest
    assert device.trusted == trusted


def test_replay_with_a_tampered_timestamp(base: Base) -> None:
    device, file = base.device(), base.publish()
    device.install(file)

    def tamper(entries: dict[str, bytes]) -> None:
        value = document(entries, "timestamp")
        value["signed"]["expires"] = "2099-01-01T00:00:00Z"
        entries["metadata/timestamp.json"] = trustsim.canonical.encode(value)

    refused(VerificationError, device, forge(file, tamper))


def test_two_bundles_of_one_version_are_a_fork(base: Base, tmp_path: Path) -> None:
    twin_folder = tmp_path / "twin"
    trustsim.shutil.copytree(base.folder, twin_folder)
    twin = Base(twin_folder)
    device = base.device()
    device.install(base.publish(model=b"mine"))
    refused(ForkError, device, twin.publish(model=b"theirs"))


def test_a_bundle_with_a_damaged_payload_burns_no_version(base: Base) -> None:
    device, one, two = base.device(), base.publish(model=b"1"), base.publish(model=b"2")
    bad = forge(two, lambda e: e.update({"payload/model.onnx": b"X"}))
    refused(DigestMismatchError, device, bad)
    assert device.install(one).version == 1
    assert device.install(two).version == 2


# --- A15, A16: clocks ------------------------------------------------------------------------


def test_expired_by_signed_time(base: Base) -> None:
    old = base.publish(days=10)
    base.clock.advance(20 * DAY)
    base.rotate("targets")
    device = base.device()
    refused(VerificationError, device, old)


def test_expired_with_a_trusted_clock(base: Base) -> None:
    device = base.device(clock_trusted=True)
    file = base.publish(days=10)
    device.clock = base.now + 9 * DAY
    device.verify(file)
    device.clock = base.now + 11 * DAY
    refused(ExpiredError, device, file)


def test_clock_1970_does_not_revive_an_expired_bundle(base: Base) -> None:
    device, old = base.device(), base.publish("pump", days=10)
    base.clock.advance(20 * DAY)
    base.rotate("root")
    newer = base.publish()
    device.install(newer)
    device.clock = 0
    refused(RollbackError, device, old)
    fresh = base.device()
    fresh.clock = 0
    refused(ExpiredError, fresh, old)


def test_clock_2099_does_not_refuse_a_fresh_bundle(base: Base) -> None:
    device, file = base.device(), base.publish()
    device.clock = NOW + 73 * YEAR
    device.install(file)
    assert device.trusted.floor == base.now  # and poisons nothing


def test_the_clock_of_a_device_never_raises_its_floor(base: Base) -> None:
    device = base.device(clock_trusted=True)
    device.clock = base.now + 30 * DAY
    device.install(base.publish())
    assert device.trusted.floor == base.now


def test_a_base_set_to_2099_cannot_lock_its_fleet(base: Base) -> None:
    device = base.device()
    base.clock.advance(73 * YEAR)
    base.rotate("root")  # the old one would expire first; its time is wrong too
    future = base.publish(force_time=True)
    device.install(future)
    base.clock.advance(-73 * YEAR)
    outcome = ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
    assert outcome.complete
    back = base.publish()
    assert device.install(back).version == 2
    assert device.trusted.floor == base.now
    fresh = base.device()
    refused(RevokedError, fresh, forge_roots(base, future))
    fresh.install(back)


def forge_roots(base: Base, file: Path) -> Path:
    """The future bundle as a stick may still carry it."""
    assert quorum.root_facts(roles.newest_root(base.ws)).revoked_digests
    return file


def test_a_floor_reset_counts_once_per_root(base: Base) -> None:
    device = base.device()
    ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
    reset = base.now
    base.clock.advance(30 * DAY)
    file = base.publish()
    device.install(file)
    assert device.trusted.floor == base.now
    device.install(file)  # the same root again
    assert device.trusted.floor == base.now > reset


# --- rotations --------------------------------------------------------------------------------


def test_five_bundles_skipped_and_every_role_rotated(base: Base) -> None:
    device = base.device()
    device.install(base.publish())
    for role in ("root", "targets", "timestamp", "root", "targets"):
        base.rotate(role)
        newest = base.publish()
    assert device.install(newest).root_version == 6


def test_one_intermediate_root_missing(base: Base) -> None:
    device = base.device()
    base.rotate("root")
    base.rotate("root")
    bad = forge(base.publish(), lambda e: {k: v for k, v in e.items() if "2.root" not in k})
    error = refused(RootChainError, device, bad)
    assert "lacks root 2" in error.what


def test_more_rotations_than_the_policy_walks(base: Base) -> None:
    device = base.device(max_root_rotations=2)
    for _ in range(3):
        base.rotate("timestamp")
    refused(RootChainError, device, base.publish())


def test_three_hundred_rotations(base: Base) -> None:
    """ngclient alone stops at 256; the chain is made of real roots, signed by real keys."""
    previous = roles.newest_root(base.ws)
    chain = {1: previous}
    for version in range(2, 302):
        metadata = roles.new_root(previous, roles.Change({}), base.now)
        roles.sign_with(
            metadata, trustsim.ring_of(base.folder), roles.root_keyids(previous)["root"]
        )
        previous = chain[version] = roles.to_bytes(metadata)
    device = base.device()
    from device_runtime.trust.refresh import advance_root

    advanced = advance_root(chain, device.trusted, device.policy)
    assert quorum.root_facts(advanced.root).version == 301


def test_expired_intermediate_roots_do_not_matter(base: Base) -> None:
    device = base.device()
    base.rotate("root")
    base.clock.advance(11 * YEAR)
    base.rotate("root")
    base.clock.advance(DAY)
    assert device.install(base.publish(force_time=True)).root_version == 3


def test_a_tampered_old_root_is_noticed_although_nobody_needs_it(base: Base) -> None:
    base.rotate("root")
    device = base.device()

    def tamper(entries: dict[str, bytes]) -> None:
        value = document(entries, "1.root")
        value["signed"]["x-edgepack"]["issued"] += 1
        entries["metadata/1.root.json"] = trustsim.canonical.encode(value)

    refused(RootChainError, device, forge(base.publish(), tamper))


# --- A7 … A14, A17: stolen keys, signature families --------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa"])
def test_one_stolen_targets_key_signs_nothing(base: Base, kind: str) -> None:
    thief, release = signer(base, "targets", kind), signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: s.update(version=9), [thief])
        relink(entries, release, 9)

    refused(ThresholdError, base.device(), forge(base.publish(), attack))


def test_one_signature_twice(base: Base) -> None:
    release = signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        value = document(entries, "targets")
        value["signatures"] = [value["signatures"][0]] * 2
        entries["metadata/targets.json"] = trustsim.canonical.encode(value)
        relink(entries, release)

    refused(FormatError, base.device(), forge(base.publish(), attack))


def test_no_signatures_at_all(base: Base) -> None:
    release = signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: None, [])
        relink(entries, release)

    refused(ThresholdError, base.device(), forge(base.publish(), attack))


def test_surplus_signature_of_a_stranger(base: Base, tmp_path: Path) -> None:
    evil = Base(tmp_path / "evil")
    ceremony.found(trustsim.Workspace.create(evil.folder), evil.passphrase, evil.clock)
    keys = [*quorum_of(base, "targets"), signer(evil, "targets")]

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: None, keys)
        relink(entries, signer(base, "release"))

    refused(UnknownKeyError, base.device(), forge(base.publish(), attack))


def test_threshold_two_by_two_keys_of_one_family(base: Base) -> None:
    """TUF's threshold alone accepts it; the family policy does not."""
    ring, previous = base.ring, roles.newest_root(base.ws)
    extra = ceremony._public_keys(ring.draw("targets", base.now))
    ours = ceremony._public_keys(ring.of_role("targets"))
    every = {key.keyid: key for key in (*ours, *extra)}
    metadata = roles.new_root(previous, roles.Change({"targets": tuple(every.values())}), base.now)
    roles.sign_with(metadata, ring, roles.root_keyids(previous)["root"])
    roles.save_root(base.ws, metadata, previous)
    classic = [base.ring.signer(k) for k, key in every.items() if key.keytype == "ed25519"]
    assert len(classic) == 2

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: None, classic)
        relink(entries, signer(base, "release"))

    error = refused(ThresholdError, base.device(), forge(base.publish(), attack))
    assert "ml-dsa" in error.what


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa"])
def test_one_stolen_root_key_adds_its_own_keys(base: Base, kind: str) -> None:
    device, file = base.device(), base.publish()
    thief = signer(base, "root", kind)
    previous = roles.newest_root(base.ws)
    mine = ceremony._public_keys(base.ring.draw("targets", base.now))
    metadata = roles.new_root(previous, roles.Change({"targets": mine}), base.now)
    metadata.sign(thief)
    bad = forge(file, lambda e: e.update({"metadata/2.root.json": roles.to_bytes(metadata)}))
    refused(ThresholdError, device, bad)


def test_stolen_release_key_forges_targets(base: Base) -> None:
    thief = signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: s.update(version=9), [thief])
        relink(entries, thief, 9)

    refused(VerificationError, base.device(), forge(base.publish(), attack))


def test_stolen_release_key_cannot_fast_forward(base: Base) -> None:
    """TUF alone accepts this, and then refuses every honest bundle."""
    thief = signer(base, "release")
    bad = forge(base.publish(), lambda e: relink(e, thief, 2**31))
    device = base.device()
    refused(VerificationError, device, bad)
    device.install(base.publish())


def test_stolen_release_key_cannot_freshen_an_expired_bundle(base: Base) -> None:
    thief, old = signer(base, "release"), base.publish(days=10)
    base.clock.advance(20 * DAY)
    device = base.device()
    device.trusted = replace(device.trusted, floor=base.now)

    def attack(entries: dict[str, bytes]) -> None:
        for name in ("snapshot", "timestamp"):
            later = {"expires": "2090-01-01T00:00:00Z"}
            change_document(entries, name, lambda s, later=later: s.update(later), [thief])
        relink(entries, thief)

    error = refused(ExpiredError, device, forge(old, attack))
    assert "targets" in error.what


def test_recovery_after_a_stolen_release_key(base: Base) -> None:
    device, thief = base.device(), signer(base, "release")
    device.install(base.publish())
    assert ceremony.recover(base.ws, base.ring, clock=base.clock).complete
    honest = base.publish()
    device.install(honest)
    bad = forge(base.publish(), lambda e: relink(e, thief))
    refused(VerificationError, device, bad)


def test_recovery_after_the_targets_quorum_was_stolen(base: Base) -> None:
    device, thieves, release = base.device(), quorum_of(base, "targets"), signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", lambda s: s.update(version=10**6), thieves)
        relink(entries, release, 10**6)

    bad = forge(base.publish(), attack)
    device.install(bad)  # both keys: full control until the root rotates
    base.rotate("targets")
    base.rotate("timestamp")
    assert device.install(base.publish()).version == 2
    refused(VerificationError, device, bad)


def test_a_key_rotation_does_not_open_a_rollback(base: Base) -> None:
    device, old = base.device(), base.publish()
    device.install(base.publish())
    base.rotate("timestamp")
    base.rotate("targets")
    device.install(base.publish())
    refused(VerificationError, device, old)


def test_missing_ml_dsa_support_fails_closed(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    file, device = base.publish(), base.device()
    monkeypatch.setattr("securesystemslib.signer._key.MLDSA65PublicKey", None)
    monkeypatch.setattr("securesystemslib.signer._key.MLDSA_IMPORT_ERROR", "no ML-DSA here")
    refused(VerificationError, device, file)


def test_revoked_bundle_is_never_installed(base: Base) -> None:
    device, bad = base.device(), base.publish()
    ceremony.revoke(base.ws, base.ring, f"{NAME}-1", clock=base.clock)
    bundle = device.install(base.publish())
    assert len(bundle.revoked_digests) == 1
    device.trusted = replace(device.trusted, timestamp=None, snapshot=None, targets=None)
    refused(RevokedError, device, bad)


# --- A18: genuine, but not for us -----------------------------------------------------------


def resigned(base: Base, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A bundle whose signed fields a careless base changed: every key signs it."""

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "targets", change, quorum_of(base, "targets"))
        relink(entries, signer(base, "release"))

    return forge(base.publish(), attack)


def test_bundle_for_another_class(base: Base) -> None:
    refused(IncompatibleError, base.device(), base.publish(device_class="orbit"))


def test_bundle_of_another_name(base: Base) -> None:
    refused(IncompatibleError, base.device(), base.publish("valve"))


def test_bundle_for_a_newer_runtime(base: Base) -> None:
    bad = resigned(base, lambda s: s["x-edgepack"].update(min_runtime="9.0"))
    assert "9.0" in refused(IncompatibleError, base.device(), bad).what


def test_manifest_says_another_class_than_the_signed_metadata(base: Base) -> None:
    bad = resigned(base, lambda s: s["x-edgepack"].update({"class": "orbit"}))
    device = base.device()
    device.policy = replace(device.policy, device_class="orbit")
    assert "manifest.json" in refused(VerificationError, device, bad).what


# --- A5: hostile files ------------------------------------------------------------------------


def hostile(base: Base, name: str, data: bytes) -> Path:
    return forge(base.publish(), lambda e: e.update({f"metadata/{name}": data}))


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 8000 + b"]" * 8000,
        b'{"signed":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"signatures":[],"signed":{"_type":"targets","version":' + b"9" * 10_000 + b"}}",
        b'{"signatures":[],"signed":{"_type":"targets","version":1e999}}',
        b'{"signatures":[],"signed":{"_type":"targets","a":"\\ud800"}}',
        b'{"signatures":{},"signed":[]}',
        b'{"signatures":[{"keyid":1,"sig":2}],"signed":{"_type":"timestamp"}}',
        b"9" * 1_000_000,
    ],
    ids=[
        "empty", "object", "list", "null", "no-utf8", "deep-list", "deep-object",
        "huge-int", "infinite", "half-character", "wrong-types", "int-keyid", "endless",
    ],
)  # fmt: skip
def test_hostile_json(base: Base, name: str, data: bytes) -> None:
    with pytest.raises((FormatError, VerificationError)):
        base.device().verify(hostile(base, name, data))


def test_endless_timestamp(base: Base) -> None:
    thief = signer(base, "release")

    def attack(entries: dict[str, bytes]) -> None:
        change_document(entries, "timestamp", lambda s: s.update({"x": "a" * 20_000}), [thief])

    refused(FormatError, base.device(), forge(base.publish(), attack))


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "C:x", "a/b", "nul\0", "..", ".", "", "x" * 200, "a b", "é"]
)
def test_signed_target_with_an_unsafe_name(base: Base, name: str) -> None:
    def attack(entries: dict[str, bytes]) -> None:
        def rename(signed: dict[str, Any]) -> None:
            signed["targets"][name] = signed["targets"].pop("model.onnx")

        change_document(entries, "targets", rename, quorum_of(base, "targets"))
        relink(entries, signer(base, "release"))

    refused(FormatError, base.device(), forge(base.publish(), attack))


def test_metadata_that_is_not_canonical(base: Base) -> None:
    def attack(entries: dict[str, bytes]) -> None:
        value = json.loads(entries["metadata/timestamp.json"])
        entries["metadata/timestamp.json"] = json.dumps(value).encode()

    refused(NotCanonicalError, base.device(), forge(base.publish(), attack))


def test_upper_case_hex_in_a_signature(base: Base) -> None:
    def attack(entries: dict[str, bytes]) -> None:
        value = document(entries, "targets")
        value["signatures"][0]["sig"] = value["signatures"][0]["sig"].upper()
        entries["metadata/targets.json"] = trustsim.canonical.encode(value)
        relink(entries, signer(base, "release"))

    refused(FormatError, base.device(), forge(base.publish(), attack))


def test_xz_bomb(base: Base) -> None:
    """The packed bytes are signed, but hold more than was signed of the content."""
    import hashlib
    import lzma

    bomb = lzma.compress(bytes(50 << 20))

    def attack(entries: dict[str, bytes]) -> None:
        entries["payload/model.onnx.xz"] = bomb

        def resign(signed: dict[str, Any]) -> None:
            signed["targets"]["model.onnx.xz"] = {
                "length": len(bomb),
                "hashes": {"sha256": hashlib.sha256(bomb).hexdigest()},
            }

        change_document(entries, "targets", resign, quorum_of(base, "targets"))
        relink(entries, signer(base, "release"))

    refused(LengthMismatchError, base.device(), forge(base.publish(xz=True), attack))


def test_a_container_that_tar_would_accept_in_another_form(base: Base, tmp_path: Path) -> None:
    import subprocess

    file = base.publish()
    folder = tmp_path / "x"
    folder.mkdir()
    subprocess.run(["tar", "xf", file, "-C", folder], check=True)
    again = tmp_path / "again.edgepack"
    subprocess.run(["tar", "cf", again, "-C", folder, "metadata", "payload"], check=True)
    refused(FormatError, base.device(), again)
