from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_runtime.clock import SystemClock
from device_runtime.errors import DigestMismatchError, FormatError, UsageError
from edgepack.candidate import make_candidate
from edgepack.cli.app import app
from edgepack.keys.ring import Ring
from edgepack.keys.sign import sign_file
from edgepack.packing.build import build, unsigned_bytes
from edgepack.packing.inspect import diff_files, inspect_file, read_files, verify_file
from edgepack.recipe import load_recipe
from edgepack.setup.beginning import Beginning, begin
from edgepack.tables import read_table
from edgepack.workspace import Workspace
from support import trustsim
from support.tables import table


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A workspace with keys and one candidate, shared: nothing here changes the candidate."""
    root = tmp_path_factory.mktemp("shop")
    os.environ["EDGEPACK_PASSPHRASE"] = "open sesame"
    frame = table(200)[["time", "a", "n", "word", "y"]]
    frame.to_parquet(root / "thing.parquet")
    done = begin(root / "ws", Beginning(data=str(root / "thing.parquet"), target="y"))
    ws = Workspace.find(done.root)
    recipe = load_recipe(ws.recipe_folder())
    return ws, make_candidate(ws, recipe, read_table(recipe))


@pytest.fixture(scope="module")
def signed(shop):
    ws, candidate = shop
    unsigned = build(ws, candidate)
    ring = Ring.open(ws.keys, "open sesame", disk=ws.disk)
    return sign_file(ws, ring, unsigned.path, clock=SystemClock()).path


def test_the_same_candidate_gives_the_same_bytes_anywhere(shop, tmp_path):
    ws, candidate = shop
    here = unsigned_bytes(ws, candidate)
    script = (
        "import os, sys; os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from edgepack.candidate import load_candidate\n"
        "from edgepack.packing.build import unsigned_bytes\n"
        "from edgepack.workspace import Workspace\n"
        "data = unsigned_bytes(Workspace.find(sys.argv[1]), load_candidate(sys.argv[2]))\n"
        "Path(sys.argv[3]).write_bytes(data)\n"
    )
    elsewhere = {
        **os.environ,
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "77",
        "HOME": str(tmp_path),
    }
    time.sleep(0.01)
    moved = tmp_path / "another folder" / "workspace"
    shutil.copytree(ws.root, moved)
    there = moved / candidate.folder.relative_to(ws.root)
    command = [sys.executable, "-c", script, str(moved), str(there)]
    subprocess.run([*command, str(tmp_path / "there")], check=True, env=elsewhere, cwd=tmp_path)
    assert (tmp_path / "there").read_bytes() == here


def test_a_bundle_holds_card_sbom_and_lineage(signed):
    files = read_files(signed)
    card = files["MODEL_CARD.md"].decode()
    assert "Held" not in card
    assert "| a | float32 |" in card
    bill = json.loads(files["sbom.cdx.json"])
    names = {item["name"]: item["scope"] for item in bill["components"]}
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert names["onnxruntime"] == names["cryptography"] == names["tuf"] == "required"
    assert names["scikit-learn"] == "excluded"
    assert json.loads(files["lineage.json"])["data"]["rows"] == 200


def test_a_signed_bundle_verifies_with_workspace_or_root(shop, signed, tmp_path, monkeypatch):
    ws, _ = shop
    found = verify_file(signed, workspace=str(ws.root))
    assert (found["name"], found["version"]) == ("thing", 1)
    assert len(found["signers"]) == 2
    root = ws.metadata / "1.root.json"
    assert verify_file(signed, root=str(root))["digest"] == found["digest"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no root of trust"):
        verify_file(signed)
    with pytest.raises(UsageError, match="there is no file"):
        verify_file(tmp_path / "none", root=str(root))


def test_a_changed_bundle_is_refused(shop, signed, tmp_path):
    ws, _ = shop
    data = bytearray(signed.read_bytes())
    entry = data.index(b"payload/model.onnx") + 4096
    data[entry] ^= 1
    (tmp_path / "changed.edgepack").write_bytes(data)
    with pytest.raises(DigestMismatchError):
        verify_file(tmp_path / "changed.edgepack", workspace=str(ws.root))
    (tmp_path / "short.edgepack").write_bytes(data[:5000])
    with pytest.raises(FormatError):
        verify_file(tmp_path / "short.edgepack", workspace=str(ws.root))


def test_inspect_shows_bundles_and_candidates(shop, signed):
    _, candidate = shop
    facts, text = inspect_file(signed)
    assert facts["answers"] == ["false", "true"]
    assert "operators" in text
    assert inspect_file(candidate.folder)[0]["metrics"]["auc"] > 0.5
    for part in ("lineage", "sbom", "card"):
        assert inspect_file(signed, part)[0][part]


BOMB = lzma.compress(bytes(200 << 20))


@pytest.mark.parametrize(
    "changes",
    [
        {"payload/schema.json": b'{"columns":[1],"output":[]}'},
        {"payload/schema.json": b'{"columns":{"a":1}}'},
        {"metadata/targets.json": b'{"signed":[1]}'},
        {"metadata/targets.json": b'{"signed":{"version":1.5}}'},
        {"payload/manifest.json.xz": b"no xz"},
        {"payload/lineage.json.xz": lzma.compress(b"{}")},  # beside lineage.json
        {"payload/a.xz": BOMB, "payload/b.xz": BOMB, "payload/c.xz": BOMB},
    ],
)
def test_a_hostile_bundle_is_refused_before_it_fills_the_memory(signed, tmp_path, changes):
    entries = trustsim.unpack(signed.read_bytes()) | changes
    for name in changes:
        entries.pop(f"{name}.xz", None)
    file = tmp_path / "hostile.edgepack"
    file.write_bytes(trustsim.pack(entries))
    with pytest.raises(FormatError):
        inspect_file(file)


def test_a_card_that_is_no_text_is_shown_all_the_same(signed, tmp_path):
    entries = trustsim.unpack(signed.read_bytes())
    card = next(name for name in entries if "MODEL_CARD" in name)
    entries[card] = lzma.compress(b"\xff\x1b[2J") if card.endswith(".xz") else b"\xff\x1b[2J"
    (tmp_path / "card.edgepack").write_bytes(trustsim.pack(entries))
    assert inspect_file(tmp_path / "card.edgepack", "card")[1].startswith("\ufffd")


def test_diff_names_what_differs(shop, signed):
    ws, candidate = shop
    unsigned = next(ws.out.glob("*.unsigned"))
    changes = {item["what"] for item in diff_files(unsigned, signed)}
    assert "model.onnx" not in changes
    assert "metadata/targets.json" in changes
    assert diff_files(candidate.folder, candidate.folder) == []


def run(*words: str) -> tuple[int, str, str]:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("init", "{ws}"), 70, "is a workspace already"),
        (("init", "{ws}/bundles/inner"), 70, "inside the workspace"),
        (("init", "{tmp}/x", "--from", "none"), 70, "there is no recipe none"),
        (("init", "{tmp}/x", "--data", "d.csv"), 2, "go together"),
        (("init", "{tmp}/x", "--model", "m.onnx"), 2, "go together"),
        (("init", "{tmp}/x", "--data", "none.csv", "--target", "y"), 70, "there is no file"),
        (("train", "-C", "{ws}", "ghost"), 2, "no recipe ghost"),
        (("train", "-C", "{ws}", "--until", "1970-01-01"), 70, "no rows before"),
        (("train", "-C", "{tmp}"), 70, "not inside a workspace"),
        (("build", "-C", "{ws}", "--candidate", "99"), 70, "no candidate 99"),
        (("sign", "-C", "{ws}", "ghost.unsigned"), 2, "there is no file"),
        (("verify", "{ws}/edgepack.toml", "-C", "{ws}"), 10, "format."),
        (("inspect", "{ws}/edgepack.toml"), 10, "format."),
        (("inspect", "{ws}"), 2, "no candidate's folder"),
        (("diff", "{ws}/none", "{ws}/none"), 2, "there is no file"),
    ],
)
def test_each_mistake_is_one_line_and_an_exit_code(shop, tmp_path, words, code, named):
    ws, _ = shop
    filled = [word.format(ws=ws.root, tmp=tmp_path) for word in words]
    status, out, err = run(*filled)
    assert (status, out) == (code, "")
    assert named in err
    assert err.startswith("error [")
    assert err.count("\n") == 1
    status, out, err = run(*filled, "--json")
    assert status == code
    assert json.loads(out)["error"]["exit"] == code
    assert not (tmp_path / "x").exists()


def test_a_wrong_passphrase_is_one_line(shop, monkeypatch):
    ws, candidate = shop
    unsigned = build(ws, candidate)
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "wrong")
    status, _, err = run("sign", "-C", str(ws.root), str(unsigned.path))
    assert status == 76
    assert err.count("\n") == 1


def test_recipes_that_come_along_are_listed():
    status, out, _ = run("recipes", "--json")
    assert status == 0
    names = [item["name"] for item in json.loads(out)["recipes"]]
    assert names == ["flight-delays", "recommendations", "terrain", "weekly-gasoline"]


def test_doctor_looks_at_machine_and_workspace(shop):
    ws, _ = shop
    status, out, _ = run("doctor", "-C", str(ws.root), "--json")
    assert status == 0
    findings = {item["name"]: item["state"] for item in json.loads(out)["findings"]}
    assert findings["device session"] == findings["roots"] == findings["recipe thing"] == "good"


def test_train_build_sign_by_command(shop):
    ws, _ = shop
    status, out, _ = run("train", "-C", str(ws.root), "--json")
    assert status == 0
    assert json.loads(out)["parity"]["ok"]
    status, out, _ = run("build", "-C", str(ws.root), "--json")
    file = json.loads(out)["file"]
    status, out, _ = run("sign", "-C", str(ws.root), file, "--json")
    assert status == 0
    assert json.loads(out)["complete"]


def test_two_trainings_of_flight_delays_give_the_same_model(tmp_path):
    """Two processes, two folders, another zone, locale, hash seed and umask."""
    models = []
    for name, zone, mask in (("one", "UTC", "022"), ("two", "Pacific/Kiritimati", "077")):
        command = (
            f"umask {mask} && edgepack init {name} --from flight-delays "
            f"&& cd {name} && edgepack train --until 2013-01-08"
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        elsewhere = {"TZ": zone, "LC_ALL": "C", "PYTHONHASHSEED": mask, "PATH": path}
        environment = {**os.environ, "EDGEPACK_PASSPHRASE": "open sesame", **elsewhere}
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        models.append((tmp_path / name / "candidates/flight-delays/1/model.onnx").read_bytes())
    assert models[0] == models[1]
