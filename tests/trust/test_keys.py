"""Custody: keys at rest, two custodians, rotation, lints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from device_runtime.crypt import unwrap_key, wrap_key
from device_runtime.errors import EdgepackError, FormatError, UsageError, VerificationError
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.token import read_token
from edgepack.errors import ClockError, KeyringError
from edgepack.keys import ceremony, roles, sign
from edgepack.keys.ring import Ring
from support.trustsim import DAY, DISK, NAME, PASSPHRASE, Base, unpack


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base.at(tmp_path / "ws")


# --- at rest ----------------------------------------------------------------------------------


def test_no_private_key_lies_on_disk_in_the_clear(base: Base) -> None:
    secrets = [base.ring.secret(key) for key in base.ring.keys]
    everything = b"".join(p.read_bytes() for p in base.folder.rglob("*") if p.is_file())
    for secret in secrets:
        assert secret not in everything
        assert secret.hex().encode() not in everything


def test_key_files_are_for_their_owner_only(base: Base) -> None:
    assert {path.stat().st_mode & 0o777 for path in base.ws.keys.glob("*.key")} == {0o600}


def test_the_wrong_passphrase_opens_nothing(base: Base) -> None:
    with pytest.raises(KeyringError):
        Ring.open(base.ws.keys, PASSPHRASE + " ")


def test_a_changed_key_file_is_refused(base: Base) -> None:
    path = next(base.ws.keys.glob("root-ed25519-*.key"))
    value = json.loads(path.read_bytes())
    value["role"] = "targets"
    path.write_bytes(quorum.canonical.encode(value))
    ring = Ring(base.ws.keys, PASSPHRASE, DISK)
    key = next(key for key in ring.keys if key.path == path)
    with pytest.raises(KeyringError):
        ring.secret(key)


def test_a_damaged_ring_says_so(base: Base) -> None:
    (base.ws.keys / "ring.json").write_bytes(b"{")
    with pytest.raises(KeyringError):
        Ring.open(base.ws.keys, PASSPHRASE)


def test_a_ring_is_never_made_twice(base: Base) -> None:
    with pytest.raises(KeyringError):
        Ring.create(base.ws.keys, PASSPHRASE)


def test_old_journal_keys_still_open_journals(base: Base) -> None:
    old, recovery = base.ring.journal_recipients()
    wrapped = [(old.id, wrap_key(b"k" * 32, old, b"i"))]
    base.rotate("journal")
    new, same_recovery = base.ring.journal_recipients()
    assert new != old
    assert same_recovery == recovery
    assert unwrap_key(wrapped, base.ring.journal_secrets(), b"i") == b"k" * 32
    assert {old.id, new.id, recovery.id} == set(base.ring.journal_secrets())


def test_a_retired_journal_key_is_forgotten_only_when_no_device_needs_it(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepack.registry import Registry

    old, recovery = base.ring.journal_recipients()
    base.rotate("journal")
    new, _ = base.ring.journal_recipients()
    for key in (new, recovery):
        with pytest.raises(UsageError):
            ceremony.forget(base.ws, base.ring, key.id)
    with pytest.raises(UsageError, match="stands in no root"):
        ceremony.revoke(base.ws, base.ring, old.id, clock=base.clock)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "recipients_out", lambda _self: {old.id: ["sat-1"]})
        with pytest.raises(UsageError, match="sat-1"):
            ceremony.forget(base.ws, base.ring, old.id)
    assert ceremony.forget(base.ws, base.ring, old.id[:10]).complete
    assert set(base.ring.journal_secrets()) == {new.id, recovery.id}
    assert base.ring.public().journal == (new,)


def test_a_rotated_oms_key_signs_the_next_bundle(base: Base) -> None:
    old = base.ring.oms_key()
    base.clock.advance(-3600)  # in the very second in which the old one was drawn
    base.rotate("oms")
    new = base.ring.oms_key()
    assert new.private_numbers() != old.private_numbers()
    assert base.ring.identity().public.id == base.ring.base_id


# --- two custodians -----------------------------------------------------------------------------


def split(base: Base, tmp_path: Path) -> Base:
    """Move the ML-DSA keys of root and targets to a second custodian's machine."""
    other = Base(tmp_path / "other" / "ws", base.clock)
    shutil.copytree(base.folder, other.folder)
    for path in base.ws.keys.glob("*-ml-dsa-*.key"):
        path.unlink()
    for path in other.ws.keys.glob("*.key"):
        if "ml-dsa" not in path.name:
            path.unlink()
    base.__dict__.pop("ring", None)
    return other


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
    from support.trustsim import pack

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


# --- tokens -------------------------------------------------------------------------------------


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


# --- revocation -------------------------------------------------------------------------------


def test_a_revoked_key_is_replaced_and_listed(base: Base) -> None:
    keyid = base.ring.of_role("targets")[0].id
    outcome = ceremony.revoke(base.ws, base.ring, keyid[:12], clock=base.clock)
    assert outcome.complete
    root = roles.newest_root(base.ws)
    assert quorum.root_facts(root).revoked_keys == {keyid}
    assert keyid not in roles.root_keyids(root)["targets"]
    assert keyid not in base.device().install(base.publish()).signers


def test_revocations_add_up_over_roots(base: Base) -> None:
    base.publish()
    base.publish()
    ceremony.revoke(base.ws, base.ring, f"{NAME}-1", clock=base.clock)
    ceremony.revoke(base.ws, base.ring, f"{NAME}-2", clock=base.clock, stop=True)
    base.rotate("root")
    facts = quorum.root_facts(roles.newest_root(base.ws))
    assert len(facts.revoked_digests) == 2
    assert len(facts.stopped_digests) == 1


@pytest.mark.parametrize("what", ["", "nonsense", "pump-9", "0" * 64])
def test_revoking_what_is_not_there_is_a_mistake(base: Base, what: str) -> None:
    with pytest.raises(UsageError):
        ceremony.revoke(base.ws, base.ring, what, clock=base.clock)


# --- lints --------------------------------------------------------------------------------------


def test_signing_before_the_last_bundle_needs_force(base: Base) -> None:
    base.publish()
    base.clock.advance(-2 * DAY)
    with pytest.raises(ClockError):
        base.publish()
    assert base.publish(force_time=True).name == f"{NAME}-2.edgepack"


def test_signing_far_in_the_future_needs_force(base: Base) -> None:
    base.clock.advance(73 * 365 * DAY)
    with pytest.raises(ClockError):
        base.publish()


def test_a_half_signed_bundle_from_another_day_needs_force(base: Base, tmp_path: Path) -> None:
    other, half = split(base, tmp_path), base.publish()
    other.clock.advance(3 * DAY)
    with pytest.raises(ClockError):
        sign.sign_file(other.ws, other.ring, half, clock=other.clock)


def test_a_root_that_expires_before_the_bundle_is_refused(base: Base) -> None:
    base.clock.advance(9.5 * 365 * DAY)
    with pytest.raises(KeyringError, match="root expires"):
        base.publish(force_time=True)
    base.rotate("root")
    assert base.device().install(base.publish()).root_version == 2


def test_a_missing_root_at_the_base_is_named(base: Base) -> None:
    base.rotate("root")
    base.rotate("root")
    (base.ws.metadata / "2.root.json").unlink()
    with pytest.raises(KeyringError, match="lacks root 2"):
        base.publish()


def test_every_version_is_drawn_once(base: Base) -> None:
    assert base.publish().name == f"{NAME}-1.edgepack"
    with pytest.raises(FormatError):
        base.publish(extra={"model.sig": b"own"})
    assert base.publish().name == f"{NAME}-2.edgepack"
    assert base.publish("valve").name == "valve-1.edgepack"


def test_versions_go_on_above_what_devices_report_after_a_restore(base: Base) -> None:
    from edgepack.registry import Registry

    with Registry.open(base.ws.registry) as registry:
        registry.saw_version(NAME, 9)
    assert base.publish().name == f"{NAME}-10.edgepack"


def test_signing_a_signed_bundle_is_a_mistake(base: Base) -> None:
    file = base.publish()
    with pytest.raises(UsageError):
        sign.sign_file(base.ws, base.ring, file, clock=base.clock)


def test_the_same_payload_gives_the_same_signed_part_but_for_version_and_time(base: Base) -> None:
    one, two = (unpack(base.publish(model=b"m").read_bytes()) for _ in range(2))
    payload = [name for name in one if name.startswith("payload/")]
    assert [one[name] for name in payload] == [two[name] for name in payload]  # model.sig too


# --- the command line ---------------------------------------------------------------------------


def run(base: Base, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, Any]:
    from edgepack.cli import keys

    app = typer.Typer()
    keys.register(app)
    command = [*args, "-C", str(base.folder), "--json"]
    code = app(["keys", *command], standalone_mode=False) or 0
    return code, json.loads(capsys.readouterr().out)


def test_the_keys_command(
    base: Base, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", PASSPHRASE)
    base.publish()
    base.publish()
    code, listed = run(base, capsys, "list")
    assert (code, listed["root"]) == (0, 1)
    assert {row["role"] for row in listed["keys"]} >= {"root", "targets", "release", "journal"}
    assert all(row["here"] for row in listed["keys"])
    code, rotated = run(base, capsys, "rotate", "targets")
    assert (code, rotated["complete"]) == (0, True)
    code, token = run(base, capsys, "downgrade", NAME, "1")
    assert Path(token["file"]).name == f"{NAME}-2-to-1.downgrade"
    assert run(base, capsys, "revoke", f"{NAME}-1")[0] == 0
    assert run(base, capsys, "recover")[0] == 0
    code, failed = run(base, capsys, "rotate", "nothing")
    assert (code, failed["error"]["code"]) == (2, "usage")
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "wrong")
    code, failed = run(base, capsys, "rotate", "root")
    assert (code, failed["error"]["exit"]) == (76, 76)


def test_the_keys_command_passes_a_half_signed_root_on(
    base: Base,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", PASSPHRASE)
    other = split(base, tmp_path)
    code, half = run(base, capsys, "rotate", "timestamp")
    assert (code, half["complete"], len(half["missing"])) == (0, False, 1)
    assert "edgepack keys sign" in half["next"]
    code, done = run(other, capsys, "sign", half["file"])
    assert (code, done["complete"]) == (0, True)
    assert Path(done["file"]).name == "2.root.json"


def test_the_recovery_key_belongs_off_this_machine(
    base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(base.ws.keys.glob("recovery-*.key"))
    path.unlink()
    _, listed = run(base, capsys, "list")
    assert [row["here"] for row in listed["keys"] if row["role"] == "recovery"] == [False]
