"""A golden device, version 1: a kit, a bundle with every file of a payload, rows and their answers.

Written once; a new version of a format gets new files beside the old ones, which run for ever.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from edgepack.fleet.kit import write_kit
from edgepack.registry import PlanRow, Registry
from support import devicelab
from support.trustsim import NAME, Base

VERSION = 1
KIT, BUNDLE, ROWS, EXPECTED = "device-1.kit", "device-1.edgepack", "rows-1.csv", "expected-1.json"


def answered(home: Path, rows: Path) -> list[str]:
    """Return what the real command answers to rows, without the ids of their records."""
    done = devicelab.run(home, "predict", rows)
    assert done.returncode == 0, done.stderr.decode()
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines()]


def write(folder: Path) -> None:
    """Sign a kit and a bundle with fresh keys, set up a device, and keep what it answers."""
    work = Path(tempfile.mkdtemp())
    try:
        base = Base.at(work / "ws")
        with Registry.open(base.ws.registry) as registry:
            registry.put_plan(PlanRow("golden", "field", NAME, "", 0))
        bundle = devicelab.bundle(base)
        folder.mkdir(parents=True, exist_ok=True)
        words = write_kit(base.ws, base.ring, "golden", folder / KIT, clock=base.clock).words
        shutil.copyfile(bundle, folder / BUNDLE)
        devicelab.csv_of(devicelab.rows(64, 4), folder / ROWS)
        home = work / "home"
        for step in (("init", folder / KIT, "--fingerprint", words), ("install", folder / BUNDLE)):
            done = devicelab.run(home, *step)
            assert done.returncode == 0, done.stderr.decode()
        expected = {"words": words, "answers": answered(home, folder / ROWS)}
        (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")
    finally:
        shutil.rmtree(work)
