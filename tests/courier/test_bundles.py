"""Which bundles go onto a stick: the newest of each name that a device runs, none revoked."""

from __future__ import annotations

import shutil

import pytest

from device_runtime.disk import RealDisk
from edgepack.courier.bundles import put_bundles, put_tokens, take_roots
from edgepack.courier.sync import Stick
from edgepack.keys import ceremony, roles
from edgepack.progress import UNSEEN
from edgepack.registry import PlanRow, Registry
from edgepack.workspace import Workspace
from support.trustsim import NAME, Base
from support.watched import Watched


@pytest.fixture
def base(tmp_path):
    base = Base.at(tmp_path / "ws")
    with Registry.open(base.ws.registry) as registry:
        registry.put_plan(PlanRow("press-1", "field", NAME, "kit", 0))
    return base


def put(base, folder, progress=UNSEEN):
    folder.mkdir(exist_ok=True)
    lines = []
    with Registry.open(base.ws.registry) as registry, Stick.open(folder, RealDisk()) as stick:
        done = put_bundles(base.ws, registry, stick, lines, progress)
        put_tokens(base.ws, registry, stick, lines)
    files = folder / "EDGEPACK/bundles"
    return done, lines, sorted(p.name for p in files.iterdir()) if files.exists() else []


def test_the_newest_bundle_replaces_older_ones_of_ours(base, tmp_path):
    assert put(base, tmp_path / "usb") == ([], [], [])
    base.publish(model=b"one")
    assert put(base, tmp_path / "usb")[2] == [f"{NAME}-1.edgepack"]
    (tmp_path / "usb/EDGEPACK/bundles/other-7.edgepack").write_bytes(b"a stranger's")
    base.publish(model=b"two")
    done, _, files = put(base, tmp_path / "usb")
    assert done == [f"{NAME} 2"]
    assert files == ["other-7.edgepack", f"{NAME}-2.edgepack"]


def test_the_bytes_of_a_bundle_are_counted_as_the_stick_takes_them(base, tmp_path):
    path = base.publish(model=b"one")
    seen = Watched()
    put(base, tmp_path / "usb", seen)
    size = path.stat().st_size
    assert seen.parts == [[f"writing {NAME} 1", "bytes", size, size]]


def test_a_damaged_copy_on_the_stick_is_written_again(base, tmp_path):
    path = base.publish(model=b"one")
    put(base, tmp_path / "usb")
    copy = tmp_path / "usb/EDGEPACK/bundles" / path.name
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    put(base, tmp_path / "usb")
    assert copy.read_bytes() == path.read_bytes()


def test_a_revoked_bundle_is_not_handed_out(base, tmp_path):
    base.publish(model=b"one")
    base.publish(model=b"two")
    ceremony.revoke(base.ws, base.ring, f"{NAME}-2", clock=base.clock)
    assert put(base, tmp_path / "usb")[0] == [f"{NAME} 1"]


def test_a_missing_file_is_a_line_and_not_a_failure(base, tmp_path):
    base.publish(model=b"one").unlink()
    done, lines, files = put(base, tmp_path / "usb")
    assert (done, files) == ([], [])
    assert "is missing" in lines[0]


def test_downgrade_tokens_travel_beside_the_bundles(base, tmp_path):
    base.publish(model=b"one")
    base.publish(model=b"two")
    token = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).path
    assert token.name in put(base, tmp_path / "usb")[2]


def test_a_token_of_keys_that_devices_have_dropped_is_taken_off_the_stick(base, tmp_path):
    base.publish(model=b"one")
    base.publish(model=b"two")
    token = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).path
    base.rotate("targets")
    assert token.name in put(base, tmp_path / "usb")[2]  # the newest bundle does not say so yet
    base.publish(model=b"three")
    _, lines, files = put(base, tmp_path / "usb")
    assert files == [f"{NAME}-3.edgepack"]
    assert token.name in lines[0]
    assert put(base, tmp_path / "usb")[1] == []


def test_a_damaged_token_is_not_carried(base, tmp_path):
    base.publish(model=b"one")
    base.publish(model=b"two")
    token = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).path
    token.write_bytes(token.read_bytes()[:-9])
    assert put(base, tmp_path / "usb")[2] == [f"{NAME}-2.edgepack"]


def test_a_restored_base_takes_newer_roots_back_and_its_devices_believe_it_again(base, tmp_path):
    """The rotation, and its keys, came after the backup."""
    device = base.device()
    shutil.copytree(base.folder, tmp_path / "restored")
    base.rotate("targets")
    device.install(base.publish())
    put(base, tmp_path / "usb")
    (tmp_path / "usb/EDGEPACK/bundles/other-9.edgepack").write_bytes(b"a stranger's")

    restored, lines = Base(tmp_path / "restored", base.clock), []
    for _ in range(2):
        with Stick.open(tmp_path / "usb", RealDisk()) as stick:
            take_roots(restored.ws, stick, lines)
    assert len(lines) == 1
    assert roles.newest_root(restored.ws) == roles.newest_root(base.ws)
    with Registry.open(restored.ws.registry) as registry:
        registry.saw_version(NAME, 1)  # from the device's report
    assert restored.publish().suffix == ".half"  # the drawn keys are gone
    restored.rotate("targets")
    assert device.install(restored.publish()).root_version == 3


def test_roots_of_another_base_are_not_taken_over(base, tmp_path):
    base.publish()
    put(base, tmp_path / "usb")
    other = Base(tmp_path / "other")
    ceremony.found(Workspace.create(other.folder), other.passphrase, other.clock)
    other.rotate("targets")
    shutil.copy(other.publish(), tmp_path / "usb/EDGEPACK/bundles" / f"{NAME}-8.edgepack")
    lines = []
    with Stick.open(tmp_path / "usb", RealDisk()) as stick:
        take_roots(base.ws, stick, lines)
    assert (lines, max(roles.roots(base.ws))) == ([], 1)
