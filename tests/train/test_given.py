"""Bring your own: every way in, and every way in which it is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import edgepack
from edgepack.candidate import score_onnx
from edgepack.candidate.training import train_recipe
from edgepack.convert.loading import load_estimator, onnx_file
from edgepack.errors import ConversionError, DataError, ParityError, RecipeError
from edgepack.setup.beginning import Beginning, begin
from edgepack.workspace import Workspace
from support.tables import table

INPUTS = ["a", "b", "n"]


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch):
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "open sesame")


@pytest.fixture(scope="module")
def fitted():
    frame = table()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(frame[INPUTS], frame["y"])


@pytest.fixture
def samples(tmp_path) -> Path:
    path = tmp_path / "samples.csv"
    table()[INPUTS].to_csv(path, index=False)
    return path


def begun(tmp_path: Path, model: Path, samples: Path, **more) -> Workspace:
    wish = Beginning(model=str(model), samples=str(samples), **more)
    return Workspace.find(begin(tmp_path / "ws", wish).root)


def linear_onnx(
    path: Path, *, opset: int = 18, width: int = 3, nodes: list | None = None, tensor: str = "X"
) -> Path:
    """Write a two-class softmax model over [n, width]."""
    weights = helper.make_tensor("W", TensorProto.FLOAT, [width, 2], np.arange(width * 2) / 10)
    value = helper.make_tensor_value_info
    nodes = nodes or [
        helper.make_node("MatMul", [tensor, "W"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value(tensor, TensorProto.FLOAT, [None, width])],
        [
            value("label", TensorProto.INT64, [None]),
            value("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_file_becomes_a_candidate(tmp_path, samples):
    ws = begun(tmp_path, linear_onnx(tmp_path / "gearbox.onnx"), samples)
    candidate, _ = train_recipe(ws)
    assert (candidate.name, candidate.kind) == ("gearbox", "given")
    assert candidate.schema.output.names == ("0", "1")
    assert candidate.json("parity.json")["against"] == "both engines only"
    label, scores = score_onnx(candidate, candidate.schema, table())
    assert scores.shape == (400, 2)
    assert (label == scores.argmax(axis=1)).all()


def test_expected_columns_are_held_against_the_model(tmp_path):
    frame = table()[INPUTS].astype(np.float32)
    raw = frame.to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = raw.argmax(axis=1)
    frame.to_parquet(tmp_path / "good.parquet")
    model = linear_onnx(tmp_path / "m.onnx")
    candidate, _ = train_recipe(begun(tmp_path, model, tmp_path / "good.parquet"))
    assert candidate.json("parity.json")["against"] == "expected columns of the samples"
    frame["expected_label"] = 1 - frame["expected_label"]
    frame.to_parquet(tmp_path / "bad.parquet")
    refusing = begun(tmp_path / "2", model, tmp_path / "bad.parquet")
    with pytest.raises(ParityError, match="400 rows otherwise than the samples expect") as caught:
        train_recipe(refusing)
    page = refusing.candidates("m") / "refused.html"
    assert str(page) in caught.value.next
    assert "answers different" in page.read_text()
    assert "first 20 differences" in page.read_text()
    samples = refusing.recipe_folder(None) / "bad.parquet"
    samples.write_bytes((tmp_path / "good.parquet").read_bytes())
    train_recipe(refusing)
    assert not page.exists()


def test_a_fitted_estimator_in_skops_becomes_a_candidate(tmp_path, fitted, samples):
    from skops.io import dump

    dump(fitted, tmp_path / "m.skops")
    candidate, _ = train_recipe(begun(tmp_path, tmp_path / "m.skops", samples))
    frame = table()
    _, scores = score_onnx(candidate, candidate.schema, frame)
    np.testing.assert_allclose(scores, fitted.predict_proba(frame[INPUTS]), atol=1e-6)


def test_a_pickle_is_refused_unless_it_is_allowed(tmp_path, fitted, samples):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(fitted))
    with pytest.raises(ConversionError, match="is a pickle") as caught:
        begun(tmp_path, path, samples)
    assert "runs whatever code" in caught.value.line()
    assert not (tmp_path / "ws").exists()
    ws = begun(tmp_path, path, samples, allow_pickle=True)
    assert train_recipe(ws)[0].kind == "given"
    folder = ws.recipe_folder()
    text = (folder / "bundle.toml").read_text().replace("allow_pickle = true", "# no")
    (folder / "bundle.toml").write_text(text)
    with pytest.raises(ConversionError, match="is a pickle"):
        train_recipe(ws)


def test_a_notebook_packs_what_it_has_just_fitted(tmp_path, fitted):
    ws = Workspace.create(tmp_path / "ws")
    frame = table()
    candidate = edgepack.pack(
        fitted, samples=frame[[*INPUTS, "y"]], name="note", target="y", workspace=ws
    )
    assert candidate.name == "note"
    assert candidate.metrics["auc"] > 0.8
    assert not list(candidate.folder.glob("*.pkl"))
    with pytest.raises(RecipeError, match="does not take that"):
        edgepack.pack(fitted, samples=frame[INPUTS], name="note", workspace=ws, colour="red")
    with pytest.raises(DataError, match="has no rows"):
        edgepack.pack(fitted, samples=frame[INPUTS].head(0), name="note", workspace=ws)
    with pytest.raises(DataError, match="does not take the samples"):
        edgepack.pack(fitted, samples=frame[["a"]], name="note", workspace=ws)
    with pytest.raises(ConversionError, match="not fitted"):
        edgepack.pack(LogisticRegression(), samples=frame[INPUTS], name="note", workspace=ws)


def test_an_mlflow_folder_with_an_onnx_flavour(tmp_path, samples):
    folder = tmp_path / "logged"
    folder.mkdir()
    linear_onnx(folder / "model.onnx")
    (folder / "MLmodel").write_text(
        "flavors:\n  onnx:\n    code: null\n    data: model.onnx\n    onnx_version: 1.18\n"
        "  python_function:\n    data: model.onnx\n"
    )
    candidate, _ = train_recipe(begun(tmp_path, folder, samples))
    assert candidate.name == "logged"
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    data: model.pkl\n")
    with pytest.raises(ConversionError, match="no ONNX flavour"):
        onnx_file(folder)
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: ../../etc/passwd\n")
    with pytest.raises(ConversionError, match="which is not there"):
        onnx_file(folder)


def test_lightgbm_and_xgboost_in_their_own_formats(tmp_path, samples):
    lightgbm = pytest.importorskip("lightgbm")
    xgboost = pytest.importorskip("xgboost")
    frame = table()
    light = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)
    light.fit(frame[INPUTS], frame["y"])
    light.booster_.save_model(tmp_path / "light.txt")
    candidate, _ = train_recipe(begun(tmp_path / "1", tmp_path / "light.txt", samples))
    _, scores = score_onnx(candidate, candidate.schema, frame)
    np.testing.assert_allclose(scores, light.predict_proba(frame[INPUTS]), atol=1e-5)
    boosted = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(frame[INPUTS], frame["y"])
    boosted.save_model(tmp_path / "boost.ubj")
    candidate, _ = train_recipe(begun(tmp_path / "2", tmp_path / "boost.ubj", samples))
    _, scores = score_onnx(candidate, candidate.schema, frame)
    np.testing.assert_allclose(scores, boosted.predict_proba(frame[INPUTS]), atol=1e-5)


def test_a_booster_knows_its_columns(tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    frame = table().rename(columns={"b": "big b"})
    names = ["a", "big b", "n"]
    frame[["y", *reversed(names)]].to_parquet(tmp_path / "s.parquet")
    model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, n_jobs=1)
    model.fit(frame[names], frame["value"]).booster_.save_model(tmp_path / "m.txt")
    ws = begun(tmp_path, tmp_path / "m.txt", tmp_path / "s.parquet")
    candidate, _ = train_recipe(ws)
    assert [column.name for column in candidate.schema.fed] == names
    path = ws.recipe_folder() / "bundle.toml"
    path.write_text(path.read_text().replace('  "n",\n', '  "n",\n  "y",\n'))
    with pytest.raises(DataError, match="does not take the samples: The number of features"):
        train_recipe(ws)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("m.onnx", b"not a model", "not a valid ONNX model|is refused"),
        ("m.skops", b"PK nonsense", "cannot be loaded"),
        ("m.xyz", b"", "of a kind that is not known"),
        ("m.txt", b"tree\nnonsense", "cannot be loaded"),
    ],
)
def test_files_that_are_no_models_are_one_line(tmp_path, samples, name, content, named):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=named) as caught:
        begun(tmp_path, path, samples)
    assert "\n" not in caught.value.line()
    assert caught.value.exit == 71


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


def test_a_row_must_not_hang_on_the_rows_beside_it(tmp_path, samples):
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["probabilities"], axis=0),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
    ]
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx", nodes=nodes), samples)
    with pytest.raises(ConversionError, match="alone than among other rows"):
        train_recipe(ws)


def test_int_labels_may_have_names(tmp_path):
    frame = (table()[INPUTS] - table()[INPUTS].mean()).astype(np.float32)
    raw = frame.to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = np.where(raw.argmax(axis=1), "yes", "no")
    frame.to_parquet(tmp_path / "s.parquet")
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), tmp_path / "s.parquet")
    candidate, _ = train_recipe(ws)
    assert candidate.schema.output.names == ("no", "yes")
    path = ws.recipe_folder() / "bundle.toml"
    text = path.read_text()
    for classes, error, named in (
        ('["a", "b"]', DataError, "the samples expect no, yes, but the classes are a, b"),
        ('["7", "8"]', ConversionError, "is none of the classes 7, 8"),
    ):
        path.write_text(text.replace('["no", "yes"]', classes))
        with pytest.raises(error, match=named):
            train_recipe(ws)


def test_expected_columns_keep_to_their_rows_when_time_sorts_them(tmp_path):
    frame = table()[[*INPUTS, "time"]].astype(dict.fromkeys(INPUTS, np.float32))
    frame[INPUTS] -= frame[INPUTS].mean()
    raw = frame[INPUTS].to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = raw.argmax(axis=1)
    frame.iloc[::-1].to_parquet(tmp_path / "s.parquet")
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), tmp_path / "s.parquet")
    path = ws.recipe_folder() / "bundle.toml"
    path.write_text(path.read_text().replace('# time = "…"', 'time = "time" #'))
    assert train_recipe(ws)[0].json("parity.json")["ok"]


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


def test_untrusted_types_in_skops_are_named(tmp_path):
    from skops.io import dump

    class Odd(LogisticRegression):
        pass

    dump(Odd().fit([[0.0], [1.0]], [0, 1]), tmp_path / "m.skops")
    with pytest.raises(ConversionError, match=r"types that are not trusted: .*Odd"):
        load_estimator(tmp_path / "m.skops")


def test_init_from_data_writes_a_recipe_that_trains(tmp_path):
    frame = table()[["time", "a", "n", "word", "y"]].assign(row_id=range(400))
    frame.to_csv(tmp_path / "my table.csv", index=False)
    done = begin(tmp_path / "ws", Beginning(data=str(tmp_path / "my table.csv"), target="y"))
    ws = Workspace.find(done.root)
    text = (ws.recipe_folder() / "bundle.toml").read_text()
    assert 'time = "time"' in text
    assert 'key = "row_id"' in text
    candidate, _ = train_recipe(ws)
    assert candidate.name == "my-table"
    assert candidate.metrics["auc"] > 0.7
    with pytest.raises(DataError, match="no column z"):
        begin(tmp_path / "2", Beginning(data=str(tmp_path / "my table.csv"), target="z"))
    assert not (tmp_path / "2").exists()


def test_parity_refuses_and_helps(tmp_path):
    """A pipeline whose step the converter gets wrong is refused by rows, step and way around."""

    class Sly(GradientBoostingClassifier):
        def predict_proba(self, rows):
            return super().predict_proba(rows) ** 1.01

    frame = table()
    model = Sly(n_estimators=5).fit(frame[INPUTS], frame["y"])
    model.__class__ = type("GradientBoostingClassifier", (Sly,), {})
    ws = Workspace.create(tmp_path / "ws")
    with pytest.raises((ParityError, ConversionError)) as caught:
        edgepack.pack(model, samples=pd.DataFrame(frame[INPUTS]), name="sly", workspace=ws)
    assert "\n" not in caught.value.line()


def test_a_regression_without_truth_and_a_wrong_task(tmp_path, fitted):
    from sklearn.linear_model import Ridge

    frame = table()
    ws = Workspace.create(tmp_path / "ws")
    model = Ridge().fit(frame[INPUTS], frame["value"])
    made = edgepack.pack(model, samples=frame[INPUTS], name="value", workspace=ws)
    assert made.schema.task == "regression"
    for task, estimator, named in (
        ("regression", fitted, "the model classifies"),
        ("classes", model, "gives values, not classes"),
    ):
        with pytest.raises(DataError, match=named):
            edgepack.pack(
                estimator, samples=frame[INPUTS], name="odd", task=task, workspace=ws, target=()
            )
    with pytest.raises(DataError, match="has no rows"):
        edgepack.pack(model, samples=frame[INPUTS].head(0), name="none", workspace=ws)
