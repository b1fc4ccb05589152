"""One graph, one sequence of bytes: names, order, versions and metadata brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgepack.errors import ConversionError


def normalise(
    proto: Any,
    versions: tuple[int, int, int],
    *,
    keep: Sequence[str],
    classes: Mapping[int, str] | None = None,
) -> bytes:
    """Return deterministic bytes of an ONNX model that was just converted.

    Metadata, documentation and producer are stripped, duplicate opset imports merged, outputs
    that nobody reads cut off with what only they need, inner tensors numbered in the order of the
    nodes.

    Args:
        proto: `onnx.ModelProto`; not changed.
        versions: (opset, ai.onnx.ml opset, IR) of the oldest runtime.
        keep: Names of the outputs to keep.
        classes: Text for each int64 label, to be appended where the first kept output gives ints.

    Raises:
        ConversionError: The result is not a valid model.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    kept = [output for output in graph.output if output.name in keep]
    del graph.output[:]
    graph.output.extend(kept)
    if classes:
        _append_text(graph, keep[0], classes)
    _prune(graph)
    _rename(graph)
    _strip(model)
    _versions(model, versions, at_least=2 if classes else 0)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ConversionError(f"the converted model is not valid: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def tidy(proto: Any) -> bytes:
    """Return deterministic bytes of an ONNX model from elsewhere, its outputs kept.

    ZipMap nodes at outputs are taken off, metadata stripped, duplicate opset imports merged.
    Functions, IR and opsets stay as they are.

    Raises:
        onnx.checker.ValidationError: It is not a valid model.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    onnx.checker.check_model(model)
    graph = model.graph
    zipped = unzip(graph)
    if not model.functions:
        _prune(graph)
    _strip(model)
    merged: dict[str, int] = {}
    for item in model.opset_import:
        domain = "" if item.domain == "ai.onnx" else item.domain
        merged[domain] = max(merged.get(domain, 0), item.version)
    if zipped:
        merged.setdefault("", 15)
    del model.opset_import[:]
    for domain in sorted(merged):
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, merged[domain]
    return bytes(model.SerializeToString(deterministic=True))


def unzip(graph: Any) -> bool:
    """Take ZipMap nodes off the outputs: probabilities stay [n, classes]. Changes the graph.

    Returns:
        Whether there was one.
    """
    import onnx

    zipped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "ZipMap"}
    for output in graph.output:
        if output.name in zipped:
            width = _classes_of(graph, output.name)
            plain = onnx.helper.make_tensor_value_info(
                output.name, onnx.TensorProto.FLOAT, [None, width]
            )
            output.CopyFrom(plain)
    kept = [node for node in graph.node if node.op_type != "ZipMap" or node.output[0] not in zipped]
    for name, source in zipped.items():
        kept.append(onnx.helper.make_node("Identity", [source], [name]))
    copies = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    return bool(zipped)


def _classes_of(graph: Any, name: str) -> int | None:
    """Return how many classes a ZipMap names."""
    for node in graph.node:
        if node.op_type == "ZipMap" and node.output[0] == name:
            for attribute in node.attribute:
                return len(attribute.strings) or len(attribute.ints) or None
    return None


def retype(proto: Any) -> None:
    """Declare each output with the element type that its node gives. Changes `proto`.

    skl2onnx guesses it from the first input of the pipeline, which may be text.
    """
    import onnx

    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for output in blank.graph.output:
        output.ClearField("type")
    try:
        found = onnx.shape_inference.infer_shapes(blank)
    except (ValueError, RuntimeError):
        return  # the checker or onnxruntime will say more about such a graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in found.graph.output}
    for output in proto.graph.output:
        if output.type.HasField("tensor_type") and kinds.get(output.name):
            output.type.tensor_type.elem_type = kinds[output.name]


def unflatten(proto: Any, shape: Sequence[int]) -> None:
    """Let the one input [n, values] be fed as [n, *shape]: a Reshape in front. Changes `proto`."""
    from onnx import TensorProto, helper

    graph = proto.graph
    entry = graph.input[0]
    inner = entry.name + "_flat"
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == entry.name:
                node.input[i] = inner
    count = int(np.prod(shape))
    graph.initializer.append(helper.make_tensor("flat_shape", TensorProto.INT64, [2], [-1, count]))
    front = helper.make_node("Reshape", [entry.name, "flat_shape"], [inner])
    graph.node.insert(0, front)
    kind = entry.type.tensor_type.elem_type
    entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, [None, *shape]))


def join_labels(proto: Any, name: str) -> None:
    """Turn a sequence of [n, 2] (several labels a row) into [n, labels] of the second columns.

    Changes `proto`; nothing to do where the output is a tensor already.

    Raises:
        ConversionError: The sequence is not built in the graph by one node.
    """
    from onnx import TensorProto, helper

    graph = proto.graph
    output = next(item for item in graph.output if item.name == name)
    if not output.type.HasField("sequence_type"):
        return
    found = [node for node in graph.node if name in node.output]
    if len(found) != 1 or found[0].op_type != "SequenceConstruct":
        raise ConversionError("the probabilities of several labels are in a form not known here")
    parts = list(found[0].input)
    graph.node.remove(found[0])
    graph.initializer.append(helper.make_tensor("second", TensorProto.INT64, [1], [1]))
    for index, part in enumerate(parts):
        graph.node.append(helper.make_node("Gather", [part, "second"], [f"{name}_{index}"], axis=1))
    columns = [f"{name}_{index}" for index in range(len(parts))]
    graph.node.append(helper.make_node("Concat", columns, [f"{name}_all"], axis=1))
    kind = TensorProto.FLOAT
    graph.node.append(helper.make_node("Cast", [f"{name}_all"], [name], to=kind))
    output.CopyFrom(helper.make_tensor_value_info(name, kind, [None, len(parts)]))


def _append_text(graph: Any, label: str, classes: Mapping[int, str]) -> None:
    """Turn the int64 label output into the class's name, under the same output name."""
    import onnx
    from onnx import helper

    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == label:
                node.output[i] = label + "_int"
        for i, name in enumerate(node.input):
            if name == label:
                node.input[i] = label + "_int"
    graph.node.append(
        helper.make_node(
            "LabelEncoder",
            [label + "_int"],
            [label],
            domain="ai.onnx.ml",
            keys_int64s=list(classes),
            values_strings=list(classes.values()),
            default_string="",
        )
    )
    for output in graph.output:
        if output.name == label:
            output.type.tensor_type.elem_type = onnx.TensorProto.STRING


def _prune(graph: Any) -> None:
    """Drop nodes and initializers that no output needs; nodes in a stable topological order."""
    producer = {name: node for node in graph.node for name in node.output if name}
    order: list[Any] = []
    done: set[int] = set()

    for output in graph.output:
        stack = [(producer.get(output.name), False)]
        while stack:
            node, ready = stack.pop()
            if node is None or id(node) in done:
                continue
            if ready:
                done.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            stack.extend((producer.get(name), False) for name in reversed(list(_needs(node))))
    copies = []
    for node in order:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in graph.node for name in _needs(node)}
    constants = [item for item in graph.initializer if item.name in used]
    kept = []
    for item in constants:
        copy = type(item)()
        copy.CopyFrom(item)
        kept.append(copy)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _needs(node: Any) -> Iterable[str]:
    """Yield what a node reads, also from within its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            for child in inner.node:
                yield from _needs(child)


def _rename(graph: Any) -> None:
    """Give inner tensors, initializers and nodes names by their place."""
    if any(attribute.g.node for node in graph.node for attribute in node.attribute):
        return  # names inside subgraphs refer outwards: leave them as the converter made them
    fixed = {item.name for item in [*graph.input, *graph.output]}
    names: dict[str, str] = {}
    taken = set(fixed)

    def fresh(prefix: str, index: int) -> str:
        name = f"{prefix}{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    order: dict[str, None] = {}
    for node in graph.node:
        order.update(dict.fromkeys(node.input))
    constants = {item.name: item for item in graph.initializer}
    for index, name in enumerate(name for name in order if name in constants):
        names[name] = fresh("c", index)
    ordered = [constants[name] for name in names]
    count = 0
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
        node.doc_string = ""
        for name in node.output:
            if name and name not in fixed:
                names[name] = fresh("t", count)
                count += 1
    for node in graph.node:
        for names_of in (node.input, node.output):
            for i, name in enumerate(names_of):
                names_of[i] = names.get(name, name)
    copies = []
    for item in ordered:
        copy = type(item)()
        copy.CopyFrom(item)
        copy.name = names[item.name]
        copies.append(copy)
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _strip(model: Any) -> None:
    model.producer_name = ""
    model.producer_version = ""
    model.domain = ""
    model.model_version = 0
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.name = "model"
    model.graph.doc_string = ""
    del model.graph.value_info[:]


def _versions(model: Any, versions: tuple[int, int, int], at_least: int) -> None:
    """Merge the opset imports, one per domain, and set the IR; `at_least` is for ai.onnx.ml."""
    opset, ml, ir = versions
    wanted: dict[str, int] = {}
    for item in model.opset_import:
        domain = "" if item.domain == "ai.onnx" else item.domain
        wanted[domain] = max(wanted.get(domain, 0), item.version)
    if at_least:
        wanted["ai.onnx.ml"] = max(wanted.get("ai.onnx.ml", 0), at_least)
    used = {node.domain for node in _all_nodes(model.graph.node)}
    used = {"" if domain == "ai.onnx" else domain for domain in used}
    wanted = {domain: version for domain, version in wanted.items() if domain in used or not domain}
    for domain, limit in (("", opset), ("ai.onnx.ml", ml)):
        if wanted.get(domain, 0) > limit:
            raise ConversionError(
                f"the model needs opset {wanted[domain]} of {domain or 'ai.onnx'}, "
                f"the oldest runtime has {limit}",
                next="raise onnxruntime in [class.…] of edgepack.toml",
            )
    del model.opset_import[:]
    for domain in sorted(wanted):
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, wanted[domain]
    model.ir_version = ir


def _all_nodes(nodes: Iterable[Any]) -> Iterable[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _all_nodes(inner.node)
