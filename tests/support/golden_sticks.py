"""A golden stick, version 1: packs, an ack, a report, an enrolment, and the keys to read it.

Written once; a new version of the format gets a new folder, and this one is read for ever.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from edgepack.sim.actors import SimRing
from support import courierlab
from support.courierlab import Lab

VERSION = 1
FOLDER = "stick-1"
EXPECTED = "expected-1.json"


def write(folder: Path) -> None:
    """Let a device and a base visit a stick twice; keep it as the second device visit left it."""
    work = Path(tempfile.mkdtemp())
    ring, courierlab._RING[:] = SimRing(), []
    courierlab._RING.append(ring)
    try:
        lab = Lab(work)
        device, stick = lab.accepted("golden"), lab.stick()
        device.rows([1, 2, 3], sync=True)
        device.label(2)
        device.sync(stick)
        lab.sync(stick)
        device.rows([4, 5], sync=True)
        device.label(4)
        device.sync(stick)
        first = lab.folder / "first/EDGEPACK/enrol"
        target = folder / FOLDER / "EDGEPACK"
        shutil.copytree(stick / "EDGEPACK", target)
        other = lab.device("golden-2")
        other.sync(lab.stick("other"))
        shutil.copytree(lab.folder / "other/EDGEPACK/enrol", target / "enrol", dirs_exist_ok=True)
        assert not first.exists() or not list(first.iterdir())
        public, base = device.identity.public, ring.base.public
        expected = {
            "device": {"ed25519": public.ed25519.hex(), "mldsa65": public.mldsa65.hex()},
            "base": {"ed25519": base.ed25519.hex(), "mldsa65": base.mldsa65.hex()},
            "journal_secret": ring.current[0].hex(),
            "journal_public": ring.current[1].raw.hex(),
            "rows": 2, "labels": 1, "records": sorted(device.durable - lab.ids()),
            "acked": sorted(info.hash for info in device.journal.sealed()
                            if info.hash in device.home.generation().acked),
        }  # fmt: skip
        (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")
    finally:
        shutil.rmtree(work)
        courierlab._RING.clear()
