"""Write the kit of one device: what it must trust and accept, signed, in one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_runtime import policy as policies
from device_runtime.clock import Clock
from device_runtime.disk import Disk
from device_runtime.errors import UsageError
from device_runtime.format import canonical
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import kit as kits
from device_runtime.trust import quorum
from device_runtime.trust.bundle import verify
from device_runtime.trust.custom import Target
from device_runtime.trust.source import chunks_of
from edgepack.errors import DeviceUnknownError, KeyringError
from edgepack.keys import roles
from edgepack.keys.ring import Ring
from edgepack.keys.sign import write_container
from edgepack.registry import Registry


def write_kit(
    ws: Any,
    ring: Ring,
    device_name: str,
    out: Path,
    *,
    wheels: Path | None = None,
    bundle: Path | None = None,
    clock: Clock,
) -> str:
    """Write `out` and return its eight words.

    Args:
        ws: The workspace.
        ring: Its keys; both targets keys must be here.
        device_name: A device that `device new` named.
        out: The kit file; replaced if it is there.
        wheels: A folder of wheels that go along, None for none.
        bundle: A signed bundle that goes along, None for none.
        clock: For the record.

    Raises:
        DeviceUnknownError: No such device was named.
        UsageError: The bundle is another one than the device runs.
        KeyringError: A targets key is elsewhere.
    """
    with Registry.open(ws.registry) as registry:
        plan = registry.plan(device_name)
        if plan is None:
            raise DeviceUnknownError(
                f"no device {device_name} was planned here",
                next=f"run: edgepack device new {device_name}",
            )
        trusted = roles.trusted(ws)
        policy = roles.class_policy(ws, plan.device_class)
        sources: dict[str, Path] = {}
        if bundle is not None:
            _check_bundle(ws, bundle, plan.bundle, policy)
            sources[bundle.name] = bundle
        if wheels is not None:
            sources.update((path.name, path) for path in sorted(wheels.glob("*.whl")))
            if not any(name.endswith(".whl") for name in sources):
                raise UsageError(f"there are no wheels in {wheels}")
        kit_id = os.urandom(16).hex()
        policy_bytes = canonical.encode(policies.to_json(policy))
        files = {name: _target(ws.disk, path) for name, path in sources.items()}
        files[kits.POLICY] = Target(len(policy_bytes), hashlib.sha256(policy_bytes).hexdigest())
        signed = kits.kit_signed(
            kit_id=kit_id,
            device=plan.name,
            device_class=plan.device_class,
            bundle=plan.bundle,
            floor=_floor(registry, plan.bundle, trusted),
            issued=roles.seconds(clock),
            roots=roles.roots(ws),
            files=files,
        )
        entries: list[tuple[str, int, Iterable[bytes]]] = [
            _small("metadata/kit.json", _sign(ws, ring, signed)),
            _small(f"payload/{kits.POLICY}", policy_bytes),
        ]
        entries += [
            _small(f"metadata/{version}.root.json", data)
            for version, data in roles.roots(ws).items()
        ]
        entries += [
            (f"payload/{name}", files[name].length, chunks_of(ws.disk, path))
            for name, path in sources.items()
        ]
        write_container(ws.disk, out, entries)
        kit = kits.read_kit(ws.disk, out)
        registry.put_plan(replace(plan, kit_id=kit_id))
    return kit.words


def _floor(registry: Registry, name: str, trusted: Trusted) -> int:
    """Return the first time floor: signed times only, so a wrong clock here harms no device."""
    revoked = quorum.root_facts(trusted.root).revoked_digests
    issued = [row.issued for row in registry.bundles(name) if row.digest not in revoked]
    return max([trusted.floor, *issued])


def _sign(ws: Any, ring: Ring, signed: dict[str, Any]) -> bytes:
    payload = quorum.encode_signed(signed)
    signatures = []
    for keyid in sorted(roles.root_keyids(roles.newest_root(ws))["targets"]):
        signer = ring.signer(keyid)
        if signer is None:
            raise KeyringError(
                f"the targets key {keyid[:8]} is not in {ring.folder}",
                next="bring both targets keys together to write a kit",
            )
        signatures.append({"keyid": keyid, "sig": signer.sign(payload).signature})
    return canonical.encode({"signed": signed, "signatures": signatures})


def _check_bundle(ws: Any, bundle: Path, name: str, policy: Policy) -> None:
    """The device would refuse another name or class: say so here, where it can be changed."""
    verify(ws.disk, bundle, roles.trusted(ws), policy, name=name, wall_s=None)


def _target(disk: Disk, path: Path) -> Target:
    digest, length = hashlib.sha256(), 0
    for piece in chunks_of(disk, path):
        digest.update(piece)
        length += len(piece)
    return Target(length, digest.hexdigest())


def _small(name: str, data: bytes) -> tuple[str, int, Iterable[bytes]]:
    return name, len(data), (data,)
