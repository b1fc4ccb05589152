"""Downgrade tokens on a stick: acted on, passed over, or refused and on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import realbundle

ROWS = b"id,at,x,c\n1,,3,a\n2,,-3,b\n"
ORDER = "pump-2-to-1.downgrade"


@pytest.fixture
def proven(make_lab):
    """A device with a good bundle 1 and bundle 2 on trial."""
    lab = make_lab(trial_rows=2)
    lab.run("predict", "-", stdin=ROWS)
    lab.run("install", lab.bundle(2.0))
    return lab


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick/EDGEPACK/bundles"
    folder.mkdir(parents=True)
    return folder


def sync(lab, stick: Path):
    done = lab.run("sync", stick.parent.parent, "--json")
    return done.returncode, json.loads(done.stdout)


def test_an_order_of_keys_that_were_rotated_out_spoils_no_visit(proven, stick):
    order = realbundle.token(proven.base, 1)
    (stick / ORDER).write_bytes(order)
    other = order.replace(b'"name":"pump"', b'"name":"pump-x"')
    (stick / "pump-x-2-to-1.downgrade").write_bytes(other)
    proven.base.rotate("targets")
    newer = proven.bundle(3.0)
    (stick / newer.name).write_bytes(newer.read_bytes())
    for _ in range(2):
        code, body = sync(proven, stick)
        assert (code, body["refused"]) == (0, [])
    assert not [data for kind, data in proven.events() if kind == "refused"]


def test_a_forged_order_is_refused_and_on_record_and_the_genuine_one_acts(proven, stick):
    order = realbundle.token(proven.base, 1)
    (stick / ORDER).write_bytes(order.replace(b'"issued":', b'"issued":1', 1))
    code, body = sync(proven, stick)
    assert (code, body["refused"][0]["code"]) == (20, "trust.threshold")
    refused = [data for kind, data in proven.events() if kind == "refused"]
    assert [(data["file"], data["code"]) for data in refused] == [(ORDER, "trust.threshold")]
    (stick / ORDER).write_bytes(order)
    code, body = sync(proven, stick)
    assert code == 0
    assert body["notes"] == [f"{ORDER}: went back as the base has signed"]
    assert sync(proven, stick)[1]["notes"] == []
