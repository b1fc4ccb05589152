"""Which slot runs, which may be replaced, what an attempt counts: decisions, without effects.

Every function takes a `Generation` and returns another, or an answer about it. The odd-looking
rules are each there because a schedule of crashes, power cuts and revocations broke without them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from device_runtime.generation import Generation, SlotRecord, SlotState
from device_runtime.record import replace
from device_runtime.slots.marker import Found


def choose(generation: Generation, unusable: Collection[str] = ()) -> SlotRecord | None:
    """Return the slot that should run now; None if none may.

    An unrevoked slot in trial or good goes first, the selected one before the other. A revoked
    one is the last resort, until an unrevoked one is good. A suspended slot runs only where there
    is nothing else at all. Rejected and stopped slots never run.

    Args:
        generation: The state.
        unusable: Digests of slots that cannot be loaded now.
    """
    tiers = (*_sound(generation, unusable), _suspended(generation, unusable))
    return next((tier[0] for tier in tiers if tier), None)


def alternative(generation: Generation) -> SlotRecord | None:
    """Return what would run in the place of the active slot; None if nothing better is there."""
    tiers = _sound(generation, {generation.active or ""})
    return next((tier[0] for tier in tiers if tier), None)


def _usable(generation: Generation, unusable: Collection[str]) -> list[SlotRecord]:
    return [
        slot
        for slot in generation.slots
        if slot.digest not in generation.stopped_digests and slot.digest not in unusable
    ]


def _sound(
    generation: Generation, unusable: Collection[str]
) -> tuple[list[SlotRecord], list[SlotRecord]]:
    """Return (unrevoked, revoked) slots that may run, best first."""
    usable = [s for s in _usable(generation, unusable) if s.state in ("trial", "good")]
    usable.sort(key=lambda s: (s.digest != generation.active, s.state != "good", -s.version))
    clean = [slot for slot in usable if not generation.is_revoked(slot)]
    # "Until" is meant for ever: an unrevoked slot that is good ends the last resort, also when it
    # is that very slot which crashes now.
    proven = any(s.state == "good" and not generation.is_revoked(s) for s in generation.slots)
    revoked = [] if proven else [slot for slot in usable if generation.is_revoked(slot)]
    return clean, revoked


def _suspended(generation: Generation, unusable: Collection[str]) -> list[SlotRecord]:
    usable = [s for s in _usable(generation, unusable) if s.state == "suspended"]
    return sorted((s for s in usable if not generation.is_revoked(s)), key=lambda s: -s.version)


def switch(generation: Generation, digest: str, odometer_s: int) -> Generation:
    """Select another slot: counters and trial begin anew."""
    return replace(
        generation,
        active=digest,
        attempts=0,
        crashes=0,
        power_attempts=0,
        degraded=False,
        trial_rows=0,
        trial_since_s=None,
        activated_s=odometer_s,
    )


def note(generation: Generation, kind: str, **data: object) -> Generation:
    """Add an event that the journal shall record; it is committed with what it tells of."""
    data["generation"] = generation.number + 1
    return replace(generation, events=(*generation.events, (kind, data)))


def revoke(
    generation: Generation, keys: frozenset[str], digests: frozenset[str], stopped: frozenset[str]
) -> Generation:
    """Add what a quorum revoked; a stopped bundle is revoked too. Nothing is ever taken back."""
    digests |= stopped
    fresh_keys, fresh = keys - generation.revoked_keys, digests - generation.revoked_digests
    halted = stopped - generation.stopped_digests
    if not (fresh_keys or fresh or halted):
        return generation
    new = note(
        generation,
        "trust.revoked",
        keys=sorted(fresh_keys),
        digests=sorted(fresh),
        stopped=sorted(halted),
    )
    return replace(
        new,
        revoked_keys=new.revoked_keys | keys,
        revoked_digests=new.revoked_digests | digests,
        stopped_digests=new.stopped_digests | stopped,
    )


def settle(generation: Generation, odometer_s: int) -> Generation:
    """Pass over an active slot that was revoked meanwhile, where an unrevoked one can run."""
    best = choose(generation)
    active = generation.slot(generation.active)
    if best is None or active is None or best.digest == active.digest:
        return generation
    new = note(
        generation, "slot.passed_over", version=active.version, to=best.version, reason="revoked"
    )
    return switch(new, best.digest, odometer_s)


def count(generation: Generation, found: Iterable[Found], odometer_s: int) -> Generation:
    """Count the attempts that load marks tell of, and fall back when there were too many.

    Args:
        generation: The state.
        found: Marks of dead processes; each counts once, even if this is cut off and repeated.
        odometer_s: For the activation of what is fallen back to.
    """
    new = generation
    marks = list(found)
    for mark in marks:
        if mark.token in generation.counted or mark.fate == "worked":
            continue
        slot = new.slot(mark.digest)
        if slot is None or mark.digest != new.active:
            continue
        new = note(new, "slot.attempt", version=slot.version, fate=mark.fate, detail=mark.detail)
        if mark.fate == "power":
            new = replace(new, power_attempts=new.power_attempts + 1)
        else:
            crash = mark.fate == "crash"
            new = replace(new, attempts=new.attempts + 1, crashes=new.crashes + crash)
    if new is not generation:
        new = replace(new, counted=frozenset(mark.token for mark in marks))
    return give_up(new, odometer_s)


def give_up(generation: Generation, odometer_s: int) -> Generation:
    """Fall back if the active slot has failed too often.

    Three attempts that all were proven crashes reject it. Where a kill from outside or the
    machine itself may have been the cause it is suspended: no sound version is burnt.
    """
    policy = generation.policy
    slot = generation.slot(generation.active)
    many = generation.attempts >= policy.max_attempts
    if slot is None or not (many or generation.power_attempts >= policy.max_power_attempts):
        return generation
    proven = generation.crashes >= policy.max_attempts
    return fall_back(generation, "rejected" if proven else "suspended", odometer_s)


def fall_back(generation: Generation, state: SlotState, odometer_s: int) -> Generation:
    """Leave the active slot in `state` and select another; stay, degraded, where there is none."""
    slot = generation.slot(generation.active)
    if slot is None:
        return generation
    better = alternative(generation)
    if better is None:
        stay = note(generation, "slot.degraded", version=slot.version)
        return replace(stay, attempts=0, crashes=0, power_attempts=0, degraded=True)
    new = note(generation, "slot.fallback", version=slot.version, to=better.version, state=state)
    new = new.with_slot(replace(slot, state=state))
    if state == "rejected":
        new = replace(new, rejected=new.rejected | {slot.digest})
    return switch(new, better.digest, odometer_s)


def damaged(generation: Generation, digest: str, reason: str, odometer_s: int) -> Generation:
    """Leave a slot whose payload no longer verifies, at once; the stick may bring it again."""
    slot = generation.slot(digest)
    if slot is None:
        return generation
    new = note(generation, "slot.damaged", version=slot.version, reason=reason)
    new = new.with_slot(replace(slot, state="suspended"))
    better = choose(new, {digest})
    if digest != new.active or better is None:
        return new
    return switch(new, better.digest, odometer_s)


def victim(generation: Generation, digest: str) -> SlotRecord | None:
    """Return the slot that a new bundle replaces; None while there is a free one.

    Never the last slot that ever was good, revoked or not; of two good ones the inactive.
    """
    own = generation.slot(digest)
    if own is not None:
        return own  # the same bundle once more: it takes its own place
    if len(generation.slots) < 2:
        return None
    proven = [slot for slot in generation.slots if slot.ever_good]
    free = [slot for slot in generation.slots if not slot.ever_good]
    order = {"rejected": 0, "suspended": 1}

    def worth(slot: SlotRecord) -> tuple[int, bool, bool]:
        return (
            order.get(slot.state, 2),
            not generation.is_revoked(slot),
            slot.digest == generation.active,
        )

    if len(proven) == 1:
        return min(free, key=worth)
    if len(proven) == 2:
        return next(slot for slot in proven if slot.digest != generation.active)
    return min(free, key=worth)
