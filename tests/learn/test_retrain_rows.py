"""Retraining: which rows judge and which teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgepack.candidate import find_candidate
from edgepack.errors import EvidenceError
from edgepack.learn.dataset import cap, repeated
from edgepack.learn.retrain import accept_newest, retrain
from edgepack.learn.state import name_state
from edgepack.learn.trial import Trial
from edgepack.learn.window import check_classes, choose
from edgepack.packing.build import build
from support.learnworld import World, nature

DAY = 86_400_000_000


def test_the_window_is_the_newest_span_and_far_future_rows_do_not_move_it() -> None:
    order = np.sort(np.random.default_rng(0).integers(0, 60 * DAY, 3000))
    found = choose(order, order < 10 * DAY, span_us=10 * DAY, least=100, what="x")
    assert found.judge.sum() == ((order > found.end - 10 * DAY) & (order >= 10 * DAY)).sum()
    assert not (found.judge & found.learn).any()
    assert order[found.judge].min() >= 50 * DAY - DAY
    liar = np.sort(np.concatenate([order, [9000 * DAY, 9001 * DAY]]))
    moved = choose(liar, liar < 10 * DAY, span_us=10 * DAY, least=100, what="x")
    assert (moved.begin, moved.end, moved.late) == (found.begin, found.end, 2)


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
