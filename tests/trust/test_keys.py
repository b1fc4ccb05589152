"""Custody: keys at rest, every role rotated, revocation, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from device_runtime import policy as policies
from device_runtime.crypt import unwrap_key, wrap_key
from device_runtime.disk import RealDisk
from device_runtime.errors import UsageError
from device_runtime.trust import quorum
from edgepack.errors import KeyringError
from edgepack.keys import ceremony, retired, roles
from edgepack.keys.ring import Ring
from support.attacks import split
from support.trustsim import DISK, NAME, PASSPHRASE, Base


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
    old, recovery = base.ring.public().recipients
    wrapped = [(old.id, wrap_key(b"k" * 32, old, b"i"))]
    base.rotate("journal")
    new, same_recovery = base.ring.public().recipients
    assert new != old
    assert same_recovery == recovery
    assert unwrap_key(wrapped, base.ring.journal_secrets(), b"i") == b"k" * 32
    assert {old.id, new.id, recovery.id} == set(base.ring.journal_secrets())


def test_a_retired_journal_key_is_forgotten_only_when_no_device_needs_it(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepack.registry import Registry

    old, recovery = base.ring.public().recipients
    base.rotate("journal")
    new, _ = base.ring.public().recipients
    for key in (new, recovery):
        with pytest.raises(UsageError):
            retired.forget(base.ws, base.ring, key.id)
    with pytest.raises(UsageError, match="stands in no root"):
        ceremony.revoke(base.ws, base.ring, old.id, clock=base.clock)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "recipients_out", lambda _self: {old.id: ["sat-1"]})
        with pytest.raises(UsageError, match="sat-1"):
            retired.forget(base.ws, base.ring, old.id)
    assert retired.forget(base.ws, base.ring, old.id[:10]).complete
    assert set(base.ring.journal_secrets()) == {new.id, recovery.id}
    assert base.ring.public().journal == (new,)


def test_a_rotated_oms_key_signs_the_next_bundle(base: Base) -> None:
    old = base.ring.oms_key()
    base.clock.advance(-3600)  # in the very second in which the old one was drawn
    base.rotate("oms")
    new = base.ring.oms_key()
    assert new.private_numbers() != old.private_numbers()
    assert base.ring.identity().public.id == base.ring.base_id


def test_every_role_can_be_rotated_and_the_next_bundle_installs(base: Base) -> None:
    device = base.device()
    device.install(base.publish())
    for role in ("root", "targets", "timestamp", "snapshot", "journal", "base", "recovery", "oms"):
        before = {key.id for key in base.ring.keys}
        assert base.rotate(role).complete
        assert {key.id for key in base.ring.keys} > before  # what was there is kept
        device.install(base.publish())
    with pytest.raises(UsageError, match="cannot be rotated"):
        base.rotate("nonsense")


def test_a_rotation_that_fails_leaves_no_keys_behind(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(base.ws.keys.iterdir())
    create = RealDisk.create

    def stops(what: str, after: int) -> Callable[..., Any]:
        times = iter(range(after + 1))

        def refuse(disk: RealDisk, path: Path, mode: int = 0o600) -> Any:
            if what in str(path) and next(times, None) is None:
                raise KeyboardInterrupt
            return create(disk, path, mode)

        return refuse

    for what, after in (("root.json", -1), ("targets", -1), ("targets", 0)):
        monkeypatch.setattr(RealDisk, "create", stops(what, after))
        with pytest.raises(KeyboardInterrupt):
            base.rotate("targets")
        assert sorted(base.ws.keys.iterdir()) == before
        assert max(roles.roots(base.ws)) == 1
    monkeypatch.setattr(RealDisk, "create", create)
    unlink = RealDisk.unlink

    def tidy(disk: RealDisk, path: Path) -> None:
        if path.suffix == ".half":  # the root is there already
            raise KeyboardInterrupt
        unlink(disk, path)

    monkeypatch.setattr(RealDisk, "unlink", tidy)
    with pytest.raises(KeyboardInterrupt):
        base.rotate("targets")
    monkeypatch.undo()
    assert max(roles.roots(base.ws)) == 2
    assert base.device().install(base.publish()).root_version == 2


def test_keys_that_are_out_of_use_can_be_destroyed_and_no_others(base: Base) -> None:
    for role in ("root", "targets", "timestamp", "base", "oms"):
        before = {key.id for key in base.ring.of_role(ceremony.ALIASES.get(role, role))}
        for keyid in before:
            with pytest.raises(UsageError, match="out of use"):
                retired.forget(base.ws, base.ring, keyid)
        base.rotate(role)
        for keyid in before:
            assert retired.forget(base.ws, base.ring, keyid[:12]).complete
    assert len(base.ring.keys) == 9
    with pytest.raises(UsageError, match="out of use"):
        retired.forget(base.ws, base.ring, base.ring.public().recovery.id)
    base.device().install(base.publish())


def test_a_new_identity_of_the_base_travels_in_the_policy(base: Base) -> None:
    old, current = base.ring.identity(), roles.class_policy(base.ws, "field")
    base.rotate("base")
    new = base.ring.identity()
    assert new.public.id == base.ring.base_id != old.public.id
    carried = roles.class_policy(base.ws, "field")
    taken = policies.from_bundle(current, carried)
    assert taken.ack_keys == ((new.public.ed25519.hex(), new.public.mldsa65.hex()),)


def test_a_new_recovery_key_is_used_and_the_old_one_still_opens(base: Base) -> None:
    _, old = base.ring.public().recipients
    wrapped = [(old.id, wrap_key(b"k" * 32, old, b"i"))]
    base.rotate("recovery")
    _, new = base.ring.public().recipients
    assert new != old
    assert unwrap_key(wrapped, base.ring.journal_secrets(), b"i") == b"k" * 32
    with pytest.raises(UsageError):
        retired.forget(base.ws, base.ring, new.id)


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
    code, token = run(base, capsys, "downgrade", NAME, "1")
    assert Path(token["file"]).name == f"{NAME}-2-to-1.downgrade"
    code, rotated = run(base, capsys, "rotate", "targets")
    assert (code, rotated["complete"]) == (0, True)
    assert run(base, capsys, "revoke", f"{NAME}-1")[0] == 0
    assert run(base, capsys, "recover")[0] == 0
    code, failed = run(base, capsys, "rotate", "nothing")
    assert (code, failed["error"]["code"]) == (2, "usage")
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "wrong")
    code, failed = run(base, capsys, "rotate", "root")
    assert (code, failed["error"]["exit"]) == (76, 76)


def test_only_bundles_are_stopped_and_a_key_is_not_revoked_by_the_way(base: Base) -> None:
    key = base.ring.of_role("targets")[0]
    with pytest.raises(UsageError, match="only bundles are stopped"):
        ceremony.revoke(base.ws, base.ring, key.id, clock=base.clock, stop=True)
    assert max(roles.roots(base.ws)) == 1


def test_what_tests_share_is_gone_when_they_end(tmp_path: Path) -> None:
    code = "from support.trustsim import founded; founded()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    tests = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=tests, env=environment, check=True)
    assert not list(tmp_path.iterdir())


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
