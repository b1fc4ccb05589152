"""Every input becomes rows; what is no row is a fault of that row, and the next one goes on."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import InputError
from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.model import check, fields, rows

PLAN = Schema(
    "regression",
    (Column("id", "key", "string", missing=True), Column("v", "input", "float64", missing=True)),
    (),
    ModelOutput(("y",), "y"),
)


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = data, step

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        size = self.step if size < 0 else min(size, self.step)
        part, self.data = self.data[:size], self.data[size:]
        return part

    read1 = read


def read(data: bytes, plan=PLAN, **options):
    return list(rows.read_csv(io.BytesIO(data), plan, **options))


def table(blocks):
    """All rows as (id, v) and all faults by row number."""
    found, faults = [], {}
    for block in blocks:
        ids, values = block.columns["id"], block.columns["v"]
        if hasattr(ids, "text"):
            ids, values = ids.text(), values.text()
        assert block.first_row == len(found)
        faults |= {block.first_row + at: why.reason for at, why in block.faults.items()}
        found += zip(ids, values, strict=True)
    return found, faults


FILL = b"".join(b"r%d,%d\n" % (i, i) for i in range(100))  # enough for the path of numpy
ODD_ROWS = {
    "too few fields": (b"alone\n", "has 1 fields where 2 were wanted"),
    "too many fields": (b"a,b,c\n", "has 3 fields where 2 were wanted"),
    "a NUL byte": (b"a\0b,1\n", "holds a NUL byte"),
    "binary": (b"\xff\xfe\x01,1\n", "is not UTF-8"),
    "latin-1": (b"K\xf6ln,1\n", "is not UTF-8"),
    "text behind a closing quote": (b'"a"b,1\n', "has broken quotes or line ends"),
    "a bare carriage return": (b"a\rb,1\n", "has broken quotes or line ends"),
    "a row of two megabytes": (b"x" * (2 << 20) + b",1\n", "is longer than 1048576 bytes"),
    "a quoted field of two megabytes": (
        b'"' + b"x" * (2 << 20) + b'",1\n',
        "is longer than 1048576 bytes",
    ),
}


@pytest.mark.parametrize("fill", [b"", FILL], ids=["few", "many"])
@pytest.mark.parametrize("name", ODD_ROWS)
@pytest.mark.parametrize("step", [None, 50_000])
def test_an_odd_row_is_one_fault_and_the_others_are_read(name, fill, step):
    odd, reason = ODD_ROWS[name]
    data = b"id,v\n" + fill + b"first,1\n" + odd + b"last,2\n"
    stream = io.BytesIO(data) if step is None else Dribble(data, step)
    found, faults = table(rows.read_csv(stream, PLAN))
    at = len(fill.splitlines()) + 1
    assert faults == {at: reason}
    assert found[at - 1] == ("first", "1")
    assert found[at + 1] == ("last", "2")
    assert len(found) == at + 2


def test_a_quote_that_is_never_closed_costs_one_row():
    body = b"".join(b"r%d,%d\n" % (i, i) for i in range(5))
    found, faults = table(read(b"id,v\n" + body + b'"open,1\n' + body))
    assert faults == {5: "has broken quotes or line ends"}
    assert [row for at, row in enumerate(found) if at != 5] == [
        (f"r{i}", str(i)) for i in range(5)
    ] * 2


def test_two_broken_quotes_do_not_swallow_the_rows_between_them():
    body = b"".join(b"r%d,%d\n" % (i, i) for i in range(40))
    found, faults = table(read(b"id,v\n" + (b'"open,1\n' + body) * 3))
    assert faults == dict.fromkeys((0, 41, 82), "has broken quotes or line ends")
    assert len(found) == 123


def test_a_quote_inside_a_plain_field_is_only_a_quote():
    found, faults = table(read(b'id,v\n5" pipe,1\n6" pipe,2\n'))
    assert (found, faults) == ([('5" pipe', "1"), ('6" pipe', "2")], {})


def test_quoted_fields_may_hold_anything():
    found, faults = table(read(b'id,v\n"a,b",1\n"say ""hi""",2\n"two\nlines",3\n"",4\n'))
    assert not faults
    assert found == [("a,b", "1"), ('say "hi"', "2"), ("two\nlines", "3"), ("", "4")]


@pytest.mark.parametrize(
    ("head", "coding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("count", [3, 200])
def test_byte_order_marks_and_line_ends_are_understood(head, coding, end, count):
    text = end.join(["id,v", *(f"é{i},{i}" for i in range(count))])
    for stream in (io.BytesIO(head + text.encode(coding)), Dribble(head + text.encode(coding), 7)):
        found, faults = table(rows.read_csv(stream, PLAN))
        assert not faults
        assert found == [(f"é{i}", str(i)) for i in range(count)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("count", [3, 200])
def test_the_separator_is_found_from_the_header(separator, count):
    lines = [
        separator.join(("other", "v", "id")),
        *(f"x{separator}{i}{separator}r" for i in range(count)),
    ]
    reader = rows.read_csv(io.BytesIO("\n".join(lines).encode()), PLAN)
    assert reader.ignored == ("other",)
    assert table(reader)[0] == [("r", str(i)) for i in range(count)]


def test_blank_lines_are_no_rows():
    for fill in (b"", FILL):
        found, faults = table(read(b"\nid,v\n\n" + fill + b"a,1\n\n\r\nb,2\n\n"))
        assert not faults
        assert found[-2:] == [("a", "1"), ("b", "2")]
        assert len(found) == 2 + len(fill.splitlines())


HEADERS = {
    b"": "the input is empty",
    b"\n\n": "the input is empty",
    b"id\n1\n": "column v is not there",
    b"id,v,v\n": "column v stands twice",
    b"\xff\xfe\x00\xd8": "column id is not there",
    b"K\xf6ln,v\n": "the header is not UTF-8",
    b"id\0,v\n": "the header holds a NUL byte",
    b'"id,v\n': "the header cannot be read",
    b"\x89PNG\r\n\x1a\n" + b"\0" * 50: "the header is not UTF-8",
    b"x" * (2 << 20): "the header is longer than",
}


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_does_not_fit_is_refused_at_once(data):
    with pytest.raises(InputError, match=HEADERS[data]):
        rows.read_csv(io.BytesIO(data), PLAN)


def test_all_missing_columns_are_named_together():
    with pytest.raises(InputError) as caught:
        rows.read_csv(io.BytesIO(b"x,y\n"), PLAN)
    assert caught.value.issues == ("column id is not there", "column v is not there")


FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6
) | st.sampled_from(['"', ",", "\n", '""', "a,b", "1.5", '5"'])


@given(
    st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=80).filter(
        lambda table: all(a or b for a, b in table)
    ),
    st.integers(1, 400),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=200, deadline=None)
def test_what_the_csv_module_writes_is_read_back(data, step, quoting):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=quoting)
    writer.writerows([("id", "v"), *data])
    raw = out.getvalue().encode()
    assert table(rows.read_csv(io.BytesIO(raw), PLAN)) == (data, {})
    assert table(rows.read_csv(Dribble(raw, step), PLAN)) == (data, {})


@given(st.binary(max_size=500), st.integers(1, 200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_rows_and_faults_alike_in_any_portions(data, step):
    whole = table(rows.read_csv(io.BytesIO(b"id,v\n" + data), PLAN))
    parts = table(rows.read_csv(Dribble(b"id,v\n" + data, step), PLAN))
    assert whole == parts


@given(st.lists(st.sampled_from([b"a,1", b'"b",2', b'"c', b'd"', b"e", b"", b'"f""g",3', b'h,"i'])))
@settings(max_examples=300, deadline=None)
def test_quotes_are_cut_alike_in_any_portions(lines):
    data = b"id,v\n" + b"\n".join(lines)
    whole = table(rows.read_csv(io.BytesIO(data), PLAN))
    assert whole == table(rows.read_csv(Dribble(data, 3), PLAN))
    assert whole == table(rows.read_csv(Dribble(data, 11), PLAN))


def test_the_fast_way_is_taken_for_plain_chunks_and_only_for_those():
    plain = read(b"id,v\n" + FILL)
    assert isinstance(plain[0].columns["id"], fields.Fields)
    assert isinstance(read(b'id,v\n"x",1\n' + FILL)[0].columns["id"], list)


@pytest.mark.parametrize("skip", [0, 1, 40, 99, 100, 150])
@pytest.mark.parametrize("quoted", [b"", b'"q",7\n'])
def test_skipped_rows_are_passed_over(skip, quoted):
    blocks = read(b"id,v\n" + FILL + quoted, skip=skip, chunk_rows=30)
    total = 100 + bool(quoted)
    assert sum(block.n for block in blocks) == max(0, total - skip)
    if blocks:
        assert blocks[0].first_row == skip
        first = blocks[0].columns["v"]
        first = first.text() if hasattr(first, "text") else first
        assert first[0] == (str(skip) if skip < 100 else "7")
    assert all(block.n <= 30 for block in blocks)


def test_ndjson_is_read_with_its_faults():
    lines = [
        b'{"id": "a", "v": 1}', b"", b"{broken", b"[1]", b'{"id": "K\xf6ln"}', b"null",
        b'{"id": "' + b"x" * (2 << 20) + b'"}', b'{"v": 2.5, "more": 1}',
    ]  # fmt: skip
    for stream in (io.BytesIO(b"\n".join(lines)), Dribble(b"\n".join(lines), 60_000)):
        found, faults = table(rows.read_ndjson(stream, PLAN))
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
    found, faults = table(rows.read_ndjson(io.BytesIO(deep + b'\n{"v": 1}\n'), PLAN))
    assert list(faults) == [0]
    assert found[1] == (None, 1)


def test_ndjson_and_csv_say_the_same():
    data = [{"id": f"r{i}", "v": i / 8} for i in range(100)]
    lines = "\n".join(map(json.dumps, data)).encode()
    text = "id,v\n" + "".join(f"{row['id']},{row['v']}\n" for row in data)
    left = check.check(next(iter(rows.read_ndjson(io.BytesIO(lines), PLAN))), PLAN)
    right = check.check(next(iter(rows.read_csv(io.BytesIO(text.encode()), PLAN))), PLAN)
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
    blocks = list(rows.read_npy(io.BytesIO(saved(array)), NUMBERS, chunk_rows=1000))
    assert sum(block.n for block in blocks) == n
    checked = check.check(blocks[0], NUMBERS)
    assert not checked.invalid
    assert list(checked.batch.columns["b"])[:2] == array[:2, 1].tolist()


def test_a_structured_array_is_read_by_name():
    array = np.zeros(50, [("b", ">f4"), ("x", "i4"), ("a", "f8")])
    array["a"], array["b"] = np.arange(50), 7
    reader = rows.read_npy(io.BytesIO(saved(array)), NUMBERS, skip=10)
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
    (block,) = rows.read_npy(io.BytesIO(saved(np.ones((60, 4, 4), "uint8"))), plan)
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
        list(rows.read_npy(io.BytesIO(data), NUMBERS))


def test_an_array_that_ends_early_gives_its_rows_and_says_so():
    reader = rows.read_npy(io.BytesIO(saved(np.ones((100, 2)))[:-16]), NUMBERS)
    assert next(reader.blocks).n == 99
    with pytest.raises(InputError, match="ends after 99 of 100 rows"):
        next(reader.blocks)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_arrays_raise_nothing_but_the_inputs_error(data):
    with contextlib.suppress(InputError):
        list(rows.read_npy(io.BytesIO(b"\x93NUMPY" + data), NUMBERS))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", b"id,v\na,1\n"),
        ("rows.TSV", b"id\tv\na\t1\n"),
        ("rows.jsonl", b'{"id": "a", "v": "1"}\n'),
        ("", b"id,v\na,1\n"),
        ("-", b'\n {"id": "a", "v": "1"}\n'),
        ("", "\ufeffid,v\na,1\n".encode("utf-16-le")),
    ],
)
def test_the_kind_of_input_is_told_by_name_or_by_its_first_bytes(name, data):
    assert table(rows.open_input(io.BytesIO(data), PLAN, name=name))[0] == [("a", "1")]


def test_an_array_on_standard_input_is_told_too():
    stream = Dribble(saved(np.ones((50, 2))), 13)
    assert sum(block.n for block in rows.open_input(stream, NUMBERS)) == 50


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
    text = rows.template(plan, example)
    assert text.splitlines()[0] == "id,t,v,s"
    checked = check.check(next(iter(rows.read_csv(io.BytesIO(text.encode()), plan))), plan)
    assert not checked.invalid
    assert checked.batch.columns["id"].strings() == ['a "b", c']
    assert list(checked.batch.columns["t"]) == [1_357_016_400_000_000]
    assert rows.template(plan) == "id,t,v,s\n"


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
        count = sum(block.n for block in rows.read_csv(file, PLAN))
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
    reader = {"ndjson": rows.read_ndjson, "npy": rows.read_npy}.get(kind, rows.read_csv)

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
