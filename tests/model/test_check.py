"""What the check promises: all issues of a row, good rows go on, both paths give the same bytes."""

import io
import math
from array import array

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_runtime.errors import InputError
from device_runtime.format.batch import MISSING_CODE, Text
from device_runtime.format.schema import MISSING_TIME, Column, ModelOutput, Schema
from device_runtime.model import bulk, check, rows
from device_runtime.model.values import Rule
from support.rowlab import read_csv

DTYPES = ["float32", "float64", "int8", "int16", "int64", "uint8", "uint64", "bool", "timestamp"]


def schema(*columns: Column) -> Schema:
    return Schema("regression", columns, (), ModelOutput(("y",), "y"))


def raw(data: object) -> object:
    """The bytes of a typed column, whichever path made it."""
    if isinstance(data, Text):
        return np.asarray(data.codes, "uint32").tobytes(), data.values
    return memoryview(data).cast("B").tobytes()


def assert_same(rule: Rule, values: list, *, text: bool) -> None:
    few, few_issues = check._small(rule, values, text=text)
    many, many_issues = bulk.column(rule, values, text=text)
    assert few_issues == many_issues
    assert raw(few) == raw(many)


def columns(dtypes=(*DTYPES, "string")):
    bound = st.none() | st.floats(-300, 300) | st.integers(-300, 300).map(float)

    @st.composite
    def build(draw):
        dtype = draw(st.sampled_from(dtypes))
        text = dtype == "string"
        known = draw(st.none() | st.just(("", "AA", "B", "über", "longer than eight")))
        return Column(
            "x", "input", dtype, missing=draw(st.booleans()),
            low=None if text else draw(bound), high=None if text else draw(bound),
            categories=known if text else None, closed=draw(st.booleans()),
        )  # fmt: skip

    return build()


NUMBERISH = st.one_of(
    st.from_regex(r"[+-]?[0-9]{0,9}\.?[0-9]{0,9}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.floats(width=32).map(repr),
    st.integers().map(str),
    st.integers(-300, 300).map(str),
)
TIMEISH = st.one_of(
    st.datetimes().map(str),
    st.datetimes().map(lambda d: d.isoformat(timespec="seconds")),
    st.dates().map(str),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}", fullmatch=True),
)
ODD = st.sampled_from(
    (
        "", " ", "NA", "nan", "NaN", "null", "None", "true", "False", "TRUE", "0", "1", "1.0",
        "inf", "-inf", "1_000", "１２", " 5", "5\t", "+", "-", ".", "1e400", "-0", "-0.0", "0x10",
        "AA", "B", "1.5.2", "12345678901234567890", "9007199254740993", "über", "longer than eight",
        "16777217", "3.4028235e38", "3.4028236e38", "3.40282356779733661637e38", "1e-46", "1,5",
        "9007199254740992",
    )
)  # fmt: skip
CELLS = NUMBERISH | TIMEISH | ODD | st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(columns(), st.lists(CELLS, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
@example(Column("x", "input", "float32"), ["3.40282356779733661637e38", "3.4028235e38"])
@example(Column("x", "input", "uint64"), ["18446744073709551615", "18446744073709551616"])
@example(Column("x", "input", "int64", low=-1e300, high=1e300), ["-9223372036854775808", "5."])
def test_text_is_typed_alike_for_few_and_many_rows(column, cells):
    assert_same(Rule(column), cells, text=True)


TYPED = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-300, 300), st.floats(),
    st.floats(width=32), st.text(max_size=4), st.datetimes(), ODD,
    st.just([1]), st.just({"a": 1}), st.just("\0"),
    st.floats().map(np.float64), st.floats(width=32).map(np.float32), st.just("\ud800"),
    st.integers(-128, 127).map(np.int8), st.booleans().map(np.bool_), st.just(b"x"),
)  # fmt: skip


@given(columns(), st.lists(TYPED, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_typed_values_are_typed_alike_for_few_and_many_rows(column, values):
    assert_same(Rule(column), values, text=False)


@pytest.mark.parametrize("kind", [int, float, str, bool])
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_plain_columns_are_typed_alike(kind, data):
    column = data.draw(columns())
    values = data.draw(st.lists(st.from_type(kind), min_size=1, max_size=40))
    assert_same(Rule(column), values, text=False)


@given(
    columns(DTYPES),
    st.sampled_from(["f4", "f8", "i1", "i8", "u8", "u1", "?", "M8[s]", "M8[ns]", ">f4"]),
    st.binary(min_size=8, max_size=320),
)
@settings(max_examples=200, deadline=None)
def test_numpy_columns_are_typed_alike(column, dtype, data):
    kind = np.dtype(dtype)
    if kind == np.dtype(bool):
        data = bytes(byte & 1 for byte in data)
    values = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
    assert_same(Rule(column), values, text=False)


def test_every_issue_of_a_row_is_named_and_good_rows_go_on():
    plan = schema(
        Column("id", "key", "string"),
        Column("temp", "input", "float32", low=-50, high=60),
        Column("gear", "input", "int8"),
        Column("site", "input", "string", categories=("A", "B"), closed=True),
    )
    table = [
        {"id": "r1", "temp": 20.5, "gear": 3, "site": "A"},
        {"id": None, "temp": "warm", "gear": 300, "site": "C"},
        {"id": "r3", "temp": 61, "gear": 2.5, "site": "B"},
        {"id": "r4", "temp": float("nan"), "gear": True, "site": 7},
        {"id": "r5", "temp": -50, "gear": 4.0, "site": "B"},
    ]
    found = check.check(rows.from_rows(table, plan, first_row=100), plan)
    assert list(found.good) == [0, 4]
    assert {bad.position: bad.issues for bad in found.invalid} == {
        1: (
            "id: is missing",
            "temp: 'warm' is text, not a number",
            "gear: 300 does not fit int8",
            "site: 'C' is not one of the 2 known categories",
        ),
        2: ("temp: 61.0 is above 60", "gear: 2.5 is not a whole number"),
        3: (
            "temp: is missing",
            "gear: True is true or false, not a whole number",
            "site: 7 is a number, not text",
        ),
    }
    assert found.invalid[0].raw == {"id": None, "temp": "warm", "gear": 300, "site": "C"}
    assert found.batch.n == 2
    assert found.batch.columns["gear"] == array("b", [3, 4])
    assert found.batch.columns["id"].strings() == ["r1", "r5"]
    assert found.whole.n == 5
    assert found.whole.first_row == 100
    assert found.whole.columns["id"].strings() == ["r1", None, "r3", "r4", "r5"]
    assert math.isnan(found.whole.columns["temp"][1])


def test_missing_values_have_one_form_each():
    plan = schema(
        *(
            Column(d, "input", d, missing=True)
            for d in ("float32", "float64", "timestamp", "string")
        )
    )
    few = check.check(rows.from_rows([{}], plan), plan)
    many = check.check(rows.from_rows([{}] * 40, plan), plan)
    for found in (few, many):
        assert not found.invalid
        assert math.isnan(found.batch.columns["float32"][0])
        assert math.isnan(found.batch.columns["float64"][0])
        assert found.batch.columns["timestamp"][0] == MISSING_TIME
        assert found.batch.columns["string"].codes[0] == MISSING_CODE


@pytest.mark.parametrize("n", [3, 50])
def test_an_unseen_category_is_marked_and_still_answered(n):
    plan = schema(Column("c", "input", "string", missing=True, categories=("a", "b")))
    found = check.check(rows.from_rows([{"c": "a"}, {"c": "z"}, {}] * n, plan), plan)
    assert list(found.unseen) == [0, 1, 0] * n
    assert len(found.good) == 3 * n
    assert check.check(rows.from_rows([{"c": "a"}] * n, plan), plan).unseen is None


def test_empty_and_long_texts_are_told_apart():
    rule = Rule(Column("x", "input", "string", missing=True))
    for strings in (
        [""] * 40,
        ["a" * 64 + c for c in "abab"] * 10,
        ["x" * 8 + "y", "x" * 8, "x" * 9, "x" * 16, ""] * 8,
        [f"{i % 7:0>30}" for i in range(40)],
    ):
        assert_same(rule, strings, text=True)


@pytest.mark.parametrize("n", [2, 40])
def test_tensors_of_a_fixed_shape_are_checked_value_by_value(n):
    plan = schema(Column("image", "input", "uint8", shape=(2, 2), high=200))
    good = [[1, 2], [3, 200]]
    bad = [[[1, 2]], [[1, 2], [3, 201]], [1, 2, 3, 4], "x", [[1, 2], [3, None]]]
    found = check.check(rows.from_rows([{"image": v} for v in [good] * n + bad], plan), plan)
    assert list(found.good) == list(range(n))
    assert [bad.issues[0] for bad in found.invalid] == [
        "image: has 1 values where 2 were wanted",
        "image: 201 is above 200",
        "image: has 4 values where 2 were wanted",
        "image: has 'x' where 2 were wanted",
        "image: holds a missing value",
    ]
    assert raw(found.batch.columns["image"]) == bytes([1, 2, 3, 200] * n)
    images = np.zeros((n, 2, 2), "uint8")
    assert not check.check(rows.from_columns({"image": images}, n), plan).invalid


@pytest.mark.parametrize("n", [20, 60])
def test_good_rows_are_taken_out_alike(n):
    plan = schema(Column("k", "key", "string"), Column("v", "input", "float64", missing=True))
    table = [{"k": f"k{i % 7}", "v": "x" if i % 3 else float(i)} for i in range(n)]
    found = check.check(rows.from_rows(table, plan), plan)
    assert list(found.good) == list(range(0, n, 3))
    assert found.batch.columns["k"].strings() == [f"k{i % 7}" for i in range(0, n, 3)]
    assert found.batch.columns["k"].values == tuple(
        dict.fromkeys(f"k{i % 7}" for i in range(0, n, 3))
    )
    assert np.frombuffer(found.batch.columns["v"]).tolist() == [float(i) for i in range(0, n, 3)]


def test_columns_of_unequal_length_are_refused():
    plan = schema(Column("v", "input", "float64"))
    with pytest.raises(InputError, match="2 values for 3 rows"):
        check.check(rows.from_columns({"v": [1.0, 2.0]}, 3), plan)


def test_csv_of_many_rows_equals_csv_of_few():
    plan = schema(
        Column("t", "time", "timestamp"), Column("v", "input", "float32", missing=True),
        Column("c", "input", "string"), Column("i", "input", "int16"),
    )  # fmt: skip
    lines = [
        f"2013-01-{1 + i % 31:02} 05:{i % 60:02}:00,{i / 7:.3f},c{i % 5},{i}" for i in range(500)
    ]
    lines[7] = "2013-01-01,,x,3"
    header = "t,v,c,i\n"
    whole = next(iter(read_csv(io.BytesIO((header + "\n".join(lines)).encode()), plan)))
    many = check.check(whole, plan)
    assert not many.invalid
    for start in range(0, 500, 25):
        part = header + "\n".join(lines[start : start + 25]) + "\n"
        few = check.check(next(iter(read_csv(io.BytesIO(part.encode()), plan))), plan)
        for name in ("t", "v", "i"):
            assert list(few.whole.columns[name]) == pytest.approx(
                many.whole.columns[name][start : start + 25].tolist(), rel=0, abs=0, nan_ok=True
            )
        assert (
            few.whole.columns["c"].strings()
            == many.whole.columns["c"].strings()[start : start + 25]
        )


@given(
    st.lists(st.sampled_from(["a", "b", "ü", "long one", None]), min_size=1, max_size=40), st.data()
)
@settings(max_examples=100, deadline=None)
def test_texts_are_taken_alike_for_few_and_many_rows(strings, data):
    rows_ = sorted(data.draw(st.sets(st.integers(0, len(strings) - 1))))
    text = Text.of(strings)
    few = check.take_text(text, rows_)
    many = check.take_text(Text(np.frombuffer(text.codes, "uint32"), text.values), rows_)
    assert raw(few) == raw(many) == raw(Text.of([strings[at] for at in rows_]))


def test_the_few_good_rows_of_many_are_taken_again():
    plan = schema(Column("k", "key", "string"), Column("v", "input", "float64"))
    table = [{"k": f"k{i}", "v": float(i) if i % 10 == 0 else "x"} for i in range(100)]
    good = check.check(rows.from_rows(table, plan), plan).batch
    again = check.take(good, plan, [1, 3])
    assert again.columns["k"].strings() == ["k10", "k30"]
    assert list(again.columns["v"]) == [10.0, 30.0]
