"""Killed at any point, `predict --resume` loses no answered row and journals none twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time

import pytest

from device_runtime import stream
from device_runtime.disk import RealDisk
from device_runtime.journal import keeper
from device_runtime.predictor import Stream
from support import devicelab

N = 3000


@pytest.fixture
def rows(lab):
    return devicelab.csv_of(devicelab.rows(N, seed=9), lab.folder / "rows.csv")


def _answers(lab):
    return (lab.folder / "out.csv").read_bytes().splitlines()


def _expect_each_row_once(lab, count=N):
    """Every row is answered once, journaled once, under the id that the answer says."""
    lines = _answers(lab)[1:]
    assert len(lines) == count
    assert [int(line.split(b",")[1]) for line in lines] == list(range(count))
    kept = lab.rows()
    numbers = sorted(row["_row"] for row in kept.values())
    assert numbers == list(range(count))
    for line in lines:
        record, key = line.decode().split(",")[:2]
        assert kept[record]["_row"] == int(key) == kept[record]["id"]


def test_the_output_has_the_promised_columns(lab, rows):
    done = lab.run("predict", rows, "--out", lab.folder / "out.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert _answers(lab)[0] == b"record,id,y,y_p_no,y_p_yes,flag"
    _expect_each_row_once(lab)


@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_any_moment_then_resume(lab, rows, seed, monkeypatch):
    out = lab.folder / "out.csv"
    command = devicelab.command(lab.root, "predict", rows, "--out", out)
    for turn in range(3):
        resume = ["--resume"] if turn else []
        process = subprocess.Popen(
            [*command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(random.Random(seed * 10 + turn).uniform(0.15, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = lab.run("predict", rows, "--out", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    _expect_each_row_once(lab)


class _Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before", "journaled", "answered-in-part", "answered"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_cut_off_between_journal_and_answer(lab, rows, where, block, monkeypatch):
    """The same at the exact points where it matters, block by block."""
    monkeypatch.setattr(keeper, "MAX_BLOCK_ROWS", 1000)
    out = lab.folder / "out.csv"
    count = 0
    write = stream.Output.write

    def cut(self, found, start):
        nonlocal count
        count += 1
        if count <= block:
            write(self, found, start)
            return
        if where == "answered-in-part":
            write(self, found, start)
            self._raw.truncate(self._raw.tell() - 20_000)
        if where == "answered":
            write(self, found, start)
        raise _Cut

    device = lab.open()
    monkeypatch.setattr(stream.Output, "write", cut)
    if where == "before":
        predict = device.predict_block

        def early(rows, run=None):
            if rows.first_row >= block * 1000:
                raise _Cut
            return predict(rows, run)

        monkeypatch.setattr(device, "predict_block", early)
    with open(rows, "rb") as source, pytest.raises(_Cut):
        device.predict_stream(source, out, name="rows.csv")
    monkeypatch.setattr(stream.Output, "write", write)
    device._stack.pop_all()  # nothing is closed in order: as after a kill
    _release(device)
    with lab.open() as again, open(rows, "rb") as source:
        done = again.predict_stream(source, out, name="rows.csv", resume=True)
    if where == "journaled":
        assert done.recovered == 1000
    _expect_each_row_once(lab)
    assert not (lab.folder / "out.csv.resume").exists()


def _release(device) -> None:
    """Let go of the lock file of a device that was left behind."""
    import fcntl
    import os

    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target == str(device.home.run / "lock"):
            fcntl.flock(int(name), fcntl.LOCK_UN)


def test_a_finished_output_resumes_to_nothing(lab, rows):
    out = lab.folder / "out.csv"
    assert lab.run("predict", rows, "--out", out).returncode == 0
    before = out.read_bytes()
    assert lab.run("predict", rows, "--out", out, "--resume").returncode == 0
    assert out.read_bytes() == before
    _expect_each_row_once(lab)


def test_an_output_of_another_shape_is_not_resumed(lab, rows):
    out = lab.folder / "out.csv"
    out.write_text("something,else\n1,2\n")
    done = lab.run("predict", rows, "--out", out, "--resume")
    assert done.returncode == 40
    assert b"run.input" in done.stderr


def test_quoted_line_ends_do_not_count_as_rows(lab, tmp_path):
    out = tmp_path / "x.csv"
    schema = devicelab.SCHEMA
    text = 'record,id,y,y_p_no,y_p_yes,flag\na,"1\n2",yes,0,1,ok\nb,3,yes,0,1,ok\nc,"half\n'
    out.write_text(text)
    rows, keep = stream._complete_lines(out, schema, ndjson=False)
    assert rows == 2
    assert text[keep:] == 'c,"half\n'


def test_a_stream_that_the_journal_does_not_know_has_nothing_to_redo(lab):
    with lab.open() as device:
        assert stream._unanswered(device.journal, Stream(b"x" * 8, b"y" * 8), 0) is None
    assert stream._read_note(RealDisk(), lab.folder / "none") is None


def test_a_refused_input_spoils_no_output(lab, rows):
    out = lab.folder / "out.csv"
    assert lab.run("predict", rows, "--out", out).returncode == 0
    before = out.read_bytes()
    bad = lab.folder / "bad.csv"
    bad.write_bytes(b"id,other\n1,2\n")
    done = lab.run("predict", bad, "--out", out)
    assert done.returncode == 40
    assert b"column x is not there" in done.stderr
    assert out.read_bytes() == before
    assert not (lab.folder / "out.csv.resume").exists()
    assert lab.run("predict", bad).stdout == b""


def test_the_key_of_a_row_that_could_not_be_read_is_empty(lab):
    source, out = lab.folder / "odd.csv", lab.folder / "odd-out.csv"
    source.write_bytes(b"id,at,x,c\n7,,1.5,a\nx8,,1.5,a\n9,,bad,a\nalone\n")
    assert lab.run("predict", source, "--out", out).returncode == 40
    keys = [line.split(b",")[1] for line in out.read_bytes().splitlines()[1:]]
    assert keys == [b"7", b"", b"9", b""]


def test_an_input_of_any_length_is_answered_under_a_quota_smaller_than_a_segment(make_lab):
    """Blocks and segments follow the quota; what nobody acknowledged yet goes, with a HOLE."""
    lab = make_lab(quota_bytes=1 << 20, reserve_bytes=1 << 18)
    rows = devicelab.csv_of(devicelab.rows(60_000), lab.folder / "rows.csv")
    done = lab.run("predict", rows, "--out", lab.folder / "out.csv")
    assert done.returncode == 0, done.stderr
    used = sum(path.stat().st_size for path in (lab.root / "journal").iterdir())
    assert used <= 1 << 20
    assert (lab.folder / "out.csv").read_bytes().count(b"\n") == 60_001
    state = json.loads(lab.run("status", "--json").stdout)["journal"]
    assert 0 < state["rows_on_device"] < 60_000
    assert state["records_lost"] > 0
