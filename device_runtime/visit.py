"""One visit of a stick: acks → room → seal, leave → newest own bundle → report → LAST-SYNC.

Whatever goes wrong with a bundle, the journal has left before and the report is written after:
"safe to remove" is said whenever everything that was written could be read back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.courier import (
    Acked,
    Left,
    Stick,
    arrive,
    bundles_on,
    leave_all,
    write_last_sync,
    write_report,
)
from device_runtime.courier.acks import read_acks
from device_runtime.courier.leave import offered
from device_runtime.disk import machine_error
from device_runtime.errors import EdgepackError, StickFullError
from device_runtime.home import Home
from device_runtime.journal.writer import Journal
from device_runtime.record import dataclass, field

if TYPE_CHECKING:
    from device_runtime.slots.install import Installed

MAX_TOKEN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What came, what went.

    Attributes:
        acked: What the acks on the stick changed.
        left: What was left on the stick.
        installed: The bundle that was installed now, if one was.
        refused: Newer files that were refused: {"file", "version", "code", "what", "exit"}.
        notes: One line each: what was passed over, and why.
        verified: Whether everything written was read back from the medium itself.
        line: The one line for the operator.
        error: What the exit code shall say although the visit was done; None if all is well.
    """

    acked: Acked = field(default_factory=Acked)
    left: Left = field(default_factory=Left)
    installed: Installed | None = None
    refused: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    verified: bool = False
    line: str = ""
    error: EdgepackError | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object of `sync --json`."""
        installed = self.installed
        return {
            "acks": self.acked.acks,
            "marked_segments": self.acked.marked,
            "pruned_segments": self.acked.pruned,
            "pruned_rows": self.acked.pruned_rows,
            "new_epoch": self.acked.new_epoch,
            "exported": {
                "rows": self.left.rows,
                "segments": self.left.segments,
                "bytes": self.left.bytes,
                "already": self.left.already,
                "waiting": self.left.waiting,
            },
            "installed": installed
            and {
                "name": installed.name,
                "version": installed.version,
                "digest": installed.digest,
                "outcome": installed.outcome,
            },
            "refused": [dict(item) for item in self.refused],
            "notes": list(self.notes),
            "line": self.line,
            "safe_to_remove": True,
            "verified_on_medium": self.verified,
        }


@dataclass(slots=True)
class _Offer:
    """What became of the bundles on a stick."""

    installed: Installed | None = None
    refused: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: EdgepackError | None = None

    def refuse(self, file: str, version: int, error: EdgepackError | OSError) -> None:
        """Note a file that was refused; the visit goes on, so that the journal gets home."""
        why = machine_error(error, f"installing {file}") if isinstance(error, OSError) else error
        self.refused.append({"file": file, "version": version, **why.as_json()})
        self.error = self.error or why


def visit(
    home: Home,
    journal: Journal,
    path: Path,
    *,
    install: Callable[[Path], Installed],
    downgrade: Callable[[str, bytes], bool],
    status: Callable[[], Mapping[str, Any]],
    step: Callable[[str], None],
) -> SyncReport:
    """Do a whole visit; see the top of this module for its order.

    Args:
        home: The device; its lock is held.
        journal: Its open journal.
        path: Where the stick is mounted.
        install: Installs one file and journals a refusal.
        downgrade: Acts on a downgrade token (file name, bytes) and journals a refusal; False if it
            does not apply.
        status: What the report carries beside the rest.
        step: Called with what is being done, for people.

    Raises:
        StickError: The stick was pulled, is full beyond use, or fails; the visit can be repeated.
    """
    with Stick.open(path, home.disk) as stick:
        step("reading acks")
        acked = arrive(home, journal, stick)
        step("leaving the journal")
        left = leave_all(home, journal, stick)
        step("looking at bundles")
        offer = _offers(home, stick, install, downgrade)
        notes = (*acked.notes, *offer.notes)
        error = offer.error
        if error is None and left.waiting:
            error = StickFullError(
                f"{left.waiting} segments did not fit on the stick and wait on the device",
                next="bring another stick, or free room on this one, and sync again",
            )
        step("writing the report")
        line = _line(home, acked, left, offer)
        try:
            write_report(home, journal, stick, status())
            write_last_sync(home, stick, line)
        except StickFullError as full:  # the journal went first; what is left says only who we are
            error = error or full
        step("reading everything back")
        verified = stick.finish()
    if not verified:
        line += " (not verified on the medium)"
    return SyncReport(
        acked, left, offer.installed, tuple(offer.refused), notes, verified, line, error
    )


def _offers(
    home: Home,
    stick: Stick,
    install: Callable[[Path], Installed],
    downgrade: Callable[[str, bytes], bool],
) -> _Offer:
    """Try the bundles of our name, highest version first, down to the first that installs."""
    name = home.card.bundle_name
    ours, others = bundles_on(stick, name)
    offer = _Offer()
    for version, path in ours:
        trusted = home.generation().trusted_version
        if version < trusted:
            offer.notes.append(f"{path.name} is older than bundle {trusted}: passed over")
            break
        try:
            found = install(path)
        except (EdgepackError, OSError) as error:
            offer.refuse(path.name, version, error)
            continue
        if found.outcome == "installed":
            offer.installed = found
            break
        offer.notes.append(found.note or f"{path.name}: {found.outcome}")
        if found.outcome == "already":
            break
    foreign = 0
    for file in others:
        if file.startswith(f"{name}-") and file.endswith(".downgrade"):
            _act_on(stick, file, downgrade, offer)
        else:
            foreign += 1
    if foreign:
        offer.notes.append(f"{foreign} files on the stick are for other devices: passed over")
    return offer


def _act_on(
    stick: Stick, file: str, downgrade: Callable[[str, bytes], bool], offer: _Offer
) -> None:
    data = stick.get(f"bundles/{file}", MAX_TOKEN_BYTES)
    try:
        if data is not None and downgrade(file, data):
            offer.notes.append(f"{file}: went back as the base has signed")
    except (EdgepackError, OSError) as error:
        offer.refuse(file, 0, error)


def _line(home: Home, acked: Acked, left: Left, offer: _Offer) -> str:
    generation = home.generation()
    active = generation.slot(generation.active)
    runs = f"runs {home.card.bundle_name} {active.version}" if active else "has no bundle yet"
    parts = [f"{home.card.name} {runs}"]
    if offer.installed is not None:
        parts.append("newly installed")
    if offer.refused:
        first = offer.refused[0]
        parts.append(f"REFUSED {first['file']} [{first['code']}]")
    parts.append(f"left {left.rows:,} rows in {left.segments} segments")
    if left.waiting:
        parts.append(f"{left.waiting} segments WAIT for a larger stick")
    if acked.marked:
        parts.append(f"{acked.marked} segments are safe at the base")
    return ", ".join(parts)


def preview(home: Home, journal: Journal, path: Path) -> dict[str, Any]:
    """Say what a visit would do; writes nothing, on the stick or here."""
    with Stick.open(path, home.disk, write=False) as stick:
        notes: list[str] = []
        card, generation = home.card, home.generation()
        acks = read_acks(stick, card.device_id, generation.policy, notes)
        pending = {info.hash for info in journal.sealed() if info.hash not in generation.acked}
        there = offered(stick, card.device_id, card.public, pending)
        ours, others = bundles_on(stick, card.bundle_name)
        return {
            "dry_run": True,
            "acks": len(acks),
            "segments_to_leave": len(pending - there),
            "segments_on_stick": len(there),
            "bundles": [file.name for _, file in ours],
            "newer": [file.name for number, file in ours if number > generation.trusted_version],
            "others": len(others),
            "notes": notes,
        }
