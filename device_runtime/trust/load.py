"""Verify an installed slot at every start, and hand out exactly the bytes that were hashed.

python-tuf is not imported here: see `trust.quorum`. A slot is verified under the root that it was
installed with. That root lies in the slot and its SHA-256 in the generation, so a rotation of keys
never disables an installed slot; only a signed revocation does.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from pathlib import Path

from device_runtime.crypt import sha256
from device_runtime.disk import Disk
from device_runtime.errors import DigestMismatchError, LengthMismatchError, VerificationError
from device_runtime.format import canonical
from device_runtime.format import manifest as manifests
from device_runtime.format import schema as schemas
from device_runtime.format.manifest import Manifest
from device_runtime.format.schema import Schema
from device_runtime.policy import Policy
from device_runtime.record import dataclass, field
from device_runtime.trust import quorum
from device_runtime.trust.custom import Target, read_targets


@dataclass(frozen=True)
class LoadedSlot:
    """A slot whose signatures and digests hold.

    Attributes:
        name: Bundle name.
        version: Version.
        digest: SHA-256 of the signed part of its targets.json, hex.
        issued: When it was signed; unix seconds.
        root_version: Version of the root that it was verified with.
        signers: Ids of the keys that signed it.
        manifest: manifest.json.
        schema: schema.json.
        model: model.onnx, a read-only mapping of the very bytes that were hashed.
        files: Name → length and digest of every file.
        read: Name → verified bytes of another file; raises `VerificationError`.
    """

    name: str
    version: int
    digest: str
    issued: int
    root_version: int
    signers: tuple[str, ...]
    manifest: Manifest
    schema: Schema
    model: memoryview
    files: Mapping[str, Target]
    read: Callable[[str], bytes] = field(repr=False, compare=False)


def load_slot(
    disk: Disk, slot: Path, *, root_sha256: str, digest: str, policy: Policy
) -> LoadedSlot:
    """Verify a slot: its root by digest, targets by every family, each file that is handed out.

    Args:
        disk: Where to read from.
        slot: The folder.
        root_sha256: Digest of the slot's own root, hex, from the generation.
        digest: Bundle digest, hex, from the generation.
        policy: Signature families, limits.

    Raises:
        FormatError, VerificationError: The slot is not what was installed.
        OSError: It cannot be read.
    """
    limit = quorum.MAX_DOCUMENT + 1
    root_bytes = disk.read(slot / "metadata" / "root.json", limit)
    if quorum.root_sha256(root_bytes) != root_sha256:
        raise VerificationError("the root of this slot is not the one that it was installed with")
    root = quorum.read_root(root_bytes, "the slot's root.json")
    document = quorum.read_document(
        disk.read(slot / "metadata" / "targets.json", limit), "the slot's targets.json", "targets"
    )
    signers = quorum.signers(document, "targets", root, policy.families, "the slot's targets.json")
    if document.digest != digest:
        raise VerificationError("this slot holds another bundle than the one that was installed")
    targets = read_targets(document.signed)
    files = targets.installed

    def read(name: str) -> bytes:
        """Return a file of the slot whose digest holds."""
        if name not in files:
            raise VerificationError(f"this slot has no {name}")
        data = disk.read(slot / name, files[name].length + 1)
        _compare(name, files[name], len(data), sha256(data).hex())
        return data

    manifest = manifests.from_json(_json(read, "manifest.json", policy))
    schema = schemas.from_json(_json(read, "schema.json", policy))
    name = manifest.model.removesuffix(".xz")
    if name not in files:
        raise VerificationError(f"this slot has no {name}")
    model = mapped(disk, slot / name, files[name].length)
    _compare(name, files[name], len(model), sha256(model).hex())
    return LoadedSlot(
        name=targets.name,
        version=targets.version,
        digest=document.digest,
        issued=targets.issued,
        root_version=int(root["version"]),
        signers=signers,
        manifest=manifest,
        schema=schema,
        model=model,  # what was hashed is what is loaded
        files=files,
        read=read,
    )


def _json(read: Callable[[str], bytes], name: str, policy: Policy) -> object:
    return canonical.decode(read(name), name, limit=policy.max_json_bytes)


def mapped(disk: Disk, path: Path, length: int) -> memoryview:
    """Map a file that should have `length` bytes, read-only; its length is not checked here."""
    with disk.open_read(path) as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a disk without mappings, or an empty file
            return memoryview(file.read(length + 1))


def _compare(name: str, target: Target, length: int, digest: str) -> None:
    if length != target.length:
        raise LengthMismatchError(f"{name} has {length:,} bytes where {target.length:,} are signed")
    if digest != target.sha256:
        raise DigestMismatchError(f"{name} of this slot is not what was signed")
