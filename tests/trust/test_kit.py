"""Kits: one file, of one piece, recognised by eight words."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from device_runtime import policy as policies
from device_runtime.disk import RealDisk
from device_runtime.errors import EdgepackError, FormatError, UsageError, VerificationError
from device_runtime.format import canonical
from device_runtime.format.words import words
from device_runtime.generation import Generation, Trusted
from device_runtime.home import open_home
from device_runtime.trust.kit import read_kit
from edgepack.errors import DeviceUnknownError, KeyringError
from edgepack.fleet.kit import sign_kit, write_kit
from edgepack.keys import ceremony
from edgepack.keys.roles import class_policy
from edgepack.registry import PlanRow, Registry
from edgepack.workspace import Workspace
from support import devicelab, realbundle
from support.attacks import split
from support.trustsim import DISK, NAME, Base, document, pack, sign_document, unpack


@pytest.fixture
def base(tmp_path: Path) -> Base:
    base = Base.at(tmp_path / "ws")
    with Registry.open(base.ws.registry) as registry:
        registry.put_plan(PlanRow("sat-1", "field", NAME, "", 0))
    return base


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sat-1.kit"


def write(base: Base, out: Path, **kwargs: Path) -> str:
    return write_kit(base.ws, base.ring, "sat-1", out, clock=base.clock, **kwargs).words


def test_a_kit_says_what_a_device_must_trust_and_accept(base: Base, out: Path) -> None:
    base.rotate("root")
    said = write(base, out)
    kit = read_kit(DISK, out)
    assert (kit.device_name, kit.device_class, kit.bundle_name) == ("sat-1", "field", NAME)
    assert kit.words == said == words(hashlib.sha256(out.read_bytes()).digest())
    assert sorted(kit.roots) == [1, 2]
    assert kit.floor == base.now
    public = base.ring.public()
    assert kit.policy.recipients == tuple(key.raw.hex() for key in public.recipients)
    assert kit.policy.ack_keys == ((public.base.ed25519.hex(), public.base.mldsa65.hex()),)
    assert (kit.bundle, kit.wheels) == (None, ())


def test_a_device_made_from_a_kit_accepts_the_bundle_in_it(
    base: Base, out: Path, tmp_path: Path
) -> None:
    file = base.publish()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "edgepack_device-0.1-py3-none-any.whl").write_bytes(b"w" * 70_000)
    write(base, out, bundle=file, wheels=wheels)
    kit = read_kit(DISK, out)
    assert kit.bundle == file.name
    kit.extract(DISK, file.name, tmp_path / "b.edgepack")
    kit.extract(DISK, kit.wheels[0], tmp_path / "w.whl")
    assert (tmp_path / "b.edgepack").read_bytes() == file.read_bytes()
    device = base.device()
    device.trusted = Trusted(kit.roots[max(kit.roots)], floor=kit.floor)
    device.policy = kit.policy
    assert device.install(tmp_path / "b.edgepack").version == 1


def test_two_kits_never_have_the_same_words(base: Base, out: Path, tmp_path: Path) -> None:
    assert write(base, out) != write(base, tmp_path / "again.kit")


def test_a_kit_is_noted_in_the_plan(base: Base, out: Path) -> None:
    write(base, out)
    with Registry.open(base.ws.registry) as registry:
        plan = registry.plan("sat-1")
    assert plan is not None
    assert plan.kit_id == read_kit(DISK, out).kit_id


def test_a_changed_kit_is_refused_or_has_other_words(base: Base, out: Path) -> None:
    said = write(base, out)
    data = out.read_bytes()
    for position in range(0, len(data), 997):
        bad = bytearray(data)
        bad[position] ^= 1
        out.write_bytes(bad)
        try:
            assert read_kit(DISK, out).words != said
        except (FormatError, VerificationError):
            continue


def test_a_policy_exchanged_in_a_kit_is_refused(base: Base, out: Path) -> None:
    write(base, out)
    entries = unpack(out.read_bytes())
    policy = entries["payload/policy.json"]
    entries["payload/policy.json"] = policy.replace(b'"threads":1', b'"threads":8')
    out.write_bytes(pack(entries))
    with pytest.raises(VerificationError):
        read_kit(DISK, out)


def test_a_kit_signed_by_one_key_is_refused(base: Base, out: Path) -> None:
    write(base, out)
    entries = unpack(out.read_bytes())
    value = document(entries, "kit")
    entries["metadata/kit.json"] = sign_document(value, base.ring.signers("targets")[:1])
    out.write_bytes(pack(entries))
    with pytest.raises(VerificationError):
        read_kit(DISK, out)


def test_a_stick_that_shows_two_faces_is_not_believed(base: Base, out: Path) -> None:
    """It shows an attacker's kit to the reader, and ours to whoever computes the words."""
    said = write(base, out)
    ours = out.read_bytes()
    evil = Base(out.parent / "evil")
    ceremony.found(Workspace.create(evil.folder), evil.passphrase, evil.clock)
    with Registry.open(evil.ws.registry) as registry:
        registry.put_plan(PlanRow("sat-1", "field", NAME, "", 0))
    write(evil, out)
    theirs = out.read_bytes()

    class TwoFaces(io.BytesIO):
        """Headers and small reads come from their file, large reads from ours."""

        def read(self, size: int | None = -1, /) -> bytes:
            source = ours if size is not None and size >= 1 << 20 else theirs
            start = self.tell()
            data = source[start : None if size is None or size < 0 else start + size]
            self.seek(start + len(data))
            return data

    class Liar(RealDisk):
        def open_read(self, path: Path) -> IO[bytes]:
            return TwoFaces(theirs)

    try:
        kit = read_kit(Liar(), out)
    except EdgepackError:
        return
    assert kit.words != said or kit.roots == {1: base.trusted().root}


def test_a_surplus_file_in_a_kit_is_refused(base: Base, out: Path) -> None:
    write(base, out)
    entries = unpack(out.read_bytes())
    out.write_bytes(pack({**entries, "payload/autorun.sh": b"#!"}))
    with pytest.raises(EdgepackError):
        read_kit(DISK, out)


def test_a_bundle_is_not_a_kit_and_a_kit_is_no_bundle(base: Base, out: Path) -> None:
    with pytest.raises(FormatError):
        read_kit(DISK, base.publish())
    write(base, out)
    with pytest.raises(FormatError):
        base.device().verify(out)


def test_a_bundle_of_another_name_does_not_go_into_the_kit(base: Base, out: Path) -> None:
    with pytest.raises(VerificationError):
        write(base, out, bundle=base.publish("valve"))


def test_mistakes_at_the_base_are_named(base: Base, out: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceUnknownError):
        write_kit(base.ws, base.ring, "nobody", out, clock=base.clock)
    with pytest.raises(UsageError):
        write(base, out, wheels=tmp_path)
    with pytest.raises(UsageError, match="no file"):
        write(base, out, bundle=tmp_path / "nosuch.edgepack")
    for place in (tmp_path, tmp_path / "nosuch" / "sat-1.kit"):
        with pytest.raises(UsageError, match="cannot be a file"):
            write(base, place)
    assert not out.exists()


def test_at_the_device_mistakes_are_one_line_and_a_newer_kit_may_bring_an_older_bundle(
    base: Base, out: Path, tmp_path: Path
) -> None:
    home, bundles = tmp_path / "home", [devicelab.bundle(base), devicelab.bundle(base, 2.0)]
    said = write(base, out, bundle=bundles[1])
    for arguments, code in (
        (("init", tmp_path / "nosuch.kit"), 2),
        (("init", tmp_path), 2),
        (("init", bundles[0], "--fingerprint", said), 10),
        (("init", out, "--fingerprint", "gafo vula"), 40),
    ):
        done = devicelab.run(home, *arguments)
        assert done.returncode == code
        assert done.stderr.count(b"\n") == 1
        assert not home.exists()
    done = devicelab.run(home, "init", out, "--fingerprint", said)
    assert done.returncode == 0, done.stderr
    assert b"2 is installed and on trial" in done.stdout
    again = write(base, out, bundle=bundles[0])
    done = devicelab.run(home, "init", out, "--fingerprint", again)
    assert done.returncode == 0, done.stderr
    assert b"took the policy" in done.stdout
    assert b"older" in done.stdout
    link = tmp_path / "link.edgepack"
    link.symlink_to(bundles[1])
    assert devicelab.run(home, "install", tmp_path / "nosuch.edgepack").returncode == 2
    assert b"installed already" in devicelab.run(home, "install", link).stdout


def test_a_half_signed_kit_travels_to_the_other_custodian(
    base: Base, out: Path, tmp_path: Path
) -> None:
    bundle = base.publish()
    other = split(base, tmp_path)
    half = write_kit(base.ws, base.ring, "sat-1", out, bundle=bundle, clock=base.clock)
    assert (half.path.name, half.words, len(half.missing)) == ("sat-1.kit.half", "", 1)
    assert not out.exists()
    with pytest.raises(VerificationError):
        read_kit(DISK, half.path)
    done = sign_kit(other.ws, other.ring, half.path)
    assert (done.path, done.missing) == (out, ())
    assert not half.path.exists()
    kit = read_kit(DISK, out)
    assert done.words == kit.words == sign_kit(base.ws, base.ring, out).words
    with Registry.open(base.ws.registry) as registry:
        plan = registry.plan("sat-1")
    assert plan is not None
    assert plan.kit_id == kit.kit_id


def test_a_custodian_refuses_a_half_signed_kit_that_was_changed(
    base: Base, out: Path, tmp_path: Path
) -> None:
    other = split(base, tmp_path)
    half = write_kit(base.ws, base.ring, "sat-1", out, clock=base.clock).path
    good = unpack(half.read_bytes())
    for bad in (
        {**good, "payload/policy.json": good["payload/policy.json"].replace(b"false", b"true ", 1)},
        {**good, "payload/more.whl": b"x"},
    ):
        half.write_bytes(pack(bad))
        with pytest.raises(EdgepackError):
            sign_kit(other.ws, other.ring, half)
    half.write_bytes(pack(good))
    base.clock.advance(3600)
    ceremony.sign_half(
        base.ws,
        base.ring,
        other.rotate("timestamp").path,
        clock=base.clock,
        force_time=False,
    )
    with pytest.raises(KeyringError, match="other roots"):
        sign_kit(base.ws, base.ring, half)


def test_a_newer_kit_brings_a_base_back_that_was_set_to_2099(
    base: Base, out: Path, tmp_path: Path
) -> None:
    """Its roots are walked, one of them sets back the floor, and what it revokes is committed."""
    root, years = tmp_path / "home", 73 * 365 * 86400
    assert devicelab.run(root, "init", out, "--fingerprint", write(base, out)).returncode == 0
    base.clock.advance(years)
    base.rotate("root", force_time=True)
    future = devicelab.bundle(base)
    assert devicelab.run(root, "install", future).returncode == 0
    base.clock.advance(-years)
    ceremony.recover(base.ws, base.ring, clock=base.clock, floor=True)
    done = devicelab.run(root, "init", out, "--fingerprint", write(base, out))
    assert done.returncode == 0, done.stderr
    now = open_home(root, disk=DISK, clock=base.clock).generation()
    assert now.trusted.floor == base.now
    assert [slot for slot in now.slots if now.is_revoked(slot)]
    assert devicelab.run(root, "install", devicelab.bundle(base, 2.0)).returncode == 0


def test_a_kit_without_the_root_that_a_device_trusts_changes_nothing(
    base: Base, out: Path, tmp_path: Path
) -> None:
    """An old kit, perhaps of keys that were stolen since; or one of another base."""
    root, old, other = tmp_path / "home", tmp_path / "old.kit", Base(tmp_path / "other")
    ceremony.found(Workspace.create(other.folder), other.passphrase, other.clock)
    with Registry.open(other.ws.registry) as registry:
        registry.put_plan(PlanRow("sat-1", "field", NAME, "", 0))
    before = write(base, old)
    base.rotate("targets")
    assert devicelab.run(root, "init", out, "--fingerprint", write(base, out)).returncode == 0
    trusted = open_home(root, disk=DISK, clock=base.clock).generation().trusted
    other.rotate("targets")
    foreign = tmp_path / "foreign.kit"
    for file, said in ((old, before), (foreign, write(other, foreign))):
        done = devicelab.run(root, "init", file, "--fingerprint", said)
        assert done.returncode == 20
        assert b"lacks root 2" in done.stderr
    assert open_home(root, disk=DISK, clock=base.clock).generation().trusted == trusted


def test_a_bundle_signed_before_a_kit_does_not_undo_its_policy_and_a_later_one_brings_its_own(
    base: Base, out: Path, tmp_path: Path
) -> None:
    root = tmp_path / "home"

    def bundle(mode: str, slope: float) -> Path:
        said = policies.to_json(replace(class_policy(base.ws, "field"), log_mode=mode))
        files = {**devicelab.payload(slope), "policy.json": canonical.encode(said)}
        return realbundle.publish(base, files)

    def now() -> Generation:
        return open_home(root, disk=DISK, clock=base.clock).generation()

    def init() -> None:
        done = devicelab.run(root, "init", out, "--fingerprint", write(base, out))
        assert done.returncode == 0, done.stderr

    init()
    assert devicelab.run(root, "install", bundle("full", 1.0)).returncode == 0
    older = bundle("full", 2.0)
    recipe = base.ws.root / "edgepack.toml"
    before = recipe.read_text()
    recipe.write_text(before.replace("[class.field]", '[class.field]\nlog_mode = "sketch"'))
    init()
    assert now().policy.log_mode == "sketch"
    assert now().trusted.floor == read_kit(DISK, out).floor == base.now
    assert devicelab.run(root, "install", older).returncode == 0
    assert now().policy.log_mode == "sketch"
    recipe.write_text(before)
    assert devicelab.run(root, "install", bundle("full", 3.0)).returncode == 0
    assert now().policy.log_mode == "full"
