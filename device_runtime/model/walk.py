"""The walk behind `graph.inspect_graph`: every node, subgraph, function and constant, once.

A file may say anything: so every list is bounded, a field that must stand once may stand only once
(protobuf would merge them, and another reader might merge them in another way), and names must be
made before they are used, which leaves no room for cycles.
"""

from __future__ import annotations

from collections.abc import Iterator

from device_runtime.errors import ModelLoadError
from device_runtime.model.capi import ELEMENT
from device_runtime.model.facts import (
    MAX_RANK,
    Function,
    GraphFacts,
    Scope,
    TensorFacts,
    domain_of,
    measure,
    readable,
)
from device_runtime.model.wire import BYTES, VARINT, Item, broken, items, numbers

MAX_NODES = 1_000_000  # with every call of a function expanded
MAX_DEPTH = 16  # subgraphs within subgraphs
MAX_TENSORS = 1_000_000
MAX_NAME = 4096  # bytes
LEAST_OPSET = 7

# Operators that make a tensor as large as a small constant says, and which input says it.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
_RANDOM = ("RandomNormal", "RandomUniform")


def walk(data: memoryview) -> GraphFacts:
    """Return what the model file holds; see `graph.inspect_graph`."""
    walker = _Walker(data)
    return walker.model()


class _Walker:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.operators: set[str] = set()
        self.functions: dict[tuple[str, str], Function] = {}
        self.here = Function()  # whose nodes are counted
        self.tensors = 0
        self.constant_bytes = 0

    # --- the model and its functions ---------------------------------------------------------

    def model(self) -> GraphFacts:
        singles, lists = self._message(
            Item(0, BYTES, 0, len(self.data)), once=(1, 7), many=(8, 20, 25), what="the model"
        )
        if 7 not in singles or 1 not in singles:
            raise ModelLoadError("the file is no ONNX model: it has no graph or no IR version")
        if lists[20]:
            raise ModelLoadError("the model carries graphs for training, which a device never runs")
        ir_version = self._number(singles[1])
        opsets = self._opsets(lists[8])
        for item in lists[25]:
            self._declare(item)
        for item in lists[25]:
            self._function(item)
        self.here = main = Function()
        inputs, outputs = self._graph(singles[7], None)
        return GraphFacts(
            ir_version=ir_version,
            opsets=opsets,
            operators=tuple(sorted(self.operators)),
            inputs=inputs,
            outputs=outputs,
            nodes=self._expand(main),
            initializer_bytes=self.constant_bytes,
            size=len(self.data),
        )

    def _opsets(self, lists: list[Item]) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in lists:
            singles, _ = self._message(item, once=(1, 2), what="an opset")
            domain = domain_of(self._string(singles.get(1)))
            version = self._number(singles[2]) if 2 in singles else 0
            if found.setdefault(domain, version) != version:
                raise ModelLoadError(f"the model imports {domain} in two versions")
        if found.get("ai.onnx", LEAST_OPSET) < LEAST_OPSET:
            raise ModelLoadError(
                f"the model has opset {found['ai.onnx']}; {LEAST_OPSET} is the oldest that runs"
            )
        return found

    def _declare(self, item: Item) -> None:
        singles, _ = self._message(item, once=(1, 10), what="a function")
        key = domain_of(self._string(singles.get(10))), self._string(singles.get(1))
        if key[0] in ("ai.onnx", "ai.onnx.ml"):
            raise ModelLoadError(f"the model defines its own {key[1]} in the domain {key[0]}")
        if key in self.functions:
            raise ModelLoadError(f"the model defines the function {key[1]} twice")
        self.functions[key] = Function()

    def _function(self, item: Item) -> None:
        singles, lists = self._message(item, once=(1, 10), many=(4, 5, 7, 9, 11), what="a function")
        name = self._string(singles.get(1))
        self.here = self.functions[domain_of(self._string(singles.get(10))), name]
        self._opsets(lists[9])
        scope = Scope({self._name(value) for value in lists[4]})
        for value in lists[11]:
            self._attribute(value, scope)
        for value in lists[7]:
            self._node(value, scope)
        self._made((self._name(value) for value in lists[5]), scope, f"function {name}")

    def _expand(self, main: Function) -> int:
        """Count nodes with every call expanded; a function that calls itself is refused."""
        totals: dict[int, int] = {}
        path: list[tuple[Function, int]] = [(main, 0)]
        open_now = {id(main)}
        while path:
            function, place = path.pop()
            if place < len(function.calls):
                path.append((function, place + 1))
                inner = self.functions[function.calls[place]]
                if id(inner) in open_now:
                    raise ModelLoadError(
                        f"the function {function.calls[place][1]} of the model calls itself"
                    )
                if id(inner) not in totals:
                    open_now.add(id(inner))
                    path.append((inner, 0))
                continue
            total = function.nodes + sum(
                totals[id(self.functions[call])] for call in function.calls
            )
            if total > MAX_NODES:
                raise ModelLoadError(f"the model has more than {MAX_NODES} nodes")
            totals[id(function)] = total
            open_now.discard(id(function))
        return totals[id(main)]

    # --- graphs and nodes ---------------------------------------------------------------------

    def _graph(
        self, item: Item, outer: Scope | None
    ) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
        depth = outer.depth + 1 if outer else 0
        if depth > MAX_DEPTH:
            raise ModelLoadError(f"the model nests graphs deeper than {MAX_DEPTH}")
        _, lists = self._message(item, many=(1, 5, 11, 12, 13, 15), what="a graph")
        scope = Scope(set(), outer, depth)
        for value in lists[5]:
            name, shape = self._tensor(value)
            scope.add(name, "the constant")
            if shape is not None:
                scope.shapes[name] = shape
        for value in lists[15]:
            scope.add(self._sparse(value), "the constant")
        constants = set(scope.names)
        declared = [self._value(value) for value in lists[11]]
        for name, _facts in declared:
            if name not in constants:
                scope.add(name, "the input")
        for value in lists[13]:
            self._value(value)
        for value in lists[1]:
            self._node(value, scope)
        made = [self._value(value) for value in lists[12]]
        self._made((name for name, _ in made), scope, "the graph")
        return (
            tuple(facts for name, facts in declared if name not in constants),
            tuple(facts for _, facts in made),
        )

    def _made(self, names: Iterator[bytes], scope: Scope, what: str) -> None:
        for name in names:
            if not scope.has(name):
                raise ModelLoadError(f"no node makes {readable(name)}, an output of {what}")

    def _node(self, item: Item, scope: Scope) -> None:
        singles, lists = self._message(item, once=(4, 7), many=(1, 2, 5), what="a node")
        kind, domain = self._string(singles.get(4)), domain_of(self._string(singles.get(7)))
        if not kind:
            raise ModelLoadError("a node of the model has no operator")
        if (domain, kind) in self.functions:
            self.here.calls.append((domain, kind))
        else:
            self.operators.add(f"{domain}:{kind}")
        self.here.nodes += 1
        if self.here.nodes > MAX_NODES:
            raise ModelLoadError(f"the model has more than {MAX_NODES} nodes")
        inputs = [self._name(value) for value in lists[1]]
        for name in inputs:
            if name and not scope.has(name):
                raise ModelLoadError(
                    f"{kind} uses {readable(name)} before anything makes it",
                    why="a cycle, or nodes in a wrong order",
                )
        shape = None
        for value in lists[5]:
            shape = self._attribute(value, scope) or shape
        self._bounded(kind, inputs, shape, scope)
        for value in lists[2]:
            name = self._name(value)
            if name:
                scope.add(name, "the value")
                if kind == "Constant" and shape is not None:
                    scope.shapes[name] = shape

    def _bounded(
        self, kind: str, inputs: list[bytes], shape: list[int] | None, scope: Scope
    ) -> None:
        if kind in _SHAPED and len(inputs) > _SHAPED[kind]:
            measure(scope.shape(inputs[_SHAPED[kind]]), kind)
        elif kind in _RANDOM:
            measure(shape, kind)

    def _attribute(self, item: Item, scope: Scope) -> list[int] | None:
        """Walk an attribute; returns its small list of whole numbers, if it is one."""
        singles, lists = self._message(
            item, once=(5, 6, 14, 22), many=(8, 10, 11, 23), strings=9, what="an attribute"
        )
        for graph in ([singles[6]] if 6 in singles else []) + lists[11]:
            self._graph(graph, scope)
        for sparse in ([singles[22]] if 22 in singles else []) + lists[23]:
            self._sparse(sparse)
        shape = None
        for tensor in ([singles[5]] if 5 in singles else []) + lists[10]:
            _, shape = self._tensor(tensor)
        if lists[8]:
            shape = [n for run in lists[8] for n in numbers(self.data, run, MAX_RANK)]
        return shape if shape is None or len(shape) <= MAX_RANK else None

    # --- values -------------------------------------------------------------------------------

    def _tensor(self, item: Item) -> tuple[bytes, list[int] | None]:
        """Check a constant; returns its name and, of a few int64, the values."""
        singles, lists = self._message(
            item, once=(2, 8, 9, 14), many=(1, 7, 13), strings=6, what="a constant"
        )
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise ModelLoadError(f"the model has more than {MAX_TENSORS} constants")
        name = self._name(singles.get(8))
        if lists[13] or (14 in singles and self._number(singles[14]) != 0):
            raise ModelLoadError(
                f"the constant {readable(name)} lies in another file",
                why="a bundle holds the whole model: other files are not signed",
                next="save the model with all data inside (onnx.save_model without external data)",
            )
        sizes = [n for run in lists[1] for n in numbers(self.data, run, MAX_RANK)]
        count = measure(sizes, f"the constant {readable(name)}", limit=1 << 40)
        # Every value takes at least half a byte (int4), so what is not there cannot be claimed.
        if count > 2 * (item.stop - item.start):
            raise ModelLoadError(
                f"the constant {readable(name)} claims {count} values and lacks them"
            )
        self.constant_bytes += item.stop - item.start
        if 2 not in singles or self._number(singles[2]) & 0xFFFFFFFF != 7 or count > MAX_RANK:
            return name, None
        if 9 in singles:
            raw = bytes(self.data[singles[9].start : singles[9].stop])
            parts = [raw[at : at + 8] for at in range(0, len(raw), 8)]
            return name, [int.from_bytes(part, "little", signed=True) for part in parts]
        return name, [n for run in lists[7] for n in numbers(self.data, run, MAX_RANK)]

    def _sparse(self, item: Item) -> bytes:
        singles, lists = self._message(item, once=(1, 2), many=(3,), what="a sparse constant")
        sizes = [n for run in lists[3] for n in numbers(self.data, run, MAX_RANK)]
        measure(sizes, "a sparse constant")
        name = b""
        for field_number in (1, 2):
            if field_number in singles:
                found, _ = self._tensor(singles[field_number])
                name = found if field_number == 1 else name
        return name

    def _value(self, item: Item) -> tuple[bytes, TensorFacts]:
        """Read the declaration of an input, output or value."""
        singles, _ = self._message(item, once=(1, 2), what="a declaration")
        name = self._name(singles.get(1))
        dtype, shape = "", None
        if 2 in singles:
            kind, _ = self._message(singles[2], once=(1, 4, 5, 8, 9), what="a type")
            if 1 in kind:
                dtype, shape = self._tensor_type(kind[1], readable(name))
        return name, TensorFacts(readable(name), dtype, shape)

    def _tensor_type(self, item: Item, name: str) -> tuple[str, tuple[int, ...] | None]:
        singles, _ = self._message(item, once=(1, 2), what="a type")
        dtype = ELEMENT.get(self._number(singles[1]) & 0xFFFFFFFF, "") if 1 in singles else ""
        if 2 not in singles:
            return dtype, None
        _, lists = self._message(singles[2], many=(1,), what="a shape")
        if len(lists[1]) > MAX_RANK:
            raise ModelLoadError(f"{name} has more than {MAX_RANK} dimensions")
        shape = []
        for dim in lists[1]:
            size, _ = self._message(dim, once=(1,), what="a shape")
            shape.append(self._number(size[1]) if 1 in size else -1)
        measure([size for size in shape if size != -1], name)
        return dtype, tuple(shape)

    # --- fields -------------------------------------------------------------------------------

    def _message(
        self,
        item: Item,
        *,
        once: tuple[int, ...] = (),
        many: tuple[int, ...] = (),
        strings: int = 0,
        what: str,
    ) -> tuple[dict[int, Item], dict[int, list[Item]]]:
        singles: dict[int, Item] = {}
        lists: dict[int, list[Item]] = {number: [] for number in many}
        for found in items(self.data, item.start, item.stop, strings):
            if found.field in lists:
                lists[found.field].append(found)
            elif found.field in once and singles.setdefault(found.field, found) is not found:
                raise broken(f"field {found.field} of {what} stands twice")
        return singles, lists

    def _number(self, item: Item) -> int:
        found = numbers(self.data, item, 1) if item.wire == VARINT else []
        if len(found) != 1:
            raise broken("one whole number was expected")
        return found[0]

    def _name(self, item: Item | None) -> bytes:
        if item is None:
            return b""
        if item.wire != BYTES or item.stop - item.start > MAX_NAME:
            raise broken("a name was expected")
        return bytes(self.data[item.start : item.stop])

    def _string(self, item: Item | None) -> str:
        return readable(self._name(item))
