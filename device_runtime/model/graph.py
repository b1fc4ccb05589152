"""What a model file holds, learnt by a bounded walk over its protobuf, without the onnx package.

The same gate stands at build and on the device, with the same words: `inspect_graph` refuses what
is broken or dangerous by itself, `admit` refuses what the manifest does not list, the policy does
not allow, or the onnxruntime at hand does not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from device_runtime.format.manifest import Manifest
from device_runtime.policy import Policy


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output of the graph.

    Attributes:
        name: Its name.
        dtype: A key of `format.schema.DTYPES`, or "" for what this product does not feed.
        shape: Sizes; -1 for a size that is open. None when the graph does not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What was found.

    Attributes:
        ir_version: ONNX IR version.
        opsets: Operator domain → version; standard ONNX is `ai.onnx`.
        operators: Every operator used, also inside subgraphs and functions, as `domain:Name`,
            sorted.
        inputs: What the graph wants to be fed (initializers left out).
        outputs: What it answers.
        nodes: Nodes, with every call of a function expanded.
        initializer_bytes: Bytes of constants.
        size: Bytes of the file.
    """

    ir_version: int
    opsets: Mapping[str, int]
    operators: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    nodes: int
    initializer_bytes: int
    size: int


def inspect_graph(model: bytes | memoryview, *, max_bytes: int = 2 << 30) -> GraphFacts:
    """Walk a model file.

    Raises:
        ModelLoadError: Not an ONNX file, external data, a cycle, a shape or constant beyond all
            measure, nested too deep, recursive functions.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def minimal_onnxruntime(facts: GraphFacts) -> str:
    """Return the lowest onnxruntime that runs these opsets and this IR, such as "1.20"."""
    raise NotImplementedError
