"""Whether every device that taught a model is still trusted for the rows that it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepack.errors import EvidenceError
from edgepack.registry import Registry


def left_out(registry: Registry) -> dict[str, int]:
    """Return compromised device → the first import serial of it that is left out of every read."""
    return {row.device: row.since or 0 for row in registry.devices("compromised")}


def untrusted(returned: Mapping[str, Any], now: Mapping[str, int]) -> list[str]:
    """Return the devices that taught a model with rows that are left out now.

    Args:
        returned: `returned` of lineage.json: devices, newest import serial, what was left out then.
        now: As `left_out`.
    """
    then, after = returned.get("left_out", {}), returned.get("serial", 0) + 1
    devices = returned.get("devices", ())
    return [one for one in devices if one in now and now[one] < then.get(one, after)]


def check_taught(registry: Registry, name: str, story: Mapping[str, Any]) -> None:
    """Refuse a model of which a device was marked as compromised after it was trained.

    Args:
        registry: Knows the devices.
        name: Bundle name.
        story: Its lineage.json.

    Raises:
        EvidenceError: Rows taught it that are left out now.
    """
    found = untrusted(story.get("returned", {}), left_out(registry))
    if found:
        who = ", ".join(registry.device(one).name for one in found)
        raise EvidenceError(
            f"{who} taught this model of {name}, and is compromised since",
            next=f"make one without those rows: edgepack retrain {name}",
        )
