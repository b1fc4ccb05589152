"""Golden files of the bundle, kit and token formats, version 1. Their keys were thrown away.

Written once; a new version of a format gets new files beside the old ones, which are read for ever.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from edgepack.fleet.kit import write_kit
from edgepack.keys import ceremony
from edgepack.registry import PlanRow, Registry
from support.trustsim import NAME, Base

VERSION = 1
FILES = ("bundle-1.edgepack", "kit-1.kit", "token-1.downgrade", "root-1.json", "expected-1.json")


def write(folder: Path) -> None:
    """Sign one of each with fresh keys: a bundle under root 2, a kit, a downgrade token."""
    work = Path(tempfile.mkdtemp())
    try:
        base = Base.at(work / "ws")
        first = base.trusted().root
        with Registry.open(base.ws.registry) as registry:
            registry.put_plan(PlanRow("golden", "field", NAME, "", 0))
        base.publish(model=b"golden model one")
        base.rotate("targets")
        bundle = base.publish(model=b"golden model two " * 40, xz=True, extra={"note.txt": b"hi"})
        kit = work / "golden.kit"
        words = write_kit(base.ws, base.ring, "golden", kit, clock=base.clock).words
        token = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock).path
        device = base.device()
        digest = device.verify(bundle).digest
        folder.mkdir(parents=True, exist_ok=True)
        for source, name in ((bundle, FILES[0]), (kit, FILES[1]), (token, FILES[2])):
            shutil.copyfile(source, folder / name)
        (folder / FILES[3]).write_bytes(first)
        expected = {"name": NAME, "version": 2, "digest": digest, "issued": base.now,
                    "root": 2, "words": words}  # fmt: skip
        (folder / FILES[4]).write_text(json.dumps(expected, indent=1) + "\n")
    finally:
        shutil.rmtree(work)
