"""Bring your own: every way in, and every way in which it is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import edgepack
from edgepack.candidate import score_onnx
from edgepack.candidate.training import train_recipe
from edgepack.convert.loading import load_estimator, onnx_file
from edgepack.errors import ConversionError, DataError, ParityError, RecipeError
from edgepack.setup.beginning import Beginning, begin
from edgepack.workspace import Workspace
from support.given import INPUTS, begun, linear_onnx
from support.tables import table

pytestmark = pytest.mark.usefixtures("passphrase")


def test_an_onnx_file_becomes_a_candidate(tmp_path, samples):
    ws = begun(tmp_path, linear_onnx(tmp_path / "gearbox.onnx"), samples)
    candidate, _ = train_recipe(ws)
    assert (candidate.name, candidate.kind) == ("gearbox", "given")
    assert candidate.schema.output.names == ("0", "1")
    assert candidate.json("parity.json")["against"] == "both engines only"
    label, scores = score_onnx(candidate, candidate.schema, table())
    assert scores.shape == (400, 2)
    assert (label == scores.argmax(axis=1)).all()


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
