"""Wrong things at a command: one line that says what to do, and nothing half-written."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
MOUNT = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && "$@"', "sh"]


def can_mount() -> bool:
    probe = [*MOUNT, "size=1m", "/mnt", "true"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(probe, capture_output=True, check=False).returncode
    )


own_mounts = pytest.mark.skipif(not can_mount(), reason="this system refuses unshare -m")


def base(*words, cwd, passphrase="right", prefix=()):
    """Type `edgepack …`; return (exit, stdout, lines of stderr)."""
    done = subprocess.run(
        [*prefix, BIN / "edgepack", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "EDGEPACK_PASSPHRASE": passphrase},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr.splitlines()


def refused(answer, code, status):
    """Hold that a command ended in one line with this code and exit status."""
    returned, _, lines = answer
    assert returned == status, answer
    assert lines[0].startswith(f"error [{code}]: "), answer
    assert all(line.startswith("  ") for line in lines[1:]), answer


def table(rows=400, classes=2):
    """Return a CSV with a time column, three inputs and a target."""
    rng = random.Random(5)
    lines = ["when,a,b,kind,late"]
    for i in range(rows):
        a, b, kind = rng.random(), rng.random(), rng.choice("xyz")
        late = int(a + b > 1) if classes == 2 else 0
        lines.append(f"2024-01-{1 + i * 28 // rows:02},{a:.4f},{b:.4f},{kind},{late}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace whose recipe was written by looking at a CSV, with one candidate."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "flights.csv").write_text(table())
    done = base("init", "ws", "--data", "flights.csv", "--target", "late", cwd=folder)
    assert done[0] == 0, done
    done = base("train", cwd=folder / "ws")
    assert done[0] == 0, done
    return folder / "ws"


@pytest.fixture
def ws(made, tmp_path):
    shutil.copytree(made, tmp_path / "ws")
    return tmp_path / "ws"


def data_of(ws):
    (path,) = (ws / "bundles").rglob("*.csv")
    return path


def files(folder):
    """Return what lies in a folder: no lock, no registry, no folder that stays empty."""
    paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    left_out = (".lock", "registry.sqlite")
    return sorted(str(p.relative_to(folder)) for p in paths if p.name not in left_out)


def test_the_version_is_one_object_where_json_was_asked(tmp_path):
    plain = base("--version", cwd=tmp_path)
    for words in (("--version", "--json"), ("--json", "--version")):
        code, out, err = base(*words, cwd=tmp_path)
        assert (code, json.loads(out), err) == (0, {"ok": True, "version": plain[1].strip()}, [])
    for words in (("--json",), ("--json", "recipes")):
        code, out, err = base(*words, cwd=tmp_path)
        assert (code, json.loads(out)["error"]["code"], err) == (2, "usage", []), "never as text"


def test_an_unknown_recipe_names_those_there_are(tmp_path):
    answer = base("init", "ws", "--from", "flight-delay", cwd=tmp_path)
    assert answer[0] != 0
    assert "flight-delays" in " ".join(answer[2])
    assert len(answer[2]) == 1
    assert files(tmp_path) == []


def test_a_workspace_inside_another_is_refused(ws):
    before = files(ws)
    refused(base("init", "inner", "--from", "flight-delays", cwd=ws), "recipe.workspace", 70)
    assert files(ws) == before


def test_a_file_that_cannot_be_written_is_named_before_the_work(ws):
    for place in ("../nowhere/report.html", ".."):
        answer = base("report", "-o", place, cwd=ws)
        refused(answer, "usage", 2)
        assert place in answer[2][0]
        assert "name a file in a folder that is there" in answer[2][0]


def test_a_backup_beside_the_workspace_may_be_typed_with_dots(ws):
    assert base("backup", "../saved", cwd=ws)[0] == 0
    refused(base("backup", "../ws/saved", cwd=ws), "usage", 2)
    (ws.parent / "link").symlink_to(ws)
    refused(base("backup", "../link/saved", cwd=ws), "usage", 2)


def test_status_and_report_know_whether_there_is_a_backup(ws):
    def said():
        assert base("report", "-o", "../report.html", cwd=ws)[0] == 0
        page = (ws.parent / "report.html").read_text()
        return base("status", cwd=ws)[1].splitlines()[-1], "there is no backup yet" in page

    assert said() == ("backup: there is no backup: acks say `archive` only", True)
    assert base("backup", "../saved", cwd=ws)[0] == 0
    line, missed = said()
    assert re.fullmatch(rf"backup: \d{{4}}-\d\d-\d\d \d\d:\d\d, in {ws.parent}/saved", line)
    assert not missed


def test_a_missing_column_a_wrong_type_and_one_class_are_named_before_training(ws):
    data, before = data_of(ws), files(ws)
    good = data.read_text()
    data.write_text(good.replace("when,a,b", "when,a,c", 1))
    code, _, lines = base("train", cwd=ws)
    assert code == 70
    assert "'b'" in lines[0] or " b" in lines[0]
    data.write_text(good.replace("\n2024-01-01,0.", "\n2024-01-01,zero.", 1))
    code, _, lines = base("train", cwd=ws)
    assert code == 70
    assert "column a " in lines[0]
    assert "'zero." in lines[0]
    data.write_text(table(classes=1))
    code, _, lines = base("train", cwd=ws)
    assert code == 70
    assert "late" in lines[0]
    assert files(ws) == before  # no candidate, no part of one


def test_no_rows_before_until_is_one_line(ws):
    before = files(ws)
    code, _, lines = base("train", "--until", "2011-01-01", cwd=ws)
    assert code != 0
    assert len(lines) == 1
    assert "2011-01-01" in lines[0]
    assert files(ws) == before


def test_a_wrong_passphrase_signs_nothing(ws):
    code, _, lines = base("build", cwd=ws)
    assert code == 0, lines
    before = files(ws)
    code, _, lines = base("sign", cwd=ws, passphrase="wrong")
    assert code != 0
    assert "passphrase" in lines[0]
    assert files(ws) == before
    assert base("sign", cwd=ws)[0] == 0


@own_mounts
def test_a_full_disk_is_called_a_full_disk_and_the_command_can_be_repeated(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    (tmp_path / "flights.csv").write_text(table())
    words = ("init", place / "ws", "--data", "flights.csv", "--target", "late")
    refused(
        base(*words, cwd=tmp_path, prefix=[*MOUNT, "size=12k", str(place)]), "machine.disk_full", 77
    )
    assert base(*words, cwd=tmp_path)[0] == 0


@own_mounts
@pytest.mark.parametrize(
    "words",
    ["train", "build", "sign", "device new p", "sync .", "report -o r.html", "backup {}", "status"],
)
def test_a_workspace_on_a_full_disk_is_told_so_by_every_command(ws, tmp_path, words):
    """The workspace lies on a disk of its own, filled to the last byte."""
    assert base("build", cwd=ws)[0] == 0
    if words == "backup {}":  # the other disk is the full one
        words, ws = f"backup {tmp_path}/full/saved -C {ws}", tmp_path / "nothing"
        ws.mkdir()
    full = tmp_path / "full"
    full.mkdir()
    fill = (
        'mount -t tmpfs -o size=24m tmpfs "$1" && cp -r "$2/." "$1" && mkdir "$1/saved" && cd "$1"'
        " && { dd if=/dev/zero of=fill bs=4k 2>/dev/null; true; }"
        ' && shift 2 && "$@"'
    )
    prefix = ["unshare", "-m", "sh", "-c", fill, "sh", str(full), str(ws)]
    refused(base(*words.split(), cwd=tmp_path, prefix=prefix), "machine.disk_full", 77)


@own_mounts
def test_a_read_only_stick_is_refused_and_the_base_stays_as_it_was(ws, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    before = files(ws)
    code, _, lines = base("sync", stick, cwd=ws, prefix=[*MOUNT, "size=1m,ro", str(stick)])
    assert code == 60, lines
    assert len(lines) == 1
    assert "read-only" in lines[0] or "cannot be written" in lines[0]
    assert [name for name in files(ws) if name not in before] == []
    assert base("sync", stick, cwd=ws)[0] == 0


def test_a_reader_that_has_read_enough_ends_a_command_quietly(ws):
    script = '"$0" keys list | head -1; echo "status ${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, BIN / "edgepack"],
        cwd=ws,
        env={**os.environ, "EDGEPACK_PASSPHRASE": "right"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.endswith("status 0\n")
