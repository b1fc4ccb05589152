"""Write the kit of one device: what it must trust and accept, signed, in one file.

Where a targets key is with another custodian, the result is `NAME.kit.half`: a file that travels to
him, and `edgepack keys sign` there makes it a kit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device_runtime import policy as policies
from device_runtime.clock import Clock
from device_runtime.disk import Disk, file_chunks
from device_runtime.errors import FormatError, UsageError
from device_runtime.format import canonical
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import kit as kits
from device_runtime.trust import quorum
from device_runtime.trust.bundle import verify
from device_runtime.trust.custom import Target
from device_runtime.trust.source import open_source
from edgepack.errors import DeviceUnknownError, KeyringError
from edgepack.fleet.devices import check_class
from edgepack.keys import roles
from edgepack.keys.ring import Ring
from edgepack.keys.sign import write_container
from edgepack.registry import Registry
from edgepack.workspace import check_out


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: The kit; `.half` if it is not complete.
        device: Name of the device that it is for.
        words: Its eight words; empty until it is complete.
        missing: Ids of the targets keys that have not signed.
    """

    path: Path
    device: str
    words: str
    missing: tuple[str, ...]


def write_kit(
    ws: Any,
    ring: Ring,
    device_name: str,
    out: Path,
    *,
    wheels: Path | None = None,
    bundle: Path | None = None,
    clock: Clock,
) -> Written:
    """Write `out`, or `out` + `.half` where a targets key is elsewhere.

    Args:
        ws: The workspace.
        ring: Its keys.
        device_name: A device that `device new` named.
        out: The kit file; replaced if it is there.
        wheels: A folder of wheels that go along, None for none.
        bundle: A signed bundle that goes along, None for none.
        clock: For the record.

    Raises:
        DeviceUnknownError: No such device was named.
        UsageError: A file or folder that was named is not there; its recipe is for another class.
        IncompatibleError: The bundle is another one than the device runs.
    """
    _check_paths(out, wheels, bundle)
    with Registry.open(ws.registry) as registry:
        plan = registry.plan(device_name)
        if plan is None:
            raise DeviceUnknownError(
                f"no device {device_name} was planned here",
                next=f"run: edgepack device new {device_name}",
            )
        check_class(ws, plan.bundle, plan.device_class, "edgepack device new OTHER-NAME --class")
        trusted = roles.trusted(ws)
        policy = roles.class_policy(ws, plan.device_class)
        sources: dict[str, Path] = {}
        if bundle is not None:
            _check_bundle(ws, bundle, plan.bundle, policy)
            sources[bundle.name] = bundle
        if wheels is not None:
            sources.update((path.name, path) for path in sorted(wheels.glob("*.whl")))
        kit_id = os.urandom(16).hex()
        policy_bytes = canonical.encode(policies.to_json(policy))
        files = {name: _target(ws.disk, path) for name, path in sources.items()}
        files[kits.POLICY] = Target(len(policy_bytes), hashlib.sha256(policy_bytes).hexdigest())
        signed = _signed(
            kit_id=kit_id,
            device=plan.name,
            device_class=plan.device_class,
            bundle=plan.bundle,
            floor=_floor(registry, plan.bundle, trusted),
            issued=roles.seconds(clock),
            roots=roles.roots(ws),
            files=files,
        )
        payload: list[tuple[str, int, Iterable[bytes]]] = [
            _small(f"payload/{kits.POLICY}", policy_bytes),
            *(
                (f"payload/{name}", files[name].length, file_chunks(ws.disk, path))
                for name, path in sources.items()
            ),
        ]
        made = _write(ws, ring, out, {"signed": signed, "signatures": []}, payload)
        registry.put_plan(replace(plan, kit_id=kit_id))
    return made


def is_kit(disk: Disk, file: Path) -> bool:
    """Whether a file is a kit, complete or not; nothing is verified."""
    try:
        with open_source(disk, file, Policy("base")) as source:
            return kits.KIT in source.index.names("metadata")
    except FormatError:
        return False


def sign_kit(ws: Any, ring: Ring, file: Path) -> Written:
    """Add this ring's signatures to a half-signed kit, after checking that it is what it says.

    Raises:
        FormatError, VerificationError: It is no kit, or its payload is not what kit.json lists.
        KeyringError: It was made under other roots than this workspace has.
    """
    with open_source(ws.disk, file, Policy("base")) as source:
        data = source.small(f"metadata/{kits.KIT}", quorum.MAX_DOCUMENT)
        document = quorum.read_document(data, kits.KIT, kits.KIND)
        roots = {str(v): quorum.root_sha256(root) for v, root in roles.roots(ws).items()}
        if document.signed.get("roots") != roots:
            raise KeyringError(
                "this kit was made under other roots than this workspace has",
                next="bring metadata/*.root.json of both workspaces together",
            )
        files = kits.files_of(document.signed)
        if set(files) != set(source.index.names("payload")):
            raise FormatError("the kit holds other files than it lists")
        for name, target in files.items():
            source.stream(f"payload/{name}", target)
        payload: list[tuple[str, int, Iterable[bytes]]] = [
            (f"payload/{name}", target.length, source.chunks(f"payload/{name}"))
            for name, target in files.items()
        ]
        out = file.with_suffix("") if file.suffix == ".half" else file
        return _write(ws, ring, out, canonical.decode(data, kits.KIT), payload)


def _write(
    ws: Any,
    ring: Ring,
    out: Path,
    body: dict[str, Any],
    payload: list[tuple[str, int, Iterable[bytes]]],
) -> Written:
    """Sign kit.json with what is here and write the container."""
    message = quorum.encode_signed(body["signed"])
    wanted = roles.root_keyids(roles.newest_root(ws))["targets"]
    signatures = {item["keyid"]: item["sig"] for item in body["signatures"]}
    for keyid in wanted:
        signer = ring.signer(keyid)
        if signer is not None and keyid not in signatures:
            signatures[keyid] = signer.sign(message).signature
    body["signatures"] = [{"keyid": k, "sig": signatures[k]} for k in sorted(signatures)]
    missing = tuple(keyid for keyid in wanted if keyid not in signatures)
    half = out.with_name(out.name + ".half")
    entries = [
        _small(f"metadata/{kits.KIT}", canonical.encode(body)),
        *(_small(f"metadata/{v}.root.json", data) for v, data in roles.roots(ws).items()),
        *payload,
    ]
    write_container(ws.disk, half if missing else out, entries)
    name = str(body["signed"]["device"])
    if missing:
        return Written(half, name, "", missing)
    ws.disk.unlink(half)
    return Written(out, name, kits.read_kit(ws.disk, out).words, ())


def _signed(
    *,
    kit_id: str,
    device: str,
    device_class: str,
    bundle: str,
    floor: int,
    issued: int,
    roots: Mapping[int, bytes],
    files: Mapping[str, Target],
) -> dict[str, Any]:
    """Return the `signed` part of kit.json."""
    return {
        "_type": kits.KIND,
        "version": kits.VERSION,
        "kit": kit_id,
        "device": device,
        "class": device_class,
        "bundle": bundle,
        "floor": floor,
        "issued": issued,
        "roots": {str(version): quorum.root_sha256(data) for version, data in roots.items()},
        "files": {
            name: {"length": item.length, "sha256": item.sha256} for name, item in files.items()
        },
    }


def _floor(registry: Registry, name: str, trusted: Trusted) -> int:
    """Return the first time floor: signed times only, so a wrong clock here harms no device."""
    revoked = quorum.root_facts(trusted.root).revoked_digests
    issued = [row.issued for row in registry.bundles(name) if row.digest not in revoked]
    return max([trusted.floor, *issued])


def _check_paths(out: Path, wheels: Path | None, bundle: Path | None) -> None:
    check_out(out)
    if bundle is not None and not bundle.is_file():
        raise UsageError(f"there is no file {bundle}", next="name a bundle of out/")
    if wheels is not None and not any(wheels.glob("*.whl")):
        raise UsageError(f"there are no wheels in {wheels}", next="make them: make wheelhouse")


def _check_bundle(ws: Any, bundle: Path, name: str, policy: Policy) -> None:
    """The device would refuse another name or class: say so here, where it can be changed."""
    verify(ws.disk, bundle, roles.trusted(ws), policy, name=name, wall_s=None)


def _target(disk: Disk, path: Path) -> Target:
    digest, length = hashlib.sha256(), 0
    for piece in file_chunks(disk, path):
        digest.update(piece)
        length += len(piece)
    return Target(length, digest.hexdigest())


def _small(name: str, data: bytes) -> tuple[str, int, Iterable[bytes]]:
    return name, len(data), (data,)
