"""Signed files of every format version are read for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust.bundle import copy_payload, verify, verify_payload
from device_runtime.trust.kit import read_kit
from device_runtime.trust.load import load_slot
from device_runtime.trust.quorum import root_sha256
from device_runtime.trust.token import read_token
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
