"""The local server under load: hot switches and stops; nothing is dropped or lost."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time

import pytest

from device_runtime.courier import Stick
from device_runtime.disk import RealDisk
from support import devicelab
from support.servelab import ask, column, serving, unix, wait_until

pytestmark = pytest.mark.usefixtures("hang_up")


def test_under_load_a_sync_a_label_and_an_install_drop_no_request_and_lose_no_row(make_lab):
    """While requests come in: plug in a stick with a newer bundle, label, roll on."""
    lab = make_lab(trial_rows=1)
    newer = lab.bundle(-4.0)
    stick = lab.folder / "stick"
    (stick / "EDGEPACK" / "bundles").mkdir(parents=True)
    (stick / "EDGEPACK" / "bundles" / newer.name).write_bytes(newer.read_bytes())
    stop = threading.Event()
    seen: list[tuple[str, str]] = []
    failures: list[object] = []

    def client(number):
        line = unix(lab)
        at = 0
        while not stop.is_set():
            try:
                status, value = ask(line, [(number * 1_000_000 + at, 2.0, "a")])
            except Exception as error:
                failures.append(error)
                return
            if status != 200:
                failures.append(value)
                return
            seen.append((value["model_version"], column(value, "record")[0]))
            at += 1
        line.close()

    with serving(lab):
        threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: seen or failures)
        done = lab.run("sync", stick, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["installed"]["version"] == 2
        labelled = lab.run("label", seen[0][1], "yes", "--json")
        assert json.loads(labelled.stdout)["labels"] == 1
        rows = devicelab.csv_of(devicelab.rows(500), lab.folder / "rows.csv")
        out = lab.run("predict", rows, "--out", lab.folder / "out.csv", "--json")
        assert json.loads(out.stdout)["rows"] == 500
        piped = lab.run("predict", "-", stdin=rows.read_bytes())
        assert piped.stdout.count(b"\n") == 501
        state = json.loads(lab.run("status", "--json").stdout)
        assert state["serving"]
        assert state["bundle"]["version"] == 2
        wait_until(lambda: failures or any(version == "2" for version, _ in seen))
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {version for version, _ in seen} == {"1", "2"}
    kept = lab.rows()
    records = [record for _, record in seen]
    assert len(set(records)) == len(records)
    assert set(records) <= set(kept)
    assert len(kept) == len(records) + 1000
    with Stick.open(stick, RealDisk(), write=False) as found:
        assert found.files("reports")


def test_a_run_whose_asker_was_killed_is_resumed_without_a_row_twice(lab):
    """The server would go on with the first run while the second writes into the same file."""
    rows = devicelab.csv_of(devicelab.rows(200_000), lab.folder / "rows.csv")
    out = lab.folder / "out.csv"
    words = devicelab.command(lab.root, "predict", rows, "--out", out)
    with serving(lab):
        for _ in range(3):
            size = out.stat().st_size if out.exists() else 0
            asker = subprocess.Popen([*words, "--resume"], stdout=subprocess.DEVNULL)
            wait_until(
                lambda known=size, run=asker: (
                    run.poll() is not None or (out.exists() and out.stat().st_size > known)
                )
            )
            asker.kill()
            asker.wait()
        done = lab.run("predict", rows, "--out", out, "--resume", "--json")
        assert json.loads(done.stdout)["ok"], done.stdout
    lines = out.read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == [str(n) for n in range(200_000)]
    assert len({line.split(",")[0] for line in lines}) == 200_000
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["journal"]["rows_on_device"] == 200_000


def test_sigterm_answers_what_was_asked_and_seals(lab):
    with serving(lab) as (process, _):
        line = unix(lab)
        assert ask(line, [(1, 2.0, "a")])[0] == 200
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    assert len(lab.rows()) == 1


def test_a_stop_under_load_leaves_no_request_without_an_answer(lab):
    """A client may fail to send; what it could send is answered, and each answer is journaled."""
    answered, lost = [], []

    def client():
        line = unix(lab)
        while True:
            try:
                status, value = ask(line, [(1, 2.0, "a")])
                assert status == 200, value
                answered.append(column(value, "record")[0])
            except BrokenPipeError:
                return  # it could not be sent
            except Exception as error:
                lost.append(error)
                return
            if line.sock is None:  # "Connection: close"
                return

    for _ in range(3):
        before = len(answered)
        with serving(lab) as (process, _):
            threads = [threading.Thread(target=client) for _ in range(16)]
            for thread in threads:
                thread.start()
            wait_until(lambda known=before: len(answered) > known + 50 or lost)
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
    assert not lost
    assert set(answered) == set(lab.rows())


def test_a_storm_of_signals_stops_it_all_the_same(make_lab):
    """A handler that takes a lock waits for ever if it interrupts the thread that holds it."""
    lab = make_lab(group_ms=0)  # it looks for work without a pause
    for _ in range(3):
        with serving(lab) as (process, _):
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
                time.sleep(0.0002)
