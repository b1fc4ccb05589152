"""Owning a home: its lock, its journal, and what the generation wants to be told."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NoReturn

from device_runtime.clock import Clock
from device_runtime.disk import Disk
from device_runtime.errors import UsageError
from device_runtime.format.segment import Epoch
from device_runtime.generation import Generation, SlotRecord
from device_runtime.home import Home, open_home
from device_runtime.journal.writer import Journal
from device_runtime.record import replace
from device_runtime.trust.load import LoadedSlot


class Guarded:
    """A journal whose every method takes the lock: for the courier, beside requests."""

    def __init__(self, journal: Journal, guard: AbstractContextManager[Any]) -> None:
        self._journal = journal
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        if not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            with self._guard:
                return found(*args, **named)

        return call


class Closed:
    """In the place of a closed device's locks and journal: another process may own the home now."""

    def __enter__(self) -> NoReturn:
        raise UsageError("this device is closed", next="open it again: Device.open(home)")

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> NoReturn:
        self.__enter__()


def own(
    path: Path, disk: Disk, clock: Clock, disk_id: str | None
) -> tuple[Home, Journal, ExitStack]:
    """Own a home and recover its journal; closing the stack gives both up.

    Raises:
        NotInitialisedError: There is no home.
        BusyError: Another process owns it.
        JournalError: The journal cannot be opened.
    """
    home = open_home(path, disk=disk, clock=clock, disk_id=disk_id)
    with ExitStack() as stack:
        stack.enter_context(home.lock())
        generation = home.generation()
        journal = Journal.open(
            home.journal,
            disk=disk,
            clock=clock,
            identity=home.identity(),
            policy=generation.policy,
            epoch=_epoch(generation),
        )
        stack.callback(journal.close)
        journal.mark_acked(generation.acked)
        if home.moved:
            from device_runtime.courier import begin_epoch

            begin_epoch(home, journal, "disk")
            home.settle_disk()
        return home, journal, stack.pop_all()


def _epoch(generation: Generation) -> Epoch:
    if generation.epoch_parent is None:
        return Epoch(generation.epoch)
    from device_runtime.courier import epoch_of

    return epoch_of(generation)


def tell_events(home: Home, journal: Journal) -> None:
    """Journal what the generation remembers to have happened, then let it forget."""
    generation = home.generation()
    if not generation.events:
        return
    for kind, data in generation.events:
        journal.append_event(kind, data)
    journal.sync()
    home.commit(replace(generation, events=()))


def active_slot(home: Home) -> LoadedSlot | None:
    """Return the active slot, verified; its model is not opened for this."""
    generation = home.generation()
    record = generation.slot(generation.active)
    return None if record is None else load_record(home, record)


def load_record(home: Home, record: SlotRecord) -> LoadedSlot:
    """Return the slot of a record, verified."""
    from device_runtime.trust.load import load_slot

    return load_slot(
        home.disk,
        home.slot_dir(record.digest),
        root_sha256=record.root_sha256,
        digest=record.digest,
        policy=home.generation().policy,
    )
