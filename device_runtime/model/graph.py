"""What a model file holds, learnt by a bounded walk over its protobuf, without the onnx package.

The same gate stands at build and on the device, with the same words: `inspect_graph` refuses what
is broken or dangerous by itself, `admit` refuses what the manifest does not list, the policy does
not allow, or the onnxruntime at hand does not run.

Field numbers are those of onnx.proto (ONNX, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Collection

from device_runtime.errors import AdmissionError, ModelLoadError
from device_runtime.format.manifest import Manifest
from device_runtime.model.facts import GraphFacts, TensorFacts
from device_runtime.model.ortlib import installed_version
from device_runtime.model.walk import walk
from device_runtime.policy import Policy

__all__ = ["GraphFacts", "TensorFacts", "admit", "inspect_graph", "minimal_onnxruntime"]

CONTROL_FLOW = frozenset(("ai.onnx:Loop", "ai.onnx:If", "ai.onnx:Scan", "ai.onnx:SequenceMap"))
# onnxruntime → highest ai.onnx, ai.onnx.ml and IR that it loads, where one of them rises.
# Asked of the wheels 1.20 to 1.32 themselves: tools/runtime_table.py.
RUNTIMES = (
    ((1, 20), 21, 5, 10),
    ((1, 21), 22, 5, 10),
    ((1, 23), 23, 5, 11),
    ((1, 24), 25, 5, 13),
    ((1, 25), 26, 5, 13),
    ((1, 32), 28, 5, 14),
)


def inspect_graph(model: bytes | memoryview, *, max_bytes: int = 2 << 30) -> GraphFacts:
    """Walk a model file.

    Args:
        model: Raw ONNX.
        max_bytes: Largest file that is looked at.

    Raises:
        ModelLoadError: Not an ONNX file, external data, a cycle, a shape or constant beyond all
            measure, nested too deep, recursive functions.
    """
    data = memoryview(model).cast("B")
    if len(data) > max_bytes:
        raise ModelLoadError(f"the model has {len(data)} bytes; {max_bytes} are allowed")
    return walk(data)


def admit(
    facts: GraphFacts, manifest: Manifest | None, policy: Policy, *, onnxruntime: str = ""
) -> None:
    """Refuse a model that this device (or, at build, this class of device) must not load.

    Args:
        facts: From `inspect_graph`.
        manifest: What was signed; None at build, before there is one.
        policy: What the class of device allows.
        onnxruntime: Version that will run it, such as "1.32.0"; empty: the installed one.

    Raises:
        AdmissionError: With the first reason and every offending operator.
    """
    if facts.size > policy.max_model_bytes:
        raise AdmissionError(
            f"the model has {facts.size} bytes; this class of device allows at most "
            f"{policy.max_model_bytes}"
        )
    if manifest is not None:
        _as_signed(facts, manifest)
    flow = sorted(CONTROL_FLOW & set(facts.operators))
    if flow and not policy.control_flow:
        raise AdmissionError(
            f"the model uses {', '.join(flow)}, and this class of device allows no control flow",
            why="a loop in a model can run for ever",
            next="allow it with control_flow = true in [class.NAME] of edgepack.toml and a new kit",
        )
    strange = [name for name in facts.operators if not _allowed(name, policy.operators)]
    if strange:
        raise AdmissionError(
            f"the model uses {', '.join(strange)}, which this class of device does not allow",
            why="only operators that the policy lists may run",
            next="list them under operators in [class.NAME] of edgepack.toml, and make a new kit",
        )
    onnxruntime = onnxruntime or installed_version()
    needed = minimal_onnxruntime(facts)
    if _version(onnxruntime) < _version(needed):
        raise AdmissionError(
            f"the model needs onnxruntime {needed} or newer; this is {onnxruntime}",
            next="install a newer onnxruntime, or build with an older opset",
        )


def _as_signed(facts: GraphFacts, manifest: Manifest) -> None:
    extra = sorted(set(facts.operators) - set(manifest.operators))
    if extra:
        raise AdmissionError(f"the model uses {', '.join(extra)}, which its manifest does not list")
    if facts.ir_version != manifest.ir_version or dict(facts.opsets) != dict(manifest.opsets):
        raise AdmissionError("the model's IR or opsets are not those that its manifest lists")
    if facts.size != manifest.model_bytes:
        raise AdmissionError(
            f"the model has {facts.size} bytes; its manifest says {manifest.model_bytes}"
        )


def _allowed(operator: str, allowed: Collection[str]) -> bool:
    return operator in allowed or f"{operator.rpartition(':')[0]}:*" in allowed


def minimal_onnxruntime(facts: GraphFacts) -> str:
    """Return the lowest onnxruntime that runs these opsets and this IR, such as "1.20".

    Raises:
        AdmissionError: They are newer than any that this program knows.
    """
    opset, ml = facts.opsets.get("ai.onnx", 1), facts.opsets.get("ai.onnx.ml", 1)
    for version, most, most_ml, most_ir in RUNTIMES:
        if opset <= most and ml <= most_ml and facts.ir_version <= most_ir:
            return ".".join(map(str, version))
    raise AdmissionError(
        f"opset {opset}, ai.onnx.ml {ml}, IR {facts.ir_version}: newer than this program knows",
        next="export the model with an older opset, or update edgepack",
    )


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
