from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from edgepack.candidate import score_onnx
from edgepack.candidate.streaming import KEPT, VALUES, Thinned
from edgepack.candidate.training import train_recipe
from edgepack.errors import DataError, RecipeError
from edgepack.recipe import load_recipe
from edgepack.tables import batches
from edgepack.train.external import check_room
from support.tables import table

STREAM = '[training]\nengine = "stream"\nbatch_rows = 64\n'
SGD = """
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def model(seed):
    return make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=seed))
"""
BOOSTED = """
from xgboost import XGBClassifier

def model(seed):
    return XGBClassifier(n_estimators=20, n_jobs=1, random_state=seed)
"""


def test_a_sample_of_wide_rows_is_no_larger_than_one_of_narrow_rows():
    sample = Thinned()
    for _ in range(30):
        sample.add(pd.DataFrame(np.zeros((1000, 400), np.float32)))
    kept = sample.whole()
    assert sample.seen == 30_000
    assert VALUES // 2 <= kept.size <= 2 * VALUES


def test_a_stream_trains_to_the_same_kind_of_candidate(ws, recipe_folder):
    recipe_folder(SGD, frame=table(2000), extra=STREAM)
    candidate, _ = train_recipe(ws)
    assert candidate.facts["rows"] == candidate.json("lineage.json")["data"]["rows"] == 2000
    assert candidate.metrics["auc"] > 0.75
    assert candidate.json("parity.json")["ok"]
    assert list(candidate.json("lineage.json")["data"]["files"]) == ["data.parquet"]
    again, _ = train_recipe(ws)
    assert again.model == candidate.model


def test_xgboost_streams_from_external_memory(ws, recipe_folder):
    pytest.importorskip("xgboost")
    recipe_folder(BOOSTED, frame=table(2000), extra=STREAM)
    with pytest.raises(DataError, match="class numbers 0, 1"):
        train_recipe(ws)
    numbered = table(2000).assign(y=lambda f: f["y"].astype(int))
    recipe_folder(BOOSTED, frame=numbered, extra=STREAM)
    candidate, _ = train_recipe(ws)
    assert candidate.metrics["auc"] > 0.8
    _, scores = score_onnx(candidate, candidate.schema, table(50))
    assert np.isfinite(scores).all()


def test_xgboost_refuses_before_a_row_is_read_what_memory_does_not_hold(
    ws, recipe_folder, monkeypatch
):
    numbered = table(2000).assign(y=lambda f: f["y"].astype(int))
    little = STREAM + 'memory = "400 MB"\n'
    data = recipe_folder(BOOSTED, frame=numbered, extra=little) / "data.parquet"
    _cut_off_rows(data)
    with pytest.raises(
        DataError, match="2,000 rows x 3 columns from external memory needs about 457"
    ):
        train_recipe(ws)
    recipe_folder(BOOSTED, frame=numbered, extra=little + "refit = false\n")
    _cut_off_rows(data)
    with pytest.raises(
        DataError, match="1,600 rows x 3 columns from external memory needs about 457"
    ):
        train_recipe(ws)
    # rows that nobody knows beforehand are counted, and none is laid down
    toml = recipe_folder(BOOSTED, frame=numbered, extra=little) / "bundle.toml"
    toml.write_text(toml.read_text().replace("data.parquet", "data.csv.gz"))
    numbered.to_csv(data.with_name("data.csv.gz"), index=False)
    monkeypatch.setattr("edgepack.train.external._lay_down", None)
    with pytest.raises(
        DataError, match="2,000 rows x 3 columns from external memory needs about 457"
    ):
        train_recipe(ws)


def test_xgboost_counts_the_sketch_of_each_column():
    few, many = (SimpleNamespace(max_bin=bins) for bins in (16, None))
    check_room(few, 1_350_000, 200, 600_000_000)
    with pytest.raises(DataError, match="x 200 columns from external memory needs about 1,262"):
        check_room(many, 1_350_000, 200, 600_000_000)
    check_room(many, 10_000, 200, 600_000_000)


def _cut_off_rows(data):
    """Make a Parquet file of which only the metadata can be read."""
    whole = data.read_bytes()
    foot = int.from_bytes(whole[-8:-4], "little") + 8
    data.write_bytes(whole[:4] + bytes(len(whole) - foot - 4) + whole[-foot:])


@pytest.mark.parametrize("where", ["above", "inside"])
def test_without_the_extra_one_line_names_it(ws, recipe_folder, monkeypatch, where):
    monkeypatch.setitem(sys.modules, "xgboost", None)  # as where it is not installed
    code = BOOSTED
    if where == "inside":
        head, model = BOOSTED.strip().split("\n\n")
        code = model.replace(":\n", f":\n    {head}\n", 1)
    recipe_folder(code, frame=table(400), extra=STREAM)
    with pytest.raises(RecipeError) as caught:
        train_recipe(ws)
    assert caught.value.next == 'pip install "edgepack[boost]"'


def test_a_model_that_cannot_learn_in_parts_is_refused(ws, recipe_folder, logistic):
    recipe_folder(logistic, extra=STREAM)
    with pytest.raises(RecipeError, match="LogisticRegression cannot be trained in a stream"):
        train_recipe(ws)


def test_a_class_that_comes_late_is_named(ws, recipe_folder):
    frame = table(400).sort_values("y", kind="stable")
    frame["time"] = pd.date_range("2024-01-01", periods=400, freq="h")
    recipe_folder(SGD, frame=frame, extra=STREAM)
    with pytest.raises(DataError, match="rows have one class only"):
        train_recipe(ws)


def test_a_sample_of_a_stream_stays_bounded():
    thinned = Thinned()
    for start in range(0, 10 * KEPT, 5000):
        thinned.add(pd.DataFrame({"x": np.arange(start, start + 5000)}))
    kept = thinned.whole()["x"].to_numpy()
    assert KEPT / 2 <= len(kept) <= 2 * KEPT
    assert thinned.seen == 10 * KEPT
    assert kept[-1] > 9 * KEPT


def test_what_will_not_fit_is_refused_before_a_row_is_read(
    ws, recipe_folder, logistic, monkeypatch
):
    recipe_folder(logistic, frame=table(2000), extra='[training]\nmemory = "100 MB"\n')
    monkeypatch.setattr("edgepack.tables.read_files", None)
    with pytest.raises(DataError, match=r"training 2,000 rows x \d+ columns in memory needs"):
        train_recipe(ws)


def test_a_file_of_many_row_groups_is_streamed_in_order(tmp_path, recipe_folder):
    recipe = recipe_folder(SGD, frame=table(500), extra=STREAM)
    whole = pd.read_parquet(recipe / "data.parquet")
    whole.to_parquet(recipe / "data.parquet", row_group_size=70)
    found = pd.concat(batches(load_recipe(recipe), 64))
    assert found["y"].tolist() == whole["y"].tolist()
