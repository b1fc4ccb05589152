"""The labelling queue: which rows are worth a label."""

from __future__ import annotations

from edgepack.learn.queue import queue
from edgepack.store.labels import collect
from support.learnworld import World, nature


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
