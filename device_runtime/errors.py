"""One tree of errors for device and base.

Every error has a stable dotted `code`, an `exit` status of the process (docs/ERRORS.md), and tells
a person three things: what is wrong, why it matters, and what to type next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class EdgepackError(Exception):
    """Root of everything that edgepack raises on purpose.

    Attributes:
        code: Stable dotted name for scripts, such as `trust.rollback`.
        exit: Exit status of the process.
        what: What is wrong and where, one line.
        why: What it means, one line; may be empty.
        next: What the person should do now, one line.
    """

    code: ClassVar[str] = "internal"
    exit: ClassVar[int] = 1
    advice: ClassVar[str] = "report this with the command that you typed"

    def __init__(self, what: str, *, why: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next = next or self.advice

    def as_json(self) -> dict[str, object]:
        """Return the error as the `error` object of `--json` output."""
        return {
            "code": self.code,
            "what": self.what,
            "why": self.why,
            "next": self.next,
            "exit": self.exit,
        }

    def line(self) -> str:
        """Return the one line that a person reads on stderr."""
        why = f" ({self.why})" if self.why else ""
        return f"error [{self.code}]: {self.what}{why}; {self.next}"


class UsageError(EdgepackError):
    """A command was called with arguments that make no sense."""

    code = "usage"
    exit = 2
    advice = "see --help"


# --- 10: bytes that do not follow docs/FORMAT-*.md -------------------------------------------


class FormatError(EdgepackError):
    """Bytes do not follow their format."""

    code = "format.invalid"
    exit = 10
    advice = "copy the file again from its source"


class TruncatedError(FormatError):
    """A file ends before its format allows it to end."""

    code = "format.truncated"


class UnsupportedVersionError(FormatError):
    """A file has a format version newer than this program."""

    code = "format.version"
    advice = "update edgepack on this machine"


class NotCanonicalError(FormatError):
    """Bytes say the right thing in a form that the format does not allow."""

    code = "format.not_canonical"


class TooLargeError(FormatError):
    """A file or field is larger than its format or the policy allows."""

    code = "format.too_large"


# --- 20: verification ------------------------------------------------------------------------


class VerificationError(EdgepackError):
    """Signatures, digests, versions or times do not hold: nothing of the file is used."""

    code = "trust.invalid"
    exit = 20
    advice = "get the bundle again from the base; do not use this one"


class ThresholdError(VerificationError):
    """Too few valid signatures, or one signature family is missing."""

    code = "trust.threshold"


class UnknownKeyError(VerificationError):
    """A signature by a key that the trusted root does not name."""

    code = "trust.unknown_key"


class RollbackError(VerificationError):
    """A genuine file that is older than what is already trusted."""

    code = "trust.rollback"
    advice = "ask the base for a newer bundle; to go back on purpose it signs a downgrade token"


class ForkError(VerificationError):
    """Same name and version as something trusted, but other content: two bases, or a stolen key."""

    code = "trust.fork"
    advice = "keep the stick and tell the base at once"


class ExpiredError(VerificationError):
    """Metadata expired before the trusted time."""

    code = "trust.expired"
    advice = "ask the base to sign the bundle again"


class DigestMismatchError(VerificationError):
    """Bytes differ from their signed digest."""

    code = "trust.digest"


class LengthMismatchError(VerificationError):
    """A file differs from its signed length."""

    code = "trust.length"


class RevokedError(VerificationError):
    """A key or digest on the signed list of revocations."""

    code = "trust.revoked"


class RootChainError(VerificationError):
    """A root of trust between the trusted one and the newest is missing or not linked."""

    code = "trust.root_chain"
    advice = "build the bundle again: it must carry every root since version 1"


class IncompatibleError(VerificationError):
    """A genuine bundle for another name, class, runtime or kind of machine."""

    code = "trust.incompatible"
    advice = "this bundle is for another device; look for the right one on the stick"


# --- 30: install -----------------------------------------------------------------------------


class InstallError(EdgepackError):
    """A verified bundle could not be installed; the previous model runs on."""

    code = "install.failed"
    exit = 30
    advice = "the previous model runs on; tell the base"


class AdmissionError(InstallError):
    """The device cannot run this bundle: RAM, disk, processor, opset, operators."""

    code = "install.admission"


class SelfTestError(InstallError):
    """The model crashed, hung, or answered differently in its self-test on this processor."""

    code = "install.self_test"


class NoSlotError(InstallError):
    """There is no installed bundle that could run or be switched to."""

    code = "install.no_slot"
    advice = "plug in a stick with a bundle and run: edgepack-device sync STICK"


# --- 40: run and input -----------------------------------------------------------------------


class RunError(EdgepackError):
    """A model or a request could not be run."""

    code = "run.failed"
    exit = 40


class InputError(RunError):
    """Input that does not fit the schema; carries every issue that was found.

    Attributes:
        issues: One line each, with the row and column.
    """

    code = "run.input"
    advice = "compare the input with: edgepack-device predict --template"

    def __init__(
        self, what: str, issues: Sequence[str] = (), *, why: str = "", next: str = ""
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.issues = tuple(issues)

    def as_json(self) -> dict[str, object]:
        """Return the error object, with the list of issues."""
        return {**super().as_json(), "issues": list(self.issues)}


class ModelLoadError(RunError):
    """The model is not one that this runtime will load."""

    code = "run.model"
    advice = "roll back with: edgepack-device rollback; tell the base"


class RequestError(RunError):
    """A request to the local server that cannot be answered."""

    code = "run.request"


# --- 50: journal -----------------------------------------------------------------------------


class JournalError(EdgepackError):
    """The journal could not be written or read."""

    code = "journal.failed"
    exit = 50
    advice = "check the disk with: edgepack-device doctor"


class JournalFullError(JournalError):
    """The journal's quota is used up and the policy is strict."""

    code = "journal.full"
    advice = "take the journal home: plug in a stick and run: edgepack-device sync STICK"


class JournalDamagedError(JournalError):
    """Part of the journal cannot be read any more; it says which part remains."""

    code = "journal.damaged"


class SegmentError(JournalError):
    """A segment's signature, chain or content does not hold: it goes to quarantine."""

    code = "journal.segment"


class UndecryptableError(JournalError):
    """None of the keys at hand opens this segment: it is held until one does."""

    code = "journal.undecryptable"
    advice = "import the journal key that it was wrapped to"


# --- 60: stick -------------------------------------------------------------------------------


class StickError(EdgepackError):
    """Something is wrong with the stick."""

    code = "stick.failed"
    exit = 60
    advice = "try another stick"


class StickFullError(StickError):
    """No room on the stick."""

    code = "stick.full"
    advice = "free some room on the stick, or use a larger one, and sync again"


class StickReadOnlyError(StickError):
    """The stick cannot be written."""

    code = "stick.read_only"
    advice = "check the write lock on the stick and sync again"


class StickBusyError(StickError):
    """Somebody else writes to the stick."""

    code = "stick.busy"
    advice = "wait until the other sync is done"


class NotAStickError(StickError):
    """The path is not a folder that can be used as a stick."""

    code = "stick.not_a_stick"
    advice = "give the folder where the stick is mounted"


class StickUnreliableError(StickError):
    """What was read back differs from what was written: fake capacity or a failing medium."""

    code = "stick.unreliable"
    advice = "throw this stick away and use another; nothing was lost"


class ReceiptError(StickError):
    """An ack or report on the stick is forged, stale or for somebody else."""

    code = "stick.receipt"


# --- 77: this machine ------------------------------------------------------------------------


class MachineError(EdgepackError):
    """This machine is the problem."""

    code = "machine.failed"
    exit = 77
    advice = "see what doctor says"


class NoSpaceError(MachineError):
    """The disk is full."""

    code = "machine.disk_full"
    advice = "free some disk space and repeat the command"


class PermissionDeniedError(MachineError):
    """A file or folder may not be read or written."""

    code = "machine.permission"
    advice = "run as the user that owns the folder"


class BusyError(MachineError):
    """Another process owns this home or workspace."""

    code = "machine.busy"
    advice = "wait for it, or stop it"


class NotInitialisedError(MachineError):
    """There is no home here."""

    code = "machine.no_home"
    advice = "initialise this device with: edgepack-device init KIT"


class DoctorError(MachineError):
    """Doctor found something."""

    code = "machine.doctor"


class InterruptedByUserError(EdgepackError):
    """Ctrl-C: nothing is half-written, the command can be repeated."""

    code = "interrupted"
    exit = 130
    advice = "repeat the command"


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C lies below: what is being loaded makes an error of its own of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
