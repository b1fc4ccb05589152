"""OrdinalEncoder over numbers, by skl2onnx, its codes in double where the columns beside are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def ordinal_shape(double: bool) -> Callable[..., Any]:
    """Return the shape calculator: double beside doubles, or those become float32."""
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.shape_calculators.ordinal_encoder import (
        calculate_sklearn_ordinal_encoder_output_shapes as theirs,
    )

    def shapes(operator: Any) -> None:
        theirs(operator)
        if double and operator.raw_operator.dtype == np.float64:
            operator.outputs[0].type = DoubleTensorType(operator.outputs[0].type.shape)

    return shapes


def ordinal(double: bool) -> Callable[..., Any]:
    """Return the converter: skl2onnx's nodes, of which the last one casts the codes."""
    from onnx import TensorProto
    from skl2onnx.operator_converters.ordinal_encoder import (
        convert_sklearn_ordinal_encoder as theirs,
    )

    def convert(scope: Any, operator: Any, container: Any) -> None:
        theirs(scope, operator, container)
        if double and "Double" in type(operator.outputs[0].type).__name__:
            (to,) = container.nodes[-1].attribute
            to.i = TensorProto.DOUBLE

    return convert
