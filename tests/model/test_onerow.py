"""One row is checked a short way of its own: the same bytes, and nothing accepted that is wrong."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.format.batch import Batch, Form, SingleRow, Text, one_text
from device_runtime.format.rowframe import text_vocabulary
from device_runtime.format.schema import DTYPES, Column, ModelInput, ModelOutput, Schema
from device_runtime.model import feeds
from device_runtime.model.check import Checker
from device_runtime.model.rows import RawBlock

LARGEST = 3.4028234663852886e38
NUMBERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.integers(-20, 20).map(float),
    st.floats(),
    st.floats(width=32),
    st.sampled_from((LARGEST, LARGEST * 1.0000001, -LARGEST, 1e39, 0.1, math.nan, -math.nan)),
    st.sampled_from(("1", "", "nan", [1.0], {})),
)
TEXTS = st.sampled_from(("a", "b", "new", "", None, 3, "x" * 300, "ü", "\0"))


@st.composite
def rows(draw):
    columns, given_row = [], {}
    for at in range(draw(st.integers(1, 6))):
        dtype = draw(st.sampled_from([*DTYPES]))
        text = dtype == "string"
        shape = draw(st.sampled_from([()] * 5 + [(2,)]))
        bounds = st.none() if text else st.none() | st.sampled_from((-5.0, 0.1, 16.0, 1e39))
        columns.append(
            Column(
                f"c{at}", "input", dtype, missing=draw(st.booleans()), low=draw(bounds),
                high=draw(bounds), categories=("a", "b") if text else None,
                closed=draw(st.booleans()), shape=shape,
            )
        )  # fmt: skip
        value = TEXTS if text else NUMBERS
        if draw(st.integers(0, 9)):
            given_row[f"c{at}"] = draw(st.lists(value, max_size=3) if shape else value)
    plan = Schema("regression", tuple(columns), (), ModelOutput(("y",), "y"))
    return plan, {name: [value] for name, value in given_row.items()}


def plain(data):
    if isinstance(data, Text):
        return list(data.codes), data.values
    return data.typecode, data.tobytes()


@settings(max_examples=400)
@given(rows())
def test_one_row_is_checked_as_any_other(made):
    plan, columns = made
    block = RawBlock(1, columns, 7)
    short, long = Checker(plan), Checker(plan)
    long._one = lambda _: None
    found, wanted = short.check(block), long.check(block)
    assert found.invalid == wanted.invalid
    assert list(found.good) == list(wanted.good)
    assert (found.unseen and list(found.unseen)) == (wanted.unseen and list(wanted.unseen))
    assert found.whole.first_row == wanted.whole.first_row == 7
    names = [column.name for column in plan.given]
    assert list(found.whole.columns) == list(wanted.whole.columns) == names
    for name in names:
        assert plain(found.whole.columns[name]) == plain(wanted.whole.columns[name])


def test_texts_that_came_before_are_checked_as_any_other():
    """They are known with their bytes; more of them than are kept, and what only looks like one."""
    column = Column("t", "input", "string", missing=True, categories=("a", "5"), closed=False)
    plan = Schema("regression", (column,), (), ModelOutput(("y",), "y"))
    short, long = Checker(plan), Checker(plan)
    long._one = lambda _: None
    words = [None, "a", "x" * 64, "x" * 65, "ü", "\ud800", *map(str, range(1200))]
    for value in [*words, *words, 5, True, 5.0, b"a", ["a"], "", "\0"]:
        block = RawBlock(1, {"t": [value]}, 0)
        found, wanted = short.check(block), long.check(block)
        assert found.invalid == wanted.invalid
        row = found.whole.columns
        assert plain(row["t"]) == plain(wanted.whole.columns["t"])
        if isinstance(row, SingleRow):
            strings = [text for text in row["t"].strings() if text is not None]
            code = b"\0" if strings else b"\xff"
            assert row.words == text_vocabulary(strings) + code
        assert (found.unseen and list(found.unseen)) == (wanted.unseen and list(wanted.unseen))


def form_of(**codes):
    return Form(list(codes), list(codes.values()), [name for name in codes if not codes[name]])


def test_numbers_are_taken_and_packed_in_any_order():
    form = form_of(a="d", t="", b="f", c="q", u="")
    values = (1.5, 0.25, 7)
    texts = {"t": Text.of(["x"]), "u": Text.of([None])}
    words = [one_text(text) for text in texts.values()]
    row = SingleRow(form, values, form.struct.pack(*values), texts, b"".join(words))
    assert row.pick(("a", "b", "c")) == values
    assert row.pick(("c", "a")) == (7, 1.5)
    assert row.pick(("b",)) == (0.25,)
    assert row.pick(()) == ()
    assert row.pack(("a", "b", "c")) == row.packed
    assert row.pack(("c", "b")) == array("q", [7]).tobytes() + array("f", [0.25]).tobytes()
    assert row.spell(("t", "u")) == row.words
    assert row.spell(("u", "t")) == words[1] + words[0]
    assert list(row) == ["a", "t", "b", "c", "u"]
    assert len(row) == 5
    assert "t" in row
    assert "z" not in row
    assert row["b"] == array("f", [0.25])
    for wrong in ("t", "z"):
        with pytest.raises(KeyError):
            row.pack(("a", wrong))
    for wrong in ("a", "z"):
        with pytest.raises(KeyError):
            row.spell(("t", wrong))
    with pytest.raises(KeyError):
        row["z"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_one_row_fills_a_tensor_with_the_same_bytes(dtype):
    codes = {"a": "h", "b": "i", "c": "B"}
    if dtype != "int64":
        codes |= {"d": "f", "e": "d"}
    names = {code: name for name, (code, _) in DTYPES.items() if name not in ("bool", "timestamp")}
    columns = tuple(Column(name, "input", names[code]) for name, code in codes.items())
    form = form_of(**codes)
    values = (-3, 2**30 + 1, 7, 0.1, 1 / 3)[: len(codes)]
    row = SingleRow(form, form.struct.unpack(form.struct.pack(*values)), b"", {}, b"")
    item = ModelInput("x", dtype, tuple(reversed(codes)))
    assert feeds.is_plain(item, columns)
    short = feeds.one(item, row, (1, len(codes)))
    long = feeds.small(item, tuple(reversed(columns)), Batch(1, row), 2)
    assert (short.dtype, short.shape) == (long.dtype, long.shape)
    assert bytes(short.data) == bytes(long.data)
    timed = (*columns[:-1], replace(columns[-1], dtype="timestamp"))
    assert not feeds.is_plain(item, timed)
