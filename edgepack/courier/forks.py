"""Two devices that believe to be one: a clone, or a restored image. Seen in the chains alone."""

from __future__ import annotations

import json

from device_runtime.format.segment import Header, Parent
from edgepack.registry import EpochRow, Registry, SegmentRow


def find_forks(registry: Registry, row: SegmentRow, header: Header) -> list[str]:
    """Return why this newly registered segment shows a fork; empty when it does not.

    Five signs: one number with two uids; a previous hash that is no form of the number before; two
    numbers with one sequence; a parent that advanced past the heads that its child names; two
    children of one parent.
    """
    found = _by_chain(registry, row) + _by_sequence(registry, row)
    if header.parent is not None:
        found += _by_parent(registry, row, header.parent)
    for child in registry.epochs(row.device):
        head = _heads(child).get(row.lane, 0)
        if child.parent == row.epoch and row.number > head:
            found.append(f"epoch {row.epoch} went on after {child.epoch} had followed it")
    return found


def _by_chain(registry: Registry, row: SegmentRow) -> list[str]:
    """Look at the segments beside this one.

    A device whose disk was full at a start could not seal the crashed segment before this one: the
    link is empty then, which shows nothing.
    """
    forms: dict[int, list[SegmentRow]] = {row.number: [row]}
    for other in registry.neighbours(row.device, row.epoch, row.lane, row.number):
        if other.hash != row.hash:
            forms.setdefault(other.number, []).append(other)
    found = []
    if any(other.uid != row.uid for other in forms[row.number]):
        found.append(f"segment number {row.number} was written twice")
    for before, after in ((row.number - 1, row.number), (row.number, row.number + 1)):
        known = {other.hash for other in forms.get(before, [])}
        named = {other.previous for other in forms.get(after, [])} - {""}  # "": it did not know
        if known and not named <= known:
            found.append(f"segment number {after} follows another number {before}")
    return found


def _by_sequence(registry: Registry, row: SegmentRow) -> list[str]:
    """Within a lane sequences grow with the numbers; each is used once."""
    if row.last < row.first:
        return []
    before, after = registry.nearest(row.device, row.epoch, row.lane, row.number)
    found = []
    if before is not None and before.last >= row.first:
        found.append(f"sequence {row.first} stands in segments {before.number} and {row.number}")
    if after is not None and after.first <= row.last:
        found.append(f"sequence {after.first} stands in segments {row.number} and {after.number}")
    return found


def _by_parent(registry: Registry, row: SegmentRow, parent: Parent) -> list[str]:
    heads = {int(lane): list(head) for lane, head in parent.heads.items()}
    epoch = EpochRow(row.device, row.epoch, parent.epoch, json.dumps(heads), parent.reason)
    siblings = [old for old in registry.epochs(row.device) if old.parent == parent.epoch]
    if not registry.add_epoch(epoch):
        return []
    found = []
    if siblings:
        found.append(f"epoch {parent.epoch} has two children")
    heads_named = _heads(epoch)
    for lane in (0, 1):
        if registry.highest_number(row.device, parent.epoch, lane) > heads_named.get(lane, 0):
            return [*found, f"epoch {parent.epoch} went on after {row.epoch} had followed it"]
    return found


def _heads(epoch: EpochRow) -> dict[int, int]:
    return {int(lane): int(head[0]) for lane, head in json.loads(epoch.heads).items()}
