"""manifest.json: what a device must know before it loads a model. Signed with the bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format.canonical import expect
from device_runtime.record import asdict, dataclass
from device_runtime.record import fields as record_fields

VERSION = 1
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of manifest.json.

    Attributes:
        name: Bundle name: lower case letters, digits, inner hyphens; at most 64.
        device_class: Kind of device that this is for.
        min_runtime: Lowest version of edgepack-device that may install it, such as "0.1".
        min_onnxruntime: Lowest version of onnxruntime, such as "1.20".
        model: Payload file that holds the model: `model.onnx` or `model.onnx.xz`.
        model_bytes: Length of the raw ONNX file.
        model_sha256: Hex digest of the raw ONNX file.
        ir_version: ONNX IR version.
        opsets: Operator domain → version.
        operators: Every operator that the graph uses, as `domain:Name`, sorted. The domain of
            standard ONNX is written `ai.onnx`.
        peak_rss_bytes: Peak memory of a process that loaded and ran it, measured at build.
        selftest_seconds: Wall time of the self-test at build.
        rtol: Relative tolerance of the self-test.
        atol: Absolute tolerance of the self-test.
        lineage: Hex digest that names the candidate it was built from.
    """

    name: str
    device_class: str
    min_runtime: str
    min_onnxruntime: str
    model: str
    model_bytes: int
    model_sha256: str
    ir_version: int
    opsets: Mapping[str, int]
    operators: tuple[str, ...]
    peak_rss_bytes: int
    selftest_seconds: float
    rtol: float
    atol: float
    lineage: str


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON object of a manifest."""
    value = asdict(manifest)
    value["operators"] = list(manifest.operators)
    value["opsets"] = dict(manifest.opsets)
    return {"format": "edgepack-manifest", "version": VERSION, **value}


def from_json(value: Any) -> Manifest:
    """Read manifest.json after its digest was verified.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    try:
        expect(value, "edgepack-manifest", VERSION)
        fields = {item.name: value[item.name] for item in record_fields(Manifest)}
        fields["operators"] = tuple(str(item) for item in fields["operators"])
        fields["opsets"] = {str(k): int(v) for k, v in fields["opsets"].items()}
        for name in ("model_bytes", "ir_version", "peak_rss_bytes"):
            fields[name] = int(fields[name])
        for name in ("selftest_seconds", "rtol", "atol"):
            fields[name] = float(fields[name])
        manifest = Manifest(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"manifest.json does not follow its format: {error!r}") from None
    if not NAME.fullmatch(manifest.name):
        raise FormatError(f"manifest.json: {manifest.name!r} is not a bundle name")
    if manifest.model not in ("model.onnx", "model.onnx.xz") or manifest.model_bytes < 0:
        raise FormatError("manifest.json names no model file")
    return manifest
