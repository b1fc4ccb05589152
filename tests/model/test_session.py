"""Both engines answer alike, for every dtype and task, for few rows and for many."""

import mmap
import subprocess
import sys
from array import array

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from device_runtime.errors import ModelLoadError, RunError
from device_runtime.format.batch import Batch, Text
from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from device_runtime.model import answers, session
from device_runtime.model.session import answer_text, open_session

ONNX = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int8": TensorProto.INT8,
    "int16": TensorProto.INT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
}  # fmt: skip
VALUES = {
    "bool": [True, False, True], "float32": [1.5, -0.0, float("nan")],
    "float64": [1e300, 0.1, -7.25],
    "uint8": [0, 7, 255], "uint64": [0, 7, 2**64 - 1], "uint16": [1, 2, 65535],
    "uint32": [1, 2, 2**32 - 1],
}  # fmt: skip
BOTH = pytest.mark.parametrize("engine", ["capi", "python"])
SIZES = pytest.mark.parametrize("n", [3, 48])


def build(nodes, inputs, outputs, *, opset=17, domains=("ai.onnx.ml",)):
    def ports(items):
        return [helper.make_tensor_value_info(name, ONNX[d], shape) for name, d, shape in items]

    graph = helper.make_graph(nodes, "g", ports(inputs), ports(outputs))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 3) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def typed(dtype, values):
    return np.array(values, "uint8" if dtype == "bool" else dtype)


def same(left, right):
    assert left.n == right.n
    assert left.k == right.k
    assert np.asarray(left.label, "int16").tobytes() == np.asarray(right.label, "int16").tobytes()
    if left.scores is None or right.scores is None:
        assert left.scores is right.scores
    else:
        assert memoryview(left.scores).cast("B") == memoryview(right.scores).cast("B")


@SIZES
@pytest.mark.parametrize("dtype", [d for d in ONNX if d != "string"])
def test_every_numeric_dtype_goes_in_and_comes_out_alike(dtype, n):
    """The graph casts to double and sums two columns; NaN, extremes and -0.0 included."""
    given = (VALUES.get(dtype) or [-(2 ** (8 * np.dtype(dtype).itemsize - 1)), 0, 7]) * (n // 3)
    columns = {"a": typed(dtype, given), "b": typed(dtype, given[::-1])}
    model = build(
        [
            helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
            helper.make_node("Identity", ["d"], ["y"]),
        ],
        [("x", dtype, [None, 2])],
        [("y", "float64", [None, 2])],
    )
    plan = Schema(
        "scores", (Column("a", "input", dtype), Column("b", "input", dtype)),
        (ModelInput("x", dtype, ("a", "b")),),
        ModelOutput(("p", "q"), "y", scores_dtype="float64"),
    )  # fmt: skip
    want = np.stack([columns["a"], columns["b"]], axis=1).astype("float64").reshape(-1)
    found = []
    for engine in ("capi", "python"):
        loaded = open_session(model, plan, engine=engine)
        found.append(loaded.run(Batch(n, columns)))
        loaded.close()
    same(*found)
    np.testing.assert_array_equal(np.frombuffer(found[0].scores), want)


@SIZES
@BOTH
def test_strings_go_in_and_come_out(engine, n):
    """Strings of any length and script; the missing one becomes the tensor's own word for it."""
    model = build(
        [
            helper.make_node("Identity", ["x"], ["label"]),
        ],
        [("x", "string", [None, 1])],
        [("label", "string", [None, 1])],
    )
    names = ("", "AA", "über 東京", "x" * 1000, "none")
    plan = Schema(
        "classes", (Column("c", "input", "string", missing=True),),
        (ModelInput("x", "string", ("c",), missing_text="none"),),
        ModelOutput(names, None, "label", label_dtype="string"),
    )  # fmt: skip
    strings = ["AA", None, "über 東京", "x" * 1000, "AA", "unknown"] * (n // 3)
    loaded = open_session(model, plan, engine=engine)
    found = loaded.run(Batch(len(strings), {"c": Text.of(strings)}))
    loaded.close()
    assert list(found.label) == [1, 4, 2, 3, 1, -1] * (n // 3)
    assert found.scores is None
    assert answer_text(plan, found)[:6] == ["AA", "none", "über 東京", "x" * 1000, "AA", ""]


PROBS = [[0.5, 0.5], [0.2, 0.8], [0.625, 0.375], [float("nan"), 1.0]]


def probability_model(label):
    nodes = [helper.make_node("Identity", ["x"], ["p"])]
    outputs = [("p", "float32", [None, 2])]
    if label:
        nodes.append(helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0))
        outputs.append(("label", "int64", [None]))
    return build(nodes, [("x", "float32", [None, 2])], outputs)


def probability_schema(**changes):
    label = changes.pop("label", None)
    return Schema(
        changes.pop("task", "binary"),
        (Column("a", "input", "float32"), Column("b", "input", "float32")),
        (ModelInput("x", "float32", ("a", "b")),),
        ModelOutput(changes.pop("names", ("no", "yes")), "p", label),
        **changes,
    )


@SIZES
@BOTH
@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, [1, 1, 0, -1]),
        ({"threshold": 0.35}, [1, 1, 1, -1]),
        ({"label": "label"}, [0, 1, 0, -1]),  # a tie falls as the model itself lets it fall
        ({"label": "label", "threshold": 0.35}, [1, 1, 1, -1]),
        ({"task": "classes"}, [0, 1, 0, -1]),
        ({"task": "labels"}, [-1, -1, -1, -1]),
        ({"task": "scores"}, [-1, -1, -1, -1]),
        ({"task": "quantiles"}, [-1, -1, -1, -1]),
    ],
)
def test_labels_follow_the_task(engine, changes, labels, n):
    table = np.array(PROBS * (n // 3), "float32")
    plan = probability_schema(**changes)
    loaded = open_session(probability_model("label" in changes), plan, engine=engine)
    batch = Batch(len(table), {"a": table[:, 0].copy(), "b": table[:, 1].copy()})
    found = loaded.run(batch)
    assert list(found.label) == labels * (n // 3)
    assert np.frombuffer(found.scores, "float32").tobytes() == table.tobytes()
    assert found.k == 2
    loaded.close()


@SIZES
@BOTH
@pytest.mark.parametrize("shape", [[None], [None, 1]])
def test_one_probability_becomes_two(engine, shape, n):
    model = build(
        [helper.make_node("Identity", ["x"], ["p"])],
        [("x", "float32", shape)],
        [("p", "float32", shape)],
    )
    plan = Schema(
        "binary", (Column("a", "input", "float32"),), (ModelInput("x", "float32", ("a",)),),
        ModelOutput(("no", "yes"), "p"),
    )  # fmt: skip
    values = np.array([0.1, 0.5, 1e-30] * (n // 3), "float32")
    loaded = open_session(model, plan, engine=engine)
    found = loaded.run(Batch(n, {"a": values}))
    assert list(found.label) == [0, 1, 0] * (n // 3)
    pairs = np.frombuffer(found.scores, "float32").reshape(-1, 2)
    assert (pairs[:, 1] == values).all()
    assert pairs[2, 0] == 1.0
    loaded.close()


@BOTH
def test_several_labels_a_row_by_label_tensor_alone(engine):
    model = build(
        [helper.make_node("Cast", ["x"], ["label"], to=TensorProto.INT64)],
        [("x", "float32", [None, 3])],
        [("label", "int64", [None, 3])],
    )
    names = ("red", "green", "blue")
    plan = Schema(
        "labels", tuple(Column(c, "input", "float32") for c in names),
        (ModelInput("x", "float32", names),), ModelOutput(names, None, "label"),
    )  # fmt: skip
    loaded = open_session(model, plan, engine=engine)
    found = loaded.run(Batch(2, {c: array("f", [i, 1 - i]) for i, c in enumerate((0, 1, 1))} | {
        "red": array("f", [1, 0]), "green": array("f", [0, 0]), "blue": array("f", [1, 0])
    }))  # fmt: skip
    assert answer_text(plan, found) == ["red|blue", ""]
    loaded.close()


def test_texts_of_numbers():
    regression = probability_schema(task="regression", names=("y",))
    found = answers.small(regression, 2, array("f", [1.5, float("nan")]), None)
    assert answer_text(regression, found) == ["1.5", ""]
    quantiles = probability_schema(task="quantiles", names=("0.1", "0.5", "0.9"))
    assert answer_text(quantiles, answers.small(quantiles, 1, array("f", [1, 2, 3]), None)) == [
        "2.0"
    ]
    scores = probability_schema(task="scores", names=("a", "b"))
    assert answer_text(scores, answers.small(scores, 1, array("f", [1, 2]), None)) == ["b"]


@BOTH
def test_a_tensor_of_fixed_shape(engine):
    model = build(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [("x", "float32", [None, 4, 5])],
        [("y", "float32", [None])],
    )
    proto = onnx.ModelProto.FromString(model)
    proto.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]))
    plan = Schema(
        "regression", (Column("image", "input", "uint8", shape=(4, 5)),),
        (ModelInput("x", "float32", ("image",)),), ModelOutput(("sum",), "y"),
    )  # fmt: skip
    loaded = open_session(proto.SerializeToString(), plan, engine=engine)
    for n in (2, 50):
        image = np.arange(n * 20, dtype="uint8")
        found = loaded.run(Batch(n, {"image": image}))
        want = image.reshape(n, 20).astype("float32").sum(axis=1)
        assert np.frombuffer(found.scores, "float32").tolist() == want.tolist()
    loaded.close()


@BOTH
def test_no_rows_give_no_answers(engine):
    loaded = open_session(probability_model(None), probability_schema(), engine=engine)
    found = loaded.run(Batch(0, {"a": array("f"), "b": array("f")}))
    assert (found.n, list(found.label), len(found.scores), found.k) == (0, [], 0, 2)
    loaded.close()


REFUSED = {
    "no such input": ({"inputs": (ModelInput("z", "float32", ("a", "b")),)}, "has no input z"),
    "another dtype": ({"inputs": (ModelInput("x", "float64", ("a", "b")),)}, "is float32 in the"),
    "too few columns": (
        {"inputs": (ModelInput("x", "float32", ("a",)),)},
        r"shape \[n, 2\] in the",
    ),
    "no such output": ({"output": ModelOutput(("a", "b"), "q")}, "has no output q"),
    "another output type": (
        {"output": ModelOutput(("a", "b"), "p", scores_dtype="float64")},
        "is float32 in the model and float64",
    ),
    "an input that nobody fills": ({"inputs": ()}, "inputs that no column fills: x"),
    "nothing to read": ({"output": ModelOutput(("a", "b"), None)}, "neither scores nor a label"),
    "text into numbers": (
        {"columns": (Column("a", "input", "string"), Column("b", "input", "float32"))},
        r"column a \(string\) cannot fill",
    ),
}


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_does_not_fit_the_model_is_refused(name, engine):
    changes, reason = REFUSED[name]
    plan = probability_schema()
    values = {name: getattr(plan, name) for name in ("task", "columns", "inputs", "output")}
    with pytest.raises(ModelLoadError, match=reason):
        open_session(probability_model(None), Schema(**{**values, **changes}), engine=engine)


def test_a_map_output_says_what_to_do():
    sklearn = pytest.importorskip("sklearn.linear_model")
    from skl2onnx import to_onnx

    table = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
    fitted = sklearn.LogisticRegression().fit(table, [0, 1])
    model = to_onnx(fitted, table[:1], target_opset=17).SerializeToString()
    plan = probability_schema()
    output = ModelOutput(("0", "1"), "output_probability")
    inputs = (ModelInput("X", "float32", ("a", "b")),)
    with pytest.raises(ModelLoadError, match="no tensor") as caught:
        open_session(model, Schema("binary", plan.columns, inputs, output))
    assert "ZipMap" in caught.value.why


@BOTH
@pytest.mark.parametrize(
    "model",
    [b"", b"\0" * 100, b"not a model", probability_model(None)[:-40], b"\x08\x08"],
)
def test_a_broken_model_is_refused_and_nothing_else_is_raised(model, engine, capfd):
    with pytest.raises(ModelLoadError) as caught:
        open_session(model, probability_schema(), engine=engine)
    assert "\n" not in caught.value.what
    assert capfd.readouterr() == ("", "")


@BOTH
def test_a_failing_run_is_reported_and_the_session_lives_on(engine, capfd):
    """Gather with an index beyond the end fails at run time, and only for that row."""
    model = build(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", "int64", [None, 1])],
        [("y", "float32", [None, 1])],
    )
    proto = onnx.ModelProto.FromString(model)
    proto.graph.initializer.append(helper.make_tensor("table", TensorProto.FLOAT, [2], [5, 6]))
    plan = Schema(
        "regression", (Column("i", "input", "int64"),), (ModelInput("x", "int64", ("i",)),),
        ModelOutput(("y",), "y"),
    )  # fmt: skip
    loaded = open_session(proto.SerializeToString(), plan, engine=engine)
    for _ in range(3):
        with pytest.raises(RunError, match="out of"):
            loaded.run(Batch(1, {"i": array("q", [7])}))
        assert list(loaded.run(Batch(2, {"i": array("q", [1, 0])})).scores) == [6.0, 5.0]
    loaded.close()
    assert capfd.readouterr() == ("", "")


def test_a_read_only_mapping_is_loaded_without_a_copy(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(probability_model(None))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        loaded = open_session(view, probability_schema())
        view.release()
    found = loaded.run(Batch(1, {"a": array("f", [0.1]), "b": array("f", [0.9])}))
    assert list(found.label) == [1]
    loaded.close()
    loaded.close()


def test_sessions_come_and_go_without_growing():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    model, plan = probability_model("label"), probability_schema(label="label")
    batch = Batch(1, {"a": array("f", [0.1]), "b": array("f", [0.9])})

    def once(rounds):
        for _ in range(rounds):
            loaded = open_session(model, plan)
            for _ in range(20):
                loaded.run(batch)
            loaded.close()

    once(30)
    before = resident()
    once(150)
    assert resident() - before < 8 << 20


def test_a_small_request_imports_neither_numpy_nor_onnxruntime(tmp_path):
    """Loaded, checked and answered in a fresh process, which then lists what it imported."""
    (tmp_path / "m.onnx").write_bytes(probability_model(None))
    (tmp_path / "rows.csv").write_text("a,b\n0.1,0.9\n0.7,0.3\nx,1\n")
    code = """
import sys
from device_runtime.format.schema import *
from device_runtime.model import check, session
from device_runtime.model.csvs import CsvSource
from device_runtime.model.rows import Cutter
plan = Schema("binary", (Column("a", "input", "float32"), Column("b", "input", "float32")),
    (ModelInput("x", "float32", ("a", "b")),), ModelOutput(("no", "yes"), "p"))
loaded = session.open_session(open("m.onnx", "rb").read(), plan)
with open("rows.csv", "rb") as file:
    for block in CsvSource(file, plan).blocks(Cutter(100)):
        checked = check.check(block, plan)
        print(list(loaded.run(checked.batch).label), [bad.issues for bad in checked.invalid])
loaded.close()
heavy = {"numpy", "onnxruntime", "tuf", "typer", "onnx", "pandas", "cryptography", "asyncio"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[1, 0] [(\"a: 'x' is not a number\",)]", "[]"]
    assert done.stderr == ""


def test_the_engines_are_the_ones_documented():
    assert session.Engine.__args__ == ("capi", "python")
