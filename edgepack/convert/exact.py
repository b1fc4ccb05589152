"""Converters of our own, where skl2onnx lacks one or is not exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Converters:
    """What skl2onnx is told beside its own.

    Attributes:
        convert: Estimator class → converter.
        shape: Estimator class → shape calculator.
    """

    convert: dict[type, Callable[..., Any]] = field(default_factory=dict)
    shape: dict[type, Callable[..., Any]] = field(default_factory=dict)


def converters() -> Converters:
    """Return the converters of our own."""
    return Converters()
