"""`[class.NAME]` of edgepack.toml: what a kind of device accepts, and within which bounds.

Devices check the form of a policy and go by its numbers; whether these make sense is asked here,
where a person types them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format.container import MAX_BYTES
from device_runtime.format.manifest import NAME
from device_runtime.format.stick import MAX_SEGMENT_BYTES
from device_runtime.policy import Policy, from_json, to_json
from edgepack.errors import WorkspaceError
from edgepack.units import size

# What a class says about its machines beside the policy: for wheels and for the opset.
_MACHINE = {"arch": "x86_64", "python": "3.11", "onnxruntime": "1.20"}
_FROM_KEYS = ("device_class", "recipients", "ack_keys")  # never typed by hand
_LISTS = ("families", "operators")
_KIB, _MIB, _CENTURY = 1 << 10, 1 << 20, 36_525

# Every number of a policy: the least and the most that a device can work with.
RANGES: Mapping[str, tuple[float, float]] = {
    "threads": (1, 1024),
    "quota_bytes": (64 * _KIB + _MIB, 1 << 50),
    "reserve_bytes": (64 * _KIB, 1 << 50),
    "segment_bytes": (64 * _KIB, MAX_SEGMENT_BYTES // 2),  # the last block may go beyond it
    "segment_seconds": (1, _CENTURY * 86_400),
    "group_ms": (1, 3_600_000),
    "keep_acked_days": (0, _CENTURY),
    "ram_bytes": (0, 1 << 50),
    "selftest_floor_seconds": (0.1, 86_400),
    "selftest_factor": (1, 10_000),
    "trial_seconds": (0, _CENTURY * 86_400),
    "trial_rows": (0, 10**9),
    "max_attempts": (1, 1000),
    "max_power_attempts": (1, 1000),
    "max_bundle_bytes": (64 * _KIB, MAX_BYTES),
    "max_entries": (64, 1 << 20),
    "max_metadata_bytes": (256 * _KIB, 1 << 30),
    "max_json_bytes": (64 * _KIB, 1 << 30),
    "max_model_bytes": (_KIB, MAX_BYTES),
    "max_root_rotations": (1, 1 << 20),
    "max_rows_per_request": (1, 1 << 24),
    "max_request_bytes": (_KIB, 1 << 30),
    "max_queue": (1, 4096),
    "request_timeout_s": (0.1, 3600),
    "fresh_days": (1, _CENTURY),
    "cold_days": (1, _CENTURY),
    "psi_cooling": (0.001, 1000),
    "psi_cold": (0.001, 1000),
}
# Field → the field that it may not lie below, how far it must lie above that, and how one says so.
_ABOVE: Mapping[str, tuple[str, int, str]] = {
    "quota_bytes": ("reserve_bytes", _MIB, "1 MiB more than reserve_bytes"),
    "cold_days": ("fresh_days", 0, "no less than fresh_days"),
    "psi_cold": ("psi_cooling", 0, "no less than psi_cooling"),
}


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """One `[class.NAME]`.

    Attributes:
        name: Its name.
        policy: What its devices accept; recipients and ack keys are filled in by the key ring.
        arch: Machine as `uname -m` prints it.
        python: Version of Python on the devices.
        onnxruntime: Oldest onnxruntime on the devices.
    """

    name: str
    policy: Policy
    arch: str
    python: str
    onnxruntime: str


def read_classes(path: Path) -> dict[str, DeviceClass]:
    """Read the `[class.NAME]` tables of edgepack.toml; every mistake is named.

    Raises:
        WorkspaceError: It is not TOML, has unknown fields, fields of the wrong type, or numbers
            that no device can work with.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path} is not valid TOML: {error}", next="correct it") from None
    mistakes = [f"unknown key {key}" for key in value if key not in ("format", "class")]
    if value.get("format") != 1:
        mistakes.append("format must be 1")
    tables = value.get("class", {})
    if not isinstance(tables, dict) or not tables:
        mistakes.append("there must be at least one [class.NAME]")
        tables = {}
    classes = {}
    for name, table in tables.items():
        try:
            classes[name] = _class(name, table)
            found = list(_beyond(classes[name].policy))
        except (FormatError, ValueError) as error:
            found = [str(error).removeprefix("policy.json: ")]
        mistakes += [f"[class.{name}] {text}" for text in found]
    if mistakes:
        raise WorkspaceError(f"{path}: {'; '.join(mistakes)}", next="correct it")
    return classes


def _class(name: str, table: Any) -> DeviceClass:
    if not NAME.fullmatch(name) or not isinstance(table, dict):
        message = "is not a table with a name of lower case letters, digits and hyphens"
        raise ValueError(message)
    known = {item.name for item in fields(Policy)} - set(_FROM_KEYS)
    unknown = sorted(set(table) - known - set(_MACHINE))
    if unknown:
        message = f"has unknown fields: {', '.join(unknown)}"
        raise ValueError(message)
    machine = {key: table.get(key, default) for key, default in _MACHINE.items()}
    for key, item in machine.items():
        if not isinstance(item, str):
            raise FormatError(f"{key} must be a text")
    for key in _LISTS:
        if not isinstance(table.get(key, []), list):  # a text would count as its letters
            raise FormatError(f"{key} must be a list of texts")
    given = {key: size(item) if key.endswith("_bytes") else item for key, item in table.items()}
    value = to_json(Policy(name))
    value.update((key, item) for key, item in given.items() if key in known)
    return DeviceClass(name, from_json(value), **machine)


def _beyond(policy: Policy) -> Iterator[str]:
    """Yield what is wrong with the numbers of a policy."""
    for name, (least, most) in RANGES.items():
        value, low, why = getattr(policy, name), least, ""
        if name in _ABOVE:
            other, room, text = _ABOVE[name]
            low, why = max(least, getattr(policy, other) + room), f" ({text})"
        if not low <= value <= most:
            yield f"{name} must be {low:,} to {most:,}{why}, not {value:,}"
