"""An untrusted clock decides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runtime.errors import EdgepackError
from device_runtime.policy import Policy
from device_runtime.trust.bundle import verify
from device_runtime.trust.refresh import BundleFetcher, MemoryUpdater
from edgepack.keys import roles
from support.trustsim import DAY, DISK, NOW, Base, Device


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, list[Path]]:
    """A device with history, and four files: old, expired, current, next."""
    base = Base.at(tmp_path_factory.mktemp("clock") / "ws")
    device = base.device()
    files = [base.publish(days=5), base.publish(days=400)]
    base.clock.advance(30 * DAY)
    files += [base.publish(days=30), base.publish(days=400)]
    device.install(files[1])
    device.trusted = replace(device.trusted, floor=base.now)
    return device, files


def decide(device: Device, file: Path, policy: Policy, wall: int | None) -> str:
    try:
        bundle = verify(DISK, file, device.trusted, policy, name="pump", wall_s=wall)
    except EdgepackError as error:
        return error.code
    return f"{bundle.digest} {bundle.trusted.floor}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(wall=st.integers(-(2**40), 2**40), which=st.integers(0, 3))
def test_every_clock_value_gives_the_same_decision(
    world: tuple[Device, list[Path]], wall: int, which: int
) -> None:
    device, files = world
    assert decide(device, files[which], device.policy, wall) == decide(
        device, files[which], device.policy, None
    )


def test_the_decisions_differ_among_the_files(world: tuple[Device, list[Path]]) -> None:
    device, files = world
    first, second, third, fourth = (decide(device, f, device.policy, None) for f in files)
    assert first == "trust.rollback"
    assert "." not in second + third + fourth


def test_a_trusted_clock_gates_but_never_below_the_floor(
    world: tuple[Device, list[Path]],
) -> None:
    device, files = world
    policy = replace(device.policy, clock_trusted=True)
    assert decide(device, files[2], policy, NOW + 365 * DAY) == "trust.expired"
    assert decide(device, files[2], policy, 0) == decide(device, files[2], policy, None)


def test_canary_the_private_clock_of_python_tuf_is_still_there(tmp_path: Path) -> None:
    """If this fails, tuf changed: find the new hook before the pin is raised."""
    base = Base.at(tmp_path / "ws")
    root = roles.newest_root(base.ws)
    updater = MemoryUpdater(root, {}, BundleFetcher({}), NOW)
    assert int(updater._trusted_set.reference_time.timestamp()) == NOW
    for name in ("_load_local_metadata", "_persist_metadata", "_persist_root"):
        assert callable(getattr(type(updater).__mro__[1], name))


def test_canary_ngclient_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = Base.at(tmp_path / "ws")
    file = base.publish()
    before = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.setattr("tempfile.NamedTemporaryFile", None)
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    base.device().verify(file)
    assert sorted(path for path in tmp_path.rglob("*")) == before
