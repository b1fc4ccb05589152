"""One simulated device, and the keys of one simulated base.

Only the disk, the clock and the kit are made up: journal and courier are the ones that ship.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from device_runtime.courier import begin_epoch, epoch_of
from device_runtime.crypt import Identity, RecipientKey, generate_recipient
from device_runtime.disk import Disk
from device_runtime.errors import IncompatibleError
from device_runtime.format.batch import Answers, Batch
from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from device_runtime.format.segment import Lane, Rows
from device_runtime.home import create_home, open_home
from device_runtime.journal.writer import Journal
from device_runtime.policy import Policy
from device_runtime.visit import SyncReport, visit
from edgepack.sim.chance import chance, drawn_from
from edgepack.sim.clock import FixedClock

BUNDLE = "sim"


@dataclass(frozen=True, slots=True)
class SimKit:
    """What a home is made of."""

    device_name: str
    kit_id: str
    policy: Policy
    device_class: str = "sim"
    bundle_name: str = BUNDLE
    floor: int = 1_700_000_000
    roots: Mapping[int, bytes] = field(
        default_factory=lambda: {1: b'{"signed":{"version":1},"signatures":[]}'}
    )


def sim_schema() -> Schema:
    """Return the smallest schema: one number in, one class out."""
    return Schema(
        task="binary",
        columns=(
            Column("row", "key", "int64"),
            Column("x", "input", "float64"),
            Column("y", "target", "string", categories=("no", "yes")),
        ),
        inputs=(ModelInput("x", "float32", ("x",)),),
        output=ModelOutput(("no", "yes"), "p"),
    )


class SimDevice:
    """A device: its home, its journal while it runs, and what it believes to be durable.

    Attributes:
        name: Alias.
        durable: Ids of records that the journal reported durable.
        lane_of: Id → lane.
        journal: None while it is switched off.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        kit: SimKit,
        *,
        disk: Disk,
        clock: FixedClock,
        disk_id: str,
        new: bool = True,
    ) -> None:
        self.name = name
        self.root = root
        self.disk = disk
        self.clock = clock
        self.disk_id = disk_id
        self.kit = kit
        self.journal: Journal | None = None
        self.durable: set[str] = set()
        self.lane_of: dict[str, int] = {}
        self._appended: dict[Lane, list[tuple[str, int]]] = {}
        if new:
            create_home(root, kit, disk=disk, clock=clock, disk_id=disk_id)
        self.home = open_home(root, disk=disk, clock=clock, disk_id=disk_id)
        self.identity: Identity = self.home.identity()

    # --- running -----------------------------------------------------------------------------

    def start(self) -> Journal:
        """Switch on: recover, salvage, begin a new epoch when the disk is another one."""
        if self.journal is None:
            self.home = open_home(self.root, disk=self.disk, clock=self.clock, disk_id=self.disk_id)
            self.home.recover()
            generation = self.home.generation()
            journal = Journal.open(
                self.home.journal,
                disk=self.disk,
                clock=self.clock,
                identity=self.identity,
                policy=generation.policy,
                epoch=epoch_of(generation),
            )
            journal.mark_acked(generation.acked)
            if self.home.moved:
                begin_epoch(self.home, journal, "disk")
            journal.use(BUNDLE, sim_schema(), 1, "0" * 64)
            self.journal = journal
            self._appended = {}
        return self.journal

    def stop(self) -> None:
        """Switch off in order."""
        if self.journal is not None:
            journal = self.journal
            journal.close()
            self.note_durable(journal)
            self.journal = None

    def take_policy(self, policy: Policy) -> None:
        """Take over a policy that came with a bundle; the next start goes by it."""
        self.stop()
        generation = self.home.generation()
        if generation.policy != policy:
            self.home.commit(replace(generation, policy=policy))

    def crash(self) -> None:
        """The process is gone; its memory with it."""
        self.journal = None
        self._appended = {}

    # --- records -----------------------------------------------------------------------------

    def rows(self, values: list[int], *, sync: bool) -> None:
        """Journal one row for each value; each value is used once in a world."""
        journal = self.start()
        n = len(values)
        batch = Batch(n, {"row": array("q", values), "x": array("d", [float(v) for v in values])})
        answers = Answers(n, array("h", [0] * n), array("f", [0.5] * (2 * n)), 2)
        first, prefix = journal.append_rows(Rows(batch, answers, array("H", [0] * n)), Lane.BULK)
        if first >= 0:
            self._note(Lane.BULK, [(f"{prefix}{first + i}", first + i) for i in range(n)])
        if sync:
            journal.sync()
        self.note_durable(journal)

    def label(self, value: int, *, sync: bool = True) -> None:
        """Journal one label."""
        journal = self.start()
        record = journal.append_label(
            str(value), "yes", by="key", source="sim", observed_wall_ns=self.clock.wall_ns()
        )
        if record is not None:
            self._note(Lane.PRIORITY, [(record.text(), record.sequence)])
        if sync:
            journal.sync()
        self.note_durable(journal)

    def seal(self) -> None:
        """Seal what is open."""
        journal = self.start()
        journal.seal("age")
        self.note_durable(journal)

    def _note(self, lane: Lane, records: list[tuple[str, int]]) -> None:
        self._appended.setdefault(lane, []).extend(records)
        self.lane_of.update((text, int(lane)) for text, _ in records)

    def note_durable(self, journal: Journal) -> None:
        """Write down what the journal says would survive a power cut now."""
        for lane, records in self._appended.items():
            upto = journal.durable_upto(lane)
            epoch = f"/{journal.epoch.id}/"
            done = [text for text, number in records if number < upto or epoch not in text]
            self.durable.update(done)
            self._appended[lane] = [item for item in records if item[0] not in self.durable]

    # --- the stick ---------------------------------------------------------------------------

    def sync(self, stick: Path) -> SyncReport:
        """Do what plugging in a stick does."""
        journal = self.start()
        report = visit(
            self.home,
            journal,
            stick,
            install=_no_bundles,
            downgrade=lambda _file, _token: False,
            status=dict,
            step=lambda _what: None,
        )
        self.note_durable(journal)
        return report


def _no_bundles(path: Path) -> NoReturn:
    raise IncompatibleError(f"{path.name} is not for a simulated device")


@dataclass
class SimRing:
    """Keys of a base: enough for `sync`."""

    base: Identity = field(default_factory=Identity.generate)
    secrets: dict[str, bytes] = field(default_factory=dict)
    recovery: tuple[bytes, RecipientKey] = field(default_factory=generate_recipient)
    current: tuple[bytes, RecipientKey] = field(default_factory=generate_recipient)

    def __post_init__(self) -> None:
        self.secrets[self.current[1].id] = self.current[0]

    def journal_secrets(self) -> dict[str, bytes]:
        """Return the journal keys at hand."""
        return dict(self.secrets)

    def identity(self) -> Identity:
        """Return the base's own keys."""
        return self.base

    def rotate(self) -> None:
        """Draw a new journal key; the old one stays until `drop_oldest`."""
        self.current = generate_recipient()
        self.secrets[self.current[1].id] = self.current[0]

    def drop_oldest(self) -> None:
        """Lose the oldest journal key (a mistake that the recovery key heals)."""
        if len(self.secrets) > 1:
            del self.secrets[next(iter(self.secrets))]

    def recover(self) -> None:
        """Bring the offline recovery key."""
        self.secrets[self.recovery[1].id] = self.recovery[0]

    def policy(self, *, quota_bytes: int, segment_bytes: int, **more: Any) -> Policy:
        """Return what devices of this base go by."""
        public = self.base.public
        return Policy(
            "sim",
            recipients=(self.current[1].raw.hex(), self.recovery[1].raw.hex()),
            ack_keys=((public.ed25519.hex(), public.mldsa65.hex()),),
            strict=False,
            quota_bytes=quota_bytes,
            reserve_bytes=64 << 10,
            segment_bytes=segment_bytes,
            **more,
        )


def lab_ring() -> SimRing:
    """Return keys that are the same in every laboratory: drawing them costs more than use."""
    with drawn_from(chance("ring")):
        return SimRing()
