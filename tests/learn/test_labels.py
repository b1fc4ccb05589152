"""Labels: joined when their row is home, the last counts, the base overrides, nonsense is named."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.format.schema import Schema
from edgepack.errors import DataError
from edgepack.learn.actions import import_labels
from edgepack.learn.state import name_state
from edgepack.learn.survey import survey
from edgepack.store.label_files import read_file
from edgepack.store.labels import attach, collect, key_text, record_ids, resolve
from edgepack.store.truth import as_class, read_values
from support.learnworld import World, nature
from support.watched import Watched

A, B = "a" * 32, "b" * 32
E, U = "e" * 16, "1" * 16


def ref(sequence: int, device: str = A) -> str:
    return f"{device}/{E}/{U}/{sequence}"


def given_table(*rows: tuple[str, str, str, object]) -> pa.Table:
    """Labels in journal order: (device, ref, by, value)."""
    return pa.table(
        {
            "_device": pa.array([r[0] for r in rows], pa.string()),
            "ref": pa.array([r[1] for r in rows], pa.string()),
            "by": pa.array([r[2] for r in rows], pa.string()),
            "value": pa.array([str(r[3]) for r in rows], pa.string()),
            "source": pa.array(["x"] * len(rows), pa.string()),
            "observed": pa.array([10**18] * len(rows), pa.int64()),
        }
    )


def rows_table(sequences: list[int], keys: list[int], device: str = A) -> pa.Table:
    n = len(sequences)
    return pa.table(
        {
            "_device": [device] * n,
            "_epoch": [E] * n,
            "_uid": [U] * n,
            "_sequence": pa.array(sequences, pa.int64()),
            "_wall": pa.array([10**18 - 10**9] * n, pa.int64()),
            "serial": pa.array(keys, pa.int64()),
        }
    )


def truths(labels_table: pa.Table, rows: pa.Table, schema: Schema | None = None) -> list[object]:
    return attach(rows, resolve(labels_table, schema), "serial")["_truth"].to_pylist()


@pytest.fixture
def schema(trained: World) -> Schema:
    return trained.refs()[0].schema


def test_the_last_label_in_order_counts_and_the_contradiction_is_listed(schema: Schema) -> None:
    table = given_table(
        (A, ref(5), "record", "true"), (A, ref(5), "record", "false"), (A, ref(6), "record", "1")
    )
    labels = resolve(table, schema)
    assert attach(rows_table([5, 6, 7], [0, 0, 0]), labels, "serial")["_truth"].to_pylist() == [
        "false", "true", None,
    ]  # fmt: skip
    assert [(c.ref, c.values, c.holds) for c in labels.conflicts] == [
        (ref(5), ("true", "false"), "false")
    ]


def test_the_same_label_twice_is_no_contradiction(schema: Schema) -> None:
    table = given_table((A, ref(5), "record", "true"), (A, ref(5), "record", "1.0"))
    labels = resolve(table, schema)
    assert (len(labels), labels.conflicts) == (1, ())


def test_a_label_of_the_base_overrides_whatever_came_from_devices(schema: Schema) -> None:
    table = given_table((A, ref(5), "record", "true"), ("", "77", "key", "false"))
    assert truths(table, rows_table([5], [77]), schema) == ["false"]


def test_a_device_speaks_about_its_own_rows_only(schema: Schema) -> None:
    table = given_table((B, ref(5, A), "record", "true"), (B, "77", "key", "true"))
    labels = resolve(table, schema)
    assert truths(table, rows_table([5], [77]), schema) == [None]
    assert truths(table, rows_table([5], [77], device=B), schema) == ["true"]
    assert "own device" in labels.wrong[0][2]


@pytest.mark.parametrize("value", ["", "maybe", "2", "nan", "true; drop table", "\x00", "ü" * 5000])
def test_what_is_no_class_is_named_and_left_out(schema: Schema, value: str) -> None:
    table = given_table((A, ref(5), "record", value), (A, ref(6), "record", "true"))
    labels = resolve(table, schema)
    assert truths(table, rows_table([5, 6], [0, 0]), schema) == [None, "true"]
    assert len(labels.wrong) == 1
    assert labels.wrong[0][0] == ref(5)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "", "about 3"])
def test_a_number_must_be_a_finite_number(schema: Schema, value: str) -> None:
    from dataclasses import replace

    reading = read_values(pa.array([value, "3.5"]), replace(schema, task="regression"))
    assert reading.truth.to_pylist() == [None, 3.5]


def test_words_may_bring_a_new_class_and_numbers_may_not() -> None:
    assert as_class("cotton", ("grey", "red"), open_set=True) == "cotton"
    assert as_class("GREY", ("grey", "red"), open_set=True) == "grey"
    assert as_class("7", ("1", "2"), open_set=True) is None
    assert as_class("2.0", ("1", "2"), open_set=True) == "2"
    assert as_class("cotton", ("grey", "red"), open_set=False) is None


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=40),
    st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True),
)
def test_the_join_does_what_a_plain_loop_does(
    marks: list[tuple[int, bool, bool]], sequences: list[int]
) -> None:
    rows = [
        ("" if base else A, str(n + 100) if by_key else ref(n), "key" if by_key else "record", i)
        for i, (n, by_key, base) in enumerate(marks)
    ]
    rows.sort(key=lambda r: r[0] == "")  # the base's come last
    keys = [n + 100 for n in sequences]
    found = truths(given_table(*rows), rows_table(sequences, keys))
    expected = []
    for n in sequences:
        hits = [str(v) for _, text, _, v in rows if text in (ref(n), str(n + 100))]
        expected.append(hits[-1] if hits else None)
    assert found == expected


def test_whole_keys_of_any_size_meet_their_text(schema: Schema) -> None:
    keys = [0, -1, 7, 10**17, 10**18, 9_219_999_999_999_999_999, 2**63 - 1, -(2**63), 5]
    texts = [*map(str, keys[:-1]), "9223372036854775808", "-9999999999999999999", "007", "5x", ""]
    table = given_table(*(("", text, "key", i % 2) for i, text in enumerate(texts)))
    found = truths(table, rows_table(list(range(len(keys))), keys), schema)
    assert found == [["false", "true"][i % 2] for i in range(len(keys) - 1)] + [None]
    rows = rows_table([1, 2], [0, 0])
    rows = rows.set_column(5, "serial", pa.array([None, 7], pa.int32()))
    assert truths(table, rows, schema) == [None, "false"]


def test_record_ids_are_written_as_the_device_writes_them(returned: World) -> None:
    table = returned.view.read(["_device", "_epoch", "_uid", "_sequence", "_row"]).sort_by("_row")
    assert record_ids(table).to_pylist() == returned.ids


def test_keys_of_any_type_meet_their_text() -> None:
    assert key_text(pa.array([1.0, 2.5, None])).to_pylist() == ["1", "2.5", None]
    assert key_text(pa.array([7, None])).to_pylist() == ["7", None]
    assert key_text(pa.array(["x"])).to_pylist() == ["x"]


def test_a_label_is_held_until_its_row_comes_home(world: World) -> None:
    frame = nature(3, 60, 5, first=31)
    device = world.device()
    ids = device.predict(frame)
    path = world.folder / "truth.csv"
    lines = [f"{record},{value}" for record, value in zip(ids, frame["worn"], strict=True)]
    path.write_text("record,value\n" + "\n".join(lines) + "\n")
    done = import_labels(world.ws, world.registry, "pump", path, world.clock)
    assert (done["labels"], done["matched"], done["held"]) == (60, 0, 60)
    device.come_home()
    world.catch_up()
    schema = world.refs()[0].schema
    found = survey(world.view, collect(world.view, schema), schema)
    assert (found.labelled.num_rows, found.held) == (60, 0)
    assert import_labels(world.ws, world.registry, "pump", path, world.clock)["again"]


def test_a_label_that_another_one_overrides_does_not_wait_for_its_row(returned: World) -> None:
    path = returned.folder / "truth.csv"
    serials = returned.frame["serial"][:50]
    path.write_text("serial,worn\n" + "".join(f"{serial},true\n" for serial in serials))
    seen = Watched()
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock, seen)
    assert (done["by"], done["matched"], done["held"]) == ("key", 4000, 0)
    assert seen.parts == [["walking over the rows", "rows", 4000, 4000]]


def test_a_file_of_hostile_labels_gives_one_line_each_and_the_rest_counts(returned: World) -> None:
    ids = returned.ids
    path = returned.folder / "labels.ndjson"
    lines = [
        {"record": ids[0], "value": "true"},
        {"record": ids[0], "value": "false"},
        {"record": ids[1], "value": "perhaps"},
        {"record": "nonsense", "value": "true"},
        {"record": f"{'9' * 32}/{E}/{U}/3", "value": "true"},
        {"record": "", "value": "true"},
        {"record": ids[2], "value": ""},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock)
    text = "\n".join(done["notes"])
    assert "2 lines without id or value" in text
    assert "perhaps" in text
    assert "'true' for nonsense is no record id" in text
    assert "contradiction" in text
    assert done["matched"] == 4000  # ids[0] has one still, and another value than the device said
    assert done["held"] == 1


def test_a_label_of_another_type_does_not_take_the_whole_file_along(returned: World) -> None:
    said = [True, 1, 1.0, "yes", "TRUE", 7, None]
    path = returned.folder / "labels.ndjson"
    lines = [{"record": ref, "worn": value} for ref, value in zip(returned.ids, said, strict=False)]
    path.write_text("\n".join(map(json.dumps, lines)))
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock)
    assert (done["labels"], done["wrong"]) == (6, 1)
    assert any("'7' for" in note for note in done["notes"])
    assert "1 lines without id or value were left out" in done["notes"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.csv", None), ("columns.csv", "a,b\n1,2\n"), ("empty.csv", "record,value\n"),
        ("bad.parquet", "no parquet"), ("bad.ndjson", "{"),
        ("nan.ndjson", '{"key": NaN, "value": 1}\n{"key": 2, "value": [1]}'),
        ("deep.ndjson", '{"key": 1, "value": "a"}\n' + "[" * 100_000), ("nothing.csv", ""),
        ("twice.csv", "record,value,value\n1,a,b\n"),
        ("list.ndjson", '{"key": 1, "value": [1]}'),
        ("wide.csv", "key,value\n1,true\n".encode("utf-16")),
        ("latin.csv", b"key,value\n1,caf\xe9\n"), ("ragged.csv", "key,value\n1,true\n2\n"),
        ("long.csv", "key,value\n" + "x" * 3_000_000 + ",true\n"), ("one.csv", "x" * 3_000_000),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    world: World, name: str, text: str | bytes | None
) -> None:
    path = world.folder / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        import_labels(world.ws, world.registry, "pump", path, world.clock)
    line = caught.value.line()
    assert "\n" not in line
    assert len(line) < 400
    assert caught.value.next
    assert not list(world.ws.labels.rglob("*.parquet"))


@pytest.mark.parametrize(
    "text", ["\ufeffserial,worn\r\n{}.0,true\r\n", "serial,worn\n {} , TRUE \n"]
)
def test_a_spreadsheet_may_have_touched_the_ids(returned: World, text: str) -> None:
    serial = int(returned.frame["serial"][7])
    path = returned.folder / "touched.csv"
    path.write_text(text.format(serial), newline="")
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock)
    assert (done["labels"], done["held"], done["wrong"]) == (1, 0, 0)
    path.write_text("serial,worn\n987654321987,true\nseven,true\n")
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock)
    assert "2 of these name no row that is home (987654321987, seven)" in done["notes"][0]
    lines = name_state(returned.ws, returned.registry, "pump", returned.clock).lines()
    assert not any("dated before" in line for line in lines)


def test_a_class_may_be_called_na(tmp_path) -> None:
    path = tmp_path / "na.csv"
    path.write_text("record,value\n1,NA\n2,null\n3,\n")
    assert read_file(path, words=True)["value"].to_pylist() == ["NA", "null", None]


def test_labels_from_the_future_are_counted_without_a_delay(world: World) -> None:
    frame = nature(3, 60, 5, first=31)
    device = world.device()
    ids = device.predict(frame)
    device.label(ids[:40], frame["worn"].tolist()[:40])
    world.clock.advance(10**9)  # its clock jumps by thirty years, and back
    device.label(ids[40:], frame["worn"].tolist()[40:])
    world.clock.advance(-(10**9))
    device.come_home()
    world.catch_up()
    found = name_state(world.ws, world.registry, "pump", world.clock).quality
    assert any("20 labels are dated in the future" in line for line in found.warnings)
    assert max(found.delay_s) < 1


def test_a_label_dated_before_its_row_has_no_delay(schema: Schema) -> None:
    table = given_table((A, ref(5), "record", "true"))
    table = table.set_column(5, "observed", pa.array([5], pa.int64()))
    delay = attach(rows_table([5], [0]), resolve(table, schema), None)["_truth_delay_s"]
    assert delay.to_pylist() == [None]
    fine = attach(
        rows_table([5], [0]), resolve(given_table((A, ref(5), "record", 1)), schema), None
    )
    assert fine["_truth_delay_s"].to_pylist() == [1.0]


def test_labels_by_key_reach_the_rows_of_every_device(returned: World) -> None:
    frame = nature(2, 30, 6, first=72)
    returned.device("press-2").predict(frame)
    returned.device("press-2").come_home()
    returned.catch_up()
    path = returned.folder / "by-key.csv"
    lines = [f"{k},{v}" for k, v in zip(frame["serial"], frame["worn"], strict=True)]
    path.write_text("serial,worn\n" + "\n".join(lines))
    done = import_labels(returned.ws, returned.registry, "pump", path, returned.clock)
    assert (done["by"], done["matched"]) == ("key", 4030)
    schema = returned.refs()[0].schema
    found = survey(returned.view, collect(returned.view, schema), schema)
    serial = np.asarray(found.labelled["serial"].to_numpy())
    truth = np.array(found.labelled["_truth"].to_pylist())
    said = dict(zip(serial.tolist(), truth.tolist(), strict=True))
    wanted = {
        int(k): str(bool(v)).lower() for k, v in zip(frame["serial"], frame["worn"], strict=True)
    }
    assert {k: said[k] for k in wanted} == wanted


def test_what_a_stranger_wrote_cannot_reach_the_terminal(schema: Schema) -> None:
    table = given_table((A, "\x1b[2J" + "x" * 500, "record", "\x1b]0;owned\x07"))
    ((text, value, _),) = resolve(table, schema).wrong
    assert "\x1b" not in text + value
    assert len(text) < 130
