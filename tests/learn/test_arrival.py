"""Rows without a time of their own are ordered by arrival, whichever lane brought them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepack.learn.arrival import Arrivals, boots_in_order
from edgepack.learn.trial import Trial
from edgepack.records import SegmentRow
from support.learnworld import World, nature

SECOND = 1_000_000_000
NEW = """\
name = "pump"
task = "classes"
class = "field"
data = "pump.parquet"

[columns]
target = "worn"
key = "serial"
inputs = ["temp", "load", "site", "still"]

[retrain]
min_labels = 100
{more}
"""


def segment(serial: int, **more) -> SegmentRow:
    base = SegmentRow(
        hash=f"{serial:064x}", device="d", epoch="e", lane=1, number=serial, uid=f"{serial:016x}",
        first=0, last=9, previous="", bundle_name="pump", bundle_version=1, bundle_digest="x",
        boot="b1", created_wall=0, bytes=1, salvage=False, rows=10, serial=serial, imported=7,
        path="p",
    )  # fmt: skip
    return replace(base, **more)


class Known:
    """A registry that knows these segments."""

    def __init__(self, *rows: SegmentRow) -> None:
        self.rows = list(rows)

    def segments(self, *, state: None) -> list[SegmentRow]:
        return self.rows


def ordered(known: Known, *rows: tuple[int, ...]) -> list[int]:
    """Return the places of (serial, sequence, lane, row, monotonic, wall), oldest first."""
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return np.argsort(Arrivals.of(known).order_of(*columns)).tolist()


def test_both_lanes_of_a_block_are_one() -> None:
    known = Known(segment(1, lane=0), segment(2, lane=1))
    rows = [  # two blocks of six: rows 1 and 4 of each went to PRIORITY
        *((1, i, 0, row, 5, 0) for i, row in enumerate([1, 4])),
        *((1, i, 0, row, 20, 0) for i, row in enumerate([7, 10], 2)),
        *((2, i, 1, row, 8, 0) for i, row in enumerate([0, 2, 3, 5])),
        *((2, i, 1, row, 23, 0) for i, row in enumerate([6, 8, 9, 11], 4)),
    ]  # fmt: skip
    assert [rows[place][3] for place in ordered(known, *rows)] == list(range(12))


def test_two_requests_stay_apart() -> None:
    known = Known(segment(1, lane=0), segment(2, lane=1))
    later = 60 * SECOND
    rows = [(1, 0, 0, 0, 5, 0), (1, 1, 0, 1, 5, 0), (2, 0, 1, 0, later, 0), (2, 1, 1, 1, later, 0)]
    assert ordered(known, *rows) == [0, 1, 2, 3]
    single = [(2, i, 1, -1, i, 0) for i in range(3)] + [(1, 0, 0, -1, 1, 0)]
    assert ordered(known, *single) == [0, 3, 1, 2]


def test_a_boot_orders_rows_whatever_the_wall_clock_says() -> None:
    known = Known(segment(1, boot="b1"), segment(2, boot="b2"), segment(3, boot="b3"))
    rows = [(1, 0, 1, 0, 900, 50), (2, 0, 1, 0, 3, 7), (3, 0, 1, 0, 5, 9_999)]
    assert ordered(known, *rows) == [0, 1, 2]
    unknown = "0" * 32  # no boot id on this system: only the wall clock spans two runs
    known = Known(segment(1, boot=unknown), segment(2, boot=unknown))
    assert ordered(known, (1, 0, 1, 0, 900, 50), (2, 0, 1, 0, 3, 70)) == [0, 1]


def test_the_chain_orders_boots_also_where_the_older_part_came_later() -> None:
    older, newer = segment(2, boot="b1", number=1), segment(1, boot="b2", number=2)
    assert boots_in_order([newer, older]) == [("e", "b1"), ("e", "b2")]
    urgent = [segment(3, lane=0, boot="b1", number=1), segment(4, lane=0, boot="b3", number=2)]
    assert [b for _, b in boots_in_order([newer, older, *urgent])] == ["b1", "b2", "b3"]


def test_devices_stand_side_by_side_within_a_visit() -> None:
    known = Known(
        segment(1, device="a"), segment(2, device="b"), segment(3, device="a", imported=8, number=3)
    )
    rows = [
        *((1, i, 1, i, i, 0) for i in range(4)),
        *((2, i, 1, i, 5_000 + i, 0) for i in range(2)),
        (3, 0, 1, 0, 9, 0),
    ]
    assert ordered(known, *rows) == [0, 4, 1, 2, 5, 3, 6]
    assert Arrivals.of(known, 2).serial.tolist() == [1, 2]
    assert Arrivals.of(Known()).order_of(*[np.empty(0, np.int64)] * 6).tolist() == []


@pytest.fixture(scope="module")
def timeless(tmp_path_factory) -> World:
    rows = nature(30, 2000, 1, new=True)
    world = World(
        tmp_path_factory.mktemp("timeless"), toml=NEW, more="copy_new_classes = true",
        frame=rows[rows["worn"] != "broken"],
    )  # fmt: skip
    world.train()
    return world


def test_the_newest_third_is_the_newest_of_both_lanes(timeless: World, tmp_path) -> None:
    world = timeless.copy(tmp_path)
    rng = np.random.default_rng(0)
    frame = nature(40, 1500, 2, first=30, new=True)
    for part in (frame.iloc[:700], frame.iloc[700:]):
        ids = world.device().predict(part, block=256, doubtful=rng.uniform(size=len(part)) < 0.3)
        marked = rng.choice(len(part), len(part) // 2, replace=False)
        world.device().label([ids[i] for i in marked], [str(part["worn"].iloc[i]) for i in marked])
    world.device().come_home()
    world.catch_up()
    champion = world.refs()[0]
    trial = Trial.prepare(world.ws, world.registry, world.recipe(), champion)
    made = np.asarray(trial.rows.data.returned["serial"])
    assert (np.diff(made) > 0).all()  # numbered as the device made them
    judged = made[trial.window.judge]
    assert judged.min() > made[trial.window.learn].max()
    assert len(judged) == pytest.approx(len(made) / 3, abs=2)
    # whoever takes a label from his cluster was made before everything that judges
    assert len(trial.rows.spread)
    assert trial.rows.spread["serial"].max() < judged.min()
    assert not set(trial.rows.spread["serial"]) & set(made)

    # what comes later changes nothing for a model that is made again from its lineage
    serial = world.view.progress()
    more = nature(20, 600, 5, first=70, new=True)
    other = world.device("press-2")
    other.label(other.predict(more), more["worn"].tolist())
    other.come_home()
    world.catch_up()
    then = Trial.prepare(world.ws, world.registry, world.recipe(), champion, upto=(serial, 0))
    assert then.rows.whole.equals(trial.rows.whole)

    toml = world.ws.recipes / "pump" / "bundle.toml"
    toml.write_text(NEW.format(more='[training]\nengine = "stream"'))
    streamed = Trial.prepare(world.ws, world.registry, world.recipe(), champion, upto=(serial, 0))
    assert np.array_equal(streamed.window.judge, trial.window.judge)
    assert set(streamed.rows.held["serial"]) == set(judged)
