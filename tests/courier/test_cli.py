"""The field commands as a person types them: real workspace, real keys, real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.journal import quota
from edgepack.cli.app import run
from support import trustsim

BIN = Path(sys.executable).parent


class Shell:
    def __init__(self, folder):
        self.base = trustsim.Base.at(folder / "ws")
        self.folder, self.ws = folder, self.base.ws.root
        self.home, self.stick = folder / "home", folder / "usb"
        self.stick.mkdir()
        recipe = self.ws / "bundles" / trustsim.NAME
        recipe.mkdir(parents=True, exist_ok=True)
        (recipe / "bundle.toml").touch()
        self.env = {
            **os.environ,
            "EDGEPACK_PASSPHRASE": trustsim.PASSPHRASE,
            "EDGEPACK_HOME": str(self.home),
        }

    def run(self, program, *words, code=0):
        done = subprocess.run(
            [str(BIN / program), *map(str, words)],
            cwd=self.ws, env=self.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    def json(self, *words, code=0):
        return json.loads(self.run("edgepack", *words, "--json", code=code))

    def text(self, *words, code=0):
        return self.run("edgepack", *words, code=code)

    def terminal(self, *words):
        """Return everything that a terminal showed, also what was painted over."""
        command = shlex.join([f"{BIN}/edgepack", *map(str, words)])
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"], cwd=self.ws, env=self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def device(self, *words):
        return self.run("edgepack-device", *words)

    def enrolled(self):
        self.text("device", "new", "press-1")
        words = self.json("device", "kit", "press-1", self.folder / "press-1.kit")["words"]
        self.device("init", self.folder / "press-1.kit", "--fingerprint", words)
        self.device("sync", self.stick)
        return self


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def test_a_device_is_not_planned_for_a_bundle_of_another_class(shell):
    config = shell.ws / "edgepack.toml"
    classes = config.read_text()
    config.write_text(classes + classes[classes.index("[class.field]") :].replace("field", "x"))
    said = shell.json("device", "new", "dot", "--class", "x", "--bundle", "pump", code=2)["error"]
    assert "pump is made for class field; a device of class x would" in said["what"]
    assert said["next"].startswith("edgepack device new dot --bundle pump --class field; or write")
    shell.text("device", "new", "dot", "--class", "field", "--bundle", "pump")
    recipe = shell.ws / "bundles" / "pump" / "bundle.toml"
    recipe.write_text('class = "x"\n')
    said = shell.json("device", "kit", "dot", shell.folder / "dot.kit", code=2)["error"]
    assert "pump is made for class x; a device of class field would never" in said["what"]
    assert not (shell.folder / "dot.kit").exists()
    recipe.write_text("this is no TOML")  # its mistakes are for `train` to tell
    shell.text("device", "kit", "dot", shell.folder / "dot.kit")


def test_a_device_is_planned_enrolled_and_accepted(shell):
    assert "runs pump" in shell.text("device", "new", "press-1")
    assert shell.json("device", "list")["devices"][0]["state"] == "planned"
    shell.text("device", "new", "press-1", code=2)
    shell.text("device", "new", "Press 1", code=2)
    kit = shell.json("device", "kit", "press-1", shell.folder / "p.kit")
    assert len(kit["words"].split()) == 8
    assert shell.json("device", "list")["devices"][0]["state"] == "kit written"
    shell.device("init", shell.folder / "p.kit", "--fingerprint", kit["words"])
    shell.device("sync", shell.stick)
    first = shell.json("sync", shell.stick)
    assert [item["name"] for item in first["new_devices"]] == ["press-1"]
    assert first["held"] == 1
    assert shell.json("device", "list")["devices"][0]["state"] == "pending"
    second = shell.json("sync", shell.stick, "--accept", "press-1")
    assert (second["accepted"], second["acks"], second["safe_to_remove"]) == (["press-1"], 1, True)
    row = shell.json("device", "list")["devices"][0]
    assert row["state"] == "accepted"
    assert row["words"] == first["new_devices"][0]["words"]


def test_sync_ends_with_what_came_what_went_and_safe_to_remove(shell):
    shell.enrolled()
    lines = shell.text("sync", shell.stick, "--accept", "press-1").splitlines()
    assert lines[-3].startswith("came: 1 event in 1 segment from press-1")
    assert lines[-2].startswith("went: acks for 1 device; safe to remove")
    assert lines[-1] == "next: carry the stick to the devices"
    assert "dry run" in shell.text("sync", shell.stick, "--dry-run")


def test_audit_prints_the_chain(shell):
    shell.enrolled()
    shell.text("sync", shell.stick, "--accept", "press-1")
    found = shell.json("audit", "press-1")
    assert [entry["kind"] for entry in found["entries"]][-1] == "sync"
    assert found["gaps"] == []
    assert "1 entries" in shell.text("audit", "press-1") or found["entries"]
    assert "reading the archive" in shell.terminal("audit", "press-1")


def test_retired_and_compromised_devices_are_told_apart(shell):
    shell.enrolled()
    shell.text("sync", shell.stick, "--accept", "press-1")
    assert shell.json("device", "retire", "press-1")["state"] == "retired"
    shell.text("device", "accept", "press-1", code=2)
    marked = shell.json("device", "compromise", "press-1", "--since", "2000-01-01")
    assert marked["left_out"] == 1
    shell.text("device", "compromise", "press-1", "--since", "yesterday", code=2)
    assert shell.json("device", "compromise", "press-1", "--since", "99")["left_out"] == 0


def test_backup_and_restore(shell):
    shell.enrolled()
    shell.text("sync", shell.stick, "--accept", "press-1")
    made = shell.json("backup", shell.folder / "backup")
    assert made["segments"] == 1
    result = shell.json("restore", shell.folder / "backup", shell.folder / "again")
    assert result["segments"] == 1
    listed = shell.json("device", "list", "-C", shell.folder / "again")["devices"]
    assert listed[0]["state"] == "accepted"
    shell.text("restore", shell.folder / "backup", shell.folder / "again", code=70)


def test_a_terminal_sees_how_far_a_long_command_is_and_a_pipe_sees_the_result_alone(shell):
    shell.enrolled()
    shell.text("sync", shell.stick, "--accept", "press-1")
    for words, unit in (
        (("audit", "press-1"), "1 of 1 segments"),
        (("backup", shell.folder / "backup"), r"0\.\d of 0\.\d MB"),
        (("restore", shell.folder / "backup", shell.folder / "again"), r"0\.\d of 0\.\d MB"),
        (("sim", "--trips", "3", "--devices", "1"), "1 of 1 worlds"),
    ):
        assert re.search(rf"100%.*({unit})", shell.terminal(*words)), words
    for words in (("backup", shell.folder / "backup"), ("store", "check")):
        done = subprocess.run(
            [BIN / "edgepack", *words], cwd=shell.ws, env=shell.env, capture_output=True, check=True
        )
        assert (done.stdout.count(b"\n"), done.stderr) == (1, b""), words


def test_what_draws_keys_or_reads_bundles_shows_a_terminal_that_it_runs(shell):
    shell.text("device", "new", "press-1")
    shell.base.publish(model=b"one")
    shell.base.publish(model=b"two")
    one, two = sorted(shell.base.ws.out.glob("*.edgepack"))
    for words, label in (
        (("device", "kit", "press-1", shell.folder / "press-1.kit"), "writing the kit"),
        (("keys", "rotate", "timestamp"), "drawing keys"),
        (("keys", "revoke", f"{trustsim.NAME}-1"), "revoking"),
        (("inspect", two), "reading"),
        (("diff", one, two), "comparing"),
    ):
        assert f"\x1b[2K{label} " in shell.terminal(*words), words


def test_mistakes_end_in_one_line_and_their_code(shell):
    for words, code, name in (
        (("sync", "/nowhere"), 60, "stick.not_a_stick"),
        (("audit", "nobody"), 70, "fleet.unknown"),
        (("sync", shell.stick, "--accept", "nobody"), 70, "fleet.unknown"),
        (("restore", shell.folder, shell.folder / "x"), 73, "store.failed"),
        (("device", "kit", "nobody", "x.kit"), 70, "fleet.unknown"),
    ):
        error = shell.json(*words, code=code)["error"]
        assert (error["code"], error["exit"]) == (name, code)
        assert error["what"]
        assert error["next"]


def test_sim_plays_a_world(shell):
    result = shell.json("sim", "--seed", "3", "--trips", "8", "--devices", "2")
    assert (result["worlds"], result["broken"]) == (1, 0)
    for nothing in ("--worlds", "--devices", "--trips"):
        shell.text("sim", nothing, "0", code=2)


def test_sim_fails_and_names_the_seed_when_a_promise_breaks(monkeypatch, capsys):
    monkeypatch.setattr(quota, "evict", lambda shelf, name, _declare: shelf.drop(name))
    words = "sim --seed 11 --worlds 1 --devices 2 --trips 60"
    monkeypatch.setattr(sys, "argv", ["edgepack", *words.split()])
    assert run() == 1
    assert "edgepack sim --seed" in capsys.readouterr().err
