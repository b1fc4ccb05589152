"""Two custodians on two machines: what is half-signed travels as a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from device_runtime.errors import EdgepackError, FormatError, UsageError, VerificationError
from device_runtime.format import canonical
from device_runtime.policy import Policy
from device_runtime.trust.token import read_token
from edgepack.errors import ClockError, EvidenceError
from edgepack.keys import ceremony, roles, sign
from edgepack.records import DeviceRow
from edgepack.registry import Registry
from support.attacks import split
from support.trustsim import DAY, NAME, Base, pack, unpack


def test_a_half_signed_bundle_travels_as_a_file(base: Base, tmp_path: Path) -> None:
    device, other = base.device(), split(base, tmp_path)
    half = base.publish(model=b"m")
    assert half.suffix == ".half"
    with pytest.raises(EdgepackError):
        device.verify(half)
    second = sign.sign_file(other.ws, other.ring, half, clock=other.clock)
    assert not second.complete  # the release key is with the first
    done = ceremony.sign_half(base.ws, base.ring, second.path, clock=base.clock, force_time=False)
    assert done.complete
    assert done.path.suffix == ".edgepack"
    assert not half.exists()
    assert device.install(done.path).version == 1


def test_a_custodian_refuses_a_half_signed_bundle_that_was_changed(
    base: Base, tmp_path: Path
) -> None:
    other, half = split(base, tmp_path), base.publish(model=b"good")
    half.write_bytes(pack({**unpack(half.read_bytes()), "payload/model.onnx": b"evil"}))
    with pytest.raises(FormatError):
        sign.sign_file(other.ws, other.ring, half, clock=other.clock)


def test_a_half_signed_root_travels_as_a_file(base: Base, tmp_path: Path) -> None:
    device, other = base.device(), split(base, tmp_path)
    first = base.rotate("timestamp")
    assert (first.complete, first.path.name) == (False, "2.root.half")
    assert max(roles.roots(base.ws)) == 1
    done = ceremony.sign_half(other.ws, other.ring, first.path, clock=base.clock, force_time=False)
    assert done.complete
    shutil.copy(done.path, base.ws.metadata)
    half = base.publish()
    shutil.copy(half, other.ws.out / half.name)
    second = sign.sign_file(other.ws, other.ring, other.ws.out / half.name, clock=base.clock)
    third = sign.sign_file(base.ws, base.ring, second.path, clock=base.clock)
    assert device.install(third.path).root_version == 2


def test_a_half_signed_downgrade_travels_as_a_file(base: Base, tmp_path: Path) -> None:
    base.publish()
    base.publish()
    other = split(base, tmp_path)
    half = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock)
    assert not half.complete
    root, policy = roles.newest_root(base.ws), Policy("field")
    with pytest.raises(VerificationError):
        read_token(half.path.read_bytes(), root, policy)
    done = ceremony.sign_half(other.ws, other.ring, half.path, clock=base.clock, force_time=False)
    token = read_token(done.path.read_bytes(), root, policy)
    assert (token.name, token.from_version, token.to_version) == (NAME, 2, 1)
    assert done.path.name == f"{NAME}-2-to-1.downgrade"


def test_what_is_no_half_signed_file_is_named(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "x.half"
    for data in (b"{}", b"{", b"[1]", b"hello" * 300):
        file.write_bytes(data)
        with pytest.raises(EdgepackError):
            ceremony.sign_half(base.ws, base.ring, file, clock=base.clock, force_time=False)


def test_a_changed_token_is_refused(base: Base) -> None:
    base.publish()
    base.publish()
    data = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).path.read_bytes()
    root, policy = roles.newest_root(base.ws), Policy("field")
    for position in range(0, len(data), 31):
        bad = bytearray(data)
        bad[position] ^= 2
        with pytest.raises((FormatError, VerificationError)):
            read_token(bytes(bad), root, policy)


def test_only_an_older_unrevoked_bundle_can_be_gone_back_to(base: Base) -> None:
    base.publish()
    for version in (1, 2):
        with pytest.raises(UsageError):
            ceremony.downgrade(base.ws, base.ring, NAME, version, clock=base.clock)
    base.publish()
    ceremony.revoke(base.ws, base.ring, f"{NAME}-1", clock=base.clock)
    with pytest.raises(UsageError):
        ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock)


def test_no_order_is_signed_by_keys_that_no_device_knows_yet(base: Base) -> None:
    base.publish()
    base.publish()
    base.rotate("targets")
    with pytest.raises(UsageError, match="no device knows them yet"):
        ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock)
    base.publish()
    assert ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).complete


def test_a_half_signed_bundle_from_another_day_needs_force(base: Base, tmp_path: Path) -> None:
    other, half = split(base, tmp_path), base.publish()
    other.clock.advance(3 * DAY)
    with pytest.raises(ClockError):
        sign.sign_file(other.ws, other.ring, half, clock=other.clock)


def test_each_custodian_draws_his_own_key(base: Base, tmp_path: Path) -> None:
    """No machine ever holds both private keys of a role."""
    device, other = base.device(), split(base, tmp_path)
    before = roles.root_keyids(roles.newest_root(base.ws))["targets"]
    half = ceremony.rotate(other.ws, other.ring, "targets", clock=base.clock, family="ml-dsa")
    done = ceremony.sign_half(base.ws, base.ring, half.path, clock=base.clock, force_time=False)
    assert done.complete
    shutil.copy(done.path, other.ws.metadata)
    after = roles.root_keyids(roles.newest_root(base.ws))["targets"]
    assert len(set(after) & set(before)) == 1
    assert not [key for key in base.ring.of_role("targets") if key.kind == "ml-dsa"]
    first = base.publish()
    shutil.copy(first, other.ws.out / first.name)
    second = sign.sign_file(other.ws, other.ring, other.ws.out / first.name, clock=base.clock)
    third = sign.sign_file(base.ws, base.ring, second.path, clock=base.clock)
    assert device.install(third.path).signers == tuple(sorted(after))
    for role, family in (("release", "ml-dsa"), ("journal", "ed25519"), ("targets", "rsa")):
        with pytest.raises(UsageError, match="no key of family"):
            ceremony.rotate(base.ws, base.ring, role, clock=base.clock, family=family)


def test_two_different_roots_of_one_number_are_never_made(base: Base, tmp_path: Path) -> None:
    other = split(base, tmp_path)
    mine, theirs = base.rotate("timestamp"), other.rotate("targets")
    assert mine.path.name == theirs.path.name == "2.root.half"
    keys = {key.id for key in base.ring.keys}
    for again in ("root", "targets"):
        with pytest.raises(UsageError, match="half-signed already"):
            base.rotate(again)
    assert {key.id for key in base.ring.keys} == keys  # nothing was drawn for it
    with pytest.raises(UsageError, match="another root 2"):
        finish(base, theirs.path)
    theirs.path.unlink()
    done = finish(other, mine.path)
    assert done.complete
    shutil.copy(done.path, base.ws.metadata)
    assert finish(base, mine.path).path.name == "2.root.json"
    assert not mine.path.exists()
    with pytest.raises(UsageError, match="another root 2"):
        finish(base, lost_half(other, tmp_path))


def lost_half(base: Base, folder: Path) -> Path:
    """A half-signed root 2 that turns up after another root 2 was completed."""
    root = roles.new_root(roles.roots(base.ws)[1], roles.Change({}), base.now)
    roles.sign_with(root, base.ring, roles.root_keyids(roles.roots(base.ws)[1])["root"])
    path = folder / "lost.half"
    path.write_bytes(roles.to_bytes(root))
    return path


def finish(base: Base, file: Path) -> ceremony.Outcome:
    return ceremony.sign_half(base.ws, base.ring, file, clock=base.clock, force_time=False)


def test_a_custodian_reads_what_he_signs(base: Base, tmp_path: Path) -> None:
    other = split(base, tmp_path)
    base.publish()
    assert "pump 1, digest" in finish(other, base.ws.out / "pump-1.half").what
    half = ceremony.rotate(base.ws, base.ring, "targets", clock=base.clock, family="ed25519")
    assert finish(other, half.path).what.startswith("root 2 (targets -")
    other.clock.advance(DAY)
    half = ceremony.recover(other.ws, other.ring, clock=other.clock, floor=True)
    assert "sets the time floor to 2026-01-0" in half.what


def test_a_bundle_that_the_other_custodian_completed_is_taken_over(
    base: Base, tmp_path: Path
) -> None:
    other = split(base, tmp_path)
    release = next(base.ws.keys.glob("release-*.key"))
    shutil.move(release, other.ws.keys / release.name)
    base.__dict__.pop("ring", None)
    half = base.publish()
    done = finish(other, half)
    assert done.complete
    bad = bytearray(done.path.read_bytes())
    bad[bad.find(b"model")] ^= 1
    (tmp_path / "bad.edgepack").write_bytes(bad)
    with pytest.raises((FormatError, VerificationError)):
        finish(base, tmp_path / "bad.edgepack")
    assert not (base.ws.out / "pump-1.edgepack").exists()
    assert finish(base, done.path).path == base.ws.out / "pump-1.edgepack"
    assert (base.ws.out / "pump-1.edgepack").read_bytes() == done.path.read_bytes()
    assert not half.exists()
    with Registry.open(base.ws.registry) as registry:
        assert [row.version for row in registry.bundles(NAME)] == [1]
    with pytest.raises(UsageError, match="signed already"):
        finish(base, done.path)


def test_a_second_bundle_of_a_signed_version_is_never_made(base: Base, tmp_path: Path) -> None:
    """The other custodian drew a version himself, which the base has drawn too."""
    ours = base.publish(model=b"ours")
    kept = ours.read_bytes()
    other = split(base, tmp_path)
    with Registry.open(other.ws.registry) as registry:
        registry._db.execute("DELETE FROM bundles")  # his copy of the workspace is older
        registry._db.execute("DELETE FROM versions")
    half = other.publish(model=b"theirs")
    assert half.name == "pump-1.half"
    with pytest.raises(UsageError, match="another pump 1"):
        finish(base, half)
    assert ours.read_bytes() == kept
    assert not (base.ws.out / half.name).exists()


def test_a_version_that_was_half_signed_here_is_not_drawn_here(base: Base, tmp_path: Path) -> None:
    other = split(base, tmp_path)
    for _ in range(3):
        half = base.publish()
    finish(other, half)
    assert other.publish().name == "pump-4.half"


def test_a_model_that_became_void_while_it_travelled_is_not_completed(
    base: Base, tmp_path: Path
) -> None:
    other, half = split(base, tmp_path), _taught(base)
    second = finish(other, half)  # this machine knows no devices
    _compromise(base, since=7)
    for file in (half, second.path):
        with pytest.raises(EvidenceError, match="press-1 taught this model of pump"):
            finish(base, file)
    assert not half.with_suffix(".edgepack").exists()
    _compromise(base, since=8)  # what it had given by then stays good
    assert finish(base, second.path).complete


def test_a_void_model_that_another_custodian_completed_is_not_taken_over(
    base: Base, tmp_path: Path
) -> None:
    other = split(base, tmp_path)
    release = next(base.ws.keys.glob("release-*.key"))
    shutil.move(release, other.ws.keys / release.name)
    base.__dict__.pop("ring", None)
    done = finish(other, _taught(base))
    assert done.complete
    _compromise(base, since=7)
    with pytest.raises(EvidenceError, match="press-1 taught this model of pump"):
        finish(base, done.path)
    assert not (base.ws.out / "pump-1.edgepack").exists()


DEVICE = "d" * 32


def _taught(base: Base) -> Path:
    """A half-signed bundle whose model learned from import 7 of press-1, and before."""
    story = {"returned": {"serial": 7, "devices": {DEVICE: 100}, "left_out": {}}}
    return base.publish(extra={"lineage.json": canonical.encode(story)})


def _compromise(base: Base, since: int) -> None:
    row = DeviceRow(
        DEVICE, "press-1", "field", NAME, "kit", "compromised", b"", b"", "words", 0, 0, since
    )
    with Registry.open(base.ws.registry) as registry:
        registry.put_device(row)
