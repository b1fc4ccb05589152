"""Verify a bundle. Whatever its bytes are, only `FormatError` and `VerificationError` leave.

(An `OSError` may leave too: it says that the medium cannot be read, not that the bundle is bad.)

Steps of `verify`, in this order, repeated by number where they are done and in
docs/FORMAT-bundle.md:

1. the container is one of ours: bounded, canonical, nothing surplus;
2. its metadata are exactly the roots 1 … n, timestamp, snapshot and targets, in canonical JSON;
3. it is for this name (read unverified: it only serves to refuse);
4. roots, from the trusted one to the newest, each signed by every family;
5. timestamp, snapshot and targets by the TUF workflow, expiry against the signed time floor;
6. targets signed by every family; no signature anywhere that is surplus or does not hold;
7. not older than what is trusted, not another bundle of the same version, not revoked;
8. for this class of device and this runtime;
9. the payload is exactly what is signed, entry by entry, and so is every root;
10. manifest, schema and policy: digests, format, and that they say what was signed.

Large files are hashed by `verify_payload`, or by `copy_payload` while they are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from device_runtime import policy as policies
from device_runtime.disk import Disk, file_chunks, new_file, write_all
from device_runtime.errors import FormatError, IncompatibleError, RootChainError, VerificationError
from device_runtime.format import canonical
from device_runtime.format import manifest as manifests
from device_runtime.format import schema as schemas
from device_runtime.format.container import Index
from device_runtime.format.manifest import Manifest
from device_runtime.format.schema import Schema
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.record import dataclass, replace
from device_runtime.trust import quorum
from device_runtime.trust.checks import check_device, check_listing, check_order
from device_runtime.trust.custom import Target, Targets, read_targets
from device_runtime.trust.refresh import ROLES, advance_root, refresh
from device_runtime.trust.source import Source, expand, open_source

_TOP = ("snapshot.json", "targets.json", "timestamp.json")


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle that `verify` accepted; only `verify` makes one.

    Attributes:
        path: The file.
        index: Its entries.
        name: Bundle name.
        version: Version, drawn when it was signed.
        digest: SHA-256 of the signed part of targets.json, hex: names what was signed.
        trusted: What the device trusts once this is installed.
        root_version: Version of the root that it was verified with.
        issued: When it was signed; unix seconds.
        device_class: Kind of device.
        min_runtime: Lowest version of edgepack-device.
        payload: Name → length and digest as files lie in the container.
        installed: Name → length and digest as files lie in a slot (`X.xz` expanded to `X`).
        raw: Packed name → (name, length and digest of the content).
        manifest: manifest.json.
        schema: schema.json.
        policy: policy.json, as it came along; None if it brought none.
        revoked_keys: Revoked by the root or by this bundle.
        revoked_digests: Revoked by the root or by this bundle.
        stopped_digests: Revoked ones that must not run even as a last resort.
        signers: Ids of the keys that signed targets.json.
        limits: The policy that it was verified under.
    """

    path: Path
    index: Index
    name: str
    version: int
    digest: str
    trusted: Trusted
    root_version: int
    issued: int
    device_class: str
    min_runtime: str
    payload: Mapping[str, Target]
    installed: Mapping[str, Target]
    raw: Mapping[str, tuple[str, Target]]
    manifest: Manifest
    schema: Schema
    policy: Policy | None
    revoked_keys: frozenset[str]
    revoked_digests: frozenset[str]
    stopped_digests: frozenset[str]
    signers: tuple[str, ...]
    limits: Policy


def verify(
    disk: Disk,
    path: Path,
    trusted: Trusted,
    policy: Policy,
    *,
    name: str | None,
    wall_s: int | None,
) -> VerifiedBundle:
    """Verify everything of a bundle but the digests of large files.

    Args:
        disk: Where to read from.
        path: The file.
        trusted: What is trusted so far.
        policy: What this device accepts.
        name: The bundle name that this home runs; None accepts any.
        wall_s: What the device's clock says, unix seconds; counts only if the policy trusts it.

    Raises:
        FormatError: The bytes do not follow docs/FORMAT-bundle.md.
        VerificationError: They are not signed, old, revoked, or for another device.
        OSError: The medium cannot be read.
    """
    with open_source(disk, path, policy) as source:  # 1
        files = _metadata(source, policy)  # 2
        top = {
            role: quorum.read_document(files[f"{role}.json"], f"{role}.json", role)
            for role in ROLES
        }
        document = top["targets"]
        targets = read_targets(document.signed)
        if name is not None and targets.name != name:  # 3
            raise IncompatibleError(f"this is a bundle of {targets.name}, this device runs {name}")
        roots = quorum.roots_in(files)
        advanced = advance_root(roots, trusted, policy)  # 4
        reference = advanced.floor
        if policy.clock_trusted and wall_s is not None:
            reference = max(reference, wall_s)
        new = refresh(files, advanced, reference)  # 5
        root = quorum.read_root(new.root)
        signers = _signers(top, root, policy)  # 6
        facts = quorum.facts_of(root)
        check_order(document, targets, trusted, root, policy, facts)  # 7
        check_device(targets, policy)  # 8
        check_listing(source.index, targets, roots)  # 9
        manifest, schema, carried = _documents(source, targets, policy)  # 10
        return VerifiedBundle(
            path=path,
            index=source.index,
            name=targets.name,
            version=targets.version,
            digest=document.digest,
            trusted=replace(new, floor=max(new.floor, targets.issued)),
            root_version=facts.version,
            issued=targets.issued,
            device_class=targets.device_class,
            min_runtime=targets.min_runtime,
            payload=targets.payload,
            installed=targets.installed,
            raw=targets.raw,
            manifest=manifest,
            schema=schema,
            policy=carried,
            revoked_keys=facts.revoked_keys | targets.revoked_keys,
            revoked_digests=facts.revoked_digests | targets.revoked_digests,
            stopped_digests=facts.stopped_digests | targets.stopped_digests,
            signers=signers,
            limits=policy,
        )


def read_roots(disk: Disk, path: Path, policy: Policy) -> dict[int, bytes]:
    """Return every root that a bundle carries, unverified: for `advance_root`.

    Raises:
        FormatError: Not a container of ours, or its metadata are not what a bundle has.
        OSError: The medium cannot be read.
    """
    with open_source(disk, path, policy) as source:
        return quorum.roots_in(_metadata(source, policy))


def verify_payload(
    disk: Disk, bundle: VerifiedBundle, chunk_sink: Callable[[str, memoryview], None] | None = None
) -> None:
    """Hash every payload file once; expand packed ones to compare their content too.

    Args:
        disk: Where to read from.
        bundle: What `verify` returned.
        chunk_sink: Gets (name, piece) while it is read; what it got counts only afterwards.

    Raises:
        DigestMismatchError, LengthMismatchError: A file is not what was signed.
        FormatError: The file changed since, or a packed file is not a valid .xz.
        OSError: The medium cannot be read.
    """
    with open_source(disk, bundle.path, bundle.limits) as source:
        _same_index(source, bundle)
        for name, target in bundle.payload.items():
            entry = f"payload/{name}"
            source.stream(entry, target, chunk_sink and partial(chunk_sink, name))
            if name in bundle.raw:
                expand(source.chunks(entry), name, bundle.raw[name][1], partial(_nowhere, name))


def copy_payload(disk: Disk, bundle: VerifiedBundle, target: Path) -> None:
    """Write the files of a slot to the folder `target`, hashing while copying.

    Packed files are copied, verified, and only then expanded. `metadata/root.json` is the root that
    this slot was verified with, `metadata/targets.json` says what is signed. Everything is synced
    when this returns, but the entry of `target` in its own parent.

    Raises:
        DigestMismatchError, LengthMismatchError, FormatError: As `verify_payload`.
        OSError: The medium cannot be read, or the disk not written.
    """
    disk.mkdir(target / "metadata")
    with open_source(disk, bundle.path, bundle.limits) as source:
        _same_index(source, bundle)
        for name, signed in bundle.payload.items():
            source.copy(f"payload/{name}", signed, disk, target / name)
    for packed, (name, raw) in bundle.raw.items():
        pieces = file_chunks(disk, target / packed)
        with new_file(disk, target / name) as out:
            expand(pieces, packed, raw, partial(write_all, out))
        disk.unlink(target / packed)
    for name, data in (("root", bundle.trusted.root), ("targets", bundle.trusted.targets)):
        with new_file(disk, target / "metadata" / f"{name}.json") as out:
            write_all(out, data or b"")
    disk.fsync_dir(target / "metadata")
    disk.fsync_dir(target)


def _nowhere(_name: str, _data: object) -> None:
    """Take a piece of a file that only needs to be hashed."""


def _metadata(source: Source, policy: Policy) -> dict[str, bytes]:
    names = source.index.names("metadata")
    versions = sorted(quorum.roots_in(dict.fromkeys(names)))
    for name in _TOP:
        if name not in names:
            raise FormatError(f"this is not a signed bundle: it has no metadata/{name}")
    if len(versions) + len(_TOP) != len(names):
        raise FormatError("the bundle has metadata that no bundle has")
    if versions != list(range(1, len(versions) + 1)) or not versions:
        missing = next(v for v in range(1, len(versions) + 2) if v not in versions)
        raise RootChainError(f"the bundle lacks root {missing}")
    return {
        name: source.small(f"metadata/{name}", min(quorum.MAX_DOCUMENT, policy.max_metadata_bytes))
        for name in names
    }


def _signers(
    top: Mapping[str, quorum.Document], root: Mapping[str, object], policy: Policy
) -> tuple[str, ...]:
    """Verify the signatures again, more strictly than TUF; return who signed targets."""
    for role in ("timestamp", "snapshot"):
        quorum.signers(top[role], role, root, (), f"{role}.json")
    return quorum.signers(top["targets"], "targets", root, policy.families, "targets.json")


def _documents(
    source: Source, targets: Targets, policy: Policy
) -> tuple[Manifest, Schema, Policy | None]:
    values: dict[str, object] = {}
    for name in ("manifest.json", "schema.json", "policy.json"):
        data = _read(source, targets, name, policy.max_json_bytes)
        if data is not None:
            values[name] = canonical.decode(data, name, limit=policy.max_json_bytes)
    for name in ("manifest.json", "schema.json"):
        if name not in values:
            raise FormatError(f"the bundle has no payload/{name}")
    manifest = manifests.from_json(values["manifest.json"])
    said = (manifest.name, manifest.device_class, manifest.min_runtime)
    if said != (targets.name, targets.device_class, targets.min_runtime):
        raise VerificationError("manifest.json does not say what targets.json says")
    model = targets.installed.get(manifest.model.removesuffix(".xz"))
    if (
        manifest.model not in targets.payload
        or model != Target(manifest.model_bytes, manifest.model_sha256)
        or model.length > policy.max_model_bytes
    ):
        raise VerificationError("manifest.json names a model that is not the signed one")
    carried = policies.from_json(values["policy.json"]) if "policy.json" in values else None
    if carried is not None and carried.device_class != targets.device_class:
        raise VerificationError("policy.json is for another class of device")
    return manifest, schemas.from_json(values["schema.json"]), carried


def _read(source: Source, targets: Targets, name: str, limit: int) -> bytes | None:
    """Return a small payload file, packed or not, verified; None if the bundle has none."""
    if name in targets.payload:
        return source.verified(f"payload/{name}", targets.payload[name], limit)
    packed = f"{name}.xz"
    if packed not in targets.raw:
        return None
    raw = targets.raw[packed][1]
    if raw.length > limit:
        raise FormatError(f"{name} would have {raw.length:,} bytes")
    data = source.verified(f"payload/{packed}", targets.payload[packed], limit)
    parts: list[bytes] = []
    expand(iter((data,)), packed, raw, parts.append)
    return b"".join(parts)


def _same_index(source: Source, bundle: VerifiedBundle) -> None:
    if source.index != bundle.index:
        raise VerificationError("the file changed after it was verified")
