"""Retraining a streamed recipe: no file is read whole."""

from __future__ import annotations

import pytest

from edgepack.candidate import find_candidate
from edgepack.errors import DataError, RecipeError
from edgepack.learn.again import again
from edgepack.learn.retrain import accept_newest, retrain
from support.learnworld import TOML, World, nature

STREAMED = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def model(seed):
    words = OneHotEncoder(handle_unknown="ignore")
    scaled = make_column_transformer((words, ["site"]), remainder=StandardScaler())
    return make_pipeline(scaled, SGDClassifier(loss="log_loss", random_state=seed, alpha=0.001))
"""


def test_a_streamed_recipe_is_retrained_in_constant_memory(tmp_path, monkeypatch) -> None:
    more = '[training]\nengine = "stream"\nbatch_rows = 500'
    rows = nature(30, 3000, 1).assign(temp=lambda f: f["temp"].fillna(60))
    world = World(tmp_path, more=more, code=STREAMED, frame=rows)
    world.train()
    for name, seed in (("press-1", 2), ("press-2", 3)):
        frame = nature(40, 2000, seed, first=30).assign(temp=lambda f: f["temp"].fillna(60))
        ids = world.device(name).predict(frame)
        world.device(name).label(ids, frame["worn"].tolist())
        world.device(name).come_home()
    world.catch_up()
    monkeypatch.setattr("edgepack.tables.read_files", None)  # whole files are never read
    proposal = retrain(world.ws, world.registry, "pump", world.clock)
    facts = proposal.facts
    assert facts["challenger"]["auc"] > facts["champion"]["auc"] + 0.1
    assert facts["rows"]["original"] == 3000
    assert facts["window"]["of"] == facts["window"]["rows"]
    assert len(facts["without"]) == 2
    candidate = find_candidate(world.ws, "pump", proposal.candidate)
    assert candidate.json("parity.json")["ok"]
    story = candidate.json("lineage.json")
    judged, taught = facts["window"]["rows"], facts["rows"]["returned"]
    assert story["data"]["rows"] == candidate.facts["rows"] == 3000 + judged + taught
    assert story["data"]["last"] > "2024-02-01"
    accept_newest(world.ws, world.registry, "pump")
    world.ship(find_candidate(world.ws, "pump"))
    more_rows = nature(5, 500, 9, first=71)
    world.device("press-3").predict(more_rows.assign(temp=60))
    world.device("press-3").come_home()
    world.catch_up()
    for version in (1, 2):
        assert again(world.ws, world.registry, "pump", version).version == version


def test_a_streamed_recipe_cannot_copy_labels_to_clusters(tmp_path) -> None:
    more = 'copy_new_classes = true\n[training]\nengine = "stream"'
    rows = nature(30, 1000, 1).assign(temp=lambda f: f["temp"].fillna(60))
    world = World(tmp_path, more=more, code=STREAMED, frame=rows)
    world.train()
    with pytest.raises(RecipeError, match="copy_new_classes"):
        retrain(world.ws, world.registry, "pump", world.clock)


BOOSTED = """
from xgboost import XGBClassifier


def model(seed):
    return XGBClassifier(n_estimators=5, n_jobs=1, random_state=seed)
"""


def test_xgboost_refuses_what_memory_does_not_hold_before_a_value_is_laid_down(
    tmp_path, monkeypatch
) -> None:
    pytest.importorskip("xgboost")
    stream = '[training]\nengine = "stream"\nbatch_rows = 500'
    toml = TOML.replace('"site", ', "")
    numbered = nature(30, 1000, 1).assign(worn=lambda f: f["worn"].astype(int))
    world = World(tmp_path, toml=toml, more=stream, code=BOOSTED, frame=numbered)
    world.train()
    frame = nature(40, 900, 2, first=30)
    world.device().label(world.device().predict(frame), frame["worn"].astype(int).tolist())
    world.device().come_home()
    world.catch_up()
    recipe = world.ws.recipes / "pump" / "bundle.toml"
    monkeypatch.setattr("edgepack.train.external._lay_down", None)
    monkeypatch.setattr("edgepack.learn.streamed.Source.at", None)  # nor are rows read once more
    whole = recipe.read_text() + '\nmemory = "400 MB"\n'
    for refit, rows in (("true", "1,900"), ("false", "1,6..")):
        recipe.write_text(f"{whole}refit = {refit}\n")
        with pytest.raises(DataError, match=f"over {rows} rows x 3 columns from external memory"):
            retrain(world.ws, world.registry, "pump", world.clock)
