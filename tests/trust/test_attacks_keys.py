"""Stolen keys, missing signatures, one family of signatures in place of two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_runtime.errors import (
    ExpiredError,
    FormatError,
    RevokedError,
    ThresholdError,
    UnknownKeyError,
    VerificationError,
)
from edgepack.keys import ceremony, roles
from support import trustsim
from support.attacks import quorum_of, refused, signer
from support.trustsim import DAY, NAME, Base, change_document, document, forge, relink


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
