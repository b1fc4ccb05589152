"""What the carrier of a stick can do: edit, mix, roll back, replay, bring what is for others.

Each test tells one attack in a few lines: a base signs, somebody interferes, a device decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import (
    DigestMismatchError,
    ExpiredError,
    ForkError,
    FormatError,
    IncompatibleError,
    RollbackError,
    ThresholdError,
    VerificationError,
)
from edgepack.keys import ceremony
from support import trustsim
from support.attacks import quorum_of, refused, signer
from support.trustsim import DAY, NAME, Base, change_document, document, forge, relink


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
