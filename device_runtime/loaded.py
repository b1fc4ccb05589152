"""A bundle that runs in this process: its slot, its predictor, and the sentinel's note on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.crypt import get_ready_to_wrap
from device_runtime.disk import Disk, write_all
from device_runtime.format import canonical, sketch
from device_runtime.home import Home
from device_runtime.journal.writer import Journal
from device_runtime.later import Later
from device_runtime.model.sentinel import Sentinel
from device_runtime.model.session import Engine, open_session
from device_runtime.predictor import Predictor
from device_runtime.slots.slot import Started, load_model
from device_runtime.trust.load import LoadedSlot

if TYPE_CHECKING:
    from device_runtime.model.unlike import Unlike

SAVE_ROWS = 20_000  # the sentinel's note is written at least every so many rows
SKETCH_ROWS = 1000  # fewer rows are not worth a sketch
PROFILE = "profile.json"
UNLIKE = "unlike.bin"


class Loaded:
    """Made by `load`.

    Attributes:
        started: The slot and its trial.
        predictor: What answers rows.
    """

    def __init__(self, home: Home, started: Started, predictor: Predictor) -> None:
        self.started = started
        self.predictor = predictor
        self._home = home
        self._unsaved = 0
        self._unripe = 0

    def count(self, rows: int) -> None:
        """Count answered rows, for the trial and for the note."""
        self._unripe += rows
        self._unsaved += rows
        if self._unsaved >= SAVE_ROWS:
            self.save()

    def take_sketch(self, least: int = SKETCH_ROWS) -> bytes | None:
        """Return what the sentinel counted since the last call, encoded; None if too few rows."""
        sentinel = self.predictor.sentinel
        if sentinel is None or (taken := sentinel.take(least)) is None:
            return None
        self._unsaved += 1  # a note that has these rows still would count them twice
        return canonical.encode({**taken.to_json(), "bundle": self.started.digest})

    def ripen(self) -> None:
        """Tell the trial what was answered. Commits the generation now and then."""
        if self._unripe:
            self.started.first_result()
            self.started.ripen(self._unripe)
            self._unripe = 0

    def retire(self) -> None:
        """End in order."""
        self.save()
        self.ripen()
        self.started.close()
        self.predictor.session.close()

    def save(self) -> None:
        """Write the sentinel's note; not synced: a power cut may cost a window of counts."""
        sentinel, disk, folder = self.predictor.sentinel, self._home.disk, self._home.sentinel
        if sentinel is None or not self._unsaved:
            return
        self._unsaved = 0
        path = _note(self._home, self.started.digest)
        part = path.with_suffix(".tmp")
        disk.unlink(part)
        handle = disk.create(part)
        try:
            write_all(handle, sentinel.to_bytes())
        finally:
            handle.close()
        disk.rename(part, path)
        kept = {slot.digest for slot in self._home.generation().slots}
        for name in disk.list(folder):
            if name.removesuffix(".json") not in kept:
                disk.unlink(folder / name)


def load(home: Home, journal: Journal, engine: Engine) -> Loaded:
    """Load the bundle that is to run, falling back where one does not open.

    Raises:
        NoSlotError, RevokedError, RunError, VerificationError: Nothing runs; see `slots.slot`.
    """
    policy = home.generation().policy

    def opener(slot: LoadedSlot) -> Predictor:
        opening = Later(
            lambda: open_session(slot.model, slot.schema, engine=engine, threads=policy.threads)
        )
        try:
            sentinel, reference = _watchers(home, slot)
            get_ready_to_wrap()  # the key of the first segment
        finally:
            opening.join()
        session = opening.result()
        clock = home.clock
        return Predictor(slot.schema, session, journal, clock, sentinel=sentinel, unlike=reference)

    started, predictor = load_model(home, opener)
    return Loaded(home, started, predictor)


def _watchers(home: Home, slot: LoadedSlot) -> tuple[Sentinel | None, Unlike | None]:
    policy = home.generation().policy
    sentinel, reference = None, None
    if PROFILE in slot.files:
        profile = sketch.from_json(canonical.decode(slot.read(PROFILE), PROFILE))
        note = _read_or_none(home.disk, _note(home, slot.digest))
        limits = (policy.psi_cooling, policy.psi_cold)
        sentinel = Sentinel.load(note, profile, slot.schema, limits)
        if policy.log_mode != "sketch":
            sentinel.take(1)  # a sketch stands for the rows of one segment
    if UNLIKE in slot.files:
        from device_runtime.model.unlike import Unlike

        reference = Unlike.from_bytes(slot.read(UNLIKE), slot.schema)
    return sentinel, reference


def _note(home: Home, digest: str) -> Path:
    return home.sentinel / f"{digest}.json"


def _read_or_none(disk: Disk, path: Path) -> bytes | None:
    try:
        return disk.read(path, canonical.MAX_BYTES)
    except OSError:
        return None
