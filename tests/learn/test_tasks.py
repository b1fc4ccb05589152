"""Other tasks, no time, no key: the same promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgepack.errors import EvidenceError
from edgepack.learn.actions import import_labels
from edgepack.learn.quality import quality
from edgepack.learn.queue import queue
from edgepack.learn.retrain import retrain
from edgepack.learn.state import name_state
from edgepack.learn.survey import survey
from edgepack.store.labels import collect
from support.learnworld import START, World

VALUES = """\
name = "pump"
task = "{task}"
class = "field"
data = "pump.parquet"

[columns]
target = "flow"
{more}

[retrain]
min_labels = 80
"""
REGRESSION = """\
from sklearn.linear_model import LinearRegression


def model(seed):
    return LinearRegression()
"""


def flows(n: int, seed: int, *, turn: float = 0.0) -> pd.DataFrame:
    """Flow by pressure and angle; `turn` changes the law."""
    rng = np.random.default_rng(seed)
    pressure, angle = rng.normal(3, 1, n), rng.uniform(0, 1, n)
    flow = (2 - turn) * pressure + (1 + 4 * turn) * angle + rng.normal(0, 0.1, n)
    return pd.DataFrame(
        {
            "pressure": pressure.astype(np.float32),
            "angle": angle.astype(np.float32),
            "flow": flow.astype(np.float64),
        }
    )


@pytest.fixture(scope="module")
def pumps(tmp_path_factory) -> World:
    world = World(
        tmp_path_factory.mktemp("flows"), task="regression", frame=flows(600, 1), toml=VALUES,
        code=REGRESSION,
    )  # fmt: skip
    world.train()
    return world


def test_a_regression_without_time_and_key_goes_by_the_order_of_arrival(pumps, tmp_path) -> None:
    world = pumps.copy(tmp_path)
    for seed in (2, 3, 4):
        frame = flows(300, seed, turn=0.5)
        device = world.device()
        ids = device.predict(frame)
        device.label(ids, frame["flow"].tolist())
        device.come_home()
        world.catch_up()
    schema = world.refs()[0].schema
    found = survey(world.view, collect(world.view, schema), schema, ["pressure", "angle"])
    judged = quality(found)
    score = judged.versions[1]
    assert judged.main == "mae"
    assert score.low < score.value < score.high
    assert judged.months.keys() == {(1, "undated")}
    facts = retrain(world.ws, world.registry, "pump", world.clock).facts
    assert facts["challenger"]["mae"] < facts["champion"]["mae"]
    assert facts["interval"][0] > 0
    assert "order of arrival" in facts["window"]["begin"]
    lines = name_state(world.ws, world.registry, "pump", world.clock).lines()
    assert any("mae" in line for line in lines)


def test_a_world_that_stands_still_keeps_its_model(pumps, tmp_path) -> None:
    world = pumps.copy(tmp_path)
    frame = flows(900, 5)
    ids = world.device().predict(frame)
    world.device().label(ids, frame["flow"].tolist())
    world.device().come_home()
    world.catch_up()
    with pytest.raises(EvidenceError, match="not better"):
        retrain(world.ws, world.registry, "pump", world.clock)


def test_labels_that_are_no_numbers_are_named(pumps, tmp_path) -> None:
    world = pumps.copy(tmp_path)
    frame = flows(50, 6)
    ids = world.device().predict(frame)
    world.device().label(ids[:5], ["wet", "nan", "inf", 3, "4.5"])
    world.device().come_home()
    world.catch_up()
    schema = world.refs()[0].schema
    labels = collect(world.view, schema)
    assert sorted(labels.truth.to_pylist()) == [3.0, 4.5]
    assert [value for _, value, _ in labels.wrong] == ["wet", "nan", "inf"]
    assert queue(world.view, labels, schema, 10).table.num_rows == 10


def test_a_column_that_is_not_journaled_cannot_teach(tmp_path) -> None:
    world = World(
        tmp_path, task="regression", frame=flows(600, 1),
        toml=VALUES + '[journal]\nangle = "drop"\n', code=REGRESSION,
    )  # fmt: skip
    world.train()
    frame = flows(400, 2, turn=0.5)
    ids = world.device().predict(frame)
    world.device().label(ids, frame["flow"].tolist())
    world.device().come_home()
    world.catch_up()
    assert "angle" not in world.view.columns()
    with pytest.raises(EvidenceError, match="angle is not journaled"):
        retrain(world.ws, world.registry, "pump", world.clock)


def test_a_hashed_key_is_labelled_by_the_device_only(tmp_path) -> None:
    frame = flows(600, 1).assign(
        serial=[f"pump {n}" for n in range(600)],
        taken=START + pd.to_timedelta(np.arange(600), unit="h"),
    )
    frame["taken"] = frame["taken"].astype("datetime64[us]")
    world = World(
        tmp_path, task="regression", frame=frame, code=REGRESSION,
        toml=VALUES.replace("{more}", 'key = "serial"\ntime = "taken"\n')
        + '[journal]\nserial = "hash"\n',
    )  # fmt: skip
    world.train()
    rows = frame.iloc[:100].assign(serial=[f"pump {n}" for n in range(5000, 5100)])
    device = world.device()
    device.predict(rows)
    device.label(["pump 5003", "pump 5004"], [1.5, 2.5], by="key")
    device.come_home()
    world.catch_up()
    assert "pump" not in str(world.view.read(["serial"])["serial"].to_pylist())
    schema = world.refs()[0].schema
    found = survey(world.view, collect(world.view, schema), schema)
    assert sorted(found.labelled["_truth"].to_pylist()) == [1.5, 2.5]
    path = tmp_path / "labels.csv"
    path.write_text("key,value\npump 5005,3\n")
    done = import_labels(world.ws, world.registry, "pump", path, world.clock)
    assert done["matched"] == 2
    assert "not journaled as it is" in done["notes"][0]
