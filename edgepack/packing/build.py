"""Candidate → the bytes of an unsigned bundle: the same bytes from the same candidate, anywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from device_runtime.disk import write_durable
from device_runtime.errors import TooLargeError
from device_runtime.format import canonical, container
from edgepack.candidate.folder import Candidate
from edgepack.packing.payload import assemble
from edgepack.registry import Registry
from edgepack.taught import check_taught
from edgepack.workspace import Workspace

SUFFIX = ".unsigned"


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An unsigned bundle on disk.

    Attributes:
        path: `out/NAME-<12 hex>.unsigned`; the hex digits begin its SHA-256.
        size: Bytes.
        digest: Hex SHA-256 of the whole file.
    """

    path: Path
    size: int
    digest: str


def unsigned_bytes(ws: Workspace, candidate: Candidate) -> bytes:
    """Return the container: `metadata/unsigned.json` and the payload, nothing of this machine."""
    payload = assemble(ws, candidate)
    header = canonical.encode(
        {
            "format": "edgepack-unsigned",
            "version": 1,
            "name": candidate.name,
            "device_class": candidate.facts["device_class"],
            "min_runtime": payload.manifest.min_runtime,
            "expiry_days": payload.expiry_days,
            "raw": {name: dict(facts) for name, facts in payload.raw.items()},
            "candidate": candidate.number,
        }
    )
    entries = [("metadata/unsigned.json", len(header), [header])]
    entries += [(f"payload/{name}", len(data), [data]) for name, data in payload.files.items()]
    parts: list[bytes] = []
    container.write(parts.append, entries)
    return b"".join(parts)


def build(ws: Workspace, candidate: Candidate) -> Unsigned:
    """Write the unsigned bundle of a candidate into `out/`.

    Raises:
        EvidenceError: A device that taught it is marked as compromised since.
        TooLargeError: Larger than the class's devices take, or than FAT32 holds.
    """
    with Registry.open(ws.registry) as registry:
        check_taught(registry, candidate.name, candidate.json("lineage.json"))
    data = unsigned_bytes(ws, candidate)
    policy = ws.policy(candidate.facts["device_class"])
    if len(data) > policy.max_bundle_bytes:
        raise TooLargeError(
            f"the bundle has {len(data):,} bytes, class {policy.device_class} takes "
            f"{policy.max_bundle_bytes:,}",
            next="use a smaller model, or raise max_bundle_bytes in edgepack.toml",
        )
    digest = hashlib.sha256(data).hexdigest()
    ws.disk.mkdir(ws.out)
    path = ws.out / f"{candidate.name}-{digest[:12]}{SUFFIX}"
    write_durable(ws.disk, path, data, 0o644)
    return Unsigned(path, len(data), digest)
