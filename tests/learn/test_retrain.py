"""Retraining: proposes what is better, refuses what is not, and can be made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from device_runtime.crypt import sha256
from edgepack.candidate import accept, find_candidate
from edgepack.candidate.lineage import rows_digest
from edgepack.errors import DataError, EvidenceError, RecipeError
from edgepack.keys.sign import sign_file
from edgepack.learn.again import again
from edgepack.learn.dataset import cap, repeated
from edgepack.learn.queue import queue
from edgepack.learn.retrain import accept_newest, proposals, retrain
from edgepack.learn.same_rows import same_rows
from edgepack.learn.state import NameState, name_state
from edgepack.learn.survey import survey
from edgepack.learn.trial import Trial
from edgepack.learn.window import check_classes, choose
from edgepack.packing.build import build
from edgepack.records import DeviceRow
from edgepack.store.labels import collect
from edgepack.store.upkeep import compact
from support.learnworld import TOML, World, nature

DAY = 86_400_000_000


def test_a_better_challenger_is_proposed_accepted_and_can_be_made_again(returned: World) -> None:
    proposal = retrain(returned.ws, returned.registry, "pump", returned.clock)
    facts = proposal.facts
    assert facts["challenger"]["auc"] > facts["champion"]["auc"] + 0.1
    low, high = facts["interval"]
    assert 0 < low < facts["gain"] < high
    candidate = find_candidate(returned.ws, "pump", proposal.candidate)
    assert not candidate.accepted
    assert find_candidate(returned.ws, "pump").number == 1
    folder = returned.ws.proposals("pump") / "1"
    files = {"proposal.json", "proposal.md", "gain.svg", "changed.svg"}
    assert files == {p.name for p in folder.iterdir()}
    moved = {item["name"]: item["words"] for item in facts["changed"]}
    assert moved["still"] == "as in training"
    assert moved["temp"].startswith("changed")
    temp = facts["changed"][0]
    assert temp["beyond"][0] == temp["excess"] < temp["psi"]
    words = (folder / "proposal.md").read_text()
    assert f"| temp | {temp['psi']:.3f} | {temp['low']:.3f} to {temp['high']:.3f} | " in words
    assert f" | {temp['excess']:.3f} | " in words

    assert accept_newest(returned.ws, returned.registry, "pump").accepted
    assert [item.accepted for item in proposals(returned.ws, "pump")] == [True]
    assert find_candidate(returned.ws, "pump").number == proposal.candidate
    returned.ship(find_candidate(returned.ws, "pump"))
    newest, champion = returned.refs()

    # a proposal that was held against bundle 1 is of no use once bundle 2 is signed
    left = shutil.copytree(folder, folder.parent / "2")
    other = json.loads((left / "proposal.json").read_text()) | {"number": 2, "candidate": 99}
    (left / "proposal.json").write_text(json.dumps(other))
    with pytest.raises(EvidenceError, match="held against bundle 1, but bundle 2 is signed"):
        accept_newest(returned.ws, returned.registry, "pump")
    state = name_state(returned.ws, returned.registry, "pump", returned.clock, same=False)
    assert state.waiting is None
    assert not any("moved" in text for text in state.due.reasons)  # bundle 2 learned from these
    shutil.rmtree(left)

    story = newest.json("lineage.json")
    assert story["parent"] == champion.row.digest

    # later rows come home: the same rows as then are still found, by serial and label file
    more = nature(30, 1500, 5, first=70)
    ids = returned.device("press-2").predict(more)
    returned.device("press-2").label(ids, more["worn"].tolist())
    returned.device("press-2").come_home()
    returned.catch_up()
    upto = (story["returned"]["serial"], story["returned"]["label_files"])
    then = Trial.prepare(returned.ws, returned.registry, returned.recipe(), champion, upto=upto)
    assert rows_digest(then.rows.whole) == story["data"]["sha256"]

    # the same bytes, also from a table whose files stand in another order
    compact(returned.ws, returned.registry)
    for version, kind in ((1, "train"), (2, "retrain")):
        found_again = again(returned.ws, returned.registry, "pump", version)
        assert found_again.kind == kind
        assert found_again.model_sha256 == sha256(returned.refs()[2 - version].model).hex()
    with pytest.raises(DataError, match="no signed bundle 3"):
        again(returned.ws, returned.registry, "pump", 3)

    schema = newest.schema
    columns = [column.name for column in schema.fed]
    found = survey(returned.view, collect(returned.view, schema), schema, columns)
    same = same_rows(returned.refs(), found)
    assert same.rows == 1500
    assert same.scores[2] > same.scores[1]


def test_a_challenger_that_learned_noise_is_refused(world: World) -> None:
    frame = nature(30, 3000, 3, first=30)
    rng = np.random.default_rng(0)
    ids = world.device().predict(frame)
    world.device().label(ids, (rng.uniform(size=3000) < 0.5).tolist())
    world.device().come_home()
    world.catch_up()
    with pytest.raises(EvidenceError) as caught:
        retrain(world.ws, world.registry, "pump", world.clock)
    assert caught.value.exit == 74
    assert "not better" in caught.value.what
    assert proposals(world.ws, "pump") == []
    assert find_candidate(world.ws, "pump").number == 1

    # status remembers it, and does not ask for the same comparison on the same rows again
    def told() -> NameState:
        return name_state(world.ws, world.registry, "pump", world.clock, same=False)

    assert told().due.due
    assert told().refused in caught.value.what
    assert told().next == "edgepack label queue --name pump -o queue.csv"
    assert any("was not better" in line for line in told().lines())
    world.device().open().append_event("start", {})
    world.device().come_home()
    world.catch_up()
    assert told().refused
    more = nature(2, 50, 4, first=61)
    world.device().label(world.device().predict(more), more["worn"].tolist())
    world.device().come_home()
    world.catch_up()
    assert (told().refused, told().next) == ("", "edgepack retrain pump")
    (world.ws.proposals("pump") / "last-refusal.json").write_text("[torn")
    assert told().refused == ""


def test_thin_evidence_is_refused_with_the_reason(world: World) -> None:
    def refusal() -> str:
        with pytest.raises(EvidenceError) as caught:
            retrain(world.ws, world.registry, "pump", world.clock)
        return caught.value.line()

    assert "no labelled row" in refusal()
    frame = nature(20, 150, 3, first=31)
    ids = world.device().predict(frame)
    world.device().label(ids, frame["worn"].tolist())
    world.device().come_home()
    world.catch_up()
    assert "150 labelled rows" in refusal()
    frame = nature(20, 1000, 4, first=55)
    ids = world.device().predict(frame)
    world.device().label(ids, [True] * 1000)
    world.device().come_home()
    world.catch_up()
    assert "name one class only" in refusal()


def test_without_a_signed_bundle_there_is_no_champion(tmp_path) -> None:
    world = World(tmp_path)
    with pytest.raises(EvidenceError, match="no champion"):
        retrain(world.ws, world.registry, "pump", world.clock)
    with pytest.raises(EvidenceError, match="no proposal"):
        accept_newest(world.ws, world.registry, "pump")


def test_the_window_is_the_newest_span_and_far_future_rows_do_not_move_it() -> None:
    order = np.sort(np.random.default_rng(0).integers(0, 60 * DAY, 3000))
    found = choose(order, order < 10 * DAY, span_us=10 * DAY, least=100, what="x")
    assert found.judge.sum() == ((order > found.end - 10 * DAY) & (order >= 10 * DAY)).sum()
    assert not (found.judge & found.learn).any()
    assert order[found.judge].min() >= 50 * DAY - DAY
    liar = np.sort(np.concatenate([order, [9000 * DAY, 9001 * DAY]]))
    moved = choose(liar, liar < 10 * DAY, span_us=10 * DAY, least=100, what="x")
    assert (moved.begin, moved.end, moved.late) == (found.begin, found.end, 2)


def test_a_device_whose_clock_lies_ahead_neither_teaches_nor_judges(returned: World) -> None:
    frame = nature(40, 1500, 5, first=30)
    liar = frame.assign(taken=frame["taken"] + pd.Timedelta(days=40 * 365))
    ids = returned.device("press-2").predict(liar)
    returned.device("press-2").label(ids, (~frame["worn"]).tolist())
    returned.device("press-2").come_home()
    returned.catch_up()
    proposal = retrain(returned.ws, returned.registry, "pump", returned.clock)
    facts = proposal.facts
    assert facts["window"]["set_aside"] == 1500
    assert facts["window"]["end"] < "2024-04"
    assert facts["challenger"]["auc"] > facts["champion"]["auc"] + 0.1
    story = find_candidate(returned.ws, "pump", proposal.candidate).json("lineage.json")
    assert story["data"]["last"] < "2024-04"
    assert story["returned"]["labelled"] == 5500
    text = (returned.ws.proposals("pump") / "1" / "proposal.md").read_text()
    assert "1,500 rows are dated after the window, or in the future" in text

    # once that model ships, what was left out is not counted as new labels
    accept_newest(returned.ws, returned.registry, "pump")
    returned.ship(find_candidate(returned.ws, "pump"))
    now = name_state(returned.ws, returned.registry, "pump", returned.clock, same=False).due
    assert any("0 new labelled rows" in line for line in now.left)


def test_times_may_have_a_zone(tmp_path) -> None:
    rows = nature(30, 2000, 1)
    world = World(tmp_path, frame=rows.assign(taken=rows["taken"].dt.tz_localize("Asia/Kolkata")))
    world.train()
    frame = nature(40, 2500, 2, first=30)
    local = frame.assign(taken=frame["taken"].dt.tz_localize("Asia/Kolkata"))
    ids = world.device().predict(local)
    world.device().label(ids, frame["worn"].tolist())
    world.device().come_home()
    world.catch_up()
    facts = retrain(world.ws, world.registry, "pump", world.clock).facts
    assert facts["interval"][0] > 0
    assert facts["window"]["set_aside"] == 0


def test_a_window_without_time_is_the_newest_third() -> None:
    found = choose(np.arange(900), np.zeros(900, bool), span_us=None, least=100, what="x")
    assert found.judge.sum() == pytest.approx(300, abs=2)
    assert found.learn.sum() == pytest.approx(600, abs=2)


@pytest.mark.parametrize("order", [np.full(500, 7), np.arange(150)])
def test_rows_that_cannot_be_parted_are_refused(order) -> None:
    with pytest.raises(EvidenceError):
        choose(order, np.zeros(len(order), bool), span_us=1, least=100, what="x")


def test_a_base_whose_clock_is_behind_says_so() -> None:
    order = np.arange(500) * DAY
    with pytest.raises(EvidenceError) as caught:
        choose(order, order < 0, span_us=DAY, least=100, what="x", aside=order > 99 * DAY)
    assert caught.value.why == "400 rows are dated in the future by this base's clock"


def test_one_class_in_the_window_is_refused() -> None:
    with pytest.raises(EvidenceError, match="one class"):
        check_classes("binary", [True] * 500, "x")
    with pytest.raises(EvidenceError, match="only 3 times"):
        check_classes("binary", [True] * 500 + [False] * 3, "x")
    check_classes("regression", [1.0] * 500, "x")


def test_no_device_gives_more_than_its_share() -> None:
    device = np.array(["a"] * 900 + ["b"] * 60 + ["c"] * 40, dtype=object)
    found = cap(device, np.ones(1000, bool), 0.5, 0)
    rows = {name: int((found.keep & (device == name)).sum()) for name in "abc"}
    assert rows == {"a": 100, "b": 60, "c": 40}
    assert found.dropped == {"a": 800}
    alone = cap(device[:900], np.ones(900, bool), 0.5, 0)
    assert alone.keep.all()


def test_a_row_that_the_recipe_has_is_not_counted_twice(trained: World) -> None:
    recipe = trained.recipe()
    frame = nature(3, 100, 7)
    later = nature(3, 50, 8)
    both = pd.concat([frame.iloc[:30], later, later.iloc[:10]], ignore_index=True)
    found = repeated(recipe, frame, both)
    assert found[:30].all()
    assert found.sum() == 40


def test_the_largest_devices_are_left_out_in_turn(world: World) -> None:
    for name, seed, rows in (("press-1", 2, 1500), ("press-2", 3, 900)):
        frame = nature(40, rows, seed, first=30)
        ids = world.device(name).predict(frame)
        world.device(name).label(ids, frame["worn"].tolist())
        world.device(name).come_home()
    world.catch_up()
    facts = retrain(world.ws, world.registry, "pump", world.clock).facts
    assert len(facts["without"]) == len(facts["devices"]) == 2
    assert all(item["auc"] > 0.5 for item in facts["without"])
    taught = {item["device"]: item["taught"] for item in facts["devices"]}
    assert {item["device"]: item["rows"] for item in facts["without"]} == taught
    text = (world.ws.proposals("pump") / "1" / "proposal.md").read_text()
    assert "Without one device at a time" in text
    state = name_state(world.ws, world.registry, "pump", world.clock, same=False)
    assert state.waiting is not None
    stolen = world.registry.device("press-2")
    world.registry.put_device(replace(stolen, state="compromised", since=0))
    state = name_state(world.ws, world.registry, "pump", world.clock, same=False)
    assert state.waiting is None
    with pytest.raises(EvidenceError, match="void: press-2 taught it, and is compromised since"):
        accept_newest(world.ws, world.registry, "pump")
    _spoiled(world, facts["candidate"], replace(stolen, state="accepted"))
    larger = facts["without"][0]
    assert f"- without press-1 and its {larger['rows']:,} rows: " in text


def _spoiled(world: World, number: int, device: DeviceRow) -> None:
    """An accepted candidate is neither built nor signed once its rows are left out."""
    newest = world.registry.next_serial() - 1
    world.registry.put_device(device)
    candidate = accept_newest(world.ws, world.registry, "pump").candidate
    assert candidate == number
    unsigned = build(world.ws, find_candidate(world.ws, "pump"))
    world.registry.put_device(replace(device, state="compromised", since=newest + 1))
    assert build(world.ws, find_candidate(world.ws, "pump")) == unsigned  # what it gave stays good
    world.registry.put_device(replace(device, state="compromised", since=newest))
    with pytest.raises(EvidenceError, match="press-2 taught this model of pump") as caught:
        build(world.ws, find_candidate(world.ws, "pump"))
    assert caught.value.next.endswith("edgepack retrain pump")
    with pytest.raises(EvidenceError, match="press-2 taught this model of pump"):
        sign_file(world.ws, world.ring, unsigned.path, clock=world.clock)
    assert world.registry.highest_version("pump") == 1  # no version is used up
    # the next one knows what was left out, and may ship
    accept(world.ws, "pump", retrain(world.ws, world.registry, "pump", world.clock).candidate)
    world.ship(find_candidate(world.ws, "pump"))


def test_the_queue_asks_for_spread_unknown_and_random_rows(world: World) -> None:
    frame = nature(10, 1200, 3, first=31)
    ids = world.device().predict(frame)
    world.device().label(ids[:200], frame["worn"].tolist()[:200])
    world.device().come_home()
    world.catch_up()
    schema = world.refs()[0].schema
    made = queue(world.view, collect(world.view, schema), schema, 100)
    why = made.table["why"].to_pylist()
    assert made.table.num_rows == 100
    assert made.unlabelled == 1000
    assert len(set(made.table["record"].to_pylist())) == 100
    assert not set(made.table["record"].to_pylist()) & set(ids[:200])
    assert why.count("random") >= 10
    assert why.count("spread") >= 30
    assert why.count("unknown") >= 30
    few = queue(world.view, collect(world.view, schema), schema, 5000)
    assert few.table.num_rows == 1000


def test_a_new_class_spreads_within_its_cluster_only_when_asked(tmp_path) -> None:
    rows = nature(30, 2000, 1, new=True)
    rows = rows[rows["worn"] != "broken"]
    world = World(tmp_path, task="classes", more="copy_new_classes = true", frame=rows)
    world.train()
    frame = nature(40, 3000, 2, first=30, new=True)
    ids = world.device().predict(frame)
    marked = np.random.default_rng(0).choice(3000, 500, replace=False)
    world.device().label([ids[i] for i in marked], [str(frame["worn"][i]) for i in marked])
    world.device().come_home()
    world.catch_up()
    trial = Trial.prepare(world.ws, world.registry, world.recipe(), world.refs()[0])
    assert set(trial.rows.spread["worn"]) == {"broken"}
    right = frame.set_index("serial")["worn"].loc[trial.rows.spread["serial"]] == "broken"
    assert len(right) > 20
    assert right.mean() > 0.6
    facts = retrain(world.ws, world.registry, "pump", world.clock).facts
    assert facts["challenger"]["accuracy"] > facts["champion"]["accuracy"]
    assert "broken" in find_candidate(world.ws, "pump", facts["candidate"]).schema.output.names


@pytest.mark.parametrize("giver", [False, True])
def test_whoever_shaped_the_clusters_that_labels_spread_in_taught_the_model(
    tmp_path, giver: bool
) -> None:
    """A label spreads to rows of other devices; and rows without a label say where clusters lie."""
    rows = nature(30, 2000, 1, new=True)
    rows = rows[rows["worn"] != "broken"]
    world = World(tmp_path, task="classes", more="copy_new_classes = true", frame=rows)
    world.train()
    honest, thief = world.device("press-1"), world.device("press-2")
    frame = nature(40, 3000, 2, first=30, new=True)
    mixed = frame.sample(frac=1, random_state=0)
    labelled, bare = (part.sort_values("taken") for part in (mixed[:500], mixed[500:]))
    honest.label(honest.predict(labelled), labelled["worn"].tolist())
    if giver:  # the same rows come from the other one, too: none of them is counted as his
        thief.label(thief.predict(labelled), labelled["worn"].tolist())
        honest.predict(bare)
    else:
        thief.predict(bare)
    thief.come_home()
    honest.come_home()
    world.catch_up()
    proposal = retrain(world.ws, world.registry, "pump", world.clock)
    assert proposal.facts["rows"]["spread"] > 20
    story = find_candidate(world.ws, "pump", proposal.candidate).json("lineage.json")
    counts = story["returned"]["devices"]
    assert counts == {honest.identity.public.id: 500, thief.identity.public.id: 0}
    accept_newest(world.ws, world.registry, "pump")
    taken = replace(world.registry.device("press-2"), state="compromised", since=0)
    world.registry.put_device(taken)
    with pytest.raises(EvidenceError, match="press-2 taught this model of pump"):
        build(world.ws, find_candidate(world.ws, "pump"))


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


def test_what_cannot_be_trained_again_is_said(returned: World) -> None:
    data = returned.ws.recipes / "pump" / "pump.parquet"
    before = data.read_bytes()
    nature(30, 2990, 1).to_parquet(data)
    with pytest.raises(DataError, match="not those that taught"):
        again(returned.ws, returned.registry, "pump", 1)
    data.write_bytes(before)
    code = returned.ws.recipes / "pump" / "recipe.py"
    code.write_text(code.read_text() + "\n# other\n")
    with pytest.raises(RecipeError, match="was changed since bundle 1"):
        again(returned.ws, returned.registry, "pump", 1)


def test_a_streamed_recipe_cannot_copy_labels_to_clusters(tmp_path) -> None:
    more = 'copy_new_classes = true\n[training]\nengine = "stream"'
    rows = nature(30, 1000, 1).assign(temp=lambda f: f["temp"].fillna(60))
    world = World(tmp_path, more=more, code=STREAMED, frame=rows)
    world.train()
    with pytest.raises(RecipeError, match="copy_new_classes"):
        retrain(world.ws, world.registry, "pump", world.clock)
