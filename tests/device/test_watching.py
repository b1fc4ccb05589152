"""Sketches, sentinel and the unlike score: two ways give the same, alarms mean something."""

from __future__ import annotations

import json
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.errors import FormatError, UnsupportedVersionError
from device_runtime.format import sketch
from device_runtime.format.batch import Answers, Batch, Text
from device_runtime.format.binner import Binner
from device_runtime.format.schema import MISSING_TIME, Column, ModelInput, ModelOutput, Schema
from device_runtime.format.sketch import Sketch
from device_runtime.model.check import take
from device_runtime.model.sentinel import Sentinel
from device_runtime.model.unlike import Unlike
from device_runtime.record import replace
from edgepack.candidate.reference import build_profile, build_unlike, rhythm
from support import devicelab

SCHEMA = Schema(
    task="classes",
    columns=(
        Column("f", "input", "float32", missing=True),
        Column("d", "input", "float64", missing=True),
        Column("i", "input", "int64"),
        Column("b", "input", "bool"),
        Column("t", "input", "timestamp", missing=True),
        Column("g", "input", "float32", shape=(2, 2)),
        Column("c", "input", "string", missing=True, categories=("a", "b", "c")),
        Column("free", "input", "string"),
    ),
    inputs=(ModelInput("X", "float32", ("f",)),),
    output=ModelOutput(("x", "y", "z"), "p", "l"),
    abstain=0.5,
)
REFERENCE = 400


def table(n, seed=0, shift=0.0):
    draw = np.random.default_rng(seed)
    f = (draw.normal(size=n) + shift).astype(np.float32)
    f[draw.random(n) < 0.1] = np.nan
    t = draw.integers(0, 10**15, n)
    t[draw.random(n) < 0.1] = MISSING_TIME
    columns = {
        "f": f,
        "d": draw.normal(size=n),
        "i": draw.integers(-5, 5, n),
        "b": draw.integers(0, 2, n).astype(np.uint8),
        "t": t,
        "g": draw.normal(size=(n, 2, 2)).astype(np.float32),
        "c": Text.of([None if k == 4 else "abcZ"[k] for k in draw.integers(0, 5, n)]),
        "free": Text.of([str(k) for k in range(n)]),
    }
    scores = draw.dirichlet((1, 1, 1), n).astype(np.float32)
    label = scores.argmax(axis=1).astype(np.int16)
    return Batch(n, columns), Answers(n, label, scores.reshape(-1), 3)


def some(batch, answers, rows):
    """The same rows in arrays: the way of small requests."""
    codes = {"f": "f", "d": "d", "i": "q", "b": "B", "t": "q", "g": "f"}
    columns = {}
    for name, data in batch.columns.items():
        if isinstance(data, Text):
            strings = data.strings()
            columns[name] = Text.of([strings[row] for row in rows])
        else:
            flat = np.ascontiguousarray(data[rows]).tobytes()
            columns[name] = array(codes[name])
            columns[name].frombytes(flat)
    scores = array("f")
    scores.frombytes(answers.scores.reshape(-1, 3)[rows].tobytes())
    label = array("h", answers.label[rows].tolist())
    return Batch(len(rows), columns), Answers(len(rows), label, scores, 3)


@pytest.fixture(scope="module")
def made():
    reference, answers = table(REFERENCE)
    held, said = table(300, seed=1)
    profile = build_profile(SCHEMA, reference, answers, rates={"abstained": 0.2})
    unlike, facts = build_unlike(SCHEMA, reference, answers, held, said, seed=3, rows=90)
    return profile, unlike, facts


def test_a_profile_reads_back_equal_and_counts_every_row(made):
    profile, _, _ = made
    assert sketch.from_json(json.loads(json.dumps(sketch.to_json(profile)))) == profile
    assert [item.name for item in profile.columns] == ["f", "d", "i", "b", "t", "g", "c"]
    assert all(sum(item.counts) == REFERENCE for item in profile.all())
    assert len(json.dumps(sketch.to_json(profile))) < 8000


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(33, 80))
def test_counting_few_and_many_rows_is_the_same(made, seed, n):
    profile, _, _ = made
    binner = Binner(profile, SCHEMA)
    batch, answers = table(n, seed)
    flags = np.random.default_rng(seed).integers(0, 16, n).astype(np.uint16)
    many, few = Sketch.empty(profile), Sketch.empty(profile)
    binner.add(many, batch, answers, flags)
    for start in range(0, n, 32):
        rows = list(range(start, min(n, start + 32)))
        part, said = some(batch, answers, rows)
        binner.add(few, part, said, array("H", flags[rows].tolist()))
    # the mean of a tensor may fall to either side of an edge by its last bit
    few.counts.pop("g"), many.counts.pop("g")
    assert few == many


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0.0, 2.0, 50.0]))
def test_the_unlike_score_of_few_and_many_rows_is_the_same_bits(made, seed, shift):
    _, data, _ = made
    unlike = Unlike.from_bytes(data, SCHEMA)
    batch, answers = table(64, seed, shift)
    many = unlike.score(batch, answers)
    for start in (0, 32):
        part, said = some(batch, answers, list(range(start, start + 32)))
        few = unlike.score(part, said)
        assert bytes(few) == many[start : start + 32].tobytes()


def test_the_limit_holds_on_rows_like_those_of_calibration(made):
    _, data, facts = made
    unlike = Unlike.from_bytes(data, SCHEMA)
    batch, answers = table(4000, seed=77)
    share = float((unlike.score(batch, answers) > 1).mean())
    assert share < 0.12
    far, said = table(500, seed=5, shift=100.0)
    assert float((unlike.score(far, said) > 1).mean()) > share
    assert facts["rows"] <= 90
    assert facts["bytes"] == len(data)


def test_a_damaged_file_of_reference_rows_is_refused(made):
    _, data, _ = made
    for bad in (b"", data[:40], data[:-1], data + b"x", b"X" + data[1:], data[:20] + b"{}" * 50):
        with pytest.raises(FormatError):
            Unlike.from_bytes(bad, SCHEMA)
    other = Schema(SCHEMA.task, SCHEMA.columns[1:], SCHEMA.inputs[:0], SCHEMA.output)
    with pytest.raises(FormatError):
        Unlike.from_bytes(data, other)


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "x"}, {"columns": 3}, {"rows": -1}])
def test_a_profile_that_is_none_is_refused(made, change):
    value = {**sketch.to_json(made[0]), **change}
    with pytest.raises(FormatError) as found:
        sketch.from_json(value)
    assert isinstance(found.value, UnsupportedVersionError) == (change == {"version": 2})


def test_sketches_add_up_and_travel(made):
    profile, _, _ = made
    binner = Binner(profile, SCHEMA)
    batch, answers = table(100, 4)
    one, two = Sketch.empty(profile), Sketch.empty(profile)
    binner.add(one, batch, answers, np.zeros(100, np.uint16))
    two.merge(one)
    two.merge(Sketch.from_json(json.loads(json.dumps(one.to_json()))))
    assert two.n == 200
    with pytest.raises(FormatError):
        two.merge(Sketch(1, {"other": [1]}, {}))
    for bad in ({}, {"format": "edgepack-sketch", "version": 1}, 3):
        with pytest.raises(FormatError):
            Sketch.from_json(bad)


def test_psi_is_what_the_formula_says_and_knows_its_noise(made):
    assert sketch.psi([50, 50], [50, 50]) == 0
    assert sketch.psi([0, 0], [1, 2]) == 0
    p, q = (75.5 / 101, 25.5 / 101), (25.5 / 101, 75.5 / 101)
    wanted = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert sketch.psi([75, 25], [25, 75]) == pytest.approx(wanted)
    profile, _, _ = made
    binner = Binner(profile, SCHEMA)
    excess = []
    for seed in range(40):
        live = Sketch.empty(profile)
        batch, answers = table(500, 1000 + seed)
        binner.add(live, batch, answers, np.zeros(500, np.uint16))
        excess += [item.value - item.noise for item in sketch.compare(profile, live)[:4]]
    assert abs(float(np.mean(excess))) < 0.03  # without a change, PSI is its noise on average


def _sentinel(profile, data=None):
    return Sentinel.load(data, profile, devicelab.SCHEMA, (0.1, 0.25))


@pytest.fixture(scope="module")
def lab_profile():
    raw = devicelab.payload()["profile.json"]
    return sketch.from_json(json.loads(raw))


def test_alarms_have_hysteresis_and_a_sample_size(lab_profile):
    sentinel = _sentinel(lab_profile)
    assert not sentinel.add(devicelab.rows(500, 1, shift=9.0), None, np.zeros(500, np.uint16))
    found = []
    for seed in range(10):
        batch = devicelab.rows(512, seed, shift=9.0)
        found += sentinel.add(batch, None, np.zeros(512, np.uint16))
    assert [(alarm.name, alarm.level) for alarm in found] == [("x", "cold")]
    assert found[0].n >= 500
    for seed in range(20):
        batch = devicelab.rows(512, 100 + seed)
        found += sentinel.add(batch, None, np.zeros(512, np.uint16))
    assert found[-1].level == "ok"
    assert sentinel.levels() == {}


def test_one_large_block_of_changed_rows_is_enough(lab_profile):
    """A device that is given one file a day must not need two days to notice."""
    sentinel = _sentinel(lab_profile)
    found = sentinel.add(devicelab.rows(2600, 1, shift=9.0), None, np.zeros(2600, np.uint16))
    assert [(alarm.name, alarm.level, alarm.n) for alarm in found] == [("x", "cold", 2600)]
    for seed in range(8):
        quiet = _sentinel(lab_profile)
        assert not quiet.add(devicelab.rows(2600, seed), None, np.zeros(2600, np.uint16))


def test_the_note_survives_and_a_torn_one_starts_afresh(lab_profile):
    sentinel = _sentinel(lab_profile)
    for seed in range(9):
        sentinel.add(devicelab.rows(700, seed, shift=9.0), None, np.zeros(700, np.uint16))
    data = sentinel.to_bytes()
    again = _sentinel(lab_profile, data)
    assert again.state() == sentinel.state()
    assert again.levels() == {"x": "cold"}
    assert len(data) < 8000
    for cut in range(0, len(data), 97):
        torn = _sentinel(lab_profile, data[:cut])
        assert torn.state()["rows"] == 0


def test_many_processes_of_one_row_leave_one_bucket(lab_profile):
    data = None
    for seed in range(30):
        sentinel = _sentinel(lab_profile, data)
        sentinel.add(devicelab.rows(1, seed), None, array("H", [0]))
        data = sentinel.to_bytes()
    assert len(json.loads(data)["window"]) == 1
    assert _sentinel(lab_profile, data).state()["rows_since_activation"] == 30


def _days(first: int, count: int, more: float = 0.0) -> Batch:
    """Rows of some days, 600 each; each day has its own mean of x."""
    moved = [4.0 * np.sin(0.25 * day) + more for day in range(first, first + count)]
    parts = [devicelab.rows(600, 500 + at, shift=shift) for at, shift in enumerate(moved)]
    x = np.concatenate([part.columns["x"] for part in parts])
    c = Text.of(text for part in parts for text in part.columns["c"].strings())
    ids = np.arange(len(x), dtype=np.int64)
    return Batch(len(x), {"id": ids, "at": ids, "x": x, "c": c})


def _part(batch: Batch, start: int, stop: int) -> Batch:
    return take(batch, devicelab.SCHEMA, range(start, stop))


def test_a_rhythm_of_the_reference_rows_is_no_alarm_and_a_change_still_is():
    reference = _days(0, 75)
    plain = build_profile(devicelab.SCHEMA, reference, None)
    beat = rhythm(
        devicelab.SCHEMA,
        plain,
        lambda start, stop: (_part(reference, start, stop), None),
        reference.n,
    )
    assert beat["x"] > 10 * beat["c"]
    knowing = replace(plain, rhythm=beat)
    assert sketch.from_json(json.loads(json.dumps(sketch.to_json(knowing)))) == knowing

    def alarms(profile, stream):
        sentinel = _sentinel(profile)
        return [
            alarm.name
            for start in range(0, stream.n - 512, 512)
            for alarm in sentinel.add(_part(stream, start, start + 512), None, np.zeros(512, "H"))
            if alarm.level != "ok"
        ]

    usual = _days(100, 40)
    assert "x" in alarms(plain, usual)
    assert alarms(knowing, usual) == []
    assert set(alarms(knowing, _days(100, 40, more=12.0))) == {"x"}
    assert rhythm(devicelab.SCHEMA, plain, lambda *_: pytest.fail("too few rows"), 1999) == {}


def test_undrifted_streams_raise_no_alarm(lab_profile):
    """The false-alarm rate, on streams that are what the profile was made of."""
    alarms = 0
    for stream in range(6):
        sentinel = _sentinel(lab_profile)
        for part in range(24):
            batch = devicelab.rows(512, 10_000 + stream * 100 + part)
            alarms += len(sentinel.add(batch, None, np.zeros(512, np.uint16)))
    assert alarms == 0
