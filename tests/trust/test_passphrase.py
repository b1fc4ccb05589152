"""A new passphrase: every key file has it afterwards, or none, wherever it is cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from device_runtime.errors import UsageError
from edgepack.errors import KeyringError
from edgepack.keys import ceremony, keyfile
from edgepack.keys.keyfile import Passphrase, reseal
from edgepack.keys.ring import Ring
from edgepack.sim.disk import PowerCut, SimDisk
from support.trustsim import DISK, Base

OLD, NEW = "correct horse", "battery staple"
KEYS = Path("/ws/keys")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrypt as cheap as it can be: what is tested here is not scrypt."""
    monkeypatch.setattr(keyfile, "_SCRYPT", {"n": 2, "r": 1, "p": 1})


@pytest.fixture
def folder(tmp_path: Path, quick: None) -> Path:
    Ring.create(tmp_path / "keys", OLD)
    return tmp_path / "keys"


def opens(folder: Path, text: str, disk: Any = DISK) -> dict[str, bool]:
    """Which key files a passphrase opens, after whoever opens the ring next has come."""
    Ring(folder, "whatever", disk)
    passphrase = Passphrase(text)
    return {
        key.path.name: passphrase.open(key.body) is not None
        for key in keyfile.key_files(folder, disk)
    }


def test_every_key_opens_with_the_new_passphrase_and_none_with_the_old(folder: Path) -> None:
    before = Ring.open(folder, OLD)
    secrets = {key.id: before.secret(key) for key in before.keys}
    ceremony.passphrase(before, NEW)
    after = Ring.open(folder, NEW)
    assert {key.id: after.secret(key) for key in after.keys} == secrets
    assert not any(opens(folder, OLD).values())
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_the_same_passphrase_is_no_change(folder: Path) -> None:
    with pytest.raises(UsageError):
        ceremony.passphrase(Ring.open(folder, OLD), OLD)


def test_a_key_that_comes_back_from_elsewhere_takes_the_new_passphrase_too(
    folder: Path, tmp_path: Path
) -> None:
    away = next(folder.glob("recovery-*.key"))
    shutil.move(away, tmp_path)
    ceremony.passphrase(Ring.open(folder, OLD), NEW)
    shutil.move(tmp_path / away.name, folder)
    done = ceremony.passphrase(Ring(folder, OLD, DISK), NEW)
    assert "1 of 9 key files" in done.what
    assert all(opens(folder, NEW).values())


def test_a_key_that_opens_with_neither_stops_it_and_is_named(folder: Path) -> None:
    Ring.create(folder.parent / "other", "another one")
    stranger = next((folder.parent / "other").glob("oms-*.key"))
    shutil.copy(stranger, folder)
    with pytest.raises(KeyringError, match=stranger.name):
        ceremony.passphrase(Ring(folder, OLD, DISK), NEW)
    assert sum(opens(folder, OLD).values()) == 9


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_cut_off_at_any_step_all_keys_have_one_passphrase(quick: None, power: bool) -> None:
    seen = {OLD: 0, NEW: 0}
    calls = 1
    while True:
        disk = SimDisk(seed=calls)
        Ring.create(KEYS, OLD, disk=disk)
        disk.flush()
        disk.crash_after(calls)
        try:
            reseal(KEYS, Passphrase(OLD), Passphrase(NEW), disk)
        except PowerCut:
            disk.power_cut() if power else disk.kill()
        else:
            break
        which = NEW if all(opens(KEYS, NEW, disk).values()) else OLD
        assert set(opens(KEYS, which, disk).values()) == {True}
        assert len(opens(KEYS, which, disk)) == 9
        seen[which] += 1
        # … and the command can be given again.
        if which == OLD:
            reseal(KEYS, Passphrase(OLD), Passphrase(NEW), disk)
            assert all(opens(KEYS, NEW, disk).values())
        calls += 1
    assert min(seen.values()) > 10


def test_a_finished_change_survives_a_power_cut(quick: None) -> None:
    for seed in range(20):
        disk = SimDisk(seed=seed)
        Ring.create(KEYS, OLD, disk=disk)
        disk.flush()
        reseal(KEYS, Passphrase(OLD), Passphrase(NEW), disk)
        disk.power_cut()
        assert all(opens(KEYS, NEW, disk).values())


def test_the_passphrase_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepack.cli import keys

    base = Base.at(tmp_path / "ws")
    shutil.copytree(base.ws.keys, tmp_path / "before")
    app = typer.Typer()
    keys.register(app)

    def run() -> tuple[int, Any]:
        command = ["keys", "passphrase", "-C", str(base.folder), "--json"]
        code = app(command, standalone_mode=False) or 0
        return code, json.loads(capsys.readouterr().out)

    monkeypatch.setenv("EDGEPACK_PASSPHRASE", OLD)
    code, said = run()
    assert (code, said["error"]["exit"]) == (76, 76)  # no terminal, and no new one given
    assert "EDGEPACK_NEW_PASSPHRASE" in said["error"]["next"]
    monkeypatch.setenv("EDGEPACK_NEW_PASSPHRASE", NEW)
    code, said = run()
    assert (code, said["complete"]) == (0, True)
    away = next(base.ws.keys.glob("targets-ml-dsa-*.key"))
    old = next((tmp_path / "before").glob("targets-ml-dsa-*.key"))
    shutil.copy(old, away)  # it was elsewhere meanwhile, and has the passphrase of then
    code, said = run()
    assert (code, "1 of 9 key files" in said["what"]) == (0, True)
    code, said = run()  # nothing is left that has the old one
    assert code == 2
    monkeypatch.setenv("EDGEPACK_NEW_PASSPHRASE", "a third one")
    code, said = run()
    assert code == 76
    assert Ring.open(base.ws.keys, NEW).identity()
