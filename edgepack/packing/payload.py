"""A candidate → the files of a bundle's payload, byte for byte the same every time."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_runtime._version import __version__
from device_runtime.format import canonical
from device_runtime.format.manifest import Manifest, to_json
from device_runtime.model.unlike import FILE as UNLIKE
from device_runtime.policy import to_json as policy_json
from edgepack.candidate.folder import Candidate
from edgepack.packing.card import model_card, sbom
from edgepack.workspace import Workspace

EXPIRY_DAYS = 400
SQUEEZED = (
    "model.onnx",
    "sbom.cdx.json",
    "policy.json",
    "profile.json",
    "schema.json",
    "MODEL_CARD.md",
    "lineage.json",
)
PAYS = 0.9  # a file travels as .xz if that makes it at least a tenth smaller ...
SMALL = 2048  # ... and it is not tiny anyway


@dataclass(frozen=True, slots=True)
class Payload:
    """What will be signed.

    Attributes:
        files: Entry name (without `payload/`) → bytes as they travel.
        raw: Entry name of each .xz → {name, length, sha256} of what it expands to.
        expiry_days: How long the signed bundle may be installed.
        manifest: What the device will read first.
    """

    files: Mapping[str, bytes]
    raw: Mapping[str, Mapping[str, Any]]
    expiry_days: int
    manifest: Manifest


def min_runtime() -> str:
    """Return the lowest edgepack-device that reads what this version writes, such as "0.1"."""
    return ".".join(__version__.split(".")[:2])


def squeeze(data: bytes) -> bytes:
    """Return a standard .xz of some bytes, with the settings that make it smallest.

    The dictionary is no larger than the data: both sides would allocate it whole.
    """
    best = b""
    dictionary = min(max(4096, 1 << (len(data) - 1).bit_length()), 64 << 20)
    for lc, pb in ((3, 2), (3, 0), (0, 2)):
        filters = [
            {
                "id": lzma.FILTER_LZMA2,
                "preset": 9 | lzma.PRESET_EXTREME,
                "dict_size": dictionary,
                "lc": lc,
                "lp": 0,
                "pb": pb,
            }
        ]
        made = lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
        if not best or len(made) < len(best):
            best = made
        if len(data) > 32 << 20:
            break
    return best


def assemble(ws: Workspace, candidate: Candidate) -> Payload:
    """Return everything that goes into `payload/`."""
    from edgepack.keys.roles import class_policy

    facts = candidate.facts
    model = candidate.model
    lineage = candidate.json("lineage.json")
    files: dict[str, bytes] = {
        name: candidate.read(name)
        for name in ("schema.json", "profile.json", "selftest.cols", "lineage.json")
    }
    if (candidate.folder / UNLIKE).is_file():
        files[UNLIKE] = candidate.read(UNLIKE)
    files["model.onnx"] = model
    files["policy.json"] = canonical.encode(policy_json(class_policy(ws, facts["device_class"])))
    files["sbom.cdx.json"] = canonical.encode(sbom(candidate, lineage))
    files["MODEL_CARD.md"] = model_card(candidate, lineage).encode()
    raw: dict[str, Mapping[str, Any]] = {}
    for name in SQUEEZED:
        data = files[name]
        small = squeeze(data) if len(data) >= SMALL else data
        if len(small) < PAYS * len(data):
            del files[name]
            files[name + ".xz"] = small
            digest = hashlib.sha256(data).hexdigest()
            raw[name + ".xz"] = {"name": name, "length": len(data), "sha256": digest}
    manifest = Manifest(
        name=candidate.name,
        device_class=facts["device_class"],
        min_runtime=min_runtime(),
        min_onnxruntime=facts["min_onnxruntime"],
        model="model.onnx.xz" if "model.onnx.xz" in files else "model.onnx",
        model_bytes=len(model),
        model_sha256=hashlib.sha256(model).hexdigest(),
        ir_version=facts["ir_version"],
        opsets=facts["opsets"],
        operators=tuple(facts["operators"]),
        peak_rss_bytes=facts["peak_rss_bytes"],
        selftest_seconds=facts["selftest_seconds"],
        rtol=facts["rtol"],
        atol=facts["atol"],
        lineage=candidate.digest,
    )
    files["manifest.json"] = canonical.encode(to_json(manifest))
    expires = facts.get("expires_s")
    days = EXPIRY_DAYS if not expires else max(1, round(expires / 86_400))
    return Payload(files, raw, days, manifest)
