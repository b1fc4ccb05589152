"""NDJSON, arrays, templates, Python: every kind of input, told apart and cut into blocks."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import InputError
from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.model import check, rows
from device_runtime.stream import open_input
from device_runtime.tables import template
from support.rowlab import FILL, PLAN, Dribble, read_csv, read_ndjson, read_npy, table


def test_ndjson_is_read_with_its_faults():
    lines = [
        b'{"id": "a", "v": 1}', b"", b"{broken", b"[1]", b'{"id": "K\xf6ln"}', b"null",
        b'{"id": "' + b"x" * (2 << 20) + b'"}', b'{"v": 2.5, "more": 1}',
    ]  # fmt: skip
    for stream in (io.BytesIO(b"\n".join(lines)), Dribble(b"\n".join(lines), 60_000)):
        found, faults = table(read_ndjson(stream, PLAN))
        assert faults == {
            1: "is not valid JSON",
            2: rows.NO_OBJECT,
            3: "is not UTF-8",
            4: rows.NO_OBJECT,
            5: rows.TOO_LONG,
        }
        assert found[0] == ("a", 1)
        assert found[6] == (None, 2.5)


def test_deeply_nested_json_is_one_fault():
    deep = b"[" * 100_000 + b"]" * 100_000
    found, faults = table(read_ndjson(io.BytesIO(deep + b'\n{"v": 1}\n'), PLAN))
    assert list(faults) == [0]
    assert found[1] == (None, 1)


def test_ndjson_and_csv_say_the_same():
    data = [{"id": f"r{i}", "v": i / 8} for i in range(100)]
    lines = "\n".join(map(json.dumps, data)).encode()
    text = "id,v\n" + "".join(f"{row['id']},{row['v']}\n" for row in data)
    left = check.check(next(iter(read_ndjson(io.BytesIO(lines), PLAN))), PLAN)
    right = check.check(next(iter(read_csv(io.BytesIO(text.encode()), PLAN))), PLAN)
    assert left.batch.columns["v"].tobytes() == right.batch.columns["v"].tobytes()
    assert left.batch.columns["id"].strings() == right.batch.columns["id"].strings()


NUMBERS = Schema(
    "regression",
    (Column("a", "input", "float32"), Column("b", "input", "float32")),
    (),
    ModelOutput(("y",), "y"),
)


def saved(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


@pytest.mark.parametrize("n", [1, 20, 5000])
def test_an_array_is_read_by_the_order_of_inputs(n):
    array = np.arange(2 * n, dtype="float64").reshape(n, 2)
    blocks = list(read_npy(io.BytesIO(saved(array)), NUMBERS, chunk_rows=1000))
    assert sum(block.n for block in blocks) == n
    checked = check.check(blocks[0], NUMBERS)
    assert not checked.invalid
    assert list(checked.batch.columns["b"])[:2] == array[:2, 1].tolist()


def test_a_structured_array_is_read_by_name():
    array = np.zeros(50, [("b", ">f4"), ("x", "i4"), ("a", "f8")])
    array["a"], array["b"] = np.arange(50), 7
    reader = read_npy(io.BytesIO(saved(array)), NUMBERS, skip=10)
    assert reader.ignored == ("x",)
    (block,) = reader
    assert block.first_row == 10
    checked = check.check(block, NUMBERS)
    assert checked.batch.columns["a"].tolist() == list(range(10, 50))
    assert checked.batch.columns["b"].dtype == np.float32


def test_a_tensor_column_is_read_from_an_array():
    plan = Schema(
        "regression",
        (Column("image", "input", "uint8", shape=(4, 4)),),
        (),
        ModelOutput(("y",), "y"),
    )
    (block,) = read_npy(io.BytesIO(saved(np.ones((60, 4, 4), "uint8"))), plan)
    assert not check.check(block, plan).invalid


HOSTILE_NPY = {
    "not an array": (b"\x93NUMPYxx", "no .npy file"),
    "empty": (b"", "no .npy file"),
    "objects": (saved(np.array([object()]), allow_pickle=True), "pickled objects"),
    "code in the header": (
        b"\x93NUMPY\x01\x00\x40\x00"
        + b"{'descr': __import__('os').system('x'), 'fortran_order': 0}".ljust(64),
        "no .npy file",
    ),
    "a header of 60 kB of brackets": (b"\x93NUMPY\x01\x00\x60\xea" + b"[" * 60_000, "no .npy file"),
    "another width": (saved(np.ones((5, 3))), r"shape \(5, 3\); \(n, 2\) was wanted"),
    "text": (saved(np.array(["a", "b"])), "no table of numbers"),
    "column by column": (saved(np.asfortranarray(np.ones((5, 2)))), "column by column"),
    "a scalar": (saved(np.float64(1)), "no rows"),
    "a field missing": (saved(np.zeros(3, [("a", "f4")])), "has no field b"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NPY)
def test_a_hostile_array_is_refused(name):
    data, reason = HOSTILE_NPY[name]
    with pytest.raises(InputError, match=reason):
        list(read_npy(io.BytesIO(data), NUMBERS))


def test_an_array_that_ends_early_gives_its_rows_and_says_so():
    reader = read_npy(io.BytesIO(saved(np.ones((100, 2)))[:-16]), NUMBERS)
    assert next(reader.blocks).n == 99
    with pytest.raises(InputError, match="ends after 99 of 100 rows"):
        next(reader.blocks)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_arrays_raise_nothing_but_the_inputs_error(data):
    with contextlib.suppress(InputError):
        list(read_npy(io.BytesIO(b"\x93NUMPY" + data), NUMBERS))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", b"id,v\na,1\n"),
        ("rows.TSV", b"id\tv\na\t1\n"),
        ("rows.jsonl", b'{"id": "a", "v": "1"}\n'),
        ("", b"id,v\na,1\n"),
        ("-", b'\n {"id": "a", "v": "1"}\n'),
        ("-", b'\xef\xbb\xbf{"id": "a", "v": "1"}\n'),
        ("", "\ufeffid,v\na,1\n".encode("utf-16-le")),
    ],
)
def test_the_kind_of_input_is_told_by_name_or_by_its_first_bytes(name, data):
    assert table(open_input(io.BytesIO(data), PLAN, name=name))[0] == [("a", "1")]


def test_an_array_on_standard_input_is_told_too():
    stream = Dribble(saved(np.ones((50, 2))), 13)
    assert sum(block.n for block in open_input(stream, NUMBERS)) == 50


def test_the_template_is_read_back():
    plan = Schema(
        "regression",
        (
            Column("id", "key", "string"), Column("t", "time", "timestamp"),
            Column("v", "input", "float64", missing=True),
            Column("s", "input", "uint8", shape=(2,)),
            Column("y", "target", "float64"),
        ),
        (), ModelOutput(("y",), "y"),
    )  # fmt: skip
    example = {"id": 'a "b", c', "t": 1_357_016_400_000_000, "v": float("nan"), "s": [1, 2]}
    text = template(plan, example)
    assert text.splitlines()[0] == "id,t,v,s"
    checked = check.check(next(iter(read_csv(io.BytesIO(text.encode()), plan))), plan)
    assert not checked.invalid
    assert checked.batch.columns["id"].strings() == ['a "b", c']
    assert list(checked.batch.columns["t"]) == [1_357_016_400_000_000]
    assert template(plan) == "id,t,v,s\n"


def test_python_rows_that_are_no_mappings_are_faults():
    block = rows.from_rows([{"v": 1.0}, [1], None], PLAN)
    assert list(block.faults) == [1, 2]
    checked = check.check(block, PLAN)
    assert list(checked.good) == [0]


def test_memory_stays_bounded_by_the_chunk(tmp_path):
    """60 MB of CSV in one pass need little more than one chunk."""
    import tracemalloc

    line = b"r%07d," + b"7.25" + b"\n"
    path = tmp_path / "big.csv"
    with path.open("wb") as file:
        file.write(b"id,v\n")
        for start in range(0, 4_000_000, 100_000):
            file.write(b"".join(line % i for i in range(start, start + 100_000)))
    tracemalloc.start()
    with path.open("rb") as file:
        count = sum(block.n for block in read_csv(file, PLAN))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_000_000
    assert peak < 80 << 20


@pytest.mark.parametrize("kind", ["csv", "quoted", "ndjson", "npy"])
@given(st.integers(1, 60), st.integers(0, 99), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_a_resumed_run_finds_its_block_again(kind, chunk_rows, block, first_rows):
    """A block named by (first row, rows) is cut the same way again, whatever came before."""
    data = {
        "csv": b"id,v\n" + FILL,
        "quoted": b"id,v\n" + FILL.replace(b"r7,", b'"r7",'),
        "ndjson": b"".join(b'{"v": %d}\n' % i for i in range(100)),
        "npy": saved(np.ones((100, 2))),
    }[kind]
    plan = NUMBERS if kind == "npy" else PLAN
    reader = {"ndjson": read_ndjson, "npy": read_npy}.get(kind, read_csv)

    def cut(**options):
        found = reader(io.BytesIO(data), plan, chunk_rows=chunk_rows, **options)
        return [(block.first_row, block.n) for block in found]

    whole = cut()
    assert sum(n for _, n in whole) == 100
    start, n = whole[block % len(whole)]
    assert cut(skip=start, first_rows=n)[0] == (start, n)
    assert cut(skip=start) == whole[block % len(whole) :]
    first = cut(skip=start, first_rows=first_rows)[0]
    assert first == (start, min(first_rows, 100 - start))
