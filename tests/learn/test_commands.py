"""The commands: one JSON object, one line for each refusal, exit codes that scripts can use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from edgepack.candidate import find_candidate
from edgepack.cli.app import app
from edgepack.fleet import sticks
from support.learnworld import World, nature


def run(world: World, *words: str, status: int = 0) -> dict:
    done = CliRunner().invoke(
        app, [*words, "-C", str(world.ws.root), "--json"], env={"EDGEPACK_PASSPHRASE": "secret"}
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, done.output
    assert done.exit_code == status, done.output
    return json.loads(lines[0])


def plain(world: World, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, [*words, "-C", str(world.ws.root)], env={"EDGEPACK_PASSPHRASE": "secret"}
    )
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def test_status_tells_devices_bundles_quality_and_what_is_due(returned: World) -> None:
    found = run(returned, "status")
    (device,) = found["devices"]
    assert device["name"] == "press-1"
    assert device["records"]["home"] == 4000
    assert found["bundles"][0]["metrics"]["auc"] > 0.5
    assert found["due"]["pump"]["due"]
    assert found["same_rows"] is None
    code, text = plain(returned, "status", "--device", "press-1")
    assert code == 0
    assert "retraining of pump is due" in text
    assert "last seen" in text
    assert "2026-01-01 00:00" in text
    assert plain(returned, "status", "--device", "nobody")[0] == 70


def test_a_workspace_without_anything_says_what_to_do(tmp_path) -> None:
    world = World(tmp_path)
    assert run(world, "status")["devices"] == []
    assert run(world, "drift", status=70)["error"]["next"]
    assert run(world, "retrain", status=74)["error"]["code"] == "learn.evidence"
    assert run(world, "retrain", "--accept", status=74)
    assert run(world, "store", "check")["rows"] == 0


def test_drift_has_an_exit_code_for_scripts(returned: World) -> None:
    found = run(returned, "drift")
    assert found["worst"]["name"] == "temp"
    assert {"name", "psi", "ks", "n"} <= found["columns"][0].keys()
    assert (
        run(returned, "drift", "--fail-above", "0.2", status=75)["error"]["code"] == "learn.drift"
    )
    assert run(returned, "drift", "--fail-above", "9")["worst"]["psi"] < 9
    assert run(returned, "drift", "--reference", "x.csv", status=2)
    assert run(returned, "drift", "--since", "tomorrow-ish", status=2)
    for odd in ("nan", "inf", "-0.1"):  # a gate that no drift can reach would never close
        assert run(returned, "drift", f"--fail-above={odd}", status=2)
    files = ("--reference", "a.csv", "--current", "b.csv")
    assert run(returned, "drift", *files, "--device", "press-1", status=2)
    code, text = plain(returned, "drift")
    assert code == 0
    assert "changed much" in text


def test_the_gate_of_drift_opens_again_once_a_newer_bundle_has_learned(returned: World) -> None:
    gate = ("drift", "--fail-above", "0.2")
    error = run(returned, *gate, status=75)["error"]
    assert "in the rows that pump 1 answered, above 0.2" in error["what"]
    run(returned, "retrain")
    run(returned, "retrain", "--accept")
    returned.ship(find_candidate(returned.ws, "pump"))
    device = returned.device("press-2")
    device.predict(nature(70, 20, 8), returned.refs()[0])
    device.come_home()
    returned.catch_up()
    assert "pump 1 answered" in run(returned, *gate, status=75)["error"]["what"]  # 20 are too few
    device.predict(nature(70, 1500, 9), returned.refs()[0])
    device.come_home()
    returned.catch_up()
    assert run(returned, *gate)["judged"] == ["pump 2"]
    assert (
        "held against 0.2: what moved in the rows that pump 2 answered" in plain(returned, *gate)[1]
    )
    assert run(returned, *gate, "--by", "device")["judged"] == ["pump 2"]
    sliced = run(returned, *gate, "--since", "2024-01-01", status=75)["error"]["what"]
    assert "pump 2 and pump 1 answered" in sliced


def test_drift_is_told_by_device_and_window(returned: World) -> None:
    groups = run(returned, "drift", "--by", "device,month")["groups"]
    assert [item["group"] for item in groups] == ["press-1 2024-01", "press-1 2024-02",
                                                  "press-1 2024-03"]  # fmt: skip
    code, text = plain(returned, "drift", "--by", "month")
    assert (code, "2024-02" in text) == (0, True)
    window = run(returned, "drift", "--since", "2024-02-01", "--until", "2024-03-01")
    assert window["n"] == groups[1]["n"]
    assert run(returned, "drift", "--by", "week", status=2)
    assert run(returned, "drift", "--until", "2001-01-01", status=70)


def test_status_says_what_waits_on_which_stick(returned: World) -> None:
    clock, registry = returned.clock, returned.registry
    clock.advance(60)
    sticks.remember(registry, Path("/media/RED"), clock.wall_ns(), ["pump 1"], acks=False)
    blue = Path("/media/BLUE")
    sticks.remember(registry, blue, clock.wall_ns(), ["pump 2", "other 9"], acks=True)
    (device,) = run(returned, "status")["devices"]
    assert device["waits"] == ["on stick BLUE, synced 2026-01-01 00:01: pump 2, acknowledgements"]
    for number in range(100):
        sticks.remember(registry, Path(f"/media/{number}"), 0, [], acks=False)
    assert len(sticks.notes(registry)) == sticks.MOST


def test_drift_compares_two_files_anywhere(tmp_path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        nature(3, 500, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    done = CliRunner().invoke(
        app,
        ["drift", "--reference", f"{tmp_path}/a.csv", "--current", f"{tmp_path}/b.csv", "--json"],
    )
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["n"] == 500


def test_a_few_rows_raise_no_alarm(world: World) -> None:
    world.device().predict(nature(1, 3, 5, first=80))
    world.device().come_home()
    world.catch_up()
    found = run(world, "status")
    assert not any("moved" in reason for reason in found["due"]["pump"]["reasons"])
    assert "too few" in plain(world, "status")[1]
    assert run(world, "drift", "--fail-above", "0.01")["worst"]["words"] == "too few rows to tell"


def test_labels_are_asked_for_filled_in_and_imported(world: World) -> None:
    frame = nature(10, 500, 5, first=31)
    world.device().predict(frame)
    world.device().come_home()
    world.catch_up()
    out = world.folder / "queue.csv"
    assert run(world, "label", "queue", "-o", str(out), "-n", "40")["rows"] == 40
    rows = pd.read_csv(out)
    truth = frame.set_index("serial")["worn"]
    rows["value"] = [str(truth[serial]) for serial in rows["serial"]]
    rows.loc[0, "value"] = None
    rows.to_csv(out, index=False)
    done = run(world, "label", "import", str(out))
    assert (done["by"], done["labels"], done["matched"]) == ("record", 39, 39)
    assert "1 lines without" in done["notes"][0]
    assert run(world, "label", "import", str(world.folder / "none.csv"), status=70)
    assert run(world, "status")["names"][0]["labels"]["used"] == 39


def test_a_table_that_is_gone_is_told_and_made_again(returned: World) -> None:
    shutil.rmtree(returned.ws.table("pump").parent)
    code, text = plain(returned, "status")
    assert (code, "no rows are home" in text) == (0, False)
    missing = "the table of pump is missing; the archive has its rows: edgepack store rebuild"
    assert missing in " ".join(text.split())
    assert "next: edgepack store rebuild" in text
    assert missing in run(returned, "drift", status=70)["error"]["what"]
    assert run(returned, "store", "rebuild")["rows"] == 4000
    assert "rebuild" not in plain(returned, "status")[1]


def test_the_store_is_checked_rebuilt_exported_and_purged(returned: World) -> None:
    assert run(returned, "store", "check")["rows"] == 4000
    next(returned.ws.table("pump").glob("*.parquet")).unlink()
    assert run(returned, "store", "check", status=73)["error"]["code"] == "store.failed"
    code, text = plain(returned, "status")
    assert (code, "store rebuild" in text) == (73, True)
    assert run(returned, "store", "rebuild")["rows"] == 4000
    assert run(returned, "store", "rebuild", "nothing", status=2)
    assert run(returned, "store", "compact")["tables"]
    out = str(returned.folder / "rows.parquet")
    assert run(returned, "store", "export", "-o", out)["rows"] == 4000
    assert run(returned, "store", "export", "-o", "rows.xls", status=2)
    assert run(returned, "store", "purge", "--device", "press-1", status=2)
    assert run(returned, "store", "purge", "--device", "press-1", "--yes")["records"] == 8000
    assert run(returned, "store", "check")["rows"] == 0


@pytest.mark.parametrize("words", [("retrain",), ("drift",), ("label", "queue", "-o", "q.csv")])
def test_no_workspace_is_one_line(tmp_path, words, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 70
    assert json.loads(done.stdout)["error"]["code"] == "recipe.workspace"
