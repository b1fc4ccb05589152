"""The gate refuses what is broken or dangerous before onnxruntime sees a byte of it."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from device_runtime.errors import AdmissionError, ModelLoadError
from device_runtime.format.manifest import Manifest
from device_runtime.model import walk, wire
from device_runtime.model.graph import admit, inspect_graph, minimal_onnxruntime
from device_runtime.policy import Policy

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
ANY = Policy("field")
HUGE = [1 << 20, 1 << 20]


def model(
    nodes, *, inputs=(X,), outputs=(Y,), constants=(), opset=17, ir=8, functions=(), domains=()
):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def good():
    return model([helper.make_node("Relu", ["x"], ["y"])])


def loop(body_nodes, name="body"):
    cond = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    out = helper.make_tensor_value_info("c2", TensorProto.BOOL, [])
    return helper.make_graph(body_nodes, name, [step, cond], [out])


def test_a_plain_model_is_described():
    constant = numpy_helper.from_array(np.ones((3, 3), "float32"), "w")
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], constants=[constant])
    facts = inspect_graph(proto.SerializeToString())
    assert facts.operators == ("ai.onnx:MatMul",)
    assert facts.opsets == {"ai.onnx": 17}
    assert facts.ir_version == 8
    assert [(t.name, t.dtype, t.shape) for t in facts.inputs] == [("x", "float32", (-1, 3))]
    assert [(t.name, t.dtype, t.shape) for t in facts.outputs] == [("y", "float32", (-1, 3))]
    assert facts.nodes == 1
    assert facts.initializer_bytes >= 36
    admit(facts, None, ANY)


def test_operators_inside_subgraphs_and_functions_are_found():
    body = loop([helper.make_node("Identity", ["c"], ["c2"])])
    nodes = [
        helper.make_node("Constant", [], ["n"], value_int=3),
        helper.make_node("Constant", [], ["t"], value=helper.make_tensor("v", 9, [], [True])),
        helper.make_node("Loop", ["n", "t"], [], body=body),
        helper.make_node("Twice", ["x"], ["y"], domain="mine"),
    ]
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    facts = inspect_graph(model(nodes, functions=[twice], domains=["mine"]).SerializeToString())
    assert facts.operators == (
        "ai.onnx:Add", "ai.onnx:Constant", "ai.onnx:Identity", "ai.onnx:Loop",
    )  # fmt: skip
    assert facts.nodes == 6
    with pytest.raises(AdmissionError, match=r"uses ai.onnx:Loop, .* no control flow"):
        admit(facts, None, ANY)
    admit(facts, None, Policy("field", control_flow=True))


def _external(location, **extra):
    constant = numpy_helper.from_array(np.ones((3, 3), "float32"), "w")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **extra}.items():
        constant.external_data.add(key=key, value=str(value))
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], constants=[constant])


def _hidden_external():
    proto = _external("w.bin")
    proto.graph.initializer[0].ClearField("data_location")
    return proto


def _external_in_subgraph():
    constant = _external("w.bin").graph.initializer[0]
    body = loop([helper.make_node("Identity", ["c"], ["c2"])])
    body.initializer.append(constant)
    return model(
        [helper.make_node("Loop", ["", ""], [], body=body), helper.make_node("Relu", ["x"], ["y"])]
    )


def _external_in_attribute():
    constant = _external("w.bin").graph.initializer[0]
    return model([helper.make_node("Constant", [], ["y"], value=constant)])


def _cycle():
    return model(
        [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    )


def _nested(depth):
    graph = loop([helper.make_node("Identity", ["c"], ["c2"])])
    for _ in range(depth):
        graph = loop([helper.make_node("Loop", ["i", "c"], ["c2"], body=graph)])
    return model(
        [helper.make_node("Loop", ["", ""], [], body=graph), helper.make_node("Relu", ["x"], ["y"])]
    )


def _function(name, *calls):
    nodes = [
        helper.make_node(call, ["a"], [f"b{i}"], domain="mine") for i, call in enumerate(calls)
    ]
    nodes.append(helper.make_node("Relu", ["a"], ["b"]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], ["b"], nodes, imports)


def _recursive():
    call = helper.make_node("F", ["x"], ["y"], domain="mine")
    functions = [_function("F", "G"), _function("G", "F")]
    return model([call], functions=functions, domains=["mine"])


def _laughs():
    functions = [_function(f"F{i}", *[f"F{i + 1}"] * 10) for i in range(12)] + [_function("F12")]
    return model(
        [helper.make_node("F0", ["x"], ["y"], domain="mine")], functions=functions, domains=["mine"]
    )


def _shadow():
    imports = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    mine = helper.make_function("ai.onnx", "Add", ["a"], ["b"], body, imports)
    return model([helper.make_node("Add", ["x"], ["y"])], functions=[mine])


def _claims():
    constant = helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])
    constant.dims[:] = [1 << 20, 1 << 19]
    return model([helper.make_node("Relu", ["x"], ["y"])], constants=[constant])


def _shaped(kind, sizes, *, node=False):
    shape = numpy_helper.from_array(np.array(sizes, "int64"), "s")
    make = [helper.make_node("Constant", [], ["s"], value=shape)] if node else []
    inputs = ["s"] if kind == "ConstantOfShape" else ["x", "s"]
    return model([*make, helper.make_node(kind, inputs, ["y"])], constants=[] if node else [shape])


def _input_shape(sizes):
    wide = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    return model([helper.make_node("Relu", ["x"], ["y"])], inputs=[wide])


def _training():
    proto = good()
    proto.training_info.add()
    return proto


def _opset(version):
    return model([helper.make_node("Relu", ["x"], ["y"])], opset=version)


def _two_opsets():
    proto = good()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 12))
    return proto


HOSTILE = {
    "external data beside the model": (lambda: _external("w.bin"), "lies in another file"),
    "external data, absolute": (lambda: _external("/etc/passwd"), "lies in another file"),
    "external data, parent folder": (lambda: _external("../../etc/shadow"), "lies in another file"),
    "external data, hard link with offset": (lambda: _external("w", offset=4), "another file"),
    "external data without its flag": (_hidden_external, "lies in another file"),
    "external data in a subgraph": (_external_in_subgraph, "lies in another file"),
    "external data in an attribute": (_external_in_attribute, "lies in another file"),
    "a cycle": (_cycle, "before anything makes it"),
    "a value made twice": (
        lambda: model([helper.make_node(kind, ["x"], ["y"]) for kind in ("Relu", "Neg")]),
        "makes the value y twice",
    ),
    "an output that nothing makes": (
        lambda: model([helper.make_node("Relu", ["x"], ["z"])]),
        "no node makes y",
    ),
    "a node without operator": (lambda: model([helper.make_node("", ["x"], ["y"])]), "no operator"),
    "graphs nested 25 deep": (lambda: _nested(25), "deeper than 16"),
    "functions that call each other": (_recursive, "calls itself"),
    "a billion laughs of functions": (_laughs, "more than 1000000 nodes"),
    "its own Add": (_shadow, "defines its own Add"),
    "a constant that claims 2^39 values": (_claims, "claims 549755813888 values and lacks them"),
    "a constant shape of 2^40": (lambda: _shaped("ConstantOfShape", HUGE), "ConstantOf"),
    "a shape of 2^40 by a node": (lambda: _shaped("Expand", HUGE, node=True), "Expand has"),
    "a tile of 2^40": (lambda: _shaped("Tile", HUGE), "Tile has"),
    "a negative shape": (lambda: _shaped("ConstantOfShape", [-5]), "negative size"),
    "a random tensor of 2^40": (
        lambda: model([helper.make_node("RandomNormal", [], ["y"], shape=HUGE)]),
        "RandomNormal has",
    ),
    "an input of 2^40": (lambda: _input_shape(HUGE), "x has"),
    "an input of 20 dimensions": (lambda: _input_shape([1] * 20), "more than 16 dimensions"),
    "graphs for training": (_training, "graphs for training"),
    "one domain in two versions": (_two_opsets, "imports ai.onnx in two versions"),
    "an opset older than any": (lambda: _opset(6), "oldest"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_with_the_reason(name):
    build, reason = HOSTILE[name]
    with pytest.raises(ModelLoadError, match=reason):
        inspect_graph(build().SerializeToString())


ADMITTED = {
    "a custom domain": (
        lambda: model([helper.make_node("Evil", ["x"], ["y"], domain="evil")], domains=["evil"]),
        "uses evil:Evil, which this class of device does not allow",
    ),
    "a contributed operator": (
        lambda: model(
            [helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")],
            domains=["com.microsoft"],
        ),
        "uses com.microsoft:FusedMatMul",
    ),
    "a branch": (
        lambda: model(
            [
                helper.make_node(
                    "Constant", [], ["c"], value=helper.make_tensor("v", 9, [], [True])
                ),
                helper.make_node("If", ["c"], ["y"], then_branch=_branch(), else_branch=_branch()),
            ]
        ),
        "uses ai.onnx:If",
    ),
    "an opset of the future": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"])], opset=99),
        "newer than this program knows",
    ),
    "an IR of the future": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"])], ir=99),
        "newer than this program knows",
    ),
}


def _branch():
    return helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "b", [], [Y])


@pytest.mark.parametrize("name", ADMITTED)
def test_what_the_class_does_not_allow_is_not_admitted(name):
    build, reason = ADMITTED[name]
    with pytest.raises(AdmissionError, match=reason):
        admit(inspect_graph(build().SerializeToString()), None, ANY)


def manifest(facts, **changes):
    values = {
        "name": "m", "device_class": "field", "min_runtime": "0.1", "min_onnxruntime": "1.20",
        "model": "model.onnx", "model_bytes": facts.size, "model_sha256": "0" * 64,
        "ir_version": facts.ir_version, "opsets": facts.opsets, "operators": facts.operators,
        "peak_rss_bytes": 0, "selftest_seconds": 0.0, "rtol": 0.0, "atol": 0.0, "lineage": "",
    }  # fmt: skip
    return Manifest(**{**values, **changes})


def test_a_model_must_be_what_its_manifest_says():
    facts = inspect_graph(good().SerializeToString())
    admit(facts, manifest(facts), ANY)
    with pytest.raises(
        AdmissionError, match=r"uses ai.onnx:Relu, which its manifest does not list"
    ):
        admit(facts, manifest(facts, operators=("ai.onnx:Neg",)), ANY)
    with pytest.raises(AdmissionError, match="opsets are not those"):
        admit(facts, manifest(facts, opsets={"ai.onnx": 16}), ANY)
    with pytest.raises(AdmissionError, match="its manifest says 5"):
        admit(facts, manifest(facts, model_bytes=5), ANY)
    with pytest.raises(AdmissionError, match="allows at most 10"):
        admit(facts, None, Policy("field", max_model_bytes=10))


def test_the_oldest_runtime_is_named_and_older_ones_refused():
    facts = inspect_graph(good().SerializeToString())
    assert minimal_onnxruntime(facts) == "1.20"
    newer = inspect_graph(
        model([helper.make_node("Relu", ["x"], ["y"])], opset=23, ir=11).SerializeToString()
    )
    assert minimal_onnxruntime(newer) == "1.23"
    admit(newer, None, ANY, onnxruntime="1.23.0")
    with pytest.raises(AdmissionError, match=r"needs onnxruntime 1.23 or newer; this is 1.22.1"):
        admit(newer, None, ANY, onnxruntime="1.22.1")


def test_a_field_that_protobuf_would_merge_is_refused():
    """Two graphs in one file: protobuf merges them, a reader that sees one would miss the other."""
    first, second = good(), model([helper.make_node("Loop", ["", ""], [], body=_branch())])
    second.graph.ClearField("input")
    twice = first.SerializeToString() + second.SerializeToString()
    assert len(onnx.ModelProto.FromString(twice).graph.node) == 2
    with pytest.raises(ModelLoadError, match="stands twice"):
        inspect_graph(twice)


def _length(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


def _field(number, content):
    return bytes([number << 3 | 2]) + _length(len(content)) + content


def test_a_subgraph_hidden_in_a_second_short_field_is_refused():
    """An attribute with two `g`: protobuf merges the second one, however short, into the first."""
    loop = helper.make_node("Loop", ["", ""], []).SerializeToString()
    first = helper.make_attribute("body", helper.make_graph([], "b", [], [])).SerializeToString()
    second = helper.make_graph([helper.make_node("Neg", [], ["q"])], "", [], []).SerializeToString()
    node = loop + _field(5, first + _field(6, second))
    rest = good()
    rest.ClearField("graph")
    data = rest.SerializeToString() + _field(7, _field(1, node))
    merged = onnx.ModelProto.FromString(data)
    assert merged.graph.node[0].attribute[0].g.node[0].op_type == "Neg"
    with pytest.raises(ModelLoadError, match="field 6 of an attribute stands twice"):
        inspect_graph(data)


def test_a_large_ensemble_is_walked_in_few_steps(monkeypatch):
    """Three million numbers and texts, unpacked: one step for each would take seconds."""
    n = 1_000_000
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml",
        nodes_values=[0.5] * n, nodes_truenodeids=list(range(n)),
        nodes_modes=["BRANCH_LEQ"] * n,
    )  # fmt: skip
    data = model([node], domains=["ai.onnx.ml"]).SerializeToString()
    steps = 0

    def counted(*given):
        nonlocal steps
        for item in wire.items(*given):
            steps += 1
            yield item

    monkeypatch.setattr(walk, "items", counted)
    assert inspect_graph(data).operators == ("ai.onnx.ml:TreeEnsembleRegressor",)
    assert steps < 200


def _refused_or_described(data):
    try:
        inspect_graph(data)
    except ModelLoadError:
        return
    onnx.ModelProto.FromString(data)  # what we take, protobuf takes


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_but_the_models_error(data):
    _refused_or_described(data)


SAMPLES = [
    good().SerializeToString(),
    _nested(3).SerializeToString(),
    _recursive().SerializeToString(),
]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_models_raise_nothing_but_the_models_error(sample, data):
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    _refused_or_described(bytes(damaged))
    _refused_or_described(bytes(damaged[:cut]))
