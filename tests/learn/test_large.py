"""Twenty million rows come home and are read in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = int(os.environ.get("EDGEPACK_LARGE_ROWS", "20000000"))
SCRIPT = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.learnworld import World, nature
from edgepack.learn.returned import Slice, of_table

world = World(Path({folder!r}))
world.train()
device = world.device()
frame = nature(30, 500_000, 40, first=30)
for turn in range({rows} // len(frame)):
    device.predict(frame, block=16_384)
    if turn % 4 == 3:
        device.come_home()
device.come_home()
del frame
rows = world.catch_up().rows
counted = sum(batch.num_rows for batch in world.view.batches(["_flags", "temp", "site"]))
(drift,) = of_table(world.view, world.refs(), Slice()).values()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"rows": rows, "counted": counted, "drift": drift.n, "peak_mb": peak / 1e3}}))
"""


@pytest.mark.soak
@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_twenty_million_rows_stay_below_a_gigabyte_and_a_half(tmp_path) -> None:
    tests = str(Path(__file__).parent.parent)
    script = SCRIPT.format(tests=tests, folder=str(tmp_path), rows=ROWS)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == found["counted"] == found["drift"] == ROWS
    assert found["peak_mb"] < 1500
    print(found)
