"""The README's story through the commands that a user types: the whole loop on real flights."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def demo(tmp_path_factory, worker_id):
    """Play the demo once, whichever workers ask for it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "demo"
    told = folder.with_suffix(".told")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            done = subprocess.run(
                [BIN / "edgepack", "demo", "--dir", folder],
                capture_output=True,
                text=True,
                check=False,
                timeout=280,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            told.write_text(done.stdout)
    return folder, json.loads((folder / "demo.json").read_text()), told.read_text()


def test_the_second_bundle_beats_the_first_on_the_same_flights(demo):
    _, result, _ = demo
    assert 0.68 < result["auc"]["bundle_1"] < 0.72
    assert 0.72 < result["auc"]["bundle_2"] < 0.76
    assert result["auc"]["bundle_2"] > result["auc"]["bundle_1"] + 0.02


def test_every_predicted_row_is_journaled_and_comes_home_once(demo):
    _, result, _ = demo
    rows = result["rows"]
    assert rows["predicted"] == 110_669  # flights from March to June
    assert rows["journaled"] == rows["predicted"]
    assert rows["imported"] == rows["predicted"]
    assert 0 < rows["pruned"] <= rows["imported"]


def test_a_tampered_and_a_genuine_older_bundle_are_refused(demo):
    _, result, _ = demo
    refused = {item["what"]: item for item in result["refused"]}
    assert refused["tampered bundle"]["exit"] in (10, 20)
    assert refused["genuine older bundle"] == {
        "what": "genuine older bundle",
        "code": "trust.rollback",
        "exit": 20,
    }


def test_the_answers_hold_each_flight_once_although_the_device_was_killed(demo):
    folder, _, _ = demo
    for season in ("spring", "summer"):
        asked = (folder / f"{season}.csv").read_bytes().splitlines()
        answers = (folder / f"{season}-answers.csv").read_text().splitlines()
        assert len(answers) == len(asked)
        records = [line.split(",", 1)[0] for line in answers[1:]]
        assert len(set(records)) == len(records)
        keys = [line.rsplit(b",", 1)[1].decode() for line in asked[1:]]
        assert [line.split(",")[1] for line in answers[1:]] == keys


def test_the_report_opens_without_a_network(demo):
    folder, result, _ = demo
    assert Path(result["report"]) == folder / "report.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


def test_the_story_is_told_one_line_a_step_with_the_table_at_the_end(demo):
    _, result, told = demo
    lines = [line for line in told.splitlines() if re.match(r" +\d+  \S", line)]
    assert len(lines) == len(result["steps"]) >= 18
    assert all(re.search(r"\d+\.\d\d s", line) for line in lines)
    assert "AUC of bundle 2 on the same flights" in told
    assert "Traceback" not in told


def demo_in(folder, *words, passphrase="demo passphrase"):
    return subprocess.run(
        [BIN / "edgepack", "demo", "--dir", folder, *words],
        env={**os.environ, "EDGEPACK_PASSPHRASE": passphrase},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine").write_text("keep")
    done = demo_in(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error [usage]: {tmp_path} is not empty; give --dir an empty folder\n"
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_step_that_fails_ends_the_demo_with_the_error_of_its_command(tmp_path):
    done = demo_in(tmp_path, "--json", passphrase="")
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["exit"], done.returncode) == ("keys.failed", 76, 76)
    assert "init" in error["what"]
    assert done.stderr == ""


def test_an_interrupted_demo_can_be_played_again_in_the_same_folder(tmp_path):
    with subprocess.Popen(
        [BIN / "edgepack", "demo", "--dir", tmp_path / "D"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("  1  "):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("error [interrupted]: ")
    assert error.count("\n") == 1
    assert (tmp_path / "D" / "base").exists()
    again = demo_in(tmp_path / "D", passphrase="")  # ends at its first command
    assert again.returncode == 76, again
    assert not (tmp_path / "D" / "base").exists()
