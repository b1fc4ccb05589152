"""The other processor that devices have: the same bundle verified, installed, run and brought home.

The interpreter, the C library of onnxruntime and all wheels are those of aarch64, under qemu.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from support import emulated

NAME = "flight-delays"
BIN = Path(sys.executable).parent
REPOSITORY = emulated.REPOSITORY
pytestmark = [pytest.mark.soak, pytest.mark.system, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of an aarch64 device."""
    try:
        return emulated.device(REPOSITORY / "build" / "aarch64")
    except emulated.NotToBeHadError as reason:
        pytest.skip(f"no aarch64 here: {reason}")


class Loop:
    """A base with a signed bundle, and what its devices are given."""

    def __init__(self, folder: Path, other: Path) -> None:
        self.folder, self.ws = folder, folder / "ws"
        self.programs = {
            "base": [str(BIN / "edgepack")],
            "native": [str(BIN / "edgepack-device")],
            "other": [str(other), "-m", "device_runtime"],
        }

    def run(self, program: str, *words: object, code: int = 0) -> dict:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EDGEPACK"))}
        env |= {"EDGEPACK_PASSPHRASE": "a", "EDGEPACK_HOME": str(self.folder / program)}
        command = [*self.programs[program], *map(str, words), "--json"]
        cwd = self.ws if self.ws.exists() else self.folder
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{command}: {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    def new_device(self, name: str) -> None:
        self.run("base", "device", "new", name, "--bundle", NAME)
        kit = self.folder / f"{name}.kit"
        words = self.run("base", "device", "kit", name, kit)["words"]
        self.run(name, "init", kit, "--fingerprint", words)


@pytest.fixture(scope="module")
def loop(tmp_path_factory, python) -> Loop:
    loop = Loop(tmp_path_factory.mktemp("aarch64"), python)
    loop.run("base", "init", loop.ws, "--from", NAME)
    config = loop.ws / "edgepack.toml"
    slow = 'arch = "aarch64"\nselftest_floor_seconds = 300\n'  # an emulated processor is slow
    config.write_text(config.read_text().replace('arch = "x86_64"', slow))
    loop.run("base", "train", NAME, "--until", "2013-03-01")
    loop.run("base", "build", NAME)
    loop.bundle = Path(loop.run("base", "sign")["file"])
    for name in ("native", "other"):
        loop.new_device(name)
    return loop


def test_a_tampered_bundle_is_refused_there_too(loop):
    data = bytearray(loop.bundle.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    bad = loop.folder / "bad.edgepack"
    bad.write_bytes(data)
    assert loop.run("other", "install", bad, code=20)["error"]["code"].startswith("trust.")


def test_the_same_bundle_gives_the_same_answers_and_its_journal_comes_home(loop):
    flights = pd.read_parquet(loop.ws / "bundles" / NAME / "data" / "flights.parquet")[-200:]
    rows = loop.folder / "rows.csv"
    flights.assign(row=range(200)).to_csv(rows, index=False)
    found = {}
    for name in ("native", "other"):
        assert loop.run(name, "install", loop.bundle)["outcome"] == "installed"
        out = loop.folder / f"{name}.csv"
        assert loop.run(name, "predict", rows, "--out", out)["rows"] == 200
        found[name] = pd.read_csv(out).drop(columns="record")
    pd.testing.assert_frame_equal(found["native"], found["other"], rtol=1e-5, atol=1e-6)
    stick = loop.folder / "stick"
    stick.mkdir()
    loop.run("other", "sync", stick)
    home = loop.run("base", "sync", stick, "--accept", "other")
    assert "200" in json.dumps(home), home
