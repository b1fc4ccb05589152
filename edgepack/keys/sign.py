"""Unsigned in, signed out: `out/NAME-VERSION.edgepack`.

`build` and `sign` are separate, so keys may live elsewhere. Where this ring cannot give every
signature, the result is `out/NAME-VERSION.half`: a file that travels to the next custodian, who
signs it with the same command. Whoever finds it complete, and has the release key, finishes it.

The version is drawn here and stands only in the TUF metadata: the payload does not know it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api._payload import MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.metadata import Metadata

from device_runtime.clock import Clock
from device_runtime.disk import Disk, write_all
from device_runtime.errors import EdgepackError, FormatError, UsageError
from device_runtime.format import canonical, container
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.bundle import VerifiedBundle, verify, verify_payload
from device_runtime.trust.custom import VERSION as CUSTOM_VERSION
from device_runtime.trust.custom import read_targets
from device_runtime.trust.source import Source, open_source
from edgepack.errors import ClockError, KeyringError
from edgepack.keys import oms, roles
from edgepack.keys.lints import DAY, days, last_signed, lint_lineage, lint_policy, lint_time
from edgepack.keys.ring import Ring
from edgepack.registry import BundleRow, Registry

UNSIGNED = "metadata/unsigned.json"
TARGETS = "metadata/targets.json"
_LIMITS = Policy("base")
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Unsigned:
    """metadata/unsigned.json: what `build` says about its payload.

    Attributes:
        name: Bundle name.
        device_class: Kind of device.
        min_runtime: Lowest version of edgepack-device.
        expiry_days: Days after which it must not be installed any more.
        raw: Packed name → {"name", "length", "sha256"} of its content.
        candidate: What it was built from.
    """

    name: str
    device_class: str
    min_runtime: str
    expiry_days: int
    raw: dict[str, dict[str, Any]]
    candidate: str


@dataclass(frozen=True, slots=True)
class Signed:
    """What `sign` made.

    Attributes:
        path: The file.
        name: Bundle name.
        version: The version that was drawn.
        digest: Bundle digest, hex.
        size: Bytes.
        complete: Whether it is a bundle; else it is half-signed and goes to the next custodian.
        missing: Key ids that have not signed yet.
    """

    path: Path
    name: str
    version: int
    digest: str
    size: int
    complete: bool
    missing: tuple[str, ...]


def sign_file(ws: Any, ring: Ring, file: Path, *, clock: Clock, force_time: bool = False) -> Signed:
    """Sign an unsigned bundle, or add signatures to a half-signed one.

    Args:
        ws: The workspace.
        ring: Its keys.
        file: `out/*.unsigned` or `*.half`.
        clock: The host's clock: `issued` of a new bundle.
        force_time: Sign although the time does not fit.

    Raises:
        FormatError: Not a file that can be signed.
        ClockError: The time does not fit.
        EvidenceError: A device that taught it is marked as compromised since.
        KeyringError: Roots or keys are missing, or keys were rotated since it was built.
        UsageError: Another bundle of that version is signed already; its class was changed since.
    """
    disk: Disk = ws.disk
    root = roles.newest_root(ws)
    with open_source(disk, file, _LIMITS) as source, Registry.open(ws.registry) as registry:
        if "metadata/timestamp.json" in source.index.entries:
            return _adopt(ws, registry, source, file, clock)
        if UNSIGNED in source.index.entries:
            targets, extra = _fresh(ws, ring, registry, source, roles.seconds(clock), force_time)
        elif TARGETS in source.index.entries:
            targets, extra = _half(ws, registry, source, roles.seconds(clock), force_time)
        else:
            raise UsageError(f"{file} is neither an unsigned nor a half-signed bundle")
        keyids = roles.root_keyids(root)
        roles.sign_with(targets, ring, keyids["targets"])
        missing = tuple(k for k in keyids["targets"] if k not in targets.signatures)
        metadata = {"targets.json": roles.to_bytes(targets)}
        release = ring.signer(keyids["release"][0])
        complete = not missing and release is not None
        if release is not None and not missing:
            metadata |= _release(targets, metadata["targets.json"], release)
        elif not missing:
            missing = keyids["release"]
        document = quorum.read_document(metadata["targets.json"], "targets.json", "targets")
        said = read_targets(document.signed)
        if complete:  # a kit that was written while it travelled knows nothing of this bundle
            lint_policy(ws, said.device_class, source)
        _only_one(registry, said.name, said.version, document.digest)
        suffix = "edgepack" if complete else "half"
        path = ws.out / f"{said.name}-{said.version}.{suffix}"
        size = _write(disk, path, source, metadata, roles.roots(ws), extra)
        if complete:
            try:
                bundle = _verified(ws, path, said.device_class)
            except EdgepackError:
                disk.unlink(path)
                raise
            disk.unlink(path.with_suffix(".half"))
            registry.add_bundle(_row(ws, bundle, path, targets, clock))
    return Signed(path, said.name, said.version, document.digest, size, complete, missing)


def _only_one(registry: Registry, name: str, version: int, digest: str) -> None:
    """See to it that a version is signed once, also where another machine drew it.

    Raises:
        UsageError: Another bundle of that version is signed here.
    """
    known = {row.version: row.digest for row in registry.bundles(name)}
    if known.get(version, digest) != digest:
        raise UsageError(
            f"another {name} {version} is signed already",
            why="devices would take two bundles of one version for a fork",
            next="draw versions on one machine only, and sign its file: edgepack keys sign FILE",
        )
    with registry.commit():
        registry.saw_version(name, version)


def _adopt(ws: Any, registry: Registry, source: Source, file: Path, clock: Clock) -> Signed:
    """Take over a bundle that another custodian completed: verified, into `out/` and the registry.

    Raises:
        EvidenceError, KeyringError, UsageError: As `sign_file`; or it is known here.
    """
    data = source.small(TARGETS, quorum.MAX_DOCUMENT)
    said = read_targets(quorum.read_document(data, "targets.json", "targets").signed)
    if any(row.version == said.version for row in registry.bundles(said.name)):
        raise UsageError(f"{said.name} {said.version} is signed already")
    bundle = _verified(ws, file, said.device_class)
    lint_policy(ws, said.device_class, source)
    lint_lineage(registry, said.name, source)
    path = ws.out / f"{said.name}-{said.version}.edgepack"
    names = source.index.names("metadata")
    metadata = {name: source.small(f"metadata/{name}", quorum.MAX_DOCUMENT) for name in names}
    _write(ws.disk, path, source, metadata, {}, {})
    registry.add_bundle(_row(ws, bundle, path, Metadata[Targets].from_bytes(data), clock))
    ws.disk.unlink(path.with_suffix(".half"))
    return Signed(path, said.name, said.version, bundle.digest, bundle.index.size, True, ())


def _fresh(
    ws: Any, ring: Ring, registry: Registry, source: Source, now: int, force_time: bool
) -> tuple[Metadata[Targets], dict[str, bytes]]:
    """Draw a version and describe the payload; returns targets and files that are added."""
    said = _read_unsigned(source.small(UNSIGNED, 1 << 20))
    root = roles.newest_root(ws)
    facts = quorum.root_facts(root)
    expires = now + said.expiry_days * DAY
    lint_time(now, expires, facts, last_signed(registry, facts, said.name), force_time)
    lint_policy(ws, said.device_class, source)
    lint_lineage(registry, said.name, source)
    files = {name: _digest(source, name) for name in source.index.names("payload")}
    if oms.FILE in files:
        raise FormatError(f"the unsigned bundle brings its own {oms.FILE}")
    extra: dict[str, bytes] = {}
    if ring.has_oms_key():
        digests = {name: digest for name, (_, digest) in files.items()}
        extra[oms.FILE] = oms.sign_model(said.name, digests, ring.oms_key())
        signature = extra[oms.FILE]
        files[oms.FILE] = (len(signature), hashlib.sha256(signature).hexdigest())
    version = registry.draw_version(said.name)
    custom = {
        "v": CUSTOM_VERSION,
        "name": said.name,
        "class": said.device_class,
        "min_runtime": said.min_runtime,
        "issued": now,
        "raw": said.raw,
        "roots": {str(v): quorum.root_sha256(data) for v, data in roles.roots(ws).items()},
        "candidate": said.candidate,
    }
    targets = Targets(
        version=version,
        expires=roles.moment(expires),
        targets={
            name: TargetFile(length, {"sha256": digest}, name)
            for name, (length, digest) in sorted(files.items())
        },
        unrecognized_fields={quorum.CUSTOM: custom},
    )
    return Metadata(targets), extra


def _half(
    ws: Any, registry: Registry, source: Source, now: int, force_time: bool
) -> tuple[Metadata[Targets], dict[str, bytes]]:
    """Take over what other custodians signed, after checking that it is what it says."""
    data = source.small(TARGETS, quorum.MAX_DOCUMENT)
    document = quorum.read_document(data, "targets.json", "targets")
    said = read_targets(document.signed)
    ours = {version: quorum.root_sha256(root) for version, root in roles.roots(ws).items()}
    if said.roots != ours:
        raise KeyringError(
            "this half-signed bundle was made under other roots than this workspace has",
            next="bring metadata/*.root.json of both workspaces together, then sign again",
        )
    for name, target in said.payload.items():
        if _digest(source, name) != (target.length, target.sha256):
            raise FormatError(f"payload/{name} is not what targets.json says")
    if abs(now - said.issued) > DAY and not force_time:
        raise ClockError(
            f"the half-signed bundle was issued {days(now - said.issued)} by this machine's clock"
        )
    lint_lineage(registry, said.name, source)  # a device may be compromised since it was drawn
    return Metadata[Targets].from_bytes(data), {}


def _release(targets: Metadata[Targets], data: bytes, signer: Any) -> dict[str, bytes]:
    """Sign snapshot and timestamp: same version, same expiry, each with the digest of the next."""
    signed = targets.signed
    snapshot = Metadata(
        Snapshot(
            version=signed.version,
            expires=signed.expires,
            meta={"targets.json": _meta(signed.version, data)},
        )
    )
    snapshot.sign(signer)
    snapshot_data = roles.to_bytes(snapshot)
    timestamp = Metadata(
        Timestamp(
            version=signed.version,
            expires=signed.expires,
            snapshot_meta=_meta(signed.version, snapshot_data),
        )
    )
    timestamp.sign(signer)
    return {"snapshot.json": snapshot_data, "timestamp.json": roles.to_bytes(timestamp)}


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _digest(source: Source, name: str) -> tuple[int, str]:
    digest = hashlib.sha256()
    entry = f"payload/{name}"
    for piece in source.chunks(entry):
        digest.update(piece)
    return source.index.entries[entry].size, digest.hexdigest()


def _write(
    disk: Disk,
    path: Path,
    source: Source,
    metadata: dict[str, bytes],
    every_root: dict[int, bytes],
    extra: dict[str, bytes],
) -> int:
    """Write metadata, payload and what is added to it; returns the size of the container."""
    small = {f"metadata/{name}": data for name, data in metadata.items()}
    small |= {f"metadata/{version}.root.json": data for version, data in every_root.items()}
    small |= {f"payload/{name}": data for name, data in extra.items()}
    entries: list[tuple[str, int, Iterable[bytes]]] = [
        (name, len(data), (data,)) for name, data in small.items()
    ]
    entries += [
        (f"payload/{name}", source.index.entries[f"payload/{name}"].size, _pieces(source, name))
        for name in source.index.names("payload")
    ]
    disk.mkdir(path.parent)
    return write_container(disk, path, entries)


def write_container(
    disk: Disk, path: Path, entries: Sequence[tuple[str, int, Iterable[bytes]]]
) -> int:
    """Write a container beside its place, sync it, rename it; returns its size.

    Raises:
        FormatError, TooLargeError: As `container.write`.
    """
    part = path.with_name(path.name + ".part")
    disk.unlink(part)
    handle = disk.create(part, 0o644)
    try:
        size = container.write(lambda data: write_all(handle, data), entries)
        handle.sync()
    except BaseException:
        handle.close()
        disk.unlink(part)
        raise
    handle.close()
    disk.rename(part, path)
    disk.fsync_dir(path.parent)
    return size


def _pieces(source: Source, name: str) -> Iterator[bytes]:
    yield from source.chunks(f"payload/{name}")


def _verified(ws: Any, path: Path, device_class: str) -> VerifiedBundle:
    """Verify a bundle as a device with the first root would."""
    policy = Policy(device_class)
    bundle = verify(ws.disk, path, roles.trusted(ws), policy, name=None, wall_s=None)
    verify_payload(ws.disk, bundle)
    return bundle


def _row(
    ws: Any, bundle: VerifiedBundle, path: Path, targets: Metadata[Targets], clock: Clock
) -> BundleRow:
    custom = targets.signed.unrecognized_fields[quorum.CUSTOM]
    return BundleRow(
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        root_version=bundle.root_version,
        issued=bundle.issued,
        path=str(path.relative_to(ws.root)),
        candidate=str(custom.get("candidate", "")),
        signed=clock.wall_ns(),
    )


def _read_unsigned(data: bytes) -> Unsigned:
    value = canonical.decode(data, UNSIGNED)
    try:
        if (value["format"], value["version"]) != ("edgepack-unsigned", 1):
            raise FormatError(f"{UNSIGNED} is of a format that this edgepack does not read")
        return Unsigned(
            str(value["name"]),
            str(value["device_class"]),
            str(value["min_runtime"]),
            int(value["expiry_days"]),
            dict(value["raw"]),
            str(value.get("candidate", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{UNSIGNED} does not follow its format: {error!r}") from None
