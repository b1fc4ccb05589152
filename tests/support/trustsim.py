"""A small world for trust: a base that signs, a stick that is tampered with, a device.

The base is a real workspace with real keys (drawn once per test process: keys cost time, and no
test needs its own). The device keeps what a generation keeps, without slots: it verifies with the
code that a device runs and commits only what a device commits.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import io
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device_runtime.disk import RealDisk
from device_runtime.format import canonical, container
from device_runtime.format import manifest as manifests
from device_runtime.format import schema as schemas
from device_runtime.format.manifest import Manifest
from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.bundle import VerifiedBundle, read_roots, verify, verify_payload
from device_runtime.trust.refresh import advance_root
from edgepack.keys import ceremony, roles, sign
from edgepack.keys.ring import Ring
from edgepack.sim.clock import FixedClock
from edgepack.workspace import Workspace

PASSPHRASE = "correct horse"
NAME = "pump"
NOW = 1_767_225_600  # 2026-01-01T00:00:00Z, unix seconds
DAY = 86400
DISK = RealDisk()

SCHEMA = Schema(
    task="binary",
    columns=(Column("x", "input", "float32"), Column("y", "target", "bool")),
    inputs=(ModelInput("X", "float32", ("x",)),),
    output=ModelOutput(("no", "yes"), "probabilities", "label"),
)


@functools.cache
def founded() -> Path:
    """Return a workspace with keys and root 1: a template to copy."""
    work = Path(tempfile.mkdtemp(prefix="trustsim-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    folder = work / "ws"
    ws = Workspace.create(folder)
    ceremony.found(ws, PASSPHRASE, FixedClock(NOW * 10**9))
    return folder


def ring_of(folder: Path, passphrase: str = PASSPHRASE) -> Ring:
    """Open a ring; scrypt runs once per process and salt, not once per test."""
    ring = Ring(folder / "keys", passphrase, DISK)
    ring.passphrase.masters = _MASTERS
    return ring


_MASTERS: dict[str, bytes] = {}


def payload(
    name: str = NAME,
    device_class: str = "field",
    *,
    model: bytes = b"model",
    xz: bool = False,
    min_runtime: str = "0.1",
    extra: dict[str, bytes] | None = None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return payload files and the `raw` field of a bundle; the model is any bytes."""
    manifest = Manifest(
        name=name,
        device_class=device_class,
        min_runtime=min_runtime,
        min_onnxruntime="1.20",
        model="model.onnx.xz" if xz else "model.onnx",
        model_bytes=len(model),
        model_sha256=hashlib.sha256(model).hexdigest(),
        ir_version=9,
        opsets={"ai.onnx": 17},
        operators=("ai.onnx:Add",),
        peak_rss_bytes=1 << 26,
        selftest_seconds=0.1,
        rtol=0.0,
        atol=0.0,
        lineage="00",
    )
    files = {
        "manifest.json": canonical.encode(manifests.to_json(manifest)),
        "schema.json": canonical.encode(schemas.to_json(SCHEMA)),
        **(extra or {}),
    }
    raw: dict[str, Any] = {}
    if xz:
        files["model.onnx.xz"] = lzma.compress(model)
        raw["model.onnx.xz"] = {
            "name": "model.onnx",
            "length": len(model),
            "sha256": manifest.model_sha256,
        }
    else:
        files["model.onnx"] = model
    return files, raw


@dataclass
class Base:
    """A base: a workspace, its keys, its clock."""

    folder: Path
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW * 10**9))
    passphrase: str = PASSPHRASE

    @classmethod
    def at(cls, folder: Path) -> Base:
        """Found a base in `folder` (a copy: the same keys in every test)."""
        shutil.copytree(founded(), folder)
        return cls(folder)

    @property
    def ws(self) -> Workspace:
        return Workspace.find(self.folder)

    @functools.cached_property
    def ring(self) -> Ring:
        return ring_of(self.folder, self.passphrase)

    @property
    def now(self) -> int:
        return self.clock.wall // 10**9

    def build(
        self, name: str = NAME, device_class: str = "field", *, days: int = 400, **kwargs: Any
    ) -> Path:
        """Write an unsigned bundle."""
        files, raw = payload(name, device_class, **kwargs)
        said = {
            "format": "edgepack-unsigned",
            "version": 1,
            "name": name,
            "device_class": device_class,
            "min_runtime": kwargs.get("min_runtime", "0.1"),
            "expiry_days": days,
            "raw": raw,
            "candidate": "1",
        }
        entries = {f"payload/{file}": data for file, data in files.items()}
        entries["metadata/unsigned.json"] = canonical.encode(said)
        path = self.ws.out / f"{name}-unsigned.unsigned"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pack(entries))
        return path

    def publish(self, name: str = NAME, *, force_time: bool = False, **kwargs: Any) -> Path:
        """Build and sign a bundle an hour later; returns NAME-VERSION.edgepack."""
        self.clock.advance(3600)
        unsigned = self.build(name, **kwargs)
        done = sign.sign_file(self.ws, self.ring, unsigned, clock=self.clock, force_time=force_time)
        return done.path

    def rotate(self, role: str, *, force_time: bool = False) -> ceremony.Outcome:
        self.clock.advance(3600)
        return ceremony.rotate(self.ws, self.ring, role, clock=self.clock, force_time=force_time)

    def trusted(self) -> Trusted:
        """What a device provisioned today trusts."""
        return roles.trusted(self.ws)

    def device(self, **policy: Any) -> Device:
        """Provision a device today."""
        return Device(self.trusted(), Policy("field", **policy))


@dataclass
class Device:
    """What a device trusts and accepts; `install` commits what a device commits."""

    trusted: Trusted
    policy: Policy = field(default_factory=lambda: Policy("field"))
    name: str | None = NAME
    clock: int = 0  # what its clock says, unix seconds

    def verify(self, file: Path) -> VerifiedBundle:
        bundle = verify(DISK, file, self.trusted, self.policy, name=self.name, wall_s=self.clock)
        verify_payload(DISK, bundle)
        return bundle

    def install(self, file: Path) -> VerifiedBundle:
        """Commit new roots at once, then everything else, if the bundle holds."""
        self.trusted = advance_root(read_roots(DISK, file, self.policy), self.trusted, self.policy)
        bundle = self.verify(file)
        self.trusted = bundle.trusted
        return bundle


def pack(entries: dict[str, bytes]) -> bytes:
    """Return a container with these entries."""
    out = io.BytesIO()
    container.write(out.write, [(name, len(data), (data,)) for name, data in entries.items()])
    return out.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the entries of a container."""
    index = container.index(lambda offset, length: data[offset : offset + length], len(data))
    return {e.name: data[e.offset : e.offset + e.size] for e in index.entries.values()}


def forge(file: Path, change: Callable[[dict[str, bytes]], Any], to: Path | None = None) -> Path:
    """Let an attacker change the entries of a bundle; returns a new file beside it."""
    entries = unpack(file.read_bytes())
    changed = change(entries)
    path = to or file.with_name("forged.edgepack")
    path.write_bytes(pack(changed if changed is not None else entries))
    return path


def document(entries: dict[str, bytes], name: str) -> dict[str, Any]:
    """Return a metadata document of a bundle as Python."""
    value: dict[str, Any] = json.loads(entries[f"metadata/{name}.json"])
    return value


def sign_document(value: dict[str, Any], signers: Iterable[Any]) -> bytes:
    """Sign a changed document with the keys an attacker holds; other signatures are dropped."""
    message = quorum.encode_signed(value["signed"])
    value["signatures"] = [
        {"keyid": signer.public_key.keyid, "sig": signer.sign(message).signature}
        for signer in signers
    ]
    return canonical.encode(value)


def relink(entries: dict[str, bytes], release: Any, version: int | None = None) -> None:
    """Make snapshot and timestamp fit whatever targets.json is now, with the release key."""
    for name, inner in (("snapshot", "targets"), ("timestamp", "snapshot")):
        value = document(entries, name)
        data = entries[f"metadata/{inner}.json"]
        value["signed"]["meta"][f"{inner}.json"] = {
            "version": json.loads(data)["signed"]["version"],
            "length": len(data),
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
        }
        if version is not None:
            value["signed"]["version"] = version
        entries[f"metadata/{name}.json"] = sign_document(value, [release])


def change_document(
    entries: dict[str, bytes],
    name: str,
    change: Callable[[dict[str, Any]], Any],
    signers: Iterable[Any],
) -> None:
    """Change the signed part of a document and sign it."""
    value = document(entries, name)
    change(value["signed"])
    entries[f"metadata/{name}.json"] = sign_document(value, signers)


def older(trusted: Trusted, **changes: Any) -> Trusted:
    return replace(trusted, **changes)
