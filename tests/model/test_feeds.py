"""Columns become tensors and tensors answers: few rows and many give the same bytes."""

from array import array

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.format.batch import Batch
from device_runtime.format.schema import MISSING_TIME, Column, ModelInput, ModelOutput, Schema
from device_runtime.model import answers, feeds
from device_runtime.model.session import answer_text


def same(left, right):
    assert left.n == right.n
    assert left.k == right.k
    assert np.asarray(left.label, "int16").tobytes() == np.asarray(right.label, "int16").tobytes()
    if left.scores is None or right.scores is None:
        assert left.scores is right.scores
    else:
        assert memoryview(left.scores).cast("B") == memoryview(right.scores).cast("B")


def probability_schema(**changes):
    label = changes.pop("label", None)
    return Schema(
        changes.pop("task", "binary"),
        (Column("a", "input", "float32"), Column("b", "input", "float32")),
        (ModelInput("x", "float32", ("a", "b")),),
        ModelOutput(changes.pop("names", ("no", "yes")), "p", label),
        **changes,
    )


NUMERIC = [
    "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool",
]  # fmt: skip
COLUMN_DTYPES = [*NUMERIC, "timestamp"]


@given(st.sampled_from(COLUMN_DTYPES), st.sampled_from(NUMERIC), st.data())
@settings(max_examples=300, deadline=None)
def test_few_and_many_rows_fill_a_tensor_with_the_same_bytes(column, tensor, data):
    if not feeds.fits(column, tensor):
        return
    width, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    dtype = {"timestamp": "int64", "bool": "uint8"}.get(column, column)
    names = tuple("abc"[:width])
    values = {}
    for name in names:
        raw = data.draw(st.binary(min_size=8 * n, max_size=8 * n))
        if column == "bool":
            raw = bytes(byte & 1 for byte in raw)
        if column == "timestamp" and data.draw(st.booleans()):
            raw = MISSING_TIME.to_bytes(8, "little", signed=True) + raw[8:]
        values[name] = np.frombuffer(raw, dtype)[:n].copy()
    item = ModelInput("x", tensor, names)
    columns = tuple(Column(name, "input", column) for name in names)
    few = feeds.small(item, columns, Batch(n, values), 2)
    many = feeds.bulk(item, columns, Batch(n, values), 2)
    assert few.shape == many.shape
    left = np.frombuffer(memoryview(few.data).cast("B"), np.dtype(tensor))
    right = np.frombuffer(memoryview(many.data).cast("B"), np.dtype(tensor))
    np.testing.assert_array_equal(left, right)  # NaN has many bit patterns; values must agree
    if tensor not in ("float32", "float64"):
        assert left.tobytes() == right.tobytes()


TASKS = ["binary", "classes", "labels", "regression", "quantiles", "scores"]


@given(
    st.sampled_from(TASKS), st.booleans(), st.sampled_from([0.5, 0.35, 0.1]), st.data(),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_few_and_many_rows_are_read_alike(task, labelled, threshold, data):
    names = ("0", "1") if task == "binary" else ("2", "0", "1")
    plan = probability_schema(
        task=task, names=names, threshold=threshold, label="label" if labelled else None
    )
    n = data.draw(st.integers(1, 6))
    score = st.floats(0, 1, width=32) | st.sampled_from([0.5, 0.35, 0.0, float("nan")])
    k = 1 if task == "binary" and data.draw(st.booleans()) else len(names)
    scores = np.array(data.draw(st.lists(score, min_size=n * k, max_size=n * k)), "float32")
    count = n * (len(names) if task == "labels" else 1)
    label = data.draw(st.lists(st.integers(-1, 4), min_size=count, max_size=count))
    few = answers.small(plan, n, array("f", scores), array("q", label) if labelled else None)
    many = answers.bulk(plan, n, scores, np.array(label, "int64") if labelled else None)
    same(few, many)
    assert answer_text(plan, few) == answer_text(plan, many)
