"""Load: what was hashed is what is loaded, judged as python-tuf would judge it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata

from device_runtime import crypt
from device_runtime.errors import (
    DigestMismatchError,
    FormatError,
    LengthMismatchError,
    ThresholdError,
    VerificationError,
)
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.bundle import VerifiedBundle, copy_payload
from device_runtime.trust.load import LoadedSlot, load_slot
from edgepack.keys import roles
from support.trustsim import DISK, Base, Device, document, forge, sign_document

MODEL = bytes(range(256)) * 400


class Slot:
    """An installed bundle and what the generation remembers of it."""

    def __init__(self, folder: Path, bundle: VerifiedBundle, policy: Policy) -> None:
        self.folder, self.bundle, self.policy = folder, bundle, policy
        self.root = quorum.root_sha256(bundle.trusted.root)
        copy_payload(DISK, bundle, folder)

    def load(self) -> LoadedSlot:
        return load_slot(
            DISK, self.folder, root_sha256=self.root, digest=self.bundle.digest, policy=self.policy
        )


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base.at(tmp_path / "ws")


@pytest.fixture
def device(base: Base) -> Device:
    return base.device()


@pytest.fixture
def slot(base: Base, device: Device, tmp_path: Path) -> Slot:
    file = base.publish(model=MODEL, xz=True, extra={"notes.txt": b"hello"})
    return Slot(tmp_path / "slot", device.install(file), device.policy)


def test_the_slot_holds_the_raw_model_and_hands_out_verified_bytes(slot: Slot) -> None:
    loaded = slot.load()
    assert bytes(loaded.model) == MODEL
    assert loaded.model.readonly
    assert loaded.read("notes.txt") == b"hello"
    assert (loaded.name, loaded.version, loaded.digest) == ("pump", 1, slot.bundle.digest)
    assert loaded.signers == slot.bundle.signers
    assert not (slot.folder / "model.onnx.xz").exists()


def test_a_rotation_of_keys_does_not_disable_an_installed_slot(
    base: Base, device: Device, slot: Slot
) -> None:
    for role in ("root", "targets", "timestamp"):
        base.rotate(role)
    device.install(base.publish())
    assert slot.load().root_version == 1


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "schema.json", "notes.txt"])
def test_a_changed_file_is_never_handed_out(slot: Slot, name: str) -> None:
    data = bytearray((slot.folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (slot.folder / name).write_bytes(data)
    with pytest.raises(DigestMismatchError):
        slot.load().read(name)


@pytest.mark.parametrize("name", ["model.onnx", "notes.txt"])
def test_a_longer_or_shorter_file_is_never_handed_out(slot: Slot, name: str) -> None:
    data = (slot.folder / name).read_bytes()
    for other in (data + b"x", data[:-1]):
        (slot.folder / name).write_bytes(other)
        with pytest.raises(LengthMismatchError):
            slot.load().read(name)


def test_a_file_that_is_not_signed_is_never_handed_out(slot: Slot) -> None:
    (slot.folder / "extra.json").write_bytes(b"{}")
    with pytest.raises(VerificationError):
        slot.load().read("extra.json")
    with pytest.raises(VerificationError):
        slot.load().read("../slot/notes.txt")


@pytest.mark.parametrize("name", ["root.json", "targets.json"])
def test_every_flip_in_the_slots_metadata_is_noticed(slot: Slot, name: str) -> None:
    path = slot.folder / "metadata" / name
    good = path.read_bytes()
    for position in range(0, len(good), 97):
        bad = bytearray(good)
        bad[position] ^= 4
        path.write_bytes(bad)
        with pytest.raises((FormatError, VerificationError)):
            slot.load()


def test_another_genuine_root_in_the_slot_is_refused(base: Base, slot: Slot) -> None:
    base.rotate("targets")
    (slot.folder / "metadata" / "root.json").write_bytes(roles.newest_root(base.ws))
    with pytest.raises(VerificationError):
        slot.load()


def test_another_genuine_bundle_in_the_slot_is_refused(base: Base, slot: Slot) -> None:
    other = Device(base.trusted()).install(base.publish())
    copy_payload(DISK, other, slot.folder / "other")
    targets = (slot.folder / "other" / "metadata" / "targets.json").read_bytes()
    (slot.folder / "metadata" / "targets.json").write_bytes(targets)
    with pytest.raises(VerificationError):
        slot.load()


def test_missing_ml_dsa_support_fails_closed(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose cryptography is too old: the import fails, nothing is skipped."""
    module = "cryptography.hazmat.primitives.asymmetric.mldsa"
    monkeypatch.setattr(crypt, "_rust", None)  # the way around the public modules
    monkeypatch.delattr(module)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ThresholdError, match="no ML-DSA"):
        slot.load()


def test_loading_imports_neither_tuf_nor_securesystemslib_nor_numpy(slot: Slot) -> None:
    code = (
        "import sys; from pathlib import Path; from device_runtime.disk import RealDisk;"
        "from device_runtime.policy import Policy; from device_runtime.trust.load import load_slot;"
        f"s = load_slot(RealDisk(), Path({str(slot.folder)!r}), root_sha256={slot.root!r},"
        f" digest={slot.bundle.digest!r}, policy=Policy('field'));"
        "print(s.version, sorted({'tuf', 'securesystemslib', 'numpy', 'lzma'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"


# --- differential: the same verdict as python-tuf ----------------------------------------------


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_is_that_of_securesystemslib(value: object) -> None:
    from securesystemslib.formats import encode_canonical

    try:
        theirs = (encode_canonical(value) or "").encode()
    except UnicodeEncodeError:
        return
    assert quorum.encode_signed(value) == theirs


def tuf_says(data: bytes, root: bytes, role: str) -> tuple[set[str], bool]:
    signed = Metadata.from_bytes(root).signed
    metadata: Any = Metadata.from_bytes(data)
    result = signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return set(result.signed), result.verified


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_genuine_documents_are_judged_as_python_tuf_judges_them(base: Base, role: str) -> None:
    files = forge_entries(base.publish())
    root = roles.newest_root(base.ws)
    data = root if role == "root" else files[f"metadata/{role}.json"]
    signed = quorum.read_document(root, "root", "root").signed
    ours = quorum.signers(quorum.read_document(data, role, role), role, signed, (), role)
    assert (set(ours), True) == tuf_says(data, root, role)


def forge_entries(file: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    forge(file, found.update)
    return found


@pytest.mark.parametrize("damage", ["payload", "ed25519", "ml-dsa", "swapped", "half"])
def test_damaged_documents_are_judged_as_python_tuf_judges_them(base: Base, damage: str) -> None:
    files = forge_entries(base.publish())
    root = roles.newest_root(base.ws)
    value = document(files, "targets")
    one, two = value["signatures"]
    if damage == "payload":
        value["signed"]["version"] += 1
    elif damage == "swapped":
        one["sig"], two["sig"] = two["sig"], one["sig"]
    elif damage == "half":
        value["signatures"] = [one]
    else:
        kinds = json.loads(root)["signed"]["keys"]
        bad = next(s for s in (one, two) if kinds[s["keyid"]]["keytype"] == damage)
        bad["sig"] = ("0" if bad["sig"][0] != "0" else "1") + bad["sig"][1:]
    data = quorum.canonical.encode(value)
    assert not tuf_says(data, root, "targets")[1]
    signed = quorum.read_document(root, "root", "root").signed
    with pytest.raises(ThresholdError):
        quorum.signers(
            quorum.read_document(data, "t", "targets"), "targets", signed, Policy("x").families, "t"
        )


def test_a_document_signed_by_python_tuf_is_read_back(base: Base) -> None:
    value = document(forge_entries(base.publish()), "targets")
    signers = base.ring.signers("targets")
    ours = sign_document(value, signers)
    theirs: Any = Metadata.from_bytes(ours)
    assert theirs.signed_bytes == quorum.read_document(ours, "t", "targets").payload
