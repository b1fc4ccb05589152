"""Drift: the same numbers as the device counts, right on edge cases, and never a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import kolmogorov
from scipy.stats import ks_2samp

from device_runtime.format import canonical
from device_runtime.format import sketch as sketches
from device_runtime.format.binner import Binner
from device_runtime.format.sketch import Histogram, Sketch
from device_runtime.format.sketch import psi as plain_psi
from edgepack.convert.feed import batch_of
from edgepack.errors import DataError
from edgepack.learn.actions import drift_of
from edgepack.learn.counting import Counting, Counts, bins
from edgepack.learn.distance import ks_p, psi_interval
from edgepack.learn.drift import change, compare
from edgepack.learn.files import of_files
from edgepack.learn.returned import Slice, of_table
from edgepack.learn.state import name_state
from edgepack.report.page import write_report
from support.learnworld import World, nature

EDGES = st.lists(
    st.floats(-1e6, 1e6, width=32), max_size=9, unique=True
).map(lambda e: tuple(sorted(e)))  # fmt: skip


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=60), EDGES)
def test_counting_by_comparison_is_counting_by_search(values: list[float], edges) -> None:
    for dtype in (np.float32, np.float64):
        table = np.array(values, dtype)
        here = table[~np.isnan(table)].astype(np.float64)
        expected = np.bincount(np.searchsorted(edges, here, "right"), minlength=len(edges) + 1)
        found = bins(table, edges)
        assert found[:-2].tolist() == expected.tolist()
        assert found[-2:].tolist() == [len(table) - len(here), 0]


def test_an_edge_between_two_float32_is_compared_exactly() -> None:
    value = np.float32(0.1)  # a little above 0.1 in float64
    for edge in (0.1, float(value), float(np.nextafter(value, np.float32(1)))):
        found = bins(np.array([value], np.float32), (edge,))
        assert found[1] == (float(value) >= edge)


@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=12),
    st.lists(st.integers(0, 500), min_size=2, max_size=12),
)
def test_psi_is_the_one_that_the_device_shows(before: list[int], now: list[int]) -> None:
    n = min(len(before), len(now))
    pair = np.array([before[:n], now[:n]])
    used = pair.sum(axis=0) > 0
    psi, low, high = psi_interval(pair[0][used], pair[1][used])
    assert psi == pytest.approx(plain_psi(before[:n], now[:n]), abs=1e-12)
    assert 0 <= low <= psi + 1e-12
    assert psi <= high + 1e-12


def test_the_table_is_counted_as_the_device_counts(returned: World) -> None:
    ref = returned.refs()[0]
    sketch = Sketch.empty(ref.profile)
    batch = batch_of(ref.schema, returned.frame)
    flags = np.zeros(len(returned.frame), np.uint16)
    Binner(ref.profile, ref.schema).add(sketch, batch, None, flags)
    (found,) = of_table(returned.view, [ref], Slice()).values()
    for item in found.columns:
        assert list(item.now) == sketch.counts[item.name]
    assert found.n == sketch.n == 4000


def test_a_shift_is_found_a_standstill_is_not_and_a_constant_is_no_error(returned: World) -> None:
    (found,) = of_table(returned.view, returned.refs(), Slice()).values()
    by_name = {item.name: item for item in found.columns}
    assert found.worst is by_name["temp"]
    assert by_name["temp"].words == "changed much"
    assert by_name["load"].words == by_name["still"].words == "as in training"
    assert by_name["temp"].p < 1e-10
    assert by_name["still"].psi == 0


def test_months_and_devices_add_up_to_the_whole(returned: World) -> None:
    returned.device("press-2").predict(nature(10, 500, 8, first=60))
    returned.device("press-2").come_home()
    returned.catch_up()
    refs = returned.refs()
    (whole,) = of_table(returned.view, refs, Slice()).values()
    parts = of_table(returned.view, refs, Slice(), by=("device", "month"))
    assert sum(item.n for item in parts.values()) == whole.n == 4500
    total = np.sum([item.columns[0].now for item in parts.values()], axis=0)
    assert total.tolist() == list(whole.columns[0].now)
    device = returned.registry.device("press-2").device
    (alone,) = of_table(returned.view, refs, Slice(device=device)).values()
    assert alone.n == 500
    found, _ = drift_of(returned.ws, returned.registry, "pump", None, "2024-03-01")
    assert 0 < found[0].n < 4500


def test_a_device_in_sketch_mode_is_seen_through_its_sketches(returned: World) -> None:
    ref = returned.refs()[0]
    frame = nature(10, 700, 11, first=60)
    sketch = Sketch.empty(ref.profile)
    Binner(ref.profile, ref.schema).add(
        sketch, batch_of(ref.schema, frame), None, np.zeros(700, np.uint16)
    )
    device = returned.device("press-3")
    device.open().use("pump", ref.schema, ref.row.version, ref.row.digest)
    device.open().append_sketch(canonical.encode(sketch.to_json()))
    device.come_home()
    returned.catch_up()
    (found,) = of_table(returned.view, [ref], Slice()).values()
    assert found.n == 4700
    row = returned.registry.device("press-3")
    (alone,) = of_table(returned.view, [ref], Slice(device=row.device)).values()
    assert alone.n == 700
    assert next(c for c in alone.columns if c.name == "temp").words == "changed much"


def test_a_world_of_sketches_alone_has_drift_and_says_what_it_lacks(world: World) -> None:
    ref = world.refs()[0]
    frame = nature(10, 700, 11, first=60)
    sketch = Sketch.empty(ref.profile)
    batch = batch_of(ref.schema, frame)
    Binner(ref.profile, ref.schema).add(sketch, batch, None, np.zeros(700, np.uint16))
    device = world.device()
    device.open().use("pump", ref.schema, ref.row.version, ref.row.digest)
    device.open().append_sketch(canonical.encode(sketch.to_json()))
    device.come_home()
    world.catch_up()
    (found,), notes = drift_of(world.ws, world.registry, "pump", None, None)
    assert (found.n, found.worst.name, notes) == (700, "temp", [])
    with pytest.raises(DataError, match="no row of pump is home in this slice"):
        drift_of(world.ws, world.registry, "pump", None, "2024-01-01")
    write_report(world.ws, world.registry, world.clock, world.folder / "report.html")
    state = name_state(world.ws, world.registry, "pump", world.clock)
    assert any("inputs changed much" in line for line in state.lines())


def test_a_sketch_counts_only_while_its_rows_are_away(returned: World) -> None:
    ref = returned.refs()[0]
    frame = nature(10, 700, 11, first=60)
    sketch = Sketch.empty(ref.profile)
    batch = batch_of(ref.schema, frame)
    Binner(ref.profile, ref.schema).add(sketch, batch, None, np.zeros(700, np.uint16))
    device = returned.device("press-3")
    ids = device.predict(frame)
    first, last = (int(ids[place].rsplit("/", 1)[1]) for place in (0, -1))
    device.open().append_sketch(canonical.encode(sketch.to_json()), first, last)
    # a segment before it, whose rows the quota evicted
    device.open().append_sketch(canonical.encode(sketch.to_json()), first + 5000, last + 5000)
    device.come_home()
    returned.catch_up()
    row = returned.registry.device("press-3")
    (alone,) = of_table(returned.view, [ref], Slice(device=row.device)).values()
    assert alone.n == 1400  # the rows that are home, once, and those that are not


def test_a_sketch_of_other_bins_is_left_out(returned: World) -> None:
    ref = returned.refs()[0]
    device = returned.device("press-3")
    device.open().use("pump", ref.schema, ref.row.version, ref.row.digest)
    odd = Sketch(9, {"temp": [1, 2, 3]}, {})
    for data in (canonical.encode(odd.to_json()), b"{}", b"\xff\xfe", b""):
        device.open().append_sketch(data)
    device.come_home()
    assert returned.catch_up().notes == []
    (found,) = of_table(returned.view, [ref], Slice()).values()
    assert found.n == 4000


def test_two_plain_files_are_compared_without_a_workspace(tmp_path) -> None:
    rng = np.random.default_rng(0)
    a = pd.DataFrame({"x": rng.normal(size=5000), "s": rng.choice(["a", "b"], 5000), "k": 1})
    b = pd.DataFrame({"x": rng.normal(0.5, 1, 3000), "s": rng.choice(["a", "c"], 3000), "k": 1})
    a.to_parquet(tmp_path / "a.parquet")
    b.to_csv(tmp_path / "b.csv", index=False)
    found, _ = of_files(tmp_path / "a.parquet", tmp_path / "b.csv")
    by_name = {item.name: item for item in found.columns}
    assert by_name["x"].psi == pytest.approx(0.25, abs=0.08)
    assert by_name["x"].ks == pytest.approx(ks_2samp(a["x"], b["x"]).statistic, abs=0.02)
    assert by_name["s"].unseen == pytest.approx(0.5, abs=0.05)
    assert by_name["k"].psi == 0


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x\n1\n2\n", "y\n1\n"), ("x\n1\n", "x\n"), ("x\n1\n", None), ("x\n1\n2\n", "x\na\nb\n"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_compared_are_refused(tmp_path, left, right) -> None:
    for name, text in (("a.csv", left), ("b.csv", right)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        of_files(tmp_path / "a.csv", tmp_path / "b.csv")
    assert "\n" not in caught.value.line()


def test_a_column_without_any_value_counts_as_missing(tmp_path) -> None:
    pd.DataFrame({"x": [1.0, 2.0] * 200}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"x": [np.nan] * 400}).to_parquet(tmp_path / "b.parquet")
    (item,) = of_files(tmp_path / "a.parquet", tmp_path / "b.parquet")[0].columns
    assert item.missing == (0.0, 1.0)
    assert item.words == "changed much"
    assert item.ks == 0.0


def test_no_row_and_all_equal_are_no_errors() -> None:
    item = Histogram("x", "number", (1.0,), (), (5, 5, 0, 0))
    nothing = change(item, np.array(item.counts), np.zeros(4, np.int64))
    assert (nothing.psi, nothing.n, nothing.words) == (0.0, 0, "too few rows to tell")


def test_chance_alone_is_not_called_a_change() -> None:
    rng = np.random.default_rng(1)
    shares = np.full(10, 0.1)
    called = 0
    for _ in range(200):
        before, now = rng.multinomial(2000, shares), rng.multinomial(300, shares)
        item = Histogram("x", "number", tuple(range(1, 10)), (), (*before.tolist(), 0, 0))
        found = change(item, np.array([*before, 0, 0]), np.array([*now, 0, 0]))
        called += found.words != "as in training"
    assert called <= 2


def test_tensors_and_bools_are_counted(trained: World) -> None:
    from device_runtime.format.sketch import Profile

    items = (
        Histogram("b", "number", (0.5,), (), (0, 0, 0, 0)),
        Histogram("t", "number", (2.0,), (), (0, 0, 0, 0)),
    )
    counting = Counting(Profile(0, items, None, None, {}), None)
    batch = pa.record_batch(
        {"b": pa.array([True, False, None]), "t": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])}
    )
    counts = counting.count(batch).columns
    assert counts["b"].tolist() == [1, 1, 1, 0]
    assert counts["t"].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("x", [0.0, 0.05, 0.19, 0.3, 0.7, 0.99, 1.0, 1.36, 3.0])
def test_the_p_value_is_that_of_kolmogorov(x) -> None:
    assert ks_p(x / np.sqrt(1000), 2000, 2000) == pytest.approx(kolmogorov(x), abs=1e-9)


def test_ks_of_two_files_is_exact(tmp_path) -> None:
    rng = np.random.default_rng(0)
    sides = [
        pd.DataFrame({"x": np.round(rng.normal(shift, 1, n), 1), "on": rng.uniform(size=n) < 0.5})
        for shift, n in ((0.0, 900), (0.15, 700))
    ]
    sides[1].loc[:20, "x"] = np.nan
    for name, side in zip("ab", sides, strict=True):
        side.to_parquet(tmp_path / f"{name}.parquet")
    found, _ = of_files(tmp_path / "a.parquet", tmp_path / "b.parquet")
    for change_ in found.columns:
        first, second = (side[change_.name].dropna().astype(float) for side in sides)
        expected = ks_2samp(first, second, method="asymp")
        assert change_.exact
        assert change_.ks == pytest.approx(expected.statistic, abs=1e-12)


def test_columns_that_cannot_be_compared_are_named(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("x,empty,gone\n1,,7\n2,,7\n")
    (tmp_path / "b.csv").write_text("x,empty,new\n1,,7\n3,,7\n")
    found, notes = of_files(tmp_path / "a.csv", tmp_path / "b.csv")
    assert [c.name for c in found.columns] == ["x"]
    text = "; ".join(notes)
    assert "empty is left out" in text
    assert "b.csv has no column gone" in text
    assert "a.csv has no column new" in text


def test_what_days_of_training_show_by_themselves_is_no_change(returned: World) -> None:
    """The base grants the rhythm by days, whatever the number of rows; a sketch by its rows."""
    ref = returned.refs()[0]
    assert ref.profile.rhythm["temp"] > 0
    assert ref.rows_per_day == pytest.approx(100, rel=0.02)  # 3,000 rows of January
    found = of_table(returned.view, [ref], Slice())[("1",)]
    days = returned.frame["taken"].dt.floor("D").nunique()
    for item in found.columns:
        granted = ref.profile.rhythm[item.name] / (days * ref.rows_per_day)
        assert item.rhythm == pytest.approx(granted)
        assert item.excess == max(0.0, item.psi - item.noise - item.rhythm)

    calm = replace(ref.profile, rhythm={"temp": 100.0 * days * ref.rows_per_day})
    swinging = of_table(returned.view, [replace(ref, profile=calm)], Slice())[("1",)]
    temp = next(item for item in swinging.columns if item.name == "temp")
    assert (temp.psi > 0.1, temp.excess, temp.words) == (True, 0.0, "within its rhythm")
    assert swinging.worst.name != "temp"

    sketch = Sketch.empty(ref.profile)
    sketch.n = 1000
    for item in ref.profile.all():
        sketch.counts[item.name] = [1000, *[0] * (item.slots - 1)]
    alone = Counts()
    assert alone.add_sketch(sketch, ref.profile)
    said = compare(ref.profile, alone, "all", "pump 1", rows_per_day=ref.rows_per_day)
    for mine, theirs in zip(said.columns, sketches.compare(ref.profile, sketch), strict=False):
        assert mine.excess == pytest.approx(theirs.excess)
