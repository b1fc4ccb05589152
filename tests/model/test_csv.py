"""Every CSV becomes rows; what is no row is a fault of that row, and the next one goes on."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import InputError
from device_runtime.model import fields
from support.rowlab import FILL, PLAN, Dribble, read_csv, table


def read(data: bytes, plan=PLAN, **options):
    return list(read_csv(io.BytesIO(data), plan, **options))


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
    found, faults = table(read_csv(stream, PLAN))
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
        found, faults = table(read_csv(stream, PLAN))
        assert not faults
        assert found == [(f"é{i}", str(i)) for i in range(count)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("count", [3, 200])
def test_the_separator_is_found_from_the_header(separator, count):
    lines = [
        separator.join(("other", "v", "id")),
        *(f"x{separator}{i}{separator}r" for i in range(count)),
    ]
    reader = read_csv(io.BytesIO("\n".join(lines).encode()), PLAN)
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
        read_csv(io.BytesIO(data), PLAN)


def test_all_missing_columns_are_named_together():
    with pytest.raises(InputError) as caught:
        read_csv(io.BytesIO(b"x,y\n"), PLAN)
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
    assert table(read_csv(io.BytesIO(raw), PLAN)) == (data, {})
    assert table(read_csv(Dribble(raw, step), PLAN)) == (data, {})


@given(st.binary(max_size=500), st.integers(1, 200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_rows_and_faults_alike_in_any_portions(data, step):
    whole = table(read_csv(io.BytesIO(b"id,v\n" + data), PLAN))
    parts = table(read_csv(Dribble(b"id,v\n" + data, step), PLAN))
    assert whole == parts


@given(st.lists(st.sampled_from([b"a,1", b'"b",2', b'"c', b'd"', b"e", b"", b'"f""g",3', b'h,"i'])))
@settings(max_examples=300, deadline=None)
def test_quotes_are_cut_alike_in_any_portions(lines):
    data = b"id,v\n" + b"\n".join(lines)
    whole = table(read_csv(io.BytesIO(data), PLAN))
    assert whole == table(read_csv(Dribble(data, 3), PLAN))
    assert whole == table(read_csv(Dribble(data, 11), PLAN))


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
