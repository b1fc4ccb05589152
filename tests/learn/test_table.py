"""The table is a view: whatever happens to it, archive and registry make it again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from device_runtime.format.batch import Text
from device_runtime.format.segment import Field as LayoutField
from device_runtime.format.segment import Layout
from device_runtime.journal.reader import RowBlock
from edgepack.errors import StoreError
from edgepack.learn.actions import drift_of, export_rows, write_queue
from edgepack.learn.retrain import retrain
from edgepack.learn.state import name_state
from edgepack.store import delta, upkeep
from edgepack.store.arrow import Origin, to_batches
from edgepack.store.table import read
from support.learnworld import World, nature
from support.watched import Watched

ORIGIN = Origin("d" * 32, "e" * 16, "f" * 16, 1, 1, "b" * 64, 1)


def block(n: int, first: int = 0, **columns) -> RowBlock:
    """A block as the journal's reader gives it."""
    common = {
        "_sequence": np.arange(first, first + n),
        "_monotonic": np.zeros(n, np.int64),
        "_wall": np.zeros(n, np.int64),
        "_row": np.arange(n),
        "_flags": np.zeros(n, np.uint16),
        "_latency": np.full(n, 2**32 - 1, np.uint32),
    }
    return RowBlock(first, n, {**common, **columns})


def rows_of(world: World):
    return world.view.read().to_pandas().sort_values("_row").reset_index(drop=True)


def test_every_row_comes_back_as_it_was_journaled(world: World) -> None:
    frame = nature(5, 300, 3, first=31)
    ids = world.device().predict(frame, block=70)
    world.device().come_home()
    assert world.catch_up().rows == 300
    back = rows_of(world)
    np.testing.assert_array_equal(back["temp"], frame["temp"])
    assert back["site"].tolist() == frame["site"].tolist()
    assert back["serial"].tolist() == frame["serial"].tolist()
    taken = back["taken"].dt.tz_localize(None)
    assert (taken == frame["taken"]).all()
    made = back._device + "/" + back._epoch + "/" + back._uid + "/" + back._sequence.astype(str)
    assert made.tolist() == ids
    assert set(back["_label"]) <= {"true", "false"}
    assert ((back["_score_true"] >= 0.5) == (back["_label"] == "true")).all()


def test_catching_up_again_appends_nothing(returned: World) -> None:
    before = returned.view.count()
    assert returned.catch_up().rows == 0
    assert returned.view.count() == before == 4000


def test_a_crash_between_labels_and_rows_repeats_neither(world: World, monkeypatch) -> None:
    frame = nature(5, 200, 3, first=31)
    ids = world.device().predict(frame)
    world.device().label(ids, frame["worn"].tolist())
    world.device().come_home()
    real = delta.commit

    def cut(path, parts, properties):
        if path.name == "pump":
            raise OSError("power cut")
        real(path, parts, properties)

    monkeypatch.setattr(delta, "commit", cut)
    with pytest.raises(OSError, match="power cut"):
        world.catch_up()
    monkeypatch.setattr(delta, "commit", real)
    done = world.catch_up()
    assert (done.rows, done.notes) == (200, [])
    assert world.view.read(what="labels").num_rows == 200
    assert upkeep.check(world.ws, world.registry, world.archive).problems == []


@pytest.mark.parametrize("what", ["parquet", "json", "gone"])
def test_a_half_written_table_is_made_again(returned: World, what: str) -> None:
    folder = returned.ws.table("pump")
    if what == "json":
        path = max((folder / "_delta_log").glob("*.json"))
        path.write_bytes(path.read_bytes()[:40])
    else:
        path = next(folder.glob("*.parquet"))
        path.unlink() if what == "gone" else path.write_bytes(path.read_bytes()[:-900])
    problems = upkeep.check(returned.ws, returned.registry, returned.archive).problems
    assert any("pump" in line for line in problems)
    asked = (returned.ws, returned.registry)
    for question in (
        lambda: drift_of(*asked, "pump", None, None),
        lambda: name_state(*asked, "pump", returned.clock),
        lambda: retrain(*asked, "pump", returned.clock),
        lambda: write_queue(*asked, "pump", 10, returned.folder / "queue.csv"),
        lambda: upkeep.compact(*asked),
    ):
        with pytest.raises(StoreError) as caught:
            question()
        assert "\n" not in caught.value.line()
    done = returned.catch_up()
    assert done.rows == 4000
    assert len(done.notes) == 1
    assert "made again" in done.notes[0]
    assert upkeep.check(returned.ws, returned.registry, returned.archive).problems == []


def test_what_somebody_else_did_to_the_table_is_said_and_healed(returned: World) -> None:
    path = returned.ws.table("pump")
    rows = DeltaTable(path).to_pyarrow_table().slice(0, 10)
    write_deltalake(path, rows, mode="append")
    assert "changed by somebody else" in returned.catch_up().notes[0]
    assert any("somebody" in a.text for a in returned.registry.alarms())
    problems = upkeep.check(returned.ws, returned.registry, returned.archive).problems
    assert any("twice" in line for line in problems)
    DeltaTable(path).delete("_row < 5")
    next(path.glob("*.zstd.parquet")).write_bytes(b"no parquet")
    with pytest.raises(StoreError, match=r"somebody else changed it \(pump version"):
        name_state(returned.ws, returned.registry, "pump", returned.clock)
    done = upkeep.rebuild(returned.ws, returned.registry, returned.archive, returned.ring)
    assert done.rows == 4000
    assert upkeep.check(returned.ws, returned.registry, returned.archive).problems == []


def test_a_restored_base_does_not_believe_an_older_view(returned: World) -> None:
    returned.registry.raise_generation(7)
    done = returned.catch_up()
    assert done.rows == 4000
    assert "another generation" in done.notes[0]


def test_a_segment_that_rotted_in_the_archive_is_named_and_the_rest_goes_on(world: World) -> None:
    device = world.device()
    device.predict(nature(2, 50, 3, first=31))
    device.come_home()
    device.predict(nature(2, 60, 4, first=33))
    device.come_home()
    path = next(world.archive.paths())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    done = world.catch_up()
    assert done.rows in (50, 60)
    assert any("cannot be read" in note for note in done.notes)


def test_unsigned_numbers_are_never_narrowed() -> None:
    top = {
        "uint8": 255, "uint16": 65_535, "uint32": 2**32 - 1, "uint64": 2**64 - 1,
        "int8": -128, "int64": -(2**63) + 1,
    }  # fmt: skip
    columns = {name: np.array([value, 0], name) for name, value in top.items()}
    layout = Layout(tuple(LayoutField(name, name) for name in top))
    (batch,) = to_batches(block(2, **columns), layout, ORIGIN, [(0, 1)])
    assert {name: batch.column(name)[0].as_py() for name in top} == top
    assert batch.column("_latency_us")[0].as_py() == 2**32 - 1


def test_only_the_sequences_that_a_segment_brought_are_taken() -> None:
    numbers = np.array([3, 4, 9, 10, 11])
    rows = block(5, x=np.arange(5.0), _sequence=numbers)
    layout = Layout((LayoutField("x", "float64"),))
    batches = list(to_batches(rows, layout, ORIGIN, [(0, 3), (10, 99)]))
    taken = [n for batch in batches for n in batch.column("_sequence").to_pylist()]
    assert taken == [3, 10, 11]


def test_missing_values_are_nulls_and_tensors_are_lists() -> None:
    text = Text.of(["a", None, "b"])
    rows = block(
        3,
        x=np.array([1.0, np.nan, 3.0], np.float32),
        s=Text(np.asarray(text.codes, np.uint32), text.values),
        t=np.array([0, -(2**63), 5]),
        m=np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    )
    layout = Layout(
        (
            LayoutField("x", "float32"), LayoutField("s", "string"),
            LayoutField("t", "timestamp"), LayoutField("m", "float32", (2, 2)),
        )
    )  # fmt: skip
    (batch,) = to_batches(rows, layout, ORIGIN, [(0, 9)])
    assert [batch.column(n).null_count for n in ("x", "s", "t", "m")] == [1, 1, 1, 0]
    assert batch.column("m")[2].as_py() == [8, 9, 10, 11]


def test_a_new_column_widens_the_table_and_a_changed_dtype_starts_a_new_one(tmp_path) -> None:
    from deltalake import CommitProperties

    from edgepack.store.view import arrow_schema

    def append(columns, fields):
        batch = next(to_batches(block(2, **columns), Layout(fields), ORIGIN, [(0, 9)]))
        delta.ensure(tmp_path, batch.schema, CommitProperties())
        delta.commit(tmp_path, delta.write_parts(tmp_path, [batch]), CommitProperties())

    append({"x": np.array([1, 2], np.int16)}, (LayoutField("x", "int16"),))
    both = (LayoutField("x", "int16"), LayoutField("y", "float32"))
    append({"x": np.array([3, 4], np.int16), "y": np.array([5, 6], np.float32)}, both)
    table = DeltaTable(tmp_path).to_pyarrow_table().sort_by("x")
    assert table.column("y").to_pylist() == [None, None, 5, 6]
    assert arrow_schema(DeltaTable(tmp_path)).field("x").type == pa.int16()


def test_a_changed_dtype_reads_as_one_again(returned: World) -> None:
    view = returned.view
    segment = returned.registry.segments()[-1]
    fields = (LayoutField("temp", "float64"), LayoutField("extra", "string"))
    text = Text(np.zeros(3, np.uint32), ("new",))
    rows = block(3, temp=np.array([1.5, 2.5, 3.5]), extra=text)
    (batch,) = to_batches(rows, Layout(fields), ORIGIN, [(0, 9)])
    path = view._fitting(batch.schema)
    assert path.name == "pump.2"
    path.mkdir()
    delta.ensure(path, batch.schema, view.commit(segment.serial))
    delta.commit(path, delta.write_parts(path, [batch]), view.commit(segment.serial))
    whole = view.read(["temp", "extra"])
    assert whole.num_rows == 4003
    assert whole.schema.field("temp").type == pa.float64()
    assert whole.column("extra").null_count == 4000


def test_duckdb_and_polars_read_the_same_rows(returned: World) -> None:
    path = returned.ws.table("pump")
    stray = next(path.glob("*.parquet"))  # as a crash before a commit leaves one
    shutil.copy(stray, stray.with_name("part-stray.parquet"))
    pump = DeltaTable(path).to_pyarrow_dataset()
    duck = duckdb.sql("select count(*), avg(temp), count(distinct site) from pump")
    assert pump is not None
    n, mean, sites = duck.limit(1).fetchall()[0]
    frame = pl.read_delta(str(path))
    assert (n, sites) == (frame.height, frame["site"].n_unique()) == (4000, 3)
    assert mean == pytest.approx(frame["temp"].mean())
    assert mean == pytest.approx(float(np.nanmean(returned.frame["temp"].astype(float))), rel=1e-6)
    assert read(returned.ws, "pump", ["temp"]).num_rows == 4000


def test_what_a_compromised_device_sent_is_left_out(returned: World) -> None:
    other = returned.device("press-2")
    ids = other.predict(nature(3, 80, 9, first=71))
    other.label(ids, [True] * 80)
    other.come_home()
    returned.catch_up()
    assert returned.view.read(["_device"]).num_rows == 4080
    row = returned.registry.device("press-2")
    returned.registry.put_device(replace(row, state="compromised", since=0))
    assert returned.view.read(["_device"]).num_rows == 4000
    assert row.device not in returned.view.read(["_device"], what="labels")["_device"].to_pylist()


def test_a_purge_takes_rows_and_labels_for_good(returned: World) -> None:
    other = returned.device("press-2")
    other.predict(nature(3, 80, 9, first=71))
    other.come_home()
    returned.catch_up()
    done = upkeep.purge_device(
        returned.ws, returned.registry, returned.archive, returned.ring, "press-2"
    )
    assert done.records == 80
    assert returned.view.count() == 4000
    other.come_home()  # the same segments again, from a stick
    returned.catch_up()
    assert returned.view.count() == 4000


def test_compacting_keeps_every_row_in_fewer_files(returned: World) -> None:
    for seed in range(3):
        device = returned.device("press-2")
        device.predict(nature(1, 40, 20 + seed, first=71))
        device.come_home()
        returned.catch_up()
    done = upkeep.compact(returned.ws, returned.registry)
    assert done["pump"][0] > done["pump"][1]
    assert returned.view.count() == 4120
    assert returned.catch_up().notes == []
    assert upkeep.check(returned.ws, returned.registry, returned.archive).problems == []


def test_an_export_holds_rows_and_truth(returned: World, tmp_path) -> None:
    from edgepack.learn.actions import export_rows

    out = tmp_path / "rows.parquet"
    assert export_rows(returned.ws, returned.registry, "pump", out) == 4000
    frame = pl.read_parquet(out)
    assert frame["_truth"].null_count() == 0
    assert export_rows(returned.ws, returned.registry, "pump", tmp_path / "rows.csv") == 4000


def test_invalid_rows_are_kept_and_shown_to_nobody(returned: World) -> None:
    device = returned.device("press-2")
    device.invalid("rubbish;1;2")
    device.come_home()
    returned.catch_up()
    table = returned.view.read(["_flags", "_raw", "temp"])
    assert [v for v in table["_raw"].to_pylist() if v] == ["rubbish;1;2"]


def test_upkeep_says_how_far_it_is_and_comes_to_the_end(returned: World) -> None:
    ws, registry, archive = returned.ws, returned.registry, returned.archive
    for work, parts in (
        (lambda seen: upkeep.rebuild(ws, registry, archive, returned.ring, (), seen),
         {"filling table pump": "bytes"}),
        (lambda seen: upkeep.check(ws, registry, archive, seen),
         {"reading the archive": "bytes", "reading table pump": "rows"}),
        (lambda seen: upkeep.compact(ws, registry, seen), {"merging files": "tables"}),
        (lambda seen: export_rows(ws, registry, "pump", returned.folder / "x.csv", seen),
         {"writing rows": "rows"}),
        (lambda seen: upkeep.purge_device(
            ws, registry, archive, returned.ring, "press-1", before=1, progress=seen),
         {}),
    ):  # fmt: skip
        seen = Watched()
        work(seen)
        assert seen.whole() == parts
