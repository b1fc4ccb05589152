"""Sticks of every version of the format are read by today's code, for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from device_runtime.crypt import PublicIdentity, RecipientKey
from device_runtime.format.receipt import decode_ack, decode_enrolment, decode_report
from edgepack.registry import DeviceRow, Registry

GOLDEN = Path(__file__).parents[2] / "bundles/golden/sticks"


def identity(value):
    return PublicIdentity(bytes.fromhex(value["ed25519"]), bytes.fromhex(value["mldsa65"]))


def test_a_stick_of_version_1_is_imported(lab, tmp_path):
    expected = json.loads((GOLDEN / "expected-1.json").read_text())
    public = identity(expected["device"])
    recipient = RecipientKey(bytes.fromhex(expected["journal_public"]))
    ring = type(lab.ring)()
    ring.secrets[recipient.id] = bytes.fromhex(expected["journal_secret"])
    lab.ring = ring
    with Registry.open(lab.ws.registry) as registry:
        registry.put_device(
            DeviceRow(
                public.id, "golden", "sim", "sim", "kit", "accepted",
                public.ed25519, public.mldsa65, "", 0, 0,
            )
        )  # fmt: skip
    stick = shutil.copytree(GOLDEN / "stick-1", tmp_path / "stick")
    result = lab.sync(stick)
    assert (result.tally.rows, result.tally.labels) == (expected["rows"], expected["labels"])
    assert not result.tally.quarantined
    assert set(expected["records"]) <= lab.ids()


def test_receipts_of_version_1_hold():
    expected = json.loads((GOLDEN / "expected-1.json").read_text())
    device, base = identity(expected["device"]), identity(expected["base"])
    root = GOLDEN / "stick-1/EDGEPACK"
    ack, signed = decode_ack((root / f"acks/{device.id}/{base.id}.ack").read_bytes())
    assert base.verify_both(signed.signature, signed.message)
    assert set(expected["acked"]) <= {fact.hash for fact in ack.facts}
    (report_file,) = (root / "reports").glob(f"{device.id}-*.json")
    report, signed = decode_report(report_file.read_bytes())
    assert device.verify_both(signed.signature, signed.message)
    assert report.generations == {base.id: ack.generation}
    (enrol_file,) = (root / "enrol").glob("*.json")
    item, signed = decode_enrolment(enrol_file.read_bytes())
    public = PublicIdentity(item.ed25519, item.mldsa65)
    assert public.id == item.device == enrol_file.stem
    assert public.verify_both(signed.signature, signed.message)
