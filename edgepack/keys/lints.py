"""What `sign` refuses to sign: times and policies that would harm devices."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from device_runtime import policy as policies
from device_runtime.errors import UsageError
from device_runtime.format import canonical
from device_runtime.trust import quorum
from device_runtime.trust.source import Source
from edgepack.errors import ClockError, KeyringError
from edgepack.keys import roles
from edgepack.registry import Registry
from edgepack.taught import check_taught

DAY = 86400
LEAP_DAYS = 400
LARGEST = 64 << 20  # a lineage with many devices


def last_signed(registry: Registry, facts: quorum.RootFacts, name: str | None = None) -> int:
    """Return when the last bundle (of this name) that is not revoked was signed; 0 for none."""
    bundles = registry.bundles(name)
    return max(
        (row.issued for row in bundles if row.digest not in facts.revoked_digests), default=0
    )


def lint_time(now: int, expires: int, facts: quorum.RootFacts, last: int, force_time: bool) -> None:
    """Refuse what a device could not install, or what would move its time floor wrongly."""
    latest = max(last, facts.issued)
    if now < latest and not force_time:
        raise ClockError(
            f"this machine's clock is {days(now - latest)} what was signed last",
            why="a device would take the bundle for an old one",
        )
    _lint_leap(now, latest, force_time)
    if expires > facts.expires:
        raise KeyringError(
            f"the root expires before the bundle would: {days(facts.expires - expires)} it",
            why="devices would refuse a valid bundle because of its root",
            next="make a new root with: edgepack keys rotate root",
        )


def lint_root(
    now: int, facts: quorum.RootFacts, last: int, force_time: bool, *, resets: bool
) -> None:
    """Refuse a root whose time would come before the one before, or leap like that of a bundle.

    Args:
        now: Its time.
        facts: What the root before says.
        last: When the last bundle was signed; 0 for none.
        force_time: It may leap.
        resets: It sets the time floor back: then the root before may lie in the future.
    """
    if now < facts.issued and not resets:
        raise ClockError(
            f"this machine's clock is {days(now - facts.issued)} the newest root",
            next="set the clock; if the root's is wrong: edgepack keys recover --floor",
        )
    _lint_leap(now, max(last, facts.issued), force_time)


def lint_half_root(now: int, issued: int, force_time: bool) -> None:
    """Refuse to add a signature to a root whose time is still to come."""
    if issued > now + DAY and not force_time:
        raise ClockError(
            f"the half-signed root was issued {days(issued - now)} this machine's clock"
        )


def _lint_leap(now: int, latest: int, force_time: bool) -> None:
    if now - latest > LEAP_DAYS * DAY and not force_time:
        raise ClockError(
            f"this machine's clock is {days(now - latest)} what was signed last",
            why="every device would take that time for the present, for ever",
        )


def lint_policy(ws: Any, device_class: str, source: Source) -> None:
    """Refuse a policy that is not what its class says now: devices would take it for the newest.

    Raises:
        KeyringError: It names keys that were rotated since.
        UsageError: The class was changed since.
    """
    again = "edgepack build, then sign what it makes"
    for said in _said(source, "policy.json"):
        policy, now = policies.from_json(said), roles.class_policy(ws, device_class)
        other = [
            item.name
            for item in fields(policies.Policy)
            if getattr(policy, item.name) != getattr(now, item.name)
        ]
        if {"recipients", "ack_keys"} & set(other):
            raise KeyringError(
                "keys were rotated after this bundle was built: its policy names the old ones",
                next=again,
            )
        if other:
            raise UsageError(
                f"class {device_class} was changed after this bundle was built: {', '.join(other)}",
                why="its policy would undo that of newer kits",
                next=again,
            )


def lint_lineage(registry: Registry, name: str, source: Source) -> None:
    """Refuse a model that rows taught which are not trusted any more."""
    for story in _said(source, "lineage.json"):
        check_taught(registry, name, story)


def _said(source: Source, wanted: str) -> Iterator[Any]:
    for name in source.index.names("payload"):
        if name.removesuffix(".xz") == wanted:
            data = source.small(f"payload/{name}", LARGEST)
            data = lzma.decompress(data) if name.endswith(".xz") else data
            yield canonical.decode(data, name, limit=LARGEST)


def days(difference: int) -> str:
    """Return a difference in seconds as a person says it."""
    amount = abs(difference) / DAY
    return f"{amount:,.1f} days {'after' if difference >= 0 else 'before'}"
