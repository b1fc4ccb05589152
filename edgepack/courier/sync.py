"""The base's verb: import what came, acknowledge it, hand out the newest bundles.

Order (found by a model, see docs/adr): enrolments → held → packs (each: archive, then registry) →
reports → view → acks → bundles → delete packs that are registered → sync and read everything back.
A stick that is pulled at any moment leaves this base whole and the stick usable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from device_runtime.clock import Clock
from device_runtime.courier.stick import Stick
from device_runtime.crypt import Identity
from device_runtime.disk import Disk
from device_runtime.errors import EdgepackError, StickFullError
from edgepack.courier.acks import has_backup, read_reports, write_acks
from edgepack.courier.bundles import put_bundles, put_tokens, take_roots
from edgepack.courier.importer import Importer, clean_stick
from edgepack.courier.tally import Tally
from edgepack.fleet import devices as fleet
from edgepack.fleet import sticks
from edgepack.fleet.devices import NewDevice
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import Registry
from edgepack.store.archive import Archive
from edgepack.workspace import Workspace


class RingLike(Protocol):
    """What a sync needs of the key ring."""

    def journal_secrets(self) -> dict[str, bytes]:
        """Recipient id → secret of every journal key at hand."""
        ...

    def identity(self) -> Identity:
        """The base's own keys: they sign acks."""
        ...


@dataclass(slots=True)
class SyncResult:
    """What came, what went, and whether the stick may be pulled.

    Attributes:
        tally: What was imported.
        acks: Acks on the stick.
        bundles: Bundles on the stick for devices of this base, as `name version`.
        tokens: Downgrade tokens on the stick.
        removed: Packs that were deleted from the stick.
        new_devices: Devices that wait for `accept`.
        accepted: Names that were accepted now.
        view_rows: Rows that were appended to the tables.
        verified: Whether what was written was read back from the medium.
        lines: Everything else that a person should know, one line each.
        dry_run: Nothing was written anywhere.
        archive_only: Acks do not wait for a backup, because none was ever made.
        error: What the exit code shall say although everything on the stick was imported.
    """

    tally: Tally
    acks: int = 0
    bundles: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    removed: int = 0
    new_devices: list[NewDevice] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    view_rows: int = 0
    verified: bool = False
    lines: list[str] = field(default_factory=list)
    dry_run: bool = False
    archive_only: bool = False
    error: EdgepackError | None = None

    def came(self) -> str:
        """Return the line that says what came."""
        tally = self.tally
        if not tally.segments:
            what = "nothing new"
        else:
            parts = [_count(tally.rows, "row")] if tally.rows or not tally.records else []
            parts += [_count(tally.labels, "label")] if tally.labels else []
            what = " and ".join(parts) or _count(tally.records, "event")
            who = ", ".join(sorted(tally.devices)) or "held journals"
            what += f" in {_count(tally.segments, 'segment')} from {who}"
        extra = [
            f"{count} {word}"
            for count, word in ((tally.held, "held"), (tally.quarantined, "quarantined"))
            if count
        ]
        return "came: " + "; ".join([what, *extra])

    def went(self) -> str:
        """Return the line that says what went, and whether the stick may be pulled."""
        if self.dry_run:
            return "went: nothing, this was a dry run; the stick may be removed"
        parts = [f"acks for {_count(self.acks, 'device')}"]
        parts += self.bundles + self.tokens
        medium = "" if self.verified else " (not verified on the medium)"
        return f"went: {', '.join(parts)}; safe to remove{medium}"

    def next(self) -> str:
        """Return what to do now."""
        if self.new_devices:
            name = self.new_devices[0].name
            return f"compare the words, then: edgepack sync STICK --accept {name}"
        return "carry the stick to the devices"

    def as_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        tally = self.tally
        return {
            "imported": tally.rows,
            "records": tally.records,
            "segments": tally.segments,
            "labels": tally.labels,
            "duplicates": tally.duplicates,
            "held": tally.held,
            "quarantined": tally.quarantined,
            "acks": self.acks,
            "bundles": self.bundles,
            "tokens": self.tokens,
            "packs_removed": self.removed,
            "devices": sorted(tally.devices),
            "accepted": self.accepted,
            "new_devices": [
                {"id": item.id, "name": item.name, "words": item.words, "note": item.note}
                for item in self.new_devices
            ],
            "view_rows": self.view_rows,
            "verified_on_medium": self.verified,
            "safe_to_remove": True,
            "dry_run": self.dry_run,
            "lines": self.lines,
        }


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


Ask = Callable[[NewDevice], bool]


def sync(
    ws: Workspace,
    ring: RingLike,
    stick_path: Path,
    *,
    accept: Sequence[str] = (),
    dry_run: bool = False,
    clock: Clock,
    ask: Ask | None = None,
    disk: Disk | None = None,
    view: bool = True,
    progress: Progress = UNSEEN,
) -> SyncResult:
    """Do everything that a plugged-in stick is there for.

    Args:
        ws: The workspace.
        ring: Its keys.
        stick_path: Where the stick is mounted.
        accept: Names or ids of new devices whose words were compared.
        dry_run: Verify and count; write neither here nor on the stick.
        clock: Says when; nothing hangs on it.
        ask: Decides about new devices on a terminal.
        disk: What the stick is written through; as the workspace when None.
        view: Whether to bring the tables up to date, too.
        progress: Hears of the bytes that are read, and of those that are written.

    Raises:
        StickError: The stick was pulled, is full, read-only, or lies. What was read is imported.
        DeviceUnknownError: `accept` names nobody who enrolled.
        BusyError: Another command is changing the workspace.
    """
    with (
        ws.lock(),
        Registry.open(ws.registry) as registry,
        Stick.open(stick_path, disk or ws.disk, write=not dry_run) as stick,
    ):
        importer = Importer(
            ws, registry, ring.journal_secrets(), clock, dry_run=dry_run, progress=progress
        )
        result = SyncResult(importer.tally, dry_run=dry_run)
        _enrol(result, registry, stick, accept, ask, clock)
        importer.import_held()
        importer.import_stick(stick)
        base = "" if dry_run else ring.identity().public.id
        _, lines = read_reports(stick, registry, base, clock, dry_run=dry_run)
        result.lines += importer.tally.lines + lines
        if not dry_run:
            if view:
                _view(result, ws, registry, ring, progress)
            _write(result, ws, registry, ring.identity(), stick, progress)
            progress.begin("reading the stick back", 0)
            result.verified = stick.finish()
            registry.set("synced_at", str(clock.wall_ns()))
            sticks.remember(
                registry, stick_path, clock.wall_ns(), result.bundles, acks=bool(result.acks)
            )
    return result


def _enrol(
    result: SyncResult,
    registry: Registry,
    stick: Stick,
    names: Sequence[str],
    ask: Ask | None,
    clock: Clock,
) -> None:
    waiting, lines = fleet.read_enrolments(stick, registry, clock, dry_run=result.dry_run)
    result.lines += lines
    if result.dry_run:
        result.new_devices = waiting
        return
    for name in names:
        result.accepted.append(fleet.accept(registry, name, clock).name)
    for item in waiting:
        if item.name in result.accepted:
            continue
        if ask is not None and ask(item):
            result.accepted.append(fleet.accept(registry, item.id, clock).name)
        else:
            result.new_devices.append(item)


def _view(
    result: SyncResult, ws: Workspace, registry: Registry, ring: RingLike, progress: Progress
) -> None:
    """Bring the tables up to date. A view that fails stops nothing: it can be made again."""
    from edgepack.store.table import catch_up

    try:
        archive = Archive(ws.archive, ws.disk)
        result.view_rows = catch_up(ws, registry, archive, ring, progress)
    except EdgepackError as error:
        result.lines.append(f"the table was not brought up to date: {error.what}; {error.next}")


def _write(
    result: SyncResult,
    ws: Workspace,
    registry: Registry,
    identity: Identity,
    stick: Stick,
    progress: Progress,
) -> None:
    offered: Mapping[str, set[str]] = result.tally.hashes
    done = result.tally.done
    result.archive_only = not has_backup(registry)
    if not result.archive_only and (waiting := registry.unbacked()):
        result.lines.append(
            f"{_count(waiting, 'segment')} will be acknowledged after the next: edgepack backup"
        )
    try:
        result.acks = write_acks(stick, registry, identity, offered)
    except StickFullError:
        # Full of packs that are registered: devices keep theirs until an ack, so these may go.
        result.removed += clean_stick(stick, done)
        done = []
        try:
            result.acks = write_acks(stick, registry, identity, offered)
        except StickFullError as error:
            result.error = error
            return
    take_roots(ws, stick, result.lines)
    result.bundles += put_bundles(ws, registry, stick, result.lines, progress)
    result.tokens = put_tokens(ws, registry, stick, result.lines)
    result.removed += clean_stick(stick, done)
