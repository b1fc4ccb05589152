"""How is this device? Status, temperature, and a doctor. Reads files only; takes no lock.

Temperature says how far to believe the model: `fresh`, `cooling` or `cold`, each with its reasons.
It follows from the model's age, from inputs that changed, and from the shares of rows that are
unlike the training data or that the model was not sure of. None of them says that it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_runtime._version import __version__
from device_runtime.disk import Disk
from device_runtime.errors import EdgepackError, FormatError
from device_runtime.format import canonical
from device_runtime.format.frames import ROWS
from device_runtime.format.segment import Hole, Name
from device_runtime.format.words import words
from device_runtime.generation import Generation, SlotRecord
from device_runtime.home import Home
from device_runtime.journal.seal import OpenFile
from device_runtime.journal.shelf import read_closed
from device_runtime.policy import Policy
from device_runtime.record import dataclass
from device_runtime.totals import rows_pruned

LEVELS = ("fresh", "cooling", "cold")
DAY_S = 86_400
MIN_SHARE_ROWS = 200  # shares of fewer rows mean nothing
MIN_RATE_S = 600  # a rate of fewer seconds means nothing


@dataclass(frozen=True, slots=True)
class Temperature:
    """How far to believe the model.

    Attributes:
        state: `fresh`, `cooling` or `cold`.
        reasons: One line each, worst first; empty when fresh.
    """

    state: str
    reasons: tuple[str, ...]


def status(home: Home) -> dict[str, Any]:
    """Return everything about a device that a person may want to know.

    Raises:
        NotInitialisedError, MachineError: There is no home, or its state is damaged.
    """
    generation, card = home.generation(), home.card
    active = generation.slot(generation.active)
    age = _age(home, generation, active)
    sentinel = _sentinel(home, active)
    warm = temperature(generation, active, age, sentinel)
    return {
        "device": {
            "name": card.name,
            "id": card.device_id,
            "words": words(card.public.fingerprint),
            "class": card.device_class,
            "home": str(home.root),
        },
        "runtime": __version__,
        "bundle": active and {**_slot(generation, active), "name": card.bundle_name},
        "slots": [_slot(generation, slot) for slot in generation.slots],
        "age_days": round(age["days"], 1) if active else None,
        "age": age,
        "temperature": {"state": warm.state, "reasons": list(warm.reasons)},
        "sentinel": sentinel,
        "journal": _journal(home, generation),
        "trust": {
            "floor": generation.trusted.floor,
            "version": generation.trusted_version,
            "rejected": len(generation.rejected),
            "bases": len(generation.ack_generations),
        },
    }


def report_status(home: Home) -> dict[str, Any]:
    """Return the part of `status` that travels home in the device's report."""
    whole = status(home)
    names = ("age_days", "age", "temperature", "sentinel", "journal", "trust")
    return {name: whole[name] for name in names}


def _slot(generation: Generation, slot: SlotRecord) -> dict[str, Any]:
    return {
        "version": slot.version,
        "digest": slot.digest,
        "state": slot.state,
        "issued": slot.issued,
        "active": slot.digest == generation.active,
        "revoked": generation.is_revoked(slot),
        "degraded": slot.digest == generation.active and generation.degraded,
    }


def _age(home: Home, generation: Generation, active: SlotRecord | None) -> dict[str, float]:
    """Return the age in days by each measure; `days` is what counts.

    It is the larger of signed time (floor - issued) and powered-on time since activation. What the
    wall clock says is shown beside it and decides only where the class declares the clock trusted.
    """
    if active is None:
        return {"days": 0.0, "signed_days": 0.0, "powered_days": 0.0, "clock_days": 0.0}
    signed = max(0, generation.trusted.floor - active.issued) / DAY_S
    powered = max(0, home.odometer_s() - generation.activated_s) / DAY_S
    clock = max(0.0, (home.clock.wall_ns() / 1e9 - active.issued) / DAY_S)
    days = max(signed, powered, clock if generation.policy.clock_trusted else 0.0)
    return {
        "days": days,
        "signed_days": round(signed, 3),
        "powered_days": round(powered, 3),
        "clock_days": round(clock, 3),
    }


def temperature(
    generation: Generation,
    active: SlotRecord | None,
    age: Mapping[str, float],
    sentinel: Mapping[str, Any] | None,
) -> Temperature:
    """Judge by age, drift, unknown and abstained rows; the worst of them counts."""
    policy = generation.policy
    found: list[tuple[int, str]] = []
    if active is None:
        return Temperature("cold", ("there is no bundle on this device",))
    if generation.is_revoked(active):
        found.append((2, f"bundle {active.version} was revoked by the base"))
    elif generation.degraded:
        found.append((2, f"bundle {active.version} runs only because nothing better is here"))
    days = age["days"]
    for level, limit in ((2, policy.cold_days), (1, policy.fresh_days)):
        if days >= limit:
            found.append((level, f"the model is {days:.0f} days old (limit {limit})"))
            break
    if sentinel is not None:
        found += _drifted(sentinel) + share_reasons(sentinel)
    worst = sorted(found, key=lambda item: -item[0])
    return Temperature(LEVELS[worst[0][0] if worst else 0], tuple(text for _, text in worst))


def _drifted(sentinel: Mapping[str, Any]) -> list[tuple[int, str]]:
    moved = {item["name"]: item for item in sentinel["drift"]}
    found = []
    levels = sentinel["levels"]
    for name in (*(name for name in moved if name in levels), *(levels.keys() - moved.keys())):
        level, item = levels[name], moved.get(name)
        by = f" (PSI {item['psi']:.2f}, {item['n']:,} rows)" if item else ""
        found.append((LEVELS.index(level), f"input changed: {name}{by}"))
    return found


def shortened(reasons: Sequence[str], most: int) -> list[str]:
    """Return the worst reasons for a person, and how many more there are."""
    more = len(reasons) - most
    return [*reasons[:most], *([f"and {more} more: see status --json"] if more > 0 else [])]


def share_reasons(sentinel: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return (level, reason) where too many rows are unlike, unsure or of unseen categories."""
    if sentinel["rows"] < MIN_SHARE_ROWS:
        return []
    found = []
    for name, text in (
        ("unlike", "of the rows are unlike the training data"),
        ("abstained", "of the rows are ones that the model is not sure of"),
        ("unseen", "of the rows have a category that training never saw"),
    ):
        share, usual = sentinel["shares"].get(name, 0.0), sentinel["reference"].get(name, 0.0)
        for level, limit in ((2, 0.3 + 2 * usual), (1, 0.1 + 2 * usual)):
            if share >= limit:
                found.append((level, f"{share:.0%} {text} ({usual:.0%} in training)"))
                break
    return found


def _sentinel(home: Home, active: SlotRecord | None) -> dict[str, Any] | None:
    """Return the sentinel's state from its note, None where nothing was counted yet."""
    if active is None:
        return None
    note = home.sentinel / f"{active.digest}.json"
    folder = home.slot_dir(active.digest)
    if not home.disk.exists(note):
        return None
    from device_runtime.format import schema as schemas
    from device_runtime.format import sketch
    from device_runtime.model.sentinel import Sentinel

    try:
        profile = sketch.from_json(_json(home.disk, folder / "profile.json"))
        schema = schemas.from_json(_json(home.disk, folder / "schema.json"))
        policy = home.generation().policy
        limits = (policy.psi_cooling, policy.psi_cold)
        data = home.disk.read(note, canonical.MAX_BYTES)
        return Sentinel.load(data, profile, schema, limits).state()
    except (OSError, EdgepackError):
        return None


def _json(disk: Disk, path: Path) -> Any:
    return canonical.decode(disk.read(path, canonical.MAX_BYTES + 1), path.name)


# --- journal -----------------------------------------------------------------------------------


def _journal(home: Home, generation: Generation) -> dict[str, Any]:
    """Count what lies in the journal's folder, by headers that need no key."""
    policy: Policy = generation.policy
    rows = records = used = segments = acked = safe = lost = 0
    for text in home.disk.list(home.journal):
        name, path = Name.parse(text), home.journal / text
        if name is None:
            continue
        try:
            size = home.disk.size(path)
            used += size
            found = _counts(home.disk, path, name)
        except (OSError, FormatError):
            continue
        segments += 1
        records += found[0]
        rows += found[1]
        lost += found[3]
        if found[2] in generation.acked:
            acked, safe = acked + found[1], safe + size
    gone, on_s = rows_pruned(home), home.odometer_s()
    bytes_s = used / max(rows, 1) * (rows + gone) / max(on_s, 1)
    room = max(0, policy.quota_bytes - policy.reserve_bytes - used + safe)
    return {
        "rows_produced": rows + gone,
        "rows_on_device": rows,
        "rows_pruned": gone,
        "rows_safe_at_base": acked + gone,
        "records_lost": lost,
        "records_on_device": records,
        "segments": segments,
        "bytes": used,
        "quota_bytes": policy.quota_bytes,
        "full": round(used / policy.quota_bytes, 4) if policy.quota_bytes else 0.0,
        "lasts_days": round(room / bytes_s / DAY_S, 1) if bytes_s and on_s >= MIN_RATE_S else None,
        "log_mode": policy.log_mode,
        "durability": policy.durability,
    }


def _counts(disk: Disk, path: Path, name: Name) -> tuple[int, int, str, int]:
    """Return (records, rows, hash hex, records that it declares lost) of one segment file."""
    if name.suffix == "open":
        file = OpenFile.read(disk.read(path))
        rows = sum(frame.n for frame in file.scan.frames if frame.type == ROWS)
        return file.scan.records, rows, "", _declared(file.holes())
    header, digest = read_closed(disk, path)
    return header.records, header.rows, digest, _declared(header.holes)


def _declared(holes: Iterable[Hole]) -> int:
    """Return how many records these HOLEs name; those of unknown number are left out."""
    return sum(max(0, hole.count) for hole in holes)


# --- for people and machines ---------------------------------------------------------------------


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return `status` as lines for a person."""
    device, journal, bundle = found["device"], found["journal"], found["bundle"]
    result = [
        f"{device['name']} ({device['class']}), {device['home']}",
        f"words        {device['words']}",
    ]
    if bundle:
        state = bundle["state"] + (", degraded" if bundle["degraded"] else "")
        result.append(f"bundle       {bundle['name']} {bundle['version']} ({state})")
        age = found["age"]
        result.append(
            f"age          {found['age_days']} days (signed {age['signed_days']:.1f}, powered on "
            f"{age['powered_days']:.1f}, by this clock {age['clock_days']:.1f})"
        )
    else:
        result.append("bundle       none yet: plug in a stick and run: edgepack-device sync STICK")
    warm = found["temperature"]
    result.append(f"temperature  {warm['state']}")
    result += [f"             - {reason}" for reason in shortened(warm["reasons"], 8)]
    sentinel = found["sentinel"]
    if sentinel:
        shares = sentinel["shares"]
        result.append(
            f"seen         {sentinel['rows_since_activation']:,} rows; of the last "
            f"{sentinel['rows']:,}: {shares['unlike']:.1%} unlike training, "
            f"{shares['abstained']:.1%} unsure"
        )
    result.append(
        f"journal      {journal['rows_on_device']:,} rows in {journal['segments']:,} segments, "
        f"{journal['bytes'] / 1e6:,.1f} MB ({journal['full']:.0%} of its quota); "
        f"{journal['rows_safe_at_base']:,} rows are safe at the base, "
        f"{journal['records_lost']:,} were lost to the quota or to damage"
    )
    lasts = journal["lasts_days"]
    told = "told after ten minutes powered on" if lasts is None else f"{lasts:,} days powered on"
    result.append(f"             room for more: {told}")
    return result


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def prometheus(found: Mapping[str, Any]) -> str:
    """Return `status` in the text format of Prometheus."""
    journal, sentinel = found["journal"], found["sentinel"] or {}
    name = _quoted(found["device"]["name"])
    label = f"{{device={name}}}"
    bundle = found["bundle"] or {"version": 0, "degraded": False}
    level = LEVELS.index(found["temperature"]["state"])
    seen = sentinel.get("rows_since_activation", 0)
    values: list[tuple[str, str, float]] = [
        ("bundle_version", "Version of the running bundle; 0 if there is none", bundle["version"]),
        ("degraded", "1 if the bundle runs only for want of a better one", bundle["degraded"]),
        ("age_days", "Age of the model, days", found["age"]["days"]),
        ("temperature", "0 fresh, 1 cooling, 2 cold", level),
        ("journal_rows", "Rows in the journal", journal["rows_on_device"]),
        ("journal_bytes", "Bytes of the journal", journal["bytes"]),
        ("journal_quota_bytes", "Room of the journal, bytes", journal["quota_bytes"]),
        ("rows_seen", "Rows since the bundle was activated", seen),
    ]
    shares = sentinel.get("shares", {})
    values += [(f"share_{k}", f"Share of recent rows: {k}", v) for k, v in shares.items()]
    text = []
    for key, help_text, value in values:
        text.append(f"# HELP edgepack_{key} {help_text}")
        text.append(f"# TYPE edgepack_{key} gauge")
        text.append(f"edgepack_{key}{label} {float(value):.15g}")
    drift = sentinel.get("drift", [])
    if drift:
        text.append("# HELP edgepack_psi Change of an input, PSI beyond chance")
        text.append("# TYPE edgepack_psi gauge")
        text += [
            f"edgepack_psi{{device={name},column={_quoted(item['name'])}}} {item['psi']:g}"
            for item in drift
        ]
    return "\n".join(text) + "\n"
