"""What the base tells its devices: signed acks, and when to raise its own generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from device_runtime.clock import Clock
from device_runtime.courier.stick import Stick
from device_runtime.crypt import Identity
from device_runtime.errors import FormatError
from device_runtime.format.receipt import (
    MAX_ACK_BYTES,
    MAX_REPORT_BYTES,
    Ack,
    DeviceReport,
    Fact,
    decode_ack,
    decode_report,
    encode_ack,
    report_from_body,
)
from device_runtime.format.stick import ack_path, is_report_name
from edgepack.registry import DeviceRow, Registry, ReportRow

MAX_STEP = 1_000_000
"""How far a device's report may be above what this base knows of its own versions."""


def has_backup(registry: Registry) -> bool:
    """Whether this workspace has ever been backed up: then acks list only what a backup holds."""
    return registry.get("backup_at") != ""


def make_ack(registry: Registry, base: str, device: DeviceRow, on_stick: Iterable[str] = ()) -> Ack:
    """List everything that the base holds safely of a device and that it may still have.

    Args:
        registry: What acks speak from.
        base: Id of this base.
        device: Whom it is for.
        on_stick: Hashes that lay on this very stick: never trimmed, the device has them.
    """
    backup = has_backup(registry)
    offered = set(on_stick)
    floors = _trim_floors(registry, device.device)
    facts = [
        Fact(row.epoch, row.lane, row.number, row.hash)
        for row in registry.acknowledged(device.device, backed_only=backup)
        if row.hash in offered or row.number >= floors.get((row.epoch, row.lane), 0)
    ]
    return Ack(
        base=base,
        device=device.device,
        generation=registry.base_generation(),
        custody="backup" if backup else "archive",
        facts=tuple(sorted(facts)),
    )


def _trim_floors(registry: Registry, device: str) -> dict[tuple[str, int], int]:
    """Return (epoch, lane) → lowest number that the device still has.

    Only for a device that was never copied, and only within the epochs that its newest report
    names: whatever is left out wrongly is offered again, and listed then.
    """
    if any(alarm.kind == "fork" for alarm in registry.alarms(device)):
        return {}
    for row in registry.reports(device)[:1]:
        report = report_from_body(row.body)
        return {
            (epoch, int(lane)): number
            for epoch, lanes in report.oldest.items()
            for lane, number in lanes.items()
        }
    return {}


def write_acks(
    stick: Stick,
    registry: Registry,
    identity: Identity,
    offered: Mapping[str, set[str]],
) -> int:
    """Write an ack for every device that has ever sent something; return how many are there.

    An ack that says the same is left as it is. Those of a former identity of this base go once
    their device has believed one of the present.

    Raises:
        StickFullError: No room for one.
        StickError: The stick was pulled or fails.
    """
    base, written = identity.public.id, 0
    for device in registry.devices("accepted", "retired", "compromised"):
        ack = make_ack(registry, base, device, offered.get(device.device, ()))
        relative = ack_path(device.device, base)
        if not _same_ack(stick, relative, ack):
            stick.put(relative, encode_ack(ack, identity.sign_both))
        written += 1
        if _believes(registry, device.device, base):
            for file in stick.files(f"acks/{device.device}"):
                if file != f"{base}.ack":
                    stick.remove(f"acks/{device.device}/{file}")
    return written


def _believes(registry: Registry, device: str, base: str) -> bool:
    """Whether a device has believed an ack of this identity.

    Its policy names one, so it ignores those of a former one; another copy of it may not.
    """
    if any(alarm.kind == "fork" for alarm in registry.alarms(device)):
        return False
    return any(base in report_from_body(r.body).generations for r in registry.reports(device)[:1])


def _same_ack(stick: Stick, relative: str, ack: Ack) -> bool:
    try:
        data = stick.get(relative, MAX_ACK_BYTES)
        return data is not None and decode_ack(data)[0] == ack
    except FormatError:
        return False


def read_reports(
    stick: Stick, registry: Registry, base: str, clock: Clock, *, dry_run: bool = False
) -> tuple[list[DeviceReport], list[str]]:
    """Believe the reports of accepted devices: versions, generation, forks of bundles.

    Returns:
        The reports that are newer than what was known, and a line for each that is not believed.
    """
    found: list[DeviceReport] = []
    lines: list[str] = []
    for file in stick.files("reports"):
        if not is_report_name(file):
            continue
        try:
            report = _verified(stick, registry, file)
        except FormatError as error:
            lines.append(f"report {file[:8]}… is not believed: {error.what}")
            continue
        if report is None or dry_run:
            continue
        lines += _consider(registry, report, base, clock.wall_ns())
        row = ReportRow(
            report.device, report.epoch, report.counter, _body(stick, file), clock.wall_ns()
        )
        if registry.put_report(row):
            found.append(report)
    return found, lines


def _body(stick: Stick, file: str) -> dict[str, object]:
    data = stick.get(f"reports/{file}", MAX_REPORT_BYTES) or b""
    return decode_report(data)[1].body


def _verified(stick: Stick, registry: Registry, file: str) -> DeviceReport | None:
    """Return a report that its device signed; None for one of a device that is not accepted."""
    device = registry.find_device(file[:32])
    if device is None or device.device != file[:32] or device.state == "pending":
        return None
    data = stick.get(f"reports/{file}", MAX_REPORT_BYTES)
    if data is None:
        return None
    report, signed = decode_report(data)
    if not device.public.verify_both(signed.signature, signed.message):
        raise FormatError("its signature does not hold")
    if f"{report.device}-{report.epoch}.json" != file:
        raise FormatError("it is of another device or epoch than its name says")
    return report


def _consider(registry: Registry, report: DeviceReport, base: str, now: int) -> list[str]:
    """Draw the consequences of a report for this base: never more than one device can be trusted.

    Versions and generations only count up, so a device that lies about them could use them up:
    what lies beyond `MAX_STEP` is an alarm, and one device speaks for its own bundle name alone.
    """
    device = registry.device(report.device)
    if device.state == "compromised":
        return []
    lines: list[str] = []
    seen = max([report.trusted_version, *(slot.version for slot in report.slots)])
    ours, theirs = registry.base_generation(), report.generations.get(base)
    told = max(theirs[0] if theirs else 0, ours[0])
    odd = seen > registry.highest_version(report.bundle_name) + MAX_STEP
    odd |= told > ours[0] + MAX_STEP or report.bundle_name != device.bundle
    if odd:
        text = (
            f"{report.name} reports {report.bundle_name[:80]} {seen}, generation {told}: ignored,"
            " no device of this base can know them"
        )
        new = registry.alarm("report", report.device, report.epoch, text, now)
        return [f"ALARM {text}"] if new else []
    with registry.commit():
        registry.saw_version(report.bundle_name, seen)
        if theirs is not None and theirs[0] >= ours[0] and theirs != ours:
            registry.raise_generation(theirs[0])
            lines.append(
                f"{report.name} knows another generation of this base: raised above it; "
                "every device offers its journal again"
            )
        for bundle in registry.bundles(report.bundle_name):
            differs = bundle.digest != report.trusted_digest
            if bundle.version == report.trusted_version and differs and report.trusted_digest:
                text = (
                    f"{report.name} runs a {bundle.name} {bundle.version} that was not signed here:"
                    " two bases, or a stolen key"
                )
                if registry.alarm("bundle", report.device, str(bundle.version), text, now):
                    lines.append(f"ALARM {text}")
    return lines
