"""Golden segments of every version are read for ever, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from device_runtime.crypt import PublicIdentity
from device_runtime.format.columns import decode_columns
from device_runtime.journal.reader import open_segment
from device_runtime.journal.seal import OpenFile
from support import golden_segments as golden

FOLDER = Path(__file__).parents[2] / "bundles" / "golden" / "segments"
EXPECTED = json.loads((FOLDER / "expected-1.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", golden.SEGMENTS)
def test_golden_segments_decode_to_what_was_written(name):
    device = PublicIdentity(*(bytes.fromhex(key) for key in EXPECTED["device"]))
    recipient, secret = EXPECTED["secret"]
    data = (FOLDER / name).read_bytes()
    reader = open_segment(data, secrets={recipient: bytes.fromhex(secret)}, device=device)
    found = json.loads(json.dumps(golden.decoded(reader)))
    assert found == EXPECTED["segments"][name]


def test_the_golden_open_segment_is_scanned_whole():
    file = OpenFile.read((FOLDER / "open-bulk-1.open").read_bytes())
    assert (file.scan.records, file.scan.torn, file.scan.skipped) == (7, 0, [])
    assert file.opened.header.number == 2
    assert file.opened.header.parent.reason == "disk"


def test_golden_columns_decode():
    n, columns, specs = decode_columns((FOLDER / "columns-1.cols").read_bytes())
    assert n == 600
    assert [name for name, _, _ in specs][:3] == ["constant", "steps", "bits"]
    assert (columns["steps"] == np.arange(600) * 1000 - 5).all()
    assert columns["payload"].view(np.uint32)[1] == 0x7FC00123
    assert columns["text"].strings()[:8] == [None] * 7 + ["t1"]
    assert (columns["v"] == np.cos(np.arange(600) // 7 % 12)).all()
    assert columns["tensor"].shape == (600, 2, 2)


def test_the_generator_still_works(tmp_path):
    golden.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(golden.FILES)
