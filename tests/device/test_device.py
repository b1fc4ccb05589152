"""A device answers, journals, learns the truth, and says what happened."""

from __future__ import annotations

import json
import math

import pytest

from device_runtime.errors import (
    BusyError,
    DigestMismatchError,
    InputError,
    NoSlotError,
    RollbackError,
    UsageError,
    VerificationError,
)
from device_runtime.format.segment import Lane
from support import devicelab


def test_a_row_is_answered_and_journaled_with_everything_it_had(lab):
    with lab.open() as device:
        (row,) = device.predict([devicelab.one(3.0, "b")])
    assert row["y"] == "yes"
    assert row["y_p_yes"] == pytest.approx(1 / (1 + math.exp(-4)), rel=1e-5)
    assert row["flag"] == "ok"
    kept = lab.rows()[row["record"]]
    assert kept["x"] == 3.0
    assert kept["c"] == "b"
    assert kept["id"] == 7
    assert kept["_label"] == 1
    assert kept["lane"] == "BULK"
    assert kept["_latency"] > 0
    assert not math.isnan(kept["_unlike"])


def test_an_unsure_row_is_answered_flagged_and_goes_to_the_priority_lane(lab):
    with lab.open() as device:
        sure, unsure = device.predict([devicelab.one(5.0), devicelab.one(0.1)])
    assert sure["flag"] == "ok"
    assert "abstained" in unsure["flag"]
    rows = lab.rows()
    assert rows[sure["record"]]["lane"] == "BULK"
    assert rows[unsure["record"]]["lane"] == "PRIORITY"


def test_invalid_rows_say_all_that_is_wrong_and_the_good_ones_are_answered(lab):
    bad = {"id": 1, "x": "warm", "c": 3}
    with lab.open() as device:
        found = device.predict([devicelab.one(3.0), bad, devicelab.one(-3.0)])
    first, second, third = found
    assert (first["y"], third["y"]) == ("yes", "no")
    assert second["flag"] == "invalid"
    assert second["y"] == ""
    assert len(second["issues"]) == 2
    kept = lab.rows()[second["record"]]
    assert "warm" in kept["_raw"]
    assert kept["_row"] == 1


def test_a_foreign_row_is_called_unlike(lab):
    with lab.open() as device:
        rows = list(device.predict([devicelab.one(900.0, "a"), devicelab.one(2.0, "a")]))
    assert "unlike" in rows[0]["flag"]
    assert rows[1]["flag"] == "ok"


@pytest.mark.parametrize("n", [1, 31, 32, 33, 200])
def test_few_and_many_rows_get_the_same_bits(lab, n):
    batch = devicelab.rows(n, seed=5)
    c = batch.columns["c"].strings()
    rows = [
        {"id": i, "at": None, "x": x, "c": c[i]} for i, x in enumerate(batch.columns["x"].tolist())
    ]
    with lab.open() as device:
        together = list(device.predict(rows))
        alone = [next(iter(device.predict([row]))) for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert {**one, "record": ""} == {**other, "record": ""}
    kept = lab.rows()
    for one, other in zip(together, alone, strict=True):
        a, b = kept[one["record"]], kept[other["record"]]
        for name in ("_label", "_scores", "_unlike", "_flags", "x", "c", "id"):
            assert a[name] == b[name]


def test_columns_and_frames_are_taken_too(lab):
    import pandas as pd

    columns = {"id": [1, 2], "x": [3.0, -3.0], "c": ["a", None]}
    with lab.open() as device:
        assert [row["y"] for row in device.predict(columns)] == ["yes", "no"]
        frame = pd.DataFrame(columns)
        assert [row["y"] for row in device.predict(frame)] == ["yes", "no"]
        with pytest.raises(InputError):
            device.predict("text")


def test_labels_by_record_and_by_key_are_priority_records(lab):
    with lab.open() as device:
        (row,) = device.predict([devicelab.one()])
        device.label(row["record"], "no")
        device.label("7", "yes")
    found = [r for _, r in devicelab.records(lab.base, lab.root) if hasattr(r, "ref")]
    assert [(r.ref, r.by, r.value) for r in found] == [
        (row["record"], "record", "no"),
        ("7", "key", "yes"),
    ]


def test_what_happened_is_on_record(lab):
    with lab.open() as device:
        with pytest.raises(VerificationError):
            device.install(_tampered(lab))
        device.install(lab.bundle(2.0))
        assert device.predict([devicelab.one()]).answers == ["yes"]
        assert device.generation.trusted_version == 3
        old = lab.folder / "ws" / "out" / "pump-1.edgepack"
        with pytest.raises(RollbackError):
            device.install(old)
    kinds = [kind for kind, _ in lab.events()]
    refused = [data for kind, data in lab.events() if kind == "refused"]
    assert refused[0]["code"] == DigestMismatchError.code
    assert refused[1]["code"] == RollbackError.code
    assert any("install" in kind or kind.startswith("slot") for kind in kinds)


def _tampered(lab):
    path = lab.bundle(3.0)
    data = bytearray(path.read_bytes())
    at = data.rfind(devicelab.model(3.0)[-40:])
    data[at + 10] ^= 1
    bad = path.with_name("bad-2.edgepack")
    bad.write_bytes(bytes(data))
    return bad


def test_a_switch_takes_effect_between_two_rows_of_one_process(lab):
    with lab.open() as device:
        before = device.predict([devicelab.one(1.0)]).scores[0][1]
        device.install(lab.bundle(-4.0))
        after = device.predict([devicelab.one(1.0)]).scores[0][1]
        assert before > 0.7
        assert after < 0.1
    versions = {header.bundle_version for header, r in devicelab.records(lab.base, lab.root)}
    assert {1, 2} <= versions


def test_rollback_needs_another_good_bundle_and_goes_to_it(make_lab):
    lab = make_lab(trial_rows=1)
    with lab.open() as device:
        with pytest.raises(NoSlotError):
            device.rollback()
        device.predict([devicelab.one()])
        device.install(lab.bundle(2.0))
        device.predict([devicelab.one()])
        assert device.rollback() == 1
        assert device.predict([devicelab.one(1.0)]).scores[0][1] < 0.75


def test_a_closed_device_does_nothing_any_more(lab):
    """Whoever still holds it would write beside the next owner, under the same row numbers."""
    closed = lab.open()
    closed.predict([{"id": 1, "x": 1.0, "c": "a"}])
    closed.close()
    closed.close()
    with lab.open() as owner:
        kept = owner.predict([{"id": 2, "x": 1.0, "c": "a"}]).records
        for use in (
            lambda: closed.predict([{"id": 3, "x": 1.0, "c": "a"}]),
            lambda: closed.label(kept[0], "yes"),
            lambda: closed.install(lab.folder / "none"),
            lambda: closed.sync(lab.folder),
            closed.rollback,
            closed.tick,
            closed.save,
        ):
            with pytest.raises(UsageError, match="this device is closed"):
                use()
    assert len(lab.rows()) == 2


def test_one_row_that_is_taken_for_columns_is_refused_with_the_way_out(lab):
    with lab.open() as device:
        for row in ({"id": 1, "x": 1.0, "c": "a"}, {"c": "a"}):
            with pytest.raises(InputError, match="holds columns, not one row"):
                device.predict(row)


def test_a_home_belongs_to_one_process(lab):
    with lab.open(), pytest.raises(BusyError):
        lab.open()


def test_the_sentinel_raises_an_alarm_and_survives_a_restart(lab):
    with lab.open() as device:
        for seed in range(8):
            device.predict(devicelab.columns(512, seed=seed, shift=6.0))
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["temperature"]["state"] == "cold"
    assert "input changed: x" in " ".join(state["temperature"]["reasons"])
    assert any(kind == "drift" and data["name"] == "x" for kind, data in lab.events())
    with lab.open() as device:
        device.predict([devicelab.one()])
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["sentinel"]["rows_since_activation"] == 8 * 512 + 1
    assert (lab.root / "sentinel").stat()
    assert sum(p.stat().st_size for p in (lab.root / "sentinel").iterdir()) < 20_000


def test_undrifted_rows_leave_the_device_fresh(lab):
    with lab.open() as device:
        for seed in range(8):
            device.predict(devicelab.columns(512, seed=100 + seed))
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["temperature"] == {"state": "fresh", "reasons": []}


def test_age_is_signed_time_or_powered_time_never_the_wall_clock(lab):
    from device_runtime import health
    from device_runtime.disk import RealDisk
    from device_runtime.home import open_home
    from edgepack.sim.clock import FixedClock

    home = open_home(lab.root, disk=RealDisk(), clock=FixedClock(wall=4_000_000_000 * 10**9))
    assert health.status(home)["temperature"]["state"] == "fresh"
    clock = FixedClock(monotonic=70 * 86_400 * 10**9, boot=b"\x02" * 16)
    aged = open_home(lab.root, disk=RealDisk(), clock=clock)
    assert health.status(aged)["temperature"]["state"] == "cooling"
    clock.monotonic = 130 * 86_400 * 10**9
    assert health.status(aged)["temperature"]["state"] == "cold"


def test_rows_reported_durable_are_durable(lab):
    with lab.open() as device:
        device.predict([devicelab.one(5.0)])
        assert device.journal.durable_upto(Lane.BULK) >= 1
