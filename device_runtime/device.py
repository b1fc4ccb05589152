"""One device in Python: `Device.open(home).predict(rows)`.

A `Device` owns its home: one process at a time. Inside the process two threads may work at once:
one that answers rows, one that syncs a stick. Two locks keep them apart:

- `_commit` is held by whoever changes the generation (install, acks, rollback) for as long as it
  takes; the answering thread only *tries* it, and counts trial rows later if it is taken;
- `_guard` is held for one block of rows, one label, one call into the journal: never for long.

`_commit` is always taken first. So a request waits for a block or a seal, never for a stick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from device_runtime.clock import Clock, SystemClock
from device_runtime.disk import Disk, RealDisk
from device_runtime.errors import EdgepackError, InputError, NoSlotError, RollbackError
from device_runtime.format import canonical
from device_runtime.format.batch import Text
from device_runtime.format.segment import Epoch, Lane
from device_runtime.generation import Generation
from device_runtime.home import Home, open_home
from device_runtime.journal.writer import Journal
from device_runtime.record import replace

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

SKETCH_ROWS = 1000  # a sealed segment of fewer rows is not worth a sketch


class _Guarded:
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


class Device:
    """A device home that this process owns. Made by `Device.open`; close it, or use `with`."""

    def __init__(self, home: Home, journal: Journal, engine: Engine, stack: ExitStack) -> None:
        self.home = home
        self._engine: Engine = engine
        self._stack = stack
        self._guard = RLock()
        self._commit = RLock()
        self._journal = journal
        self._loaded: Loaded | None = None
        self._using = ""
        self.journal = cast("Journal", _Guarded(journal, self._guard))
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
        home = open_home(Path(path), disk=disk, clock=clock, disk_id=disk_id)
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
            device = cls(home, journal, engine, stack.pop_all())
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
        """End in order: keep the sentinel, seal the journal, give up the home."""
        with self._commit, self._guard:
            loaded, self._loaded = self._loaded, None
            with self._stack:
                if loaded is not None:
                    loaded.retire()

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
        found = self.predict_block(self._as_block(rows))
        self.journal.sync()
        return found

    def _as_block(self, rows: Any) -> RawBlock:
        from device_runtime.model.rows import from_columns, from_rows

        if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
            columns = {str(name): rows[name].to_numpy() for name in rows.columns}
            return from_columns(columns, len(rows))
        if isinstance(rows, Mapping):
            sizes = {len(values) for values in rows.values()}
            if len(sizes) != 1:
                raise InputError("the columns do not have the same number of rows")
            return from_columns(rows, sizes.pop())
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            return from_rows(rows, self.load().schema)
        raise InputError("rows must be mappings, a dict of columns, or a DataFrame")

    def predict_block(self, block: RawBlock, stream: Stream | None = None) -> Predicted:
        """Answer one block; it is journaled but not yet durable: see `predict`."""
        while True:
            loaded = self._ready()
            with self._guard:
                if self._loaded is not loaded:
                    continue  # a switch came in between
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

        slot = self.load()
        if not isinstance(target, Path):
            return stream.run_pipe(
                self.predict_block,
                self.journal,
                slot.schema,
                source,
                target,
                name=name,
                ndjson=ndjson,
                progress=progress,
            )
        return stream.run_file(
            self.predict_block,
            self.journal,
            slot.schema,
            source,
            target,
            disk=self.home.disk,
            bundle=slot.digest,
            name=name,
            ndjson=ndjson,
            resume=resume,
            progress=progress,
        )

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

    # --- labels ------------------------------------------------------------------------------

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
        from device_runtime.labels import as_truth, is_record_id

        schema = self._known_schema()
        observed = self.home.clock.wall_ns() if wall_ns is None else wall_ns
        count = 0
        for ref, value in pairs:
            by = "record" if is_record_id(ref) else "key"
            if by == "key" and schema is None:
                raise NoSlotError("there is no bundle on this device that says what a key is")
            truth = as_truth(schema, value)
            self.journal.append_label(ref, truth, by=by, source=source, observed_wall_ns=observed)
            count += 1
            if count % 1000 == 0:
                progress(count)
        self.journal.sync()
        return count

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
        from device_runtime.format.columns import decode_columns
        from device_runtime.model.rows import template

        slot = self._slot()
        if slot is None:
            raise NoSlotError("there is no bundle on this device")
        if "selftest.cols" not in slot.files:
            return template(slot.schema)
        _, columns, _ = decode_columns(slot.read("selftest.cols"))
        example = {
            column.name: columns[column.name].strings()[0]
            if isinstance(columns[column.name], Text)
            else columns[column.name][0].tolist()
            for column in slot.schema.given
            if column.name in columns
        }
        return template(slot.schema, example)

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
        from device_runtime.trust.load import load_slot

        generation = self.home.generation()
        record = generation.slot(generation.active)
        if record is None:
            return None
        return load_slot(
            self.home.disk,
            self.home.slot_dir(record.digest),
            root_sha256=record.root_sha256,
            digest=record.digest,
            policy=generation.policy,
        )

    # --- bundles and sticks ------------------------------------------------------------------

    def install(self, file: str | Path, *, retry: bool = False) -> Installed:
        """Install a bundle by hand and switch to it.

        Raises:
            RollbackError: It is older than what is trusted.
            FormatError, VerificationError, InstallError: It is refused; the old one runs on.
        """
        with self._commit:
            found = self._install(Path(file), retry=retry)
        if found.outcome == "older":
            self._refused(Path(file), error := RollbackError(found.note))
            raise error
        return found

    def _install(self, file: Path, *, retry: bool = False) -> Installed:
        from device_runtime.slots.install import install

        try:
            found = install(self.home, file, retry=retry)
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

    def _downgrade(self, token: bytes) -> bool:
        from device_runtime.slots.install import downgrade

        done = downgrade(self.home, token)
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

    # --- keeping -----------------------------------------------------------------------------

    def _on_seal(self, lane: Lane, first: int, last: int) -> bytes | None:
        """Give the journal a sketch of what it seals: it stays when the rows are evicted."""
        if lane is not Lane.BULK or self._loaded is None:
            return None
        sentinel = self._loaded.predictor.sentinel
        if sentinel is None or last < first:
            return None
        sketch = sentinel.take(SKETCH_ROWS)
        if sketch is None:
            return None
        return canonical.encode({**sketch.to_json(), "bundle": self._loaded.started.digest})

    def _tell_events(self) -> None:
        """Journal what the generation remembers to have happened, then let it forget."""
        with self._commit:
            generation = self.home.generation()
            if not generation.events:
                return
            for kind, data in generation.events:
                self.journal.append_event(kind, data)
            self.journal.sync()
            self.home.commit(replace(generation, events=()))


def _epoch(generation: Generation) -> Epoch:
    if generation.epoch_parent is None:
        return Epoch(generation.epoch)
    from device_runtime.courier import epoch_of

    return epoch_of(generation)
