"""A class of devices that keeps no rows: what came in travels as sketches, each row in one."""

from __future__ import annotations

import json

from device_runtime.journal.reader import SketchRecord
from support import devicelab


def test_a_device_that_keeps_no_rows_sends_sketches_of_them_once(make_lab, tmp_path):
    lab = make_lab(log_mode="sketch")

    def sketched() -> list[int]:
        found = (record for _, record in devicelab.records(lab.base, lab.root))
        return [json.loads(one.sketch)["n"] for one in found if isinstance(one, SketchRecord)]

    for seed in range(3):  # short processes: what is too little for a sketch is kept for the next
        with lab.open() as device:
            device.predict(devicelab.columns(400, seed))
    assert sketched() == [1200]
    with lab.open() as device:
        device.predict(devicelab.columns(300))
        device.sync(tmp_path)
        device.sync(tmp_path)
    with lab.open() as device:
        device.predict(devicelab.columns(1100, 5))
    assert sketched() == [1200, 300, 1100]
    assert lab.rows() == {}
