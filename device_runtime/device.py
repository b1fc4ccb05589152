"""One device in Python: `Device.open(home).predict(rows)`.

A `Device` owns its home: one process at a time. Inside the process two threads may work at once:
one that answers rows, one that syncs a stick. Two locks keep them apart:

- `_commit` is held by whoever changes the generation (install, acks, rollback) for as long as it
  takes; the answering thread only *tries* it, and counts trial rows later if it is taken;
- `_guard` is held for one block of rows, one label, one call into the journal: never for long.

`_commit` is always taken first. So a request waits for a block or a seal, never for a stick.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from device_runtime.clock import Clock, SystemClock
from device_runtime.disk import Disk, RealDisk
from device_runtime.errors import EdgepackError, NoSlotError, RollbackError
from device_runtime.format.segment import Lane
from device_runtime.generation import Generation
from device_runtime.home import Home
from device_runtime.journal.writer import Journal
from device_runtime.owned import Closed, Guarded, active_slot, own, tell_events

if TYPE_CHECKING:
    from device_runtime.answer import Predicted
    from device_runtime.format.schema import Schema
    from device_runtime.loaded import Loaded
    from device_runtime.model.rows import RawBlock
    from device_runtime.model.session import Engine
    from device_runtime.predictor import Stream
    from device_runtime.slots.install import Installed
    from device_runtime.stream import StreamResult
    from device_runtime.trust.load import LoadedSlot
    from device_runtime.visit import SyncReport


class Device:
    """A device home that this process owns. Made by `Device.open`; close it, or use `with`."""

    def __init__(self, home: Home, journal: Journal, engine: Engine, stack: ExitStack) -> None:
        self.home = home
        self._engine: Engine = engine
        self._stack = stack
        self._guard: Any = RLock()  # `Closed` in the end, as `_commit`
        self._commit: Any = RLock()
        self._journal = journal
        self._loaded: Loaded | None = None
        self._using = ""
        self._writing: dict[Path, Any] = {}
        self.journal = cast("Journal", Guarded(journal, self._guard))
        journal.on_seal = self._on_seal

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        engine: Engine = "capi",
        disk_id: str | None = None,
    ) -> Self:
        """Own a home, recover its journal, and be ready.

        Args:
            path: The home.
            disk: Where it lies; this machine's by default.
            clock: Clocks; this machine's by default.
            engine: How models run: `capi`, or the official binding (`python`).
            disk_id: Identity of the disk; measured when None.

        Raises:
            NotInitialisedError: There is no home.
            BusyError: Another process owns it.
            JournalError: The journal cannot be opened.
        """
        disk, clock = disk or RealDisk(), clock or SystemClock()
        home, journal, stack = own(Path(path), disk, clock, disk_id)
        device = cls(home, journal, engine, stack)
        try:
            device._tell_events()
        except BaseException:
            device.close()
            raise
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End in order: keep the sentinel, seal the journal, give up the home; once."""
        if isinstance(self._commit, Closed):
            return
        with self._commit, self._guard, self._stack:
            try:
                self._sketch_alone()
                loaded, self._loaded = self._loaded, None
                if loaded is not None:
                    loaded.retire()
            finally:
                self._commit = self._guard = self.journal = cast("Any", Closed())

    def tick(self) -> None:
        """Do what is due: group sync, seals by age, odometer. Call it every 100 ms or so."""
        with self._guard:
            self._journal.tick()
        self.home.tick()

    @property
    def generation(self) -> Generation:
        """What counts now."""
        return self.home.generation()

    # --- answers -----------------------------------------------------------------------------

    def load(self) -> LoadedSlot:
        """Load the active bundle now, not at the first row; return it.

        Raises:
            NoSlotError: There is no bundle that may run.
        """
        return self._ready().started.slot

    def predict(self, rows: Sequence[Mapping[str, Any]] | Any) -> Predicted:
        """Answer rows, journal them, and return when they are durable.

        Args:
            rows: One mapping per row, or a table whose columns can be had by name (a pandas
                DataFrame, a dict of lists or arrays).

        Raises:
            NoSlotError: There is no bundle that may run.
            InputError: The rows have no shape at all; bad values only flag their row.
            RunError, JournalError: The model or the journal failed.
        """
        from device_runtime.tables import block_of

        found = self.predict_block(block_of(rows, self.load().schema))
        self.journal.sync()
        return found

    def predict_block(self, block: RawBlock, stream: Stream | None = None) -> Predicted:
        """Answer one block; it is journaled but not yet durable: see `predict`."""
        while True:
            loaded = self._ready()
            with self._guard:
                if self._loaded is not loaded:
                    continue  # a switch came in between
                loaded.started.asked()
                found = loaded.predictor.predict(block, stream)
                self._count(loaded, found.n)
                return found

    def predict_stream(
        self,
        source: BinaryIO,
        target: BinaryIO | Path,
        *,
        name: str = "",
        ndjson: bool = False,
        resume: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> StreamResult:
        """Answer a whole input; see `device_runtime.stream`."""
        from device_runtime import stream

        slot, prepare = self.load(), self._ready().predictor.checked
        run = stream.Run(
            self.predict_block, prepare, self.journal, slot.schema, source, name, ndjson, progress
        )
        if not isinstance(target, Path):
            return stream.to_pipe(run, target)
        disk = self.home.disk
        with self._writing.setdefault(target.resolve(), RLock()):  # one run writes a file
            return stream.to_file(run, target, disk=disk, bundle=slot.digest, resume=resume)

    def _count(self, loaded: Loaded, rows: int) -> None:
        loaded.count(rows)
        if self._commit.acquire(blocking=False):  # else an install is at work: the trial waits
            try:
                loaded.ripen()
            finally:
                self._commit.release()

    def _ready(self) -> Loaded:
        loaded = self._loaded
        if loaded is None:
            with self._commit:
                loaded = self._loaded
                if loaded is None:
                    loaded = self._load()
                    with self._guard:
                        self._use(loaded.started.slot)
                        self._loaded = loaded
                    self._tell_events()
        return loaded

    def _load(self) -> Loaded:
        from device_runtime.loaded import load

        return load(self.home, self._journal, self._engine)

    def _use(self, slot: LoadedSlot) -> None:
        if self._using != slot.digest:
            self._journal.use(slot.name, slot.schema, slot.version, slot.digest)
            self._using = slot.digest

    def label(
        self, ref: str, value: object, *, source: str = "person", wall_ns: int | None = None
    ) -> None:
        """Journal the truth about a row, durably.

        Args:
            ref: Its record id, or the value of its key column.
            value: The truth.
            source: Who says so.
            wall_ns: When it became known; now by default.

        Raises:
            InputError: The value cannot be one of this bundle's target.
            NoSlotError: A key was given, and there is no bundle that says what a key is.
        """
        self.labels([(ref, value)], source=source, wall_ns=wall_ns)

    def labels(
        self,
        pairs: Iterable[tuple[str, object]],
        *,
        source: str = "person",
        wall_ns: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Journal many truths; return how many, when they are durable."""
        from device_runtime.labels import journal_labels

        observed = self.home.clock.wall_ns() if wall_ns is None else wall_ns
        return journal_labels(self.journal, self._known_schema(), pairs, source, observed, progress)

    def label_file(
        self, stream: BinaryIO, *, progress: Callable[[int], None] = lambda _: None
    ) -> int:
        """Journal a CSV file of truths; see `device_runtime.labels.read_labels`."""
        from device_runtime.labels import read_labels

        return self.labels(read_labels(stream, self._known_schema()), progress=progress)

    def template(self) -> str:
        """Return a CSV header and one real row of the self-test, as `predict` wants them.

        Raises:
            NoSlotError: There is no bundle.
        """
        from device_runtime.tables import example

        slot = self._slot()
        if slot is None:
            raise NoSlotError("there is no bundle on this device")
        return example(slot)

    def _known_schema(self) -> Schema | None:
        """Return the active bundle's schema; the journal then knows which keys to hash."""
        slot = self._slot()
        if slot is None:
            return None
        with self._guard:
            self._use(slot)
        return slot.schema

    def _slot(self) -> LoadedSlot | None:
        """Return the active slot, verified; its model is not loaded for this."""
        if self._loaded is not None:
            return self._loaded.started.slot
        return active_slot(self.home)

    # --- bundles and sticks ------------------------------------------------------------------

    def install(self, file: str | Path, *, retry: bool = False) -> Installed:
        """Install a bundle by hand and switch to it.

        Raises:
            RollbackError: It is older than what is trusted.
            FormatError, VerificationError, InstallError: It is refused; the old one runs on.
        """
        with self._commit:
            found = self._install(Path(file), retry=retry, whole=True)
        if found.outcome == "older":
            self._refused(Path(file), error := RollbackError(found.note))
            raise error
        return found

    def _install(self, file: Path, *, retry: bool = False, whole: bool = False) -> Installed:
        from device_runtime.slots.install import install

        try:
            found = install(self.home, file, retry=retry, whole=whole)
        except EdgepackError as error:
            self._tell_events()
            self._refused(file, error)
            raise
        self._tell_events()
        self._switch()
        return found

    def _refused(self, file: Path, error: EdgepackError) -> None:
        data = {"file": file.name[:200], "code": error.code, "what": error.what[:500]}
        self.journal.append_event("refused", data)
        self.journal.sync()

    def rollback(self) -> int:
        """Go back to the other good bundle; return its version.

        Raises:
            NoSlotError: There is none.
        """
        from device_runtime.slots.slot import rollback

        with self._commit:
            record = rollback(self.home)
            self._tell_events()
            self._switch()
        return record.version

    def _downgrade(self, file: str, token: bytes) -> bool:
        from device_runtime.slots.install import downgrade

        try:
            done = downgrade(self.home, token)
        except EdgepackError as error:
            self._refused(Path(file), error)
            raise
        self._tell_events()
        self._switch()
        return done

    def sync(
        self, stick: str | Path, *, step: Callable[[str], None] = lambda _: None
    ) -> SyncReport:
        """Do a whole visit of a stick; see `device_runtime.visit`.

        Raises:
            StickError: The stick was pulled or fails; repeat the visit.
        """
        from device_runtime import health, visit

        with self._commit:
            self._sketch_alone(least=1)
            self.save()
            return visit.visit(
                self.home,
                self.journal,
                Path(stick),
                install=self._install,
                downgrade=self._downgrade,
                status=lambda: health.report_status(self.home),
                step=step,
            )

    def preview(self, stick: str | Path) -> dict[str, Any]:
        """Say what `sync` would do; writes nothing."""
        from device_runtime import visit

        return visit.preview(self.home, self.journal, Path(stick))

    def _switch(self) -> None:
        """Load the active bundle beside the running one, then change over between two blocks."""
        old = self._loaded
        if old is None or old.started.digest == self.home.generation().active:
            return
        new = self._load()
        with self._guard:
            self._use(new.started.slot)
            self._loaded = new
            old.retire()
        self._tell_events()

    def save(self) -> None:
        """Write the sentinel's note now, so that `status` sees the newest counts."""
        with self._guard:
            if self._loaded is not None:
                self._loaded.save()

    def _on_seal(self, lane: Lane, first: int, last: int) -> bytes | None:
        """Give the journal a sketch of what it seals: it stays when the rows are evicted."""
        asked = self._loaded if lane is Lane.BULK and last >= first else None
        return asked.take_sketch() if asked else None

    def _sketch_alone(self, **least: int) -> None:
        """Journal a sketch where the policy keeps no rows: no segment of theirs asks for one."""
        alone = self._loaded if self.generation.policy.log_mode == "sketch" else None
        if alone and (taken := alone.take_sketch(**least)):
            self.journal.append_sketch(taken)

    def _tell_events(self) -> None:
        """Journal what the generation remembers to have happened, then let it forget."""
        with self._commit:
            tell_events(self.home, self.journal)
