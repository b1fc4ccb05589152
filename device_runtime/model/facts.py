"""What the walk over a model finds and keeps: facts, names in scope, sizes within measure."""

from __future__ import annotations

from collections.abc import Mapping

from device_runtime.errors import ModelLoadError
from device_runtime.record import dataclass, field

MAX_VALUES = 1 << 28  # of one tensor that a graph declares or makes out of a constant shape
MAX_RANK = 16


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


@dataclass
class Function:
    """A function of the model: what it uses and calls."""

    nodes: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Scope:
    """Names that a node may use, and the small whole-number constants among them."""

    names: set[bytes]
    outer: Scope | None = None
    depth: int = 0
    shapes: dict[bytes, list[int]] = field(default_factory=dict)

    def has(self, name: bytes) -> bool:
        """Return whether a node may use the name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            scope = scope.outer
        return False

    def shape(self, name: bytes) -> list[int] | None:
        """Return the constant under that name, where it is a small one of whole numbers."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.shapes:
                return scope.shapes[name]
            scope = scope.outer
        return None

    def add(self, name: bytes, what: str) -> None:
        """Let the nodes that follow use the name; a name is made once."""
        if name and name in self.names:
            raise ModelLoadError(f"the model makes {what} {readable(name)} twice")
        self.names.add(name)


def domain_of(name: str) -> str:
    """Return the name of an operator domain; the empty one is standard ONNX."""
    return name or "ai.onnx"


def readable(name: bytes) -> str:
    """Return a name of the file as text that is safe to print."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)


def measure(sizes: list[int] | None, what: str, limit: int = MAX_VALUES) -> int:
    """Return the product of some sizes; refuse one beyond all measure."""
    count = 1
    for size in sizes or ():
        if size < 0:
            raise ModelLoadError(f"{what} has a negative size")
        count *= size
    if count > limit or len(sizes or ()) > MAX_RANK:
        raise ModelLoadError(f"{what} has {count} values; {limit} are the most")
    return count
