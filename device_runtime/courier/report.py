"""The device's own voice on the stick: a signed report, its public keys, one line for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime._version import __version__
from device_runtime.courier.stick import Stick
from device_runtime.errors import FormatError
from device_runtime.format.receipt import (
    MAX_REPORT_BYTES,
    DeviceReport,
    Enrolment,
    SlotLine,
    decode_enrolment,
    encode_enrolment,
    encode_report,
)
from device_runtime.format.segment import Lane
from device_runtime.format.stick import enrol_path, last_sync_path, parse_bundle_name, report_path
from device_runtime.home import Home
from device_runtime.journal.writer import Journal


def make_report(home: Home, journal: Journal, status: Mapping[str, Any]) -> DeviceReport:
    """Say where this device stands.

    Args:
        home: The device.
        journal: Its journal, sealed.
        status: Anything else worth showing at the base; JSON values only.
    """
    generation, card = home.generation(), home.card
    heads: dict[str, dict[str, tuple[int, str]]] = {}
    oldest: dict[str, dict[str, int]] = {}
    recipients: set[str] = set()
    for info in journal.sealed():
        lane = str(int(info.lane))
        head = heads.setdefault(info.epoch, {})
        if info.number >= head.get(lane, (0, ""))[0]:
            head[lane] = (info.number, info.hash)
        low = oldest.setdefault(info.epoch, {})
        low[lane] = min(low.get(lane, info.number), info.number)
        recipients |= {who for who, _ in info.header.keys}
    slots = sorted(generation.slots, key=lambda slot: slot.digest != generation.active)
    return DeviceReport(
        device=card.device_id,
        name=card.name,
        epoch=generation.epoch,
        counter=max(0, journal.durable_upto(Lane.PRIORITY)),
        runtime=__version__,
        bundle_name=card.bundle_name,
        trusted_version=generation.trusted_version,
        trusted_digest=generation.trusted_digest,
        slots=tuple(SlotLine(slot.version, slot.digest, slot.state) for slot in slots),
        floor=generation.trusted.floor,
        odometer_s=max(0, home.odometer_s() - generation.activated_s),
        generations=dict(generation.ack_generations),
        heads=heads,
        oldest=oldest,
        recipients=tuple(sorted(recipients)),
        status=status,
    )


def write_report(
    home: Home, journal: Journal, stick: Stick, status: Mapping[str, Any]
) -> DeviceReport:
    """Write the report, and the public keys of this device.

    Raises:
        StickError: No room, pulled, or failing.
    """
    report = make_report(home, journal, status)
    identity = home.identity()
    stick.put(report_path(report.device, report.epoch), encode_report(report, identity.sign_both))
    write_enrolment(home, stick)  # always: a base restored from an old backup may not know us
    return report


def write_enrolment(home: Home, stick: Stick) -> None:
    """Introduce this device to a base, unless the stick does already."""
    card = home.card
    item = Enrolment(
        device=card.device_id,
        name=card.name,
        kit_id=card.kit_id,
        device_class=card.device_class,
        bundle_name=card.bundle_name,
        ed25519=card.public.ed25519,
        mldsa65=card.public.mldsa65,
    )
    if not _introduced(home, stick, item):
        data = encode_enrolment(item, home.identity().sign_both)
        stick.put(enrol_path(card.device_id), data)


def _introduced(home: Home, stick: Stick, item: Enrolment) -> bool:
    """Whether the stick carries this very enrolment, with a signature that holds."""
    try:
        data = stick.get(enrol_path(item.device), MAX_REPORT_BYTES)
        found, signed = decode_enrolment(data or b"")
    except FormatError:
        return False
    return found == item and home.card.public.verify_both(signed.signature, signed.message)


def write_last_sync(home: Home, stick: Stick, line: str) -> None:
    """Write the one line that an operator sees when plugging in started the sync."""
    stick.put(last_sync_path(home.card.name), (line.strip() + "\n").encode())


def bundles_on(stick: Stick, name: str) -> tuple[list[tuple[int, Path]], list[str]]:
    """Return ((version, path) of bundles named like ours, highest first; other file names)."""
    ours: list[tuple[int, Path]] = []
    others: list[str] = []
    for file in stick.files("bundles"):
        parsed = parse_bundle_name(file)
        path = stick.path(f"bundles/{file}")
        if parsed is None or parsed[0] != name or path is None:
            others.append(file)
        else:
            ours.append((parsed[1], path))
    return sorted(ours, reverse=True), others
