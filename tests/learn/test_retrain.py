"""Retraining: proposes what is better, refuses what is not, and can be made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from device_runtime.crypt import sha256
from edgepack.candidate import accept, find_candidate
from edgepack.candidate.lineage import rows_digest
from edgepack.errors import DataError, EvidenceError, RecipeError
from edgepack.keys.sign import sign_file
from edgepack.learn.again import again
from edgepack.learn.retrain import accept_newest, proposals, retrain
from edgepack.learn.same_rows import same_rows
from edgepack.learn.state import NameState, name_state
from edgepack.learn.survey import survey
from edgepack.learn.trial import Trial
from edgepack.packing.build import build
from edgepack.records import DeviceRow
from edgepack.store.labels import collect
from edgepack.store.upkeep import compact
from support.learnworld import World, nature


def test_a_better_challenger_is_proposed_accepted_and_can_be_made_again(returned: World) -> None:
    proposal = retrain(returned.ws, returned.registry, "pump", returned.clock)
    facts = proposal.facts
    assert facts["challenger"]["auc"] > facts["champion"]["auc"] + 0.1
    low, high = facts["interval"]
    assert 0 < low < facts["gain"] < high
    candidate = find_candidate(returned.ws, "pump", proposal.candidate)
    assert not candidate.accepted
    assert find_candidate(returned.ws, "pump").number == 1
    folder = returned.ws.proposals("pump") / "1"
    files = {"proposal.json", "proposal.md", "gain.svg", "changed.svg"}
    assert files == {p.name for p in folder.iterdir()}
    moved = {item["name"]: item["words"] for item in facts["changed"]}
    assert moved["still"] == "as in training"
    assert moved["temp"].startswith("changed")
    temp = facts["changed"][0]
    assert temp["beyond"][0] == temp["excess"] < temp["psi"]
    words = (folder / "proposal.md").read_text()
    assert f"| temp | {temp['psi']:.3f} | {temp['low']:.3f} to {temp['high']:.3f} | " in words
    assert f" | {temp['excess']:.3f} | " in words

    assert accept_newest(returned.ws, returned.registry, "pump").accepted
    assert [item.accepted for item in proposals(returned.ws, "pump")] == [True]
    assert find_candidate(returned.ws, "pump").number == proposal.candidate
    returned.ship(find_candidate(returned.ws, "pump"))
    newest, champion = returned.refs()

    # a proposal that was held against bundle 1 is of no use once bundle 2 is signed
    left = shutil.copytree(folder, folder.parent / "2")
    other = json.loads((left / "proposal.json").read_text()) | {"number": 2, "candidate": 99}
    (left / "proposal.json").write_text(json.dumps(other))
    with pytest.raises(EvidenceError, match="held against bundle 1, but bundle 2 is signed"):
        accept_newest(returned.ws, returned.registry, "pump")
    state = name_state(returned.ws, returned.registry, "pump", returned.clock, same=False)
    assert state.waiting is None
    assert not any("moved" in text for text in state.due.reasons)  # bundle 2 learned from these
    shutil.rmtree(left)

    story = newest.json("lineage.json")
    assert story["parent"] == champion.row.digest

    # later rows come home: the same rows as then are still found, by serial and label file
    more = nature(30, 1500, 5, first=70)
    ids = returned.device("press-2").predict(more)
    returned.device("press-2").label(ids, more["worn"].tolist())
    returned.device("press-2").come_home()
    returned.catch_up()
    upto = (story["returned"]["serial"], story["returned"]["label_files"])
    then = Trial.prepare(returned.ws, returned.registry, returned.recipe(), champion, upto=upto)
    assert rows_digest(then.rows.whole) == story["data"]["sha256"]

    # the same bytes, also from a table whose files stand in another order
    compact(returned.ws, returned.registry)
    for version, kind in ((1, "train"), (2, "retrain")):
        found_again = again(returned.ws, returned.registry, "pump", version)
        assert found_again.kind == kind
        assert found_again.model_sha256 == sha256(returned.refs()[2 - version].model).hex()
    with pytest.raises(DataError, match="no signed bundle 3"):
        again(returned.ws, returned.registry, "pump", 3)

    schema = newest.schema
    columns = [column.name for column in schema.fed]
    found = survey(returned.view, collect(returned.view, schema), schema, columns)
    same = same_rows(returned.refs(), found)
    assert same.rows == 1500
    assert same.scores[2] > same.scores[1]


def test_a_challenger_that_learned_noise_is_refused(world: World) -> None:
    frame = nature(30, 3000, 3, first=30)
    rng = np.random.default_rng(0)
    ids = world.device().predict(frame)
    world.device().label(ids, (rng.uniform(size=3000) < 0.5).tolist())
    world.device().come_home()
    world.catch_up()
    with pytest.raises(EvidenceError) as caught:
        retrain(world.ws, world.registry, "pump", world.clock)
    assert caught.value.exit == 74
    assert "not better" in caught.value.what
    assert proposals(world.ws, "pump") == []
    assert find_candidate(world.ws, "pump").number == 1

    # status remembers it, and does not ask for the same comparison on the same rows again
    def told() -> NameState:
        return name_state(world.ws, world.registry, "pump", world.clock, same=False)

    assert told().due.due
    assert told().refused in caught.value.what
    assert told().next == "edgepack label queue --name pump -o queue.csv"
    assert any("was not better" in line for line in told().lines())
    world.device().open().append_event("start", {})
    world.device().come_home()
    world.catch_up()
    assert told().refused
    more = nature(2, 50, 4, first=61)
    world.device().label(world.device().predict(more), more["worn"].tolist())
    world.device().come_home()
    world.catch_up()
    assert (told().refused, told().next) == ("", "edgepack retrain pump")
    (world.ws.proposals("pump") / "last-refusal.json").write_text("[torn")
    assert told().refused == ""


def test_thin_evidence_is_refused_with_the_reason(world: World) -> None:
    def refusal() -> str:
        with pytest.raises(EvidenceError) as caught:
            retrain(world.ws, world.registry, "pump", world.clock)
        return caught.value.line()

    assert "no labelled row" in refusal()
    frame = nature(20, 150, 3, first=31)
    ids = world.device().predict(frame)
    world.device().label(ids, frame["worn"].tolist())
    world.device().come_home()
    world.catch_up()
    assert "150 labelled rows" in refusal()
    frame = nature(20, 1000, 4, first=55)
    ids = world.device().predict(frame)
    world.device().label(ids, [True] * 1000)
    world.device().come_home()
    world.catch_up()
    assert "name one class only" in refusal()


def test_without_a_signed_bundle_there_is_no_champion(tmp_path) -> None:
    world = World(tmp_path)
    with pytest.raises(EvidenceError, match="no champion"):
        retrain(world.ws, world.registry, "pump", world.clock)
    with pytest.raises(EvidenceError, match="no proposal"):
        accept_newest(world.ws, world.registry, "pump")


def test_the_largest_devices_are_left_out_in_turn(world: World) -> None:
    for name, seed, rows in (("press-1", 2, 1500), ("press-2", 3, 900)):
        frame = nature(40, rows, seed, first=30)
        ids = world.device(name).predict(frame)
        world.device(name).label(ids, frame["worn"].tolist())
        world.device(name).come_home()
    world.catch_up()
    facts = retrain(world.ws, world.registry, "pump", world.clock).facts
    assert len(facts["without"]) == len(facts["devices"]) == 2
    assert all(item["auc"] > 0.5 for item in facts["without"])
    taught = {item["device"]: item["taught"] for item in facts["devices"]}
    assert {item["device"]: item["rows"] for item in facts["without"]} == taught
    text = (world.ws.proposals("pump") / "1" / "proposal.md").read_text()
    assert "Without one device at a time" in text
    state = name_state(world.ws, world.registry, "pump", world.clock, same=False)
    assert state.waiting is not None
    stolen = world.registry.device("press-2")
    world.registry.put_device(replace(stolen, state="compromised", since=0))
    state = name_state(world.ws, world.registry, "pump", world.clock, same=False)
    assert state.waiting is None
    with pytest.raises(EvidenceError, match="void: press-2 taught it, and is compromised since"):
        accept_newest(world.ws, world.registry, "pump")
    _spoiled(world, facts["candidate"], replace(stolen, state="accepted"))
    larger = facts["without"][0]
    assert f"- without press-1 and its {larger['rows']:,} rows: " in text


def _spoiled(world: World, number: int, device: DeviceRow) -> None:
    """An accepted candidate is neither built nor signed once its rows are left out."""
    newest = world.registry.next_serial() - 1
    world.registry.put_device(device)
    candidate = accept_newest(world.ws, world.registry, "pump").candidate
    assert candidate == number
    unsigned = build(world.ws, find_candidate(world.ws, "pump"))
    world.registry.put_device(replace(device, state="compromised", since=newest + 1))
    assert build(world.ws, find_candidate(world.ws, "pump")) == unsigned  # what it gave stays good
    world.registry.put_device(replace(device, state="compromised", since=newest))
    with pytest.raises(EvidenceError, match="press-2 taught this model of pump") as caught:
        build(world.ws, find_candidate(world.ws, "pump"))
    assert caught.value.next.endswith("edgepack retrain pump")
    with pytest.raises(EvidenceError, match="press-2 taught this model of pump"):
        sign_file(world.ws, world.ring, unsigned.path, clock=world.clock)
    assert world.registry.highest_version("pump") == 1  # no version is used up
    # the next one knows what was left out, and may ship
    accept(world.ws, "pump", retrain(world.ws, world.registry, "pump", world.clock).candidate)
    world.ship(find_candidate(world.ws, "pump"))


def test_what_cannot_be_trained_again_is_said(returned: World) -> None:
    data = returned.ws.recipes / "pump" / "pump.parquet"
    before = data.read_bytes()
    nature(30, 2990, 1).to_parquet(data)
    with pytest.raises(DataError, match="not those that taught"):
        again(returned.ws, returned.registry, "pump", 1)
    data.write_bytes(before)
    code = returned.ws.recipes / "pump" / "recipe.py"
    code.write_text(code.read_text() + "\n# other\n")
    with pytest.raises(RecipeError, match="was changed since bundle 1"):
        again(returned.ws, returned.registry, "pump", 1)
