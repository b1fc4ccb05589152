"""Hostile bytes: JSON, names, forms, bombs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import (
    FormatError,
    LengthMismatchError,
    NotCanonicalError,
    TooLargeError,
    VerificationError,
)
from device_runtime.trust import quorum
from edgepack.keys import roles
from support import trustsim
from support.attacks import quorum_of, refused, signer
from support.trustsim import Base, change_document, document, forge, relink


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


def test_endless_root(base: Base) -> None:
    """Whoever holds both root keys may sign anything; its size is bounded before it is read."""
    previous = roles.newest_root(base.ws)
    metadata = roles.new_root(previous, roles.Change({}), base.now)
    metadata.signed.unrecognized_fields["x"] = "a" * (quorum.MAX_DOCUMENT + 1)
    roles.sign_with(metadata, base.ring, roles.root_keyids(previous)["root"])
    root = {"metadata/2.root.json": roles.to_bytes(metadata)}
    refused(TooLargeError, base.device(), forge(base.publish(), lambda e: e.update(root)))


def test_endless_payload(base: Base) -> None:
    bad = forge(base.publish(), lambda e: e.update({"payload/model.onnx": bytes(30 << 20)}))
    refused(VerificationError, base.device(), bad)


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
