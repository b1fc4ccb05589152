"""Shorthand for adding nodes to what skl2onnx builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Graph:
    """One converter's view of the graph: skl2onnx's scope and container."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str | None = None,
        *,
        domain: str = "",
        version: int | None = None,
        **given: Any,
    ) -> str:
        """Add a node; return the name of its output."""
        out = output or self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(
            kind,
            list(inputs),
            [out],
            op_domain=domain,
            op_version=version,
            name=self._scope.get_unique_operator_name(kind),
            **given,
        )
        return str(out)

    def constant(self, values: Any, dtype: Any) -> str:
        """Add a constant tensor; return its name."""
        from onnx import TensorProto, numpy_helper

        name = str(self._scope.get_unique_variable_name("constant"))
        array = np.asarray(values)
        if dtype is str:
            data = [str(item).encode() for item in array.ravel()]
            self._container.add_initializer(name, TensorProto.STRING, list(array.shape), data)
        else:
            tensor = numpy_helper.from_array(array.astype(dtype), name)
            self._container.add_initializer(name, tensor.data_type, list(array.shape), tensor)
        return name


# numpy's functions in ONNX, over a double: (operators in order; a number is added or taken off).
FUNCTIONS: dict[str, tuple[str | float, ...]] = {
    "log": ("Log",),
    "log1p": (1.0, "Log"),
    "exp": ("Exp",),
    "expm1": ("Exp", -1.0),
    "sqrt": ("Sqrt",),
    "square": ("Square",),
    "abs": ("Abs",),
    "negative": ("Neg",),
    "reciprocal": ("Reciprocal",),
}


def has_form(func: Any) -> bool:
    """Whether a function is one of numpy's that ONNX has."""
    name = getattr(func, "__name__", "")
    name = "abs" if name == "absolute" else name
    return name in FUNCTIONS and getattr(np, name, None) is func


def apply(graph: Graph, func: Any, x: str) -> str:
    """Add the nodes of one of numpy's functions over a double."""
    name = func.__name__
    for item in FUNCTIONS["abs" if name == "absolute" else name]:
        if isinstance(item, float):
            x = graph.node("Add", [x, graph.constant([item], np.float64)], version=14)
        elif item == "Square":
            x = graph.node("Mul", [x, x], version=14)
        else:
            x = graph.node(item, [x], version=13)
    return x


def matrix(graph: Graph, operator: Any) -> tuple[str, bool]:
    """Return (all inputs of an operator side by side as one double matrix, whether one was)."""
    from onnx import TensorProto

    parts = []
    double = False
    for item in operator.inputs:
        double |= "Double" in type(item.type).__name__
        parts.append(graph.node("Cast", [item.full_name], version=13, to=TensorProto.DOUBLE))
    if len(parts) == 1:
        return parts[0], double
    return graph.node("Concat", parts, version=13, axis=1), double


def mirrored(graph: Graph, raw: str) -> str:
    """Return [-s, s] of s [n, 1]."""
    return graph.node("Concat", [graph.node("Neg", [raw], version=13), raw], version=13, axis=1)
