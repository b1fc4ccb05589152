"""Where every device stands: model, age, records home and out, alarms, what waits for its stick."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from device_runtime.clock import Clock
from device_runtime.errors import FormatError
from device_runtime.format.receipt import DeviceReport, report_from_body
from device_runtime.format.segment import Lane
from edgepack.fleet.sticks import StickNote, notes
from edgepack.registry import BundleRow, DeviceRow, Registry, SegmentRow, Span
from edgepack.spans import count, normal, subtract
from edgepack.store.table import by_name
from edgepack.store.view import View
from edgepack.workspace import Workspace

DAY = 86_400
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of one device.

    Attributes:
        produced: Rows that it journaled, as far as is known; None if it never reported.
        home: Rows in the table.
        out: Rows still on the device; None if unknown.
        lost: Records that it declared lost and that never came home.
    """

    produced: int | None
    home: int
    out: int | None
    lost: int


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One line of `edgepack status`.

    Attributes:
        name: Its name.
        id: Device id.
        state: `pending`, `accepted`, `retired`, `compromised`.
        device_class: Kind of device.
        bundle: Bundle name that it runs.
        bundle_version: Version that it said it runs; None if it never said so.
        slots: (version, state) of what is installed.
        age_days: Days since the running bundle was signed, by the base's clock.
        temperature: `fresh`, `cooling`, `cold`; what the device says, or by age alone.
        reasons: Why it is not fresh.
        seen: When something of it last came home, nanoseconds by the base's clock; 0 never.
        records: Its rows.
        epochs: Lives of its journal; more than one means that continuity was broken.
        alarms: (kind, text) that nobody cleared.
        waits: What is there for it, and on which stick.
        reported: What it said about itself (`status` of its newest report).
    """

    name: str
    id: str
    state: str
    device_class: str
    bundle: str
    bundle_version: int | None
    slots: tuple[tuple[int, str], ...]
    age_days: float | None
    temperature: str
    reasons: tuple[str, ...]
    seen: int
    records: Records
    epochs: int
    alarms: tuple[tuple[str, str], ...]
    waits: tuple[str, ...]
    reported: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        value = asdict(self)
        value["alarms"] = [{"kind": kind, "text": text} for kind, text in self.alarms]
        value["slots"] = [{"version": v, "state": state} for v, state in self.slots]
        return value


@dataclass(frozen=True, slots=True)
class Fleet:
    """All devices, and what concerns none of them alone."""

    devices: tuple[DeviceView, ...]
    alarms: tuple[tuple[str, str], ...]
    backup: str
    held: int


def overview(
    ws: Workspace, registry: Registry, clock: Clock, *, device: str | None = None
) -> Fleet:
    """Describe the fleet.

    Args:
        ws: The workspace.
        registry: What came home.
        clock: The base's.
        device: Only this device (name or id).

    Raises:
        DeviceUnknownError: There is no such device.
    """
    rows = [registry.device(device)] if device else registry.devices()
    home = rows_home(ws, registry)
    sticks, now = notes(registry), clock.wall_ns()
    devices = tuple(_device(ws, registry, row, home[row.device], sticks, now) for row in rows)
    known = {row.device for row in registry.devices()}
    alarms = tuple((a.kind, a.text) for a in registry.alarms() if a.device not in known)
    return Fleet(devices, alarms, _backup(registry), len(registry.held()))


def _backup(registry: Registry) -> str:
    """Say what the newest backup is, and what acks wait for."""
    at = registry.get("backup_at")
    if not at:
        return "there is no backup: acks say `archive` only"
    waiting = registry.unbacked()
    more = f"; segments that it lacks and no ack lists yet: {waiting:,}" if waiting else ""
    return f"{day(int(at))}, in {registry.get('backup_folder')}{more}"


def rows_home(ws: Workspace, registry: Registry) -> Counter[str]:
    """Return the rows of each device in the tables."""
    counts: Counter[str] = Counter()
    for name in by_name(registry):
        view = View(ws, registry, name)
        if not view.paths():
            continue
        for batch in view.batches(["_device"]):
            coded = batch.column("_device").dictionary_encode()
            rows = np.bincount(np.asarray(coded.indices), minlength=len(coded.dictionary))
            counts.update(dict(zip(coded.dictionary.to_pylist(), rows.tolist(), strict=True)))
    return counts


def _device(
    ws: Workspace,
    registry: Registry,
    row: DeviceRow,
    home: int,
    sticks: Sequence[StickNote],
    now_ns: int,
) -> DeviceView:
    report = newest_report(registry, row.device)
    status: Mapping[str, Any] = report.status if report else {}
    segments = registry.segments(row.device, state=None)
    version = _version(report, segments)
    bundles = {item.version: item for item in registry.bundles(row.bundle)}
    age = _age_days(bundles.get(version) if version is not None else None, now_ns)
    temperature, reasons = _temperature(ws, row, status, age)
    seen = max([row.seen, *(item.imported for item in segments)], default=0)
    return DeviceView(
        name=row.name,
        id=row.device,
        state=row.state,
        device_class=row.device_class,
        bundle=row.bundle,
        bundle_version=version,
        slots=tuple((slot.version, slot.state) for slot in report.slots) if report else (),
        age_days=age,
        temperature=temperature,
        reasons=tuple(reasons),
        seen=seen,
        records=_records(registry, row, home, status),
        epochs=len({item.epoch for item in segments}),
        alarms=tuple((alarm.kind, alarm.text) for alarm in registry.alarms(row.device)),
        waits=tuple(_waits(registry, row, version, max(bundles, default=0), seen, sticks)),
        reported=status,
    )


def _version(report: DeviceReport | None, segments: Sequence[SegmentRow]) -> int | None:
    """Return the running version: as it says, or as its newest rows say."""
    if report and report.slots:
        return report.slots[0].version
    return max((item.bundle_version for item in segments), default=0) or None


def newest_report(registry: Registry, device: str) -> DeviceReport | None:
    """Return what a device last said about itself; None if nothing, or nothing readable."""
    for row in registry.reports(device):
        try:
            return report_from_body(row.body)
        except FormatError:
            continue
    return None


def _age_days(bundle: BundleRow | None, now_ns: int) -> float | None:
    if bundle is None:
        return None
    return round(max(0.0, (now_ns / _NS - bundle.issued) / DAY), 2)


def _temperature(
    ws: Workspace, row: DeviceRow, status: Mapping[str, Any], age: float | None
) -> tuple[str, list[str]]:
    said = status.get("temperature")
    if isinstance(said, Mapping):
        reasons = said.get("reasons")
        given = [str(item) for item in reasons] if isinstance(reasons, list) else []
        state = str(said.get("state", "unknown"))
    else:
        state, given = ("unknown" if said is None else str(said)), []
    if row.device_class in ws.classes and age is not None:
        policy = ws.classes[row.device_class].policy
        if age >= policy.cold_days and state != "cold":
            return "cold", [*given, f"its model is {age:.0f} days old"]
        if age >= policy.fresh_days and state in ("unknown", "fresh"):
            return "cooling", [*given, f"its model is {age:.0f} days old"]
        if state == "unknown":
            state = "fresh"
    return state, given


def _records(registry: Registry, row: DeviceRow, home: int, status: Mapping[str, Any]) -> Records:
    lost, brought = declared_records(registry, row.device)
    journal = status.get("journal")
    kept = journal.get("rows_produced") if isinstance(journal, Mapping) else None
    if not isinstance(kept, int) or isinstance(kept, bool):
        return Records(None, home, None, lost)
    purged = sum(item.rows for item in registry.segments(row.device, state="purged"))
    here = home + purged
    # What it declared lost it does not count any more, also where another copy of it came home.
    return Records(max(here, kept + brought) + lost, home, max(0, kept + brought - here), lost)


def declared_records(registry: Registry, device: str) -> tuple[int, int]:
    """Return how many records that HOLEs declare did not come home, and how many rows did.

    BULK is rows alone; what PRIORITY lost is mostly events, and none of them counts as a row.
    """
    places: dict[tuple[str, int, str], list[Span]] = {}
    lanes: dict[tuple[str, int], list[Span]] = {}
    for hole in registry.holes(device):
        if hole.last >= hole.first >= 0:
            span = (hole.first, hole.last)
            places.setdefault((hole.epoch, hole.lane, hole.uid), []).append(span)
            if hole.uid:
                lanes.setdefault((hole.epoch, hole.lane), []).append(span)
    lost = brought = 0
    for (epoch, lane, uid), holes in places.items():
        declared = normal(holes)
        if uid:
            here = [(first, last) for first, last, _ in registry.spans_of(device, epoch, uid)]
        else:  # stands for many segments: these may have been named one by one before
            declared = subtract(declared, lanes.get((epoch, lane), []))
            here = registry.spans_of_lane(device, epoch, lane)
        missing = count(subtract(declared, here))
        lost += missing
        brought += count(declared) - missing if lane == Lane.BULK else 0
    return lost, brought


def _waits(
    registry: Registry,
    row: DeviceRow,
    version: int | None,
    newest: int,
    seen: int,
    sticks: Sequence[StickNote],
) -> list[str]:
    if row.state == "pending":
        return [f"nobody accepted it yet: edgepack device accept {row.name}"]
    if row.state != "accepted":
        return []
    result = []
    if newest and newest > (version or 0):
        result.append(f"bundle {newest} is signed; it runs {version or 'none'}")
    for stick in sticks:
        new = [text for text in stick.bundles if _is_newer(text, row.bundle, version)]
        new += ["acknowledgements"] if stick.acks and seen and stick.at >= seen else []
        if new:
            result.append(f"on stick {stick.name}, synced {day(stick.at)}: {', '.join(new)}")
    held = len(registry.held(row.device))
    if held:
        result.append(f"{held} segments are held")
    return result


def _is_newer(text: str, name: str, version: int | None) -> bool:
    what, _, number = text.rpartition(" ")
    return what == name and number.isdigit() and int(number) > (version or 0)


def day(at_ns: int) -> str:
    """Return a moment for a person; `never` for 0."""
    if not at_ns:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ns // _NS))


def events(
    ws: Workspace, registry: Registry, name: str, kinds: Sequence[str] | None = None
) -> pa.Table:
    """Return what devices of a bundle name put on record, in import order."""
    import pyarrow.dataset as ds

    where = ds.field("kind").isin(list(kinds)) if kinds else ds.field("kind") != "sketch"
    found = View(ws, registry, name).read(where=where, what="events")
    return found.sort_by([("_serial", "ascending"), ("_sequence", "ascending")])
