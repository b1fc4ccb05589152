"""The real command: exit codes, JSON, pipes, no network, no traceback, a light start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from device_runtime import health
from device_runtime.clock import SystemClock
from device_runtime.disk import RealDisk
from device_runtime.home import open_home
from device_runtime.journal.shelf import read_closed
from support import devicelab

ROWS = b"id,at,x,c\n1,,3,a\n2,,-3,b\n"


def test_no_home_no_arguments_and_nonsense_are_one_line(tmp_path):
    for arguments, code in (
        (["status"], 77),
        (["fly"], 2),
        (["predict", "--resume"], 2),
        (["label", "onlyid"], 2),
        (["install"], 2),
    ):
        done = devicelab.run(tmp_path / "none", *arguments)
        assert done.returncode == code, arguments
        assert done.stderr.count(b"\n") == 1
        assert b"Traceback" not in done.stderr
    done = devicelab.run(tmp_path / "none", "status", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "machine.no_home"
    assert error["exit"] == 77
    assert error["next"]


def test_pipes_and_files_give_the_same(lab):
    piped = lab.run("predict", "-", stdin=ROWS)
    assert piped.returncode == 0, piped.stderr
    rows = lab.folder / "rows.csv"
    rows.write_bytes(ROWS)
    assert lab.run("predict", rows, "--out", lab.folder / "out.csv").returncode == 0

    def answers(data):
        return [line.split(b",", 1)[1] for line in data.splitlines()]

    assert answers(piped.stdout) == answers((lab.folder / "out.csv").read_bytes())


def test_ndjson_in_and_out(lab):
    rows = lab.folder / "rows.ndjson"
    rows.write_text('{"id": 1, "x": 3.0, "c": "a"}\n{"id": 2, "x": "bad"}\n')
    out = lab.folder / "out.ndjson"
    done = lab.run("predict", rows, "--out", out, "--json")
    assert done.returncode == 40
    body = json.loads(done.stdout)
    assert (body["rows"], body["invalid"]) == (2, 1)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[0]["y"] == "yes"
    assert lines[1]["flag"] == "invalid"
    assert lines[1]["issues"]


def test_the_official_binding_gives_the_same_answers(lab):
    a = lab.run("predict", "-", stdin=ROWS).stdout.splitlines()
    b = lab.run("predict", "-", "--engine", "python", stdin=ROWS).stdout.splitlines()
    assert [x.split(b",", 1)[1] for x in a] == [x.split(b",", 1)[1] for x in b]


def test_the_template_is_a_row_that_predict_takes(lab):
    template = lab.run("predict", "--template")
    assert template.stdout.startswith(b"id,at,x,c\n")
    done = lab.run("predict", "-", stdin=template.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\n") == 2


def test_labels_from_a_file(lab):
    answers = lab.run("predict", "-", stdin=ROWS).stdout.decode().splitlines()
    truth = lab.folder / "truth.csv"
    records = [line.split(",")[0] for line in answers[1:]]
    truth.write_text("record,y\n" + "".join(f"{r},no\n" for r in records) + f"{records[0]},\n")
    done = lab.run("label", "--file", truth, "--json")
    assert json.loads(done.stdout)["labels"] == 2
    truth.write_text("id,label\n1,yes\n2,no\n")
    assert json.loads(lab.run("label", "--file", truth, "--json").stdout)["labels"] == 2
    truth.write_text("a,b,c\n1,2,3\n")
    assert lab.run("label", "--file", truth).returncode == 40
    assert lab.run("label", "--file", lab.folder / "none").returncode == 40
    labels = [r for _, r in devicelab.records(lab.base, lab.root) if hasattr(r, "ref")]
    assert [r.by for r in labels] == ["record", "record", "key", "key"]


def test_status_as_json_as_metrics_and_as_a_check(lab):
    lab.run("predict", "-", stdin=ROWS)
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["bundle"]["version"] == 1
    assert state["journal"]["rows_on_device"] == 2
    assert state["temperature"]["state"] == "fresh"
    text = lab.run("status", "--prometheus").stdout.decode()
    assert 'edgepack_bundle_version{device="buoy-1"} 1' in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.split(" ")) == 2
    assert lab.run("status", "--check").returncode == 0


def test_status_says_for_how_long_the_journal_has_room(make_lab):
    lab = make_lab(quota_bytes=1 << 20, reserve_bytes=1 << 18)
    lab.run("predict", "-", stdin=ROWS)
    home = open_home(lab.root, disk=RealDisk(), clock=SystemClock())
    assert health.status(home)["journal"]["lasts_days"] is None, "too early to tell"
    home._write_odometer(10 * 86_400)
    journal = health.status(home)["journal"]
    room = (1 << 20) - (1 << 18) - journal["bytes"]
    assert journal["lasts_days"] == pytest.approx(10 * room / journal["bytes"], rel=0.01)
    assert f"{journal['lasts_days']:,} days" in lab.run("status").stdout.decode()
    hashes = [
        read_closed(home.disk, path)[1] for path in home.journal.iterdir() if path.suffix == ".seg"
    ]
    home.commit(replace(home.generation(), acked=frozenset(hashes)))
    safe = health.status(home)["journal"]
    assert safe["lasts_days"] > journal["lasts_days"], "what the base holds may go"


def test_metrics_are_exact_and_their_labels_quoted(lab):
    found = json.loads(lab.run("status", "--json").stdout)
    found["journal"]["rows_on_device"] = 123_456_789
    found["sentinel"] = {"shares": {}, "drift": [{"name": 'height "cm"\\\n', "psi": 0.5}]}
    text = health.prometheus(found)
    assert 'edgepack_journal_rows{device="buoy-1"} 123456789\n' in text
    assert 'edgepack_psi{device="buoy-1",column="height \\"cm\\"\\\\\\n"} 0.5\n' in text


def test_the_input_is_never_taken_for_the_output(lab):
    rows = lab.folder / "rows.csv"
    rows.write_bytes(ROWS)
    link = lab.folder / "link.csv"
    link.symlink_to(rows)
    for out in (rows, link):
        done = lab.run("predict", rows, "--out", out)
        assert done.returncode == 2
        assert b"is the input itself" in done.stderr
    assert rows.read_bytes() == ROWS


def test_a_bad_row_says_all_that_is_wrong_with_it_and_the_first_of_many_are_shown(lab):
    bad = b"id,at,x,c\n" + b"one,soon,warm,a\n" * 9
    error = lab.run("predict", "-", stdin=bad).stderr.decode()
    assert "9 rows do not fit" in error
    for row in (1, 2):
        assert [line.split(": ")[1] for line in error.splitlines() if f"row {row}:" in line] == [
            "id", "at", "x",
        ]  # fmt: skip
    assert "row 3:" not in error


def test_a_full_disk_behind_stdout_is_one_line(lab):
    for arguments in (("predict", "--template"), ("status", "--json")):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                devicelab.command(lab.root, *arguments),
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert done.returncode == 77
        assert done.stderr.startswith(b"error [machine.disk_full]")
        assert done.stderr.count(b"\n") == 1


def test_a_cold_device_fails_the_check(make_lab):
    lab = make_lab(fresh_days=0, cold_days=0)
    done = lab.run("status", "--check", "--json")
    assert done.returncode == 77
    assert "days old" in json.loads(done.stdout)["error"]["why"]


def test_doctor_says_what_to_do(lab):
    done = lab.run("doctor", "--json")
    found = {item["what"]: item for item in json.loads(done.stdout)["findings"]}
    assert found["onnxruntime"]["level"] == "ok"
    assert found["bundle"]["level"] == "ok"
    os.chmod(lab.root / "identity" / "device.key", 0o644)
    done = lab.run("doctor", "--json")
    assert done.returncode == 77
    body = json.loads(done.stdout)
    bad = [item for item in body["findings"] if item["level"] == "bad"]
    assert [item["what"] for item in bad] == ["permissions"]
    assert "chmod 600" in bad[0]["next"]


def test_a_bad_bundle_is_refused_with_its_code(lab):
    bad = lab.folder / "bad-9.edgepack"
    bad.write_bytes(b"nonsense" * 1000)
    done = lab.run("install", bad, "--json")
    assert done.returncode == 10
    assert json.loads(done.stdout)["error"]["code"].startswith("format.")
    lab.run("install", lab.bundle(2.0))
    done = lab.run("install", lab.folder / "ws" / "out" / "pump-1.edgepack", "--json")
    assert done.returncode == 20
    assert json.loads(done.stdout)["error"]["code"] == "trust.rollback"


def test_a_stick_with_a_refused_bundle_still_takes_the_journal(lab):
    lab.run("predict", "-", stdin=ROWS)
    stick = lab.folder / "stick" / "EDGEPACK" / "bundles"
    stick.mkdir(parents=True)
    newer = lab.bundle(2.0)
    data = bytearray(newer.read_bytes())
    data[-2000] ^= 1
    (stick / newer.name).write_bytes(bytes(data))
    (stick / "other-5.edgepack").write_bytes(b"x")
    done = lab.run("sync", lab.folder / "stick", "--json")
    body = json.loads(done.stdout)
    assert done.returncode == body["refused"][0]["exit"] in (10, 20)
    assert body["exported"]["rows"] == 2
    assert body["safe_to_remove"]
    line = (lab.folder / "stick" / "EDGEPACK" / "LAST-SYNC-buoy-1.txt").read_text()
    assert "REFUSED" in line
    (stick / newer.name).write_bytes(newer.read_bytes())
    done = lab.run("sync", lab.folder / "stick", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["installed"]["version"] == 2
    done = lab.run("sync", lab.folder / "stick", "--dry-run", "--json")
    assert json.loads(done.stdout)["segments_to_leave"] >= 0


def test_a_kit_makes_a_device_if_the_words_are_right(lab, tmp_path):
    from edgepack.fleet.devices import new_device
    from edgepack.fleet.kit import write_kit
    from edgepack.registry import Registry

    ws, ring, clock = lab.base.ws, lab.base.ring, lab.base.clock
    (ws.recipes / "pump").mkdir(parents=True)
    (ws.recipes / "pump" / "bundle.toml").write_text('name = "pump"\n')
    with closing(Registry.open(ws.registry)) as registry:
        new_device(ws, registry, "buoy-2", device_class="field", bundle="pump", clock=clock)
    kit = tmp_path / "buoy-2.kit"
    words = write_kit(ws, ring, "buoy-2", kit, wheels=None, bundle=None, clock=clock).words
    root = tmp_path / "second"
    wrong = devicelab.run(root, "init", kit, "--fingerprint", "one two three")
    assert wrong.returncode == 40
    assert not root.exists()
    done = devicelab.run(root, "init", kit, "--fingerprint", words, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["device"] == "buoy-2"
    assert devicelab.run(root, "init", kit).returncode == 2  # nobody there to type the words
    (root / "pruned.json").write_text('{"rows":3}')
    gone = devicelab.run(root, "wipe", "--yes")
    assert gone.returncode == 0
    assert not list(root.iterdir())


def test_ctrl_c_ends_with_130_and_can_be_repeated(lab):
    rows = devicelab.csv_of(devicelab.rows(60_000), lab.folder / "rows.csv")
    out = lab.folder / "out.csv"
    process = subprocess.Popen(
        devicelab.command(lab.root, "predict", "-", "--out", out),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(rows.read_bytes()[:600_000])  # it waits for the rest until it is told
    process.stdin.flush()
    while not out.exists() or out.stat().st_size < 1000:
        time.sleep(0.005)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    _, errors = process.communicate()
    assert b"Traceback" not in errors
    done = lab.run("predict", rows, "--out", out, "--resume", "--json")
    assert json.loads(done.stdout)["resumed_from"] > 0
    assert out.read_bytes().count(b"\n") == 60_001


@pytest.mark.parametrize("words", ["predict rows.csv", "status --prometheus", "status --json"])
def test_a_reader_that_goes_away_is_no_error(lab, words):
    rows = devicelab.csv_of(devicelab.rows(50_000), lab.folder / "rows.csv")
    words = words.replace("rows.csv", str(rows)).split()
    command = " ".join(devicelab.command(lab.root, *words))
    head = "head -1" if words[0] == "predict" else "true"
    done = subprocess.run(
        f"{command} | {head}; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"record," if head == "head -1" else b"")
    assert b"Traceback" not in done.stderr


@pytest.mark.system
def test_the_units_are_what_systemd_takes(lab, tmp_path):
    folder = tmp_path / "units"
    root = lab.folder / "buoy"
    lab.root.rename(root)
    done = devicelab.run(root, "doctor", "--units", folder)
    assert done.returncode == 0, done.stderr
    assert b"systemctl" in done.stdout
    for name in ("edgepack-device@.service", "edgepack-stick@.service"):
        path = folder / name.replace("@", "@buoy")
        shutil.copy(folder / name, path)
        text = path.read_text().replace("User=edgepack", "User=root")
        path.write_text(text.replace("Group=edgepack", "Group=root"))
        checked = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
        assert name not in checked.stderr
        exposure = subprocess.run(
            [
                "systemd-analyze",
                "security",
                "--offline=true",
                "--threshold=15",
                str(folder / name),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert exposure.returncode == 0, exposure.stdout[-300:]
    rules = (folder / "90-edgepack.rules").read_text()
    assert "edgepack-stick@%k.service" in rules


def test_the_units_run_the_link_by_which_the_command_was_called(lab, tmp_path):
    """After an update `env` points at another environment, and the units must follow it."""
    real = tmp_path / "env-1" / "bin" / "edgepack-device"
    real.parent.mkdir(parents=True)
    shutil.copy(Path(sys.executable).parent / "edgepack-device", real)
    (tmp_path / "env").symlink_to("env-1")
    called = tmp_path / "env" / "bin" / "edgepack-device"
    words = [called, "doctor", "--units", tmp_path / "units", "--home", lab.root]
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0
    unit = (tmp_path / "units" / "edgepack-device@.service").read_text()
    assert f"ExecStart={called} serve " in unit


@pytest.mark.parametrize("line", ["/nowhere/blink", "blink 'twice"])
def test_a_notify_command_that_cannot_run_is_said_in_one_line(make_lab, line):
    done = make_lab(notify=line).run("notify")
    assert done.returncode == 77
    assert done.stderr.startswith(b"error [machine.failed]: notify of the policy failed: ")


def test_the_notify_command_of_the_policy_is_run(make_lab, tmp_path):
    target = tmp_path / "told"
    lab = make_lab(notify=f"{sys.executable} -c \"open('{target}','w').write('told')\"")
    done = lab.run("notify", "--result", "success", "--json")
    assert json.loads(done.stdout)["exit"] == 0
    assert Path(target).read_text() == "told"
