"""Models that somebody brings along, and workspaces that begin with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edgepack.setup.beginning import Beginning, begin
from edgepack.workspace import Workspace

INPUTS = ["a", "b", "n"]


def begun(tmp_path: Path, model: Path, samples: Path, **more) -> Workspace:
    wish = Beginning(model=str(model), samples=str(samples), **more)
    return Workspace.find(begin(tmp_path / "ws", wish).root)


def linear_onnx(
    path: Path, *, opset: int = 18, width: int = 3, nodes: list | None = None, tensor: str = "X"
) -> Path:
    """Write a two-class softmax model over [n, width]."""
    weights = helper.make_tensor("W", TensorProto.FLOAT, [width, 2], np.arange(width * 2) / 10)
    value = helper.make_tensor_value_info
    nodes = nodes or [
        helper.make_node("MatMul", [tensor, "W"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value(tensor, TensorProto.FLOAT, [None, width])],
        [
            value("label", TensorProto.INT64, [None]),
            value("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
