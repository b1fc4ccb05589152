"""Quality: from labels only, with intervals, and honest about what labels do not show."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from edgepack.learn import bootstrap
from edgepack.learn.actions import import_labels, write_queue
from edgepack.learn.bootstrap import auc, blocks_of, interval, paired, statistic
from edgepack.learn.labelled import _not_at_random
from edgepack.learn.quality import quality
from edgepack.learn.state import name_state
from edgepack.learn.survey import survey
from edgepack.store.labels import collect
from edgepack.train.metrics import measure
from support.learnworld import World, nature


def surveyed(world: World):
    schema = world.refs()[0].schema
    columns = [column.name for column in schema.fed]
    return survey(world.view, collect(world.view, schema), schema, columns)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=60
    )
)
def test_weighted_auc_is_that_of_scikit_learn(rows) -> None:
    truth = np.array([r[0] for r in rows]).astype(int)
    score = np.array([r[1] for r in rows]) / 5
    weights = np.array([r[2] for r in rows], float)
    kept = weights > 0
    if len(set(truth[kept])) < 2:
        return
    expected = roc_auc_score(truth, score, sample_weight=weights)
    assert auc(truth, score)(weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["auc", "mean"])
def test_many_rows_in_cells_have_the_interval_of_all_rows(kind, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    truth = (rng.uniform(size=20_000) < 0.3).astype(int)
    score = np.round(rng.normal(size=20_000) + 0.6 * truth, 3)
    value = auc(truth, score) if kind == "auc" else bootstrap.Mean(np.abs(score))
    quick = interval(value, 20_000, rounds=400)
    monkeypatch.setattr(bootstrap, "CELLS", 10**9)
    plain = interval(value, 20_000, rounds=400)
    width = plain[1] - plain[0]
    assert quick == pytest.approx(plain, abs=0.2 * width)


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_figures_are_those_of_scikit_learn(task) -> None:
    k = 2 if task == "binary" else 4
    rng = np.random.default_rng(k)
    truth = rng.integers(0, k, 500)
    scores = np.round(rng.dirichlet(np.ones(k), 500), 2) + 0.001
    scores /= scores.sum(axis=1, keepdims=True)
    label = scores.argmax(axis=1)
    names = tuple("abcd"[:k])
    found = measure(task, names, truth, label, scores)
    expected = {"log_loss": metrics.log_loss(truth, scores), "accuracy": (truth == label).mean()}
    if task == "binary":
        expected["auc"] = roc_auc_score(truth, scores[:, 1])
        expected["brier"] = metrics.brier_score_loss(truth, scores[:, 1])
    else:
        expected["macro_f1"] = metrics.f1_score(truth, label, average="macro")
        expected["balanced_accuracy"] = metrics.balanced_accuracy_score(truth, label)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(60):
        right = (rng.uniform(size=300) < 0.8).astype(int)
        value = statistic("classes", np.ones(300), right, None, ("a", "b"))
        low, high = interval(value, 300, seed=seed, rounds=120)
        hits += low <= 0.8 <= high
    assert 50 <= hits <= 60


def test_a_paired_interval_is_narrower_than_two_apart() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.uniform(size=2000) < 0.4).astype(int)
    first = truth + rng.normal(0, 1.5, 2000)
    second = first + 0.15 * truth + rng.normal(0, 0.05, 2000)
    found = paired(auc(truth, first), auc(truth, second), 2000, more=True)
    alone = interval(auc(truth, first), 2000)
    assert found.low > 0
    assert found.high - found.low < alone[1] - alone[0]


def test_rows_of_one_day_are_drawn_together() -> None:
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(40), 300)
    order = day * 86_400_000_000 + np.tile(np.arange(300), 40)
    blocks = blocks_of(order, timed=True)
    assert np.array_equal(blocks, day)
    truth = (rng.uniform(size=12_000) < 0.4).astype(int)
    good = rng.normal(0.6, 0.6, 40)[day]  # on some days the model is good, on others it is not
    score = truth * good + rng.normal(size=12_000)
    alone, together = (interval(auc(truth, score), 12_000, blocks=b) for b in (None, blocks))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    plain = [auc(truth, score)(rng.poisson(1, 40)[day].astype(float)) for _ in range(400)]
    width = together[1] - together[0]
    assert together == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.2 * width)
    other = auc(truth, score + truth * rng.normal(0.1, 0.6, 40)[day])  # better on some days
    first = auc(truth, score)
    apart, joined = (paired(first, other, 12_000, more=True, blocks=b) for b in (None, blocks))
    assert joined.gain == apart.gain
    assert joined.high - joined.low > 2 * (apart.high - apart.low)


def test_independent_rows_lose_little_by_being_drawn_in_blocks() -> None:
    rng = np.random.default_rng(6)
    right = (rng.uniform(size=6000) < 0.8).astype(int)
    value = statistic("classes", np.ones(6000), right, None, ("a", "b"))
    blocks = blocks_of(np.arange(6000), timed=False)
    alone, together = (interval(value, 6000, blocks=b) for b in (None, blocks))
    ratio = (together[1] - together[0]) / (alone[1] - alone[0])
    assert 0.75 < ratio < 1.25


@pytest.mark.parametrize(("n", "timed"), [(1, True), (3, False), (30, True), (5000, False)])
def test_blocks_have_no_gaps(n: int, timed: bool) -> None:
    for order in (np.arange(n), np.arange(n)[::-1] * 10**10, np.zeros(n, np.int64)):
        found = blocks_of(order, timed=timed)
        assert set(found) == set(range(int(found.max()) + 1))
        assert found.max() < 200


def test_quality_knows_versions_months_and_where_the_model_fails(returned: World) -> None:
    found = quality(surveyed(returned))
    score = found.versions[1]
    assert score.n == 4000
    assert score.low < score.value < score.high
    table = returned.view.read(["_score_true", "serial"]).to_pandas()
    truth = returned.frame.set_index("serial")["worn"].loc[table["serial"]]
    assert score.value == pytest.approx(roc_auc_score(truth, table["_score_true"]), abs=1e-6)
    values = [item.value for (_, month), item in sorted(found.months.items())]
    assert values == sorted(values, reverse=True)  # the world turns away from the model
    assert any(spot.column == "load" for spot in found.spots)
    assert found.rows_of(1) == (4000, 4000)
    assert 0 <= found.calibration[1].error <= 1


def test_no_label_and_no_row_are_said_not_guessed(world: World) -> None:
    assert "no rows are home" in quality(surveyed(world)).warnings[0]
    world.device().predict(nature(2, 50, 3, first=31))
    world.device().come_home()
    world.catch_up()
    found = quality(surveyed(world))
    assert "no labels are home" in found.warnings[0]
    assert (found.versions, found.spots, found.delay_s) == ({}, (), None)


def test_one_class_only_is_said(world: World) -> None:
    frame = nature(4, 400, 3, first=31)
    ids = world.device().predict(frame)
    world.device().label(ids[:300], [True] * 300)
    world.device().come_home()
    world.catch_up()
    found = quality(surveyed(world))
    assert any("one class" in text for text in found.warnings)
    assert "auc" not in found.versions[1].metrics
    assert found.versions[1].value is None


def test_labels_that_miss_not_at_random_are_called_out(world: World) -> None:
    frame = nature(20, 2000, 3, first=31)
    ids = world.device().predict(frame)
    world.device().come_home()
    world.catch_up()
    said = world.view.read(["_row", "_label"]).sort_by("_row")["_label"].to_pylist()
    rng = np.random.default_rng(0)
    share = [0.9 if label == "true" else 0.2 for label in said]
    marked = [i for i, p in enumerate(share) if rng.uniform() < p]
    world.device().label([ids[i] for i in marked], [bool(frame["worn"][i]) for i in marked])
    world.device().come_home()
    world.catch_up()
    found = quality(surveyed(world))
    assert any("not at random" in text for text in found.warnings)


def test_labels_at_random_are_not_called_out(world: World) -> None:
    frame = nature(20, 2000, 3, first=31)
    ids = world.device().predict(frame)
    marked = np.random.default_rng(0).choice(2000, 600, replace=False)
    world.device().label([ids[i] for i in marked], [bool(frame["worn"][i]) for i in marked])
    world.device().come_home()
    world.catch_up()
    assert not any("random" in text for text in quality(surveyed(world)).warnings)


def test_a_few_rows_of_many_devices_are_no_pattern() -> None:
    rng = np.random.default_rng(1)
    devices = [f"press-{number:03}" for number in range(200)]
    totals = Counter({(1, device, "true"): 120 for device in devices})
    marked = [d for d in devices for _ in range(rng.binomial(120, 0.15))]
    table = pa.table({"_device": marked, "_label": ["true"] * len(marked)})
    found = SimpleNamespace(totals=totals, labelled=table)
    assert list(_not_at_random(found, {})) == []
    totals[1, "press-000", "true"] = 5000  # one device whose labels do not come
    (line,) = _not_at_random(found, {"press-000": "the press by the door"})
    assert "the press by the door" in line


def test_rows_that_the_queue_drew_by_chance_are_measured_apart(world: World) -> None:
    frame = nature(20, 1500, 3, first=31)
    world.device().predict(frame)
    world.device().come_home()
    world.catch_up()
    out = world.folder / "queue.csv"
    write_queue(world.ws, world.registry, "pump", 400, out)
    rows = pd.read_csv(out)
    truth = frame.set_index("serial")["worn"]
    rows["value"] = [str(truth[serial]) for serial in rows["serial"]]
    rows.to_csv(out, index=False)
    import_labels(world.ws, world.registry, "pump", out, world.clock)
    found = quality(surveyed(world))
    assert found.by_chance.n == (rows["why"] == "random").sum() == 40
    assert found.by_chance.low < found.by_chance.value < found.by_chance.high
    assert any("400 labels were asked for by the queue" in text for text in found.warnings)
    lines = name_state(world.ws, world.registry, "pump", world.clock).lines()
    assert any("drew by chance" in line for line in lines)
    by_month = {item.group: item.labelled for item in found.coverage if item.what == "month"}
    assert sum(by_month.values()) == 400


def test_a_text_of_a_device_is_no_formula_in_the_queue(world: World) -> None:
    frame = nature(20, 300, 3, first=31)
    frame.loc[:9, "site"] = "=HYPERLINK(A1)"
    world.device().predict(frame)
    world.device().come_home()
    world.catch_up()
    out = world.folder / "queue.csv"
    write_queue(world.ws, world.registry, "pump", 300, out)
    sites = set(pd.read_csv(out)["site"])
    assert sites == {"'=HYPERLINK(A1)", "north", "south", "east"}


def test_the_state_says_what_is_due_and_all_bundles_on_the_same_rows(returned: World) -> None:
    found = name_state(returned.ws, returned.registry, "pump", returned.clock)
    assert found.due.due
    assert any("4,000 new labelled rows" in reason for reason in found.due.reasons)
    assert found.same.rows == 4000
    assert found.same.scores[1] == pytest.approx(found.quality.versions[1].value, abs=1e-6)
    assert all("\n" not in line for line in found.lines())
