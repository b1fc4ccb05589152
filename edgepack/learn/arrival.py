"""In which order were rows made, where they have no time of their own?

Import serials count segments, and a device fills one segment for each lane: by serial, what it
abstained from would be older than everything else of the same visit. So rows go by visit; within it
each device's rows in the order in which it made them; and devices side by side, each from its first
row of the visit to its last. Nobody's clock is compared with another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from edgepack.learn.bootstrap import Array
from edgepack.registry import Registry, SegmentRow

COLUMNS = ("_serial", "_sequence", "_lane", "_row", "_monotonic", "_wall")
_TOGETHER_NS = 10_000_000_000  # both lanes' share of one block is journaled within this time
_DAY_US = 86_400_000_000
_NO_BOOT = "0" * 32


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Where the segments of each import serial belong; all arrays by serial, ascending.

    Attributes:
        serial: Import serials.
        visit: Number of the sync that brought it.
        device: Number of its device.
        boot: Place of its boot among all of the device's.
        known: Whether the boot has a name: else only the wall clock spans two processes.
        imported: When it was registered, nanoseconds by the base's clock.
    """

    serial: Array
    visit: Array
    device: Array
    boot: Array
    known: Array
    imported: Array

    @classmethod
    def of(cls, registry: Registry, upto: int | None = None) -> Arrivals:
        """Read the registry, up to an import serial."""
        every = registry.segments(state=None)
        rows = [row for row in every if upto is None or row.serial <= upto]
        of_device: dict[str, list[SegmentRow]] = {}
        for row in rows:
            of_device.setdefault(row.device, []).append(row)
        boots: dict[tuple[str, str, str], int] = {}
        for device, mine in of_device.items():
            named = boots_in_order(mine)
            boots |= {(device, *key): place for place, key in enumerate(named)}
        names = {device: i for i, device in enumerate(sorted(of_device))}
        imported = np.array([row.imported for row in rows], np.int64)
        return cls(
            serial=np.array([row.serial for row in rows], np.int64),
            visit=np.cumsum(np.r_[False, imported[1:] != imported[:-1]][: len(rows)]),
            device=np.array([names[row.device] for row in rows], np.int64),
            boot=np.array([boots[row.device, row.epoch, row.boot] for row in rows], np.int64),
            known=np.array([row.boot.replace("-", "") != _NO_BOOT for row in rows], bool),
            imported=imported,
        )

    def impossible(self, time_us: Array, serial: Array) -> Array:
        """Return which rows say that they happened more than a day after they came home, bool."""
        came = self.imported[np.searchsorted(self.serial, serial)]
        return np.asarray(time_us > came // 1000 + _DAY_US)

    def order(self, rows: pa.Table) -> Array:
        """Return the place of each row among these rows, oldest first, int64.

        Args:
            rows: With `COLUMNS`.
        """
        serial, sequence, lane, row, monotonic, wall = (
            np.asarray(rows.column(name).to_numpy(), np.int64) for name in COLUMNS
        )
        return self.order_of(serial, sequence, lane, row, monotonic, wall)

    def order_of(
        self, serial: Array, sequence: Array, lane: Array, row: Array, monotonic: Array, wall: Array
    ) -> Array:
        """As `order`, of columns."""
        rank = np.empty(len(serial), np.int64)
        if not len(serial):
            return rank
        at = np.searchsorted(self.serial, serial)
        visit, device, boot = self.visit[at], self.device[at], self.boot[at]
        clock = np.where(self.known[at], monotonic, wall)
        own = np.lexsort((sequence, row, lane, clock, boot, device, visit))
        place = (visit[own], device[own], boot[own])
        block = _blocks(place, clock[own], lane[own], row[own])
        own = own[np.lexsort((sequence[own], row[own], block))]
        first = np.flatnonzero(np.r_[True, _changes(visit[own], device[own])])
        size = np.diff(np.r_[first, len(own)])
        share = (np.arange(len(own)) - np.repeat(first, size) + 0.5) / np.repeat(size, size)
        rank[own[np.lexsort((share, visit[own]))]] = np.arange(len(own))
        return rank


def boots_in_order(segments: Iterable[SegmentRow]) -> list[tuple[str, str]]:
    """Return the (epoch, boot) of one device, oldest first, as the chains of both lanes tell.

    The order of a chain is sure, that of its import is not: a second stick may bring the older
    part. A boot that only one lane knows comes right after the one that it follows there.
    """
    rows = list(segments)
    epochs: dict[str, int] = {}
    for row in rows:
        epochs.setdefault(row.epoch, len(epochs))
    result: list[tuple[str, str]] = []
    for lane in sorted({row.lane for row in rows}):
        at, last = 0, None
        mine = (row for row in rows if row.lane == lane)
        for row in sorted(mine, key=lambda row: (epochs[row.epoch], row.number)):
            key = (row.epoch, row.boot)
            if key == last:
                continue
            if key in result:
                at = result.index(key) + 1
            else:
                result.insert(at, key)
                at += 1
            last = key
    return result


def _blocks(place: Sequence[Array], clock: Array, lane: Array, row: Array) -> Array:
    """Number the blocks of sorted rows: what one request left in both lanes is one block.

    PRIORITY is journaled first, BULK right after it, with a clock reading each; between the two
    only the input's row number tells.
    """
    begin = np.r_[True, _changes(*place, clock, lane)]
    first = np.flatnonzero(begin)
    low, high = np.minimum.reduceat(row, first), np.maximum.reduceat(row, first)
    before, after = first[:-1], first[1:]
    same = np.logical_and.reduce([column[before] == column[after] for column in place])
    near = clock[after] - clock[before] < _TOGETHER_NS
    joined = same & near & (lane[before] < lane[after]) & (low[1:] <= high[:-1])
    begin[after[joined]] = False
    return np.cumsum(begin)


def _changes(*columns: Array) -> Array:
    """Return where a row differs from the one before it, without the first."""
    return np.asarray(np.logical_or.reduce([column[1:] != column[:-1] for column in columns]))
