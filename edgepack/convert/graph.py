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
