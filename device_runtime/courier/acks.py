"""What a base says it holds: which segments may go, and whether this journal is still the one.

An ack is a set of true facts. It is believed when a base of the policy signed it for this device,
and its generation is not older than what was seen. Forged, stale and foreign ones change nothing.
"""

from __future__ import annotations

from device_runtime.courier.stick import Stick
from device_runtime.crypt import PublicIdentity
from device_runtime.errors import FormatError, ReceiptError
from device_runtime.format.receipt import MAX_ACK_BYTES, Ack, Fact, decode_ack, signed_part
from device_runtime.format.segment import Epoch, Lane, Parent
from device_runtime.format.stick import ack_path
from device_runtime.generation import Generation
from device_runtime.home import Home
from device_runtime.journal.writer import Journal
from device_runtime.policy import Policy
from device_runtime.record import dataclass, replace


@dataclass(frozen=True, slots=True)
class Acked:
    """What the acks on a stick changed.

    Attributes:
        acks: Acks that were believed.
        marked: Segments on this device that are newly known to be safe at the base.
        pruned: Segments that left the disk because of it (0 while there is room).
        pruned_rows: Rows in them.
        forgotten: Marks that were dropped, because a base was restored.
        new_epoch: Whether the facts contradict this journal: it began a new epoch.
        notes: One line for each ack that was not believed.
    """

    acks: int = 0
    marked: int = 0
    pruned: int = 0
    pruned_rows: int = 0
    forgotten: int = 0
    new_epoch: bool = False
    notes: tuple[str, ...] = ()


def apply_acks(home: Home, journal: Journal, stick: Stick) -> Acked:
    """Believe what is to be believed, commit the marks, begin a new epoch on a contradiction.

    Nothing is unlinked here; `journal` prunes marked segments when it needs the room.
    """
    generation = home.generation()
    notes: list[str] = []
    acks = read_acks(stick, home.card.device_id, generation.policy, notes)
    marks, seen = set(generation.acked), dict(generation.ack_generations)
    held = {info.hash for info in journal.sealed()}
    facts: list[Fact] = []
    believed = 0
    for ack in acks:
        old = seen.get(ack.base, (0, ""))
        if ack.generation != old and ack.generation[0] <= old[0]:
            notes.append(f"the ack of base {ack.base[:8]} is from before it was restored: ignored")
            continue
        if ack.generation[0] > old[0]:
            marks.clear()  # whatever it held before, it says anew; other bases do at their next ack
            seen[ack.base] = ack.generation
        believed += 1
        facts += ack.facts
        marks |= {fact.hash for fact in ack.facts}
    marks &= held
    before = generation.acked
    if marks != before or seen != dict(generation.ack_generations):
        now_s, since = home.odometer_s(), generation.acked_at_s
        home.commit(
            replace(
                generation,
                acked=frozenset(marks),
                acked_at_s={item: since.get(item, now_s) for item in sorted(marks)},
                ack_generations=seen,
            )
        )
        journal.mark_acked(marks)
    fork = contradicts(facts, journal, generation.epoch)
    if fork:
        begin_epoch(home, journal, "ack")
    return Acked(
        acks=believed,
        marked=len(marks - before),
        forgotten=len((before & held) - marks),
        new_epoch=fork,
        notes=tuple(notes),
    )


def overdue(home: Home) -> frozenset[str]:
    """Return the segments that were acknowledged `keep_acked_days` of powered-on time ago."""
    generation = home.generation()
    limit_s = home.odometer_s() - generation.policy.keep_acked_days * 86_400
    return frozenset(
        item for item in generation.acked if generation.acked_at_s.get(item, 0) <= limit_s
    )


def read_acks(stick: Stick, device: str, policy: Policy, notes: list[str]) -> list[Ack]:
    """Return the acks to this device that a base of the policy signed; note the others."""
    bases = [PublicIdentity(bytes.fromhex(a), bytes.fromhex(b)) for a, b in policy.ack_keys]
    known = {base.id: base for base in bases}
    acks = []
    for file in stick.files(f"acks/{device}"):
        base = known.get(file.removesuffix(".ack"))
        if base is None:
            notes.append(f"{file[:40]} is an ack of a base that this device does not know: ignored")
            continue
        try:
            acks.append(_verified(stick, device, base))
        except (FormatError, ReceiptError) as error:
            notes.append(f"{file[:40]} is not believed: {error.what}")
    return acks


def _verified(stick: Stick, device: str, base: PublicIdentity) -> Ack:
    data = stick.get(ack_path(device, base.id), MAX_ACK_BYTES)
    if data is None:
        raise ReceiptError("the ack is gone")
    message, signature = signed_part(data, "ack", MAX_ACK_BYTES)
    if not base.verify_both(signature, message):
        raise ReceiptError("its signature does not hold")
    ack, _ = decode_ack(data)
    if ack.device != device or ack.base != base.id:
        raise ReceiptError("it speaks to another device or for another base")
    return ack


def contradicts(facts: list[Fact], journal: Journal, epoch: str) -> bool:
    """Whether a base knows a journal of our epoch that is not ours: we were copied or restored.

    For the current epoch only: a listed number above our head, or a number that we still hold of
    which no listed hash is ours. (Facts of what was pruned here long ago say nothing.)
    """
    heads = {int(lane): number for lane, (number, _) in journal.heads().items()}
    ours: dict[tuple[int, int], set[str]] = {}
    for info in journal.sealed():
        if info.epoch == epoch:
            ours.setdefault((int(info.lane), info.number), set()).add(info.hash)
    listed: dict[tuple[int, int], set[str]] = {}
    for fact in facts:
        if fact.epoch == epoch:
            listed.setdefault((fact.lane, fact.number), set()).add(fact.hash)
    return any(
        number > heads.get(lane, 0)
        or ((lane, number) in ours and hashes.isdisjoint(ours[lane, number]))
        for (lane, number), hashes in listed.items()
    )


# --- epochs ---------------------------------------------------------------------------------------


def begin_epoch(home: Home, journal: Journal, reason: str) -> None:
    """Seal what is open, begin a new epoch and commit it, before anything is appended.

    The disk that it begins on is committed with it: a second start must not begin another one.
    """
    epoch = journal.begin_epoch(reason)
    home.commit(replace(with_epoch(home.generation(), epoch), disk_id=home.disk_id))


def epoch_of(generation: Generation) -> Epoch:
    """Return the current epoch as the journal wants it at `Journal.open`."""
    if generation.epoch_parent is None:
        return Epoch(generation.epoch)
    heads = {Lane(lane): (number, digest) for lane, number, digest in generation.epoch_heads}
    parent = Parent(generation.epoch_parent, heads, generation.epoch_reason)
    return Epoch(generation.epoch, parent)


def with_epoch(generation: Generation, epoch: Epoch) -> Generation:
    """Return a generation that goes by another epoch; commit it."""
    parent = epoch.parent
    if parent is None:
        return replace(
            generation, epoch=epoch.id, epoch_parent=None, epoch_heads=(), epoch_reason="init"
        )
    heads = tuple((int(lane), number, digest) for lane, (number, digest) in parent.heads.items())
    return replace(
        generation,
        epoch=epoch.id,
        epoch_parent=parent.epoch,
        epoch_heads=heads,
        epoch_reason=parent.reason,
    )
