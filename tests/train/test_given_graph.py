"""Bring your own: what an ONNX graph must be like, and what is made of it."""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper

from edgepack.candidate import score_onnx
from edgepack.candidate.training import train_recipe
from edgepack.errors import ConversionError, DataError, RecipeError
from edgepack.workspace import Workspace
from support.given import INPUTS, begun, linear_onnx
from support.tables import table

pytestmark = pytest.mark.usefixtures("passphrase")


def test_a_model_that_answers_differently_twice_is_refused(tmp_path, samples):
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["raw"]),
        helper.make_node("RandomNormalLike", ["raw"], ["noise"]),
        helper.make_node("Add", ["raw", "noise"], ["loud"]),
        helper.make_node("Softmax", ["loud"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["loud"], ["label"], axis=1, keepdims=0),
    ]
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx", nodes=nodes), samples)
    with pytest.raises(ConversionError, match="differently when it is asked twice"):
        train_recipe(ws)


def test_a_row_must_not_hang_on_the_rows_beside_it(tmp_path, samples):
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["probabilities"], axis=0),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
    ]
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx", nodes=nodes), samples)
    with pytest.raises(ConversionError, match="alone than among other rows"):
        train_recipe(ws)


def test_a_schema_that_does_not_fit_the_model_is_one_line(tmp_path, samples):
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), samples)
    folder = ws.recipe_folder()
    text = (folder / "bundle.toml").read_text()
    for old, new, named in (
        ('  "n",\n', "", "takes 3 columns, 2 are given"),
        ('  "n",\n', '  "speed",\n', "no column speed"),
        ('label = "label"', 'label = "lable"', "the graph has no output lable"),
        ('classes = ["0", "1"]', 'classes = ["a", "b", "c"]', "2 scores a row for 3 names"),
        ('task = "binary"', 'task = "quantiles"', "quantiles is missing"),
    ):
        (folder / "bundle.toml").write_text(text.replace(old, new))
        with pytest.raises((ConversionError, DataError, RecipeError)) as caught:
            train_recipe(ws)
        assert named in caught.value.line()


def test_a_graph_that_cannot_be_fed_is_one_line_that_helps(tmp_path):
    value, model = helper.make_tensor_value_info, onnx.load
    frame = table()[INPUTS].astype(np.float32)
    label = [
        helper.make_node("MatMul", ["X", "W"], ["raw"]),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
    ]
    linear_onnx(tmp_path / "plain.onnx")
    fixed = model(tmp_path / "plain.onnx")
    fixed.graph.input[0].CopyFrom(value("X", TensorProto.FLOAT, [1, 3]))
    alone = model(linear_onnx(tmp_path / "label.onnx", nodes=[*label, label[0]]))
    del alone.graph.node[2:], alone.graph.output[1:]
    plain = model(tmp_path / "plain.onnx")
    for number, (graph, samples, named) in enumerate(
        (
            (fixed, frame, "takes exactly 1 rows at a time; export the model with a free first"),
            (alone, frame, "a label only, and nobody says which there are; name them: classes"),
            (plain, frame.assign(b=pd.Timestamp("2024-01-01")), "column b is a time"),
            (plain, frame.assign(b=[True, None] * 200), "column b is true or false, but missing"),
            (plain, frame.assign(expected_0="high"), "expected_0 does not hold numbers only"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "m.onnx").write_bytes(graph.SerializeToString())
        samples.to_parquet(folder / "s.parquet")
        with pytest.raises((ConversionError, DataError)) as caught:
            train_recipe(begun(folder, folder / "m.onnx", folder / "s.parquet"))
        assert named in caught.value.line()


def test_small_images_come_as_nested_lists(tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    pd.DataFrame({"image": images.tolist()}).to_parquet(tmp_path / "s.parquet")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["bright"]),
        ],
        "g",
        [value("image", TensorProto.FLOAT, [None, 1, 4, 4])],
        [value("bright", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    candidate, _ = train_recipe(begun(tmp_path, tmp_path / "m.onnx", tmp_path / "s.parquet"))
    assert candidate.schema.column("image").shape == (1, 4, 4)


def test_operators_that_the_class_refuses_are_named(tmp_path, samples):
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), samples)
    (ws.root / "edgepack.toml").write_text(
        'format = 1\n[class.field]\noperators = ["ai.onnx:MatMul", "ai.onnx:Softmax"]\n'
    )
    with pytest.raises(ConversionError, match="ArgMax"):
        train_recipe(Workspace.find(ws.root))


def test_an_opset_newer_than_the_class_is_refused(tmp_path, samples):
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx", opset=22), samples)
    with pytest.raises(ConversionError, match=r"class field refuses this model.*1\.21 or newer"):
        train_recipe(ws)


def test_a_zipmap_is_taken_off_and_metadata_stripped(tmp_path, fitted, samples):
    from skl2onnx import to_onnx

    frame = table()[INPUTS].astype(np.float32)
    model = to_onnx(fitted, frame.to_numpy(), target_opset=15)
    model.metadata_props.add(key="author", value="somebody")
    model.opset_import.add(domain="", version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert any(node.op_type == "ZipMap" for node in model.graph.node)
    candidate, _ = train_recipe(begun(tmp_path, tmp_path / "m.onnx", samples))
    kept = onnx.load_from_string(candidate.model)
    assert not kept.metadata_props
    assert not kept.producer_name
    assert sorted(item.domain for item in kept.opset_import) == ["", "ai.onnx.ml"]
    assert "ZipMap" not in {node.op_type for node in kept.graph.node}
    _, scores = score_onnx(candidate, candidate.schema, table())
    np.testing.assert_allclose(scores, fitted.predict_proba(table()[INPUTS]), atol=1e-5)
