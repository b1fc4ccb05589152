"""Load the slot that should run, watch over its trial, and fall back where it fails.

started = begin_load(home)          which slot; the load mark is in place
session = open_session(...)         if this fails: started.failed(error), and begin again
started.first_result()              after the first answer
started.ripen(rows)                 after every answered block
started.close()                     at an orderly end, also on Ctrl-C
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from device_runtime.disk import Disk, suppress_full
from device_runtime.errors import (
    EdgepackError,
    FormatError,
    NoSlotError,
    RevokedError,
    RunError,
    VerificationError,
)
from device_runtime.generation import Generation, SlotRecord, SlotState
from device_runtime.home import Home
from device_runtime.policy import Policy
from device_runtime.record import Protocol, replace
from device_runtime.slots import marker, rules
from device_runtime.trust.load import LoadedSlot, load_slot

T = TypeVar("T")
KEEP_ROWS_SHARE = 20  # a process that answered a twentieth of `trial_rows` has them kept


class Loader(Protocol):
    """`trust.load.load_slot`, or what a test puts in its place."""

    def __call__(
        self, disk: Disk, slot: Path, *, root_sha256: str, digest: str, policy: Policy
    ) -> LoadedSlot:
        """Verify a slot folder and hand out its bytes."""


class Started:
    """A slot that is being loaded or runs in this process. Made by `begin_load`.

    Attributes:
        slot: Its verified content.
        digest: Its bundle digest.
        degraded: It failed or was revoked, and there was nothing better to run.
    """

    def __init__(self, home: Home, slot: LoadedSlot, record: SlotRecord, mark: marker.Mark) -> None:
        generation = home.generation()
        self.slot = slot
        self.digest = record.digest
        self.degraded = (
            generation.degraded or generation.is_revoked(record) or record.state == "suspended"
        )
        self._home = home
        self._mark: marker.Mark | None = mark
        self._rows = 0
        self._asked = self._answered = False
        self._due_ns = 0
        # Nothing left to prove: ripen() returns at once.
        self._settled = record.state == "good" and not (
            generation.attempts or generation.power_attempts or generation.degraded
        )

    @property
    def state(self) -> SlotState:
        """State of the slot now."""
        record = self._home.generation().slot(self.digest)
        return record.state if record else "rejected"

    def opened(self) -> None:
        """Say that the model is open and waits: a kill from outside is no attempt meanwhile."""
        if self._mark is not None:
            self._mark.note("idle")

    def asked(self) -> None:
        """Say that the first rows go in: until they are answered, a kill is an attempt again."""
        if not self._asked and self._mark is not None:
            self._asked = True
            self._mark.note("asked")

    def first_result(self) -> None:
        """Say that the model has answered: from here on a kill from outside is no attempt."""
        if self._answered or self._mark is None:
            return
        self._mark.note("result")
        self._answered = True
        if self._settled:
            return
        home, generation = self._home, self._home.generation()
        if generation.active != self.digest:
            self._settled = True
            return
        now_s = home.odometer_s()
        if generation.trial_since_s is None:
            with suppress_full():
                generation = home.commit(replace(generation, trial_since_s=now_s))
        done_s = now_s - (now_s if generation.trial_since_s is None else generation.trial_since_s)
        left_s = max(0, generation.policy.trial_seconds - done_s)
        self._due_ns = home.clock.monotonic_ns() + left_s * 1_000_000_000

    def ripen(self, rows: int) -> None:
        """Count answered rows; the slot becomes good when the trial has lasted long enough."""
        if self._settled or not self._answered:
            return
        self._rows += rows
        home, generation = self._home, self._home.generation()
        enough = generation.trial_rows + self._rows >= generation.policy.trial_rows
        if not enough and home.clock.monotonic_ns() < self._due_ns:
            return
        record = generation.slot(self.digest)
        if record is None or generation.active != self.digest:
            self._settled = True
            return
        new = generation
        if record.state != "good":
            new = rules.note(new, "slot.good", version=record.version)
            new = new.with_slot(replace(record, state="good", ever_good=True))
        new = replace(
            new,
            attempts=0,
            crashes=0,
            power_attempts=0,
            degraded=False,
            trial_rows=generation.trial_rows + self._rows,
        )
        with suppress_full():
            home.commit(new)
            self._settled = True
            self.degraded = generation.is_revoked(record)

    def failed(self, error: EdgepackError) -> None:
        """Count a load that ended with an error of the model; the mark is taken away."""
        if self._mark is None:
            return
        found = [marker.Found(self._mark.token, self.digest, "crash", error.what[:80])]
        self._end()
        home = self._home
        home.commit(rules.count(home.generation(), found, home.odometer_s()))

    def close(self) -> None:
        """End in order: no attempt is counted, and the rows of an unfinished trial are kept.

        Only if they are many: a commit costs more than a row, and ten minutes ripen it as well.
        """
        if self._mark is None:
            return
        generation = self._home.generation()
        many = self._rows * KEEP_ROWS_SHARE >= generation.policy.trial_rows
        if many and not self._settled and generation.active == self.digest:
            rows = generation.trial_rows + self._rows
            with suppress_full():
                self._home.commit(replace(generation, trial_rows=rows))
        self._end()

    def _end(self) -> None:
        if self._mark is not None:
            self._mark.remove()
            self._mark = None


def begin_load(home: Home, *, load: Loader = load_slot) -> Started:
    """Settle what became of earlier loads, choose the slot, verify it, and mark the load.

    The home's lock must be held. A slot that no longer verifies is left at once for another.

    Raises:
        NoSlotError: There is no bundle that may run.
        RevokedError: The only bundle was stopped by the base.
        VerificationError, FormatError: The only bundle is damaged.
    """
    generation = _settle(home)
    unusable: set[str] = set()
    broken: EdgepackError | None = None
    while True:
        record = rules.choose(generation, unusable)
        if record is None:
            raise broken or _nothing(generation)
        if record.digest != generation.active:
            with suppress_full():
                new = rules.switch(generation, record.digest, home.odometer_s())
                generation = home.commit(new)
        mark = marker.place(home, record.digest, durable=record.state != "good")
        try:
            slot = load(
                home.disk,
                home.slot_dir(record.digest),
                root_sha256=record.root_sha256,
                digest=record.digest,
                policy=generation.policy,
            )
            return Started(home, slot, record, mark)
        except (VerificationError, FormatError, FileNotFoundError) as error:
            mark.remove()
            broken = _as_broken(error, record)
            unusable.add(record.digest)
            with suppress_full():
                new = rules.damaged(generation, record.digest, broken.what, home.odometer_s())
                generation = home.commit(new)
        except BaseException:
            mark.remove()
            raise


def load_model(
    home: Home, opener: Callable[[LoadedSlot], T], *, load: Loader = load_slot
) -> tuple[Started, T]:
    """Begin a load and open the model with `opener`, falling back while that raises `RunError`.

    Raises:
        RunError: No slot gives a model that opens.
        NoSlotError, RevokedError, VerificationError, FormatError: As `begin_load`.
    """
    while True:
        started = begin_load(home, load=load)
        try:
            model = opener(started.slot)
            started.opened()
            return started, model
        except RunError as error:
            started.failed(error)
            generation = home.generation()
            if generation.degraded and generation.active == started.digest:
                raise
        except BaseException:
            started.close()
            raise


def rollback(home: Home) -> SlotRecord:
    """Go back by hand to the other good slot; what is left is rejected, also on later sticks.

    Raises:
        NoSlotError: There is no other good, unrevoked slot.
    """
    generation = home.generation()
    active = generation.slot(generation.active)
    other = rules.alternative(generation)
    if active is None or other is None or other.state != "good" or generation.is_revoked(other):
        raise NoSlotError("there is no other good bundle on this device to go back to")
    new = rules.note(generation, "slot.rollback", version=active.version, to=other.version)
    new = new.with_slot(replace(active, state="rejected"))
    new = replace(new, rejected=new.rejected | {active.digest})
    home.commit(rules.switch(new, other.digest, home.odometer_s()))
    return other


def _settle(home: Home) -> Generation:
    generation = home.generation()
    found = marker.find(home)
    now_s = home.odometer_s()
    new = rules.settle(rules.count(generation, found, now_s), now_s)
    with suppress_full():
        if new is not generation:
            generation = home.commit(new)
        if found:
            marker.forget(home)
    return generation


def _as_broken(error: Exception, record: SlotRecord) -> EdgepackError:
    if isinstance(error, EdgepackError):
        return error
    return NoSlotError(f"bundle {record.version} is not in its slot any more")


def _nothing(generation: Generation) -> EdgepackError:
    if any(slot.digest in generation.stopped_digests for slot in generation.slots):
        return RevokedError(
            "the base has stopped every bundle of this device",
            next="plug in a stick with a newer bundle and run: edgepack-device sync STICK",
        )
    return NoSlotError("there is no bundle on this device that may run")
