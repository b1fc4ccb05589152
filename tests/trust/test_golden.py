"""Signed files of every format version are read for ever."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust.bundle import copy_payload, verify, verify_payload
from device_runtime.trust.kit import read_kit
from device_runtime.trust.load import load_slot
from device_runtime.trust.quorum import root_sha256
from device_runtime.trust.token import read_token
from edgepack.cli import make
from support.golden_bundles import FILES
from support.trustsim import DISK, Device

FOLDER = Path(__file__).parents[2] / "bundles" / "golden" / "bundles"
POLICY = Policy("field")


@pytest.fixture
def expected() -> dict[str, object]:
    value: dict[str, object] = json.loads((FOLDER / FILES[4]).read_text())
    return value


def test_the_golden_bundle_verifies_from_its_first_root(
    expected: dict[str, object], tmp_path: Path
) -> None:
    trusted = Trusted((FOLDER / FILES[3]).read_bytes())
    bundle = verify(DISK, FOLDER / FILES[0], trusted, POLICY, name=None, wall_s=None)
    verify_payload(DISK, bundle)
    found = (bundle.name, bundle.version, bundle.digest, bundle.issued, bundle.root_version)
    assert found == tuple(expected[n] for n in ("name", "version", "digest", "issued", "root"))
    copy_payload(DISK, bundle, tmp_path / "slot")
    pin = root_sha256(bundle.trusted.root)
    slot = load_slot(DISK, tmp_path / "slot", root_sha256=pin, digest=bundle.digest, policy=POLICY)
    assert bytes(slot.model) == b"golden model two " * 40
    assert slot.read("note.txt") == b"hi"


def test_the_golden_kit_has_its_words(expected: dict[str, object]) -> None:
    kit = read_kit(DISK, FOLDER / FILES[1])
    assert kit.words == expected["words"]
    device = Device(Trusted(kit.roots[max(kit.roots)], floor=kit.floor), kit.policy)
    assert device.install(FOLDER / FILES[0]).version == 2


def test_the_golden_token_is_signed_by_the_quorum() -> None:
    kit = read_kit(DISK, FOLDER / FILES[1])
    root = kit.roots[max(kit.roots)]
    token = read_token((FOLDER / FILES[2]).read_bytes(), root, POLICY)
    assert (token.from_version, token.to_version) == (2, 1)


def stranger(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """`edgepack …` of somebody without a workspace."""
    app = typer.Typer()
    make.register(app)
    code = app([*words, "--json"], standalone_mode=False) or 0
    said = capsys.readouterr()
    assert said.err == ""
    return code, json.loads(said.out)


def test_a_stranger_verifies_it_with_its_first_root_and_no_workspace(
    expected: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file, root = str(FOLDER / FILES[0]), str(FOLDER / FILES[3])
    code, found = stranger(capsys, "verify", file, "--root", root)
    assert (code, found["version"], found["digest"]) == (0, 2, expected["digest"])
    assert len(found["root_words"].split()) == 8
    code, shown = stranger(capsys, "inspect", file)
    assert (code, shown["name"]) == (0, "pump")
    code, failed = stranger(capsys, "verify", file)
    assert (code, failed["error"]["code"]) == (2, "usage")  # nothing to trust
    listed = subprocess.run(["tar", "tf", file], capture_output=True, text=True, check=True)
    assert "metadata/1.root.json\n" in listed.stdout
    assert "payload/model.sig\n" in listed.stdout


def test_a_changed_byte_is_one_line_and_exit_10_20_or_30(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, root = (FOLDER / FILES[0]).read_bytes(), str(FOLDER / FILES[3])
    for position in range(3, len(data), 1997):
        changed = bytearray(data)
        changed[position] ^= 1
        (tmp_path / "x.edgepack").write_bytes(changed)
        code, failed = stranger(capsys, "verify", str(tmp_path / "x.edgepack"), "--root", root)
        assert code in (10, 20, 30), position
        assert failed["error"]["exit"] == code
        assert "\n" not in failed["error"]["what"]
