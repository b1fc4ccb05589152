"""state/gen-N: everything about trust that changes, one immutable folder per change.

The symlink `state/current` names the folder that counts. It is replaced by rename and a sync of
`state/`, and that is the only commit: before it the old generation holds, after it the new one.
Nothing is cleaned up before the sync of a commit has returned (a rename that lives only in the
page cache may be undone by a power cut, and would then name a folder that is gone).

Files of a generation: `generation.json` (one line with its SHA-256, then canonical JSON) and the
trusted metadata as it was signed: `root.json`, `timestamp.json`, `snapshot.json`, `targets.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from device_runtime import policy as policies
from device_runtime.crypt import sha256
from device_runtime.disk import Disk, new_file, write_all
from device_runtime.errors import (
    FormatError,
    MachineError,
    NotInitialisedError,
    UnsupportedVersionError,
)
from device_runtime.format import canonical
from device_runtime.policy import Policy
from device_runtime.record import dataclass, field, fields, replace

VERSION = 1
CURRENT = "current"
SlotState = Literal["trial", "good", "rejected", "suspended"]
_STATES = ("trial", "good", "rejected", "suspended")
_METADATA = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True, slots=True)
class Trusted:
    """The signed metadata that this device goes by, as bytes.

    Attributes:
        root: The newest verified root.
        timestamp: The last accepted timestamp; None before the first bundle.
        snapshot: The last accepted snapshot.
        targets: The last accepted targets.
        floor: Latest signed time, seconds since 1970-01-01 UTC; never taken from a clock.
    """

    root: bytes
    timestamp: bytes | None = None
    snapshot: bytes | None = None
    targets: bytes | None = None
    floor: int = 0


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """One installed bundle.

    Attributes:
        digest: Bundle digest (64 hex): names the folder in `slots/`.
        version: Version of the bundle.
        state: `trial` until it proved itself, `good`, `rejected` for good, or `suspended` until
            the next visit of a stick.
        ever_good: Whether it was good at any time.
        root_sha256: Digest of the root that it was verified with: pins `metadata/root.json`.
        issued: Signed time, seconds since 1970-01-01 UTC.
        signers: Ids of the keys whose signatures it carried.
    """

    digest: str
    version: int
    state: SlotState
    ever_good: bool
    root_sha256: str
    issued: int
    signers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything about trust at one moment.

    Attributes:
        number: N of `gen-N`.
        trusted: Signed metadata and the time floor.
        policy: What this device accepts.
        epoch: Current journal epoch, 16 hex.
        epoch_parent: Epoch before it; None for the first.
        epoch_heads: Heads of the parent: (lane, segment number, segment hash).
        epoch_reason: Why the epoch began: `init`, `disk`, `ack` ...
        disk_id: Identity of the disk that the epoch belongs to; empty: the one of `init`.
        slots: At most two, oldest first.
        active: Digest of the slot that is to run; None before the first install.
        kit_floor: Signed time of the newest kit; a bundle signed later brings its policy.
        trusted_version: Highest version accepted; 0 before the first.
        trusted_digest: Bundle digest of that version.
        rejected: Bundle digests that are not tried again.
        revoked_digests: Bundle digests that a quorum revoked.
        revoked_keys: Key ids that a quorum revoked.
        stopped_digests: Revoked digests that must not run even as the last resort.
        tokens: Downgrade tokens that have acted, as `name/from/to`.
        attempts: Failed attempts of the active slot since it was switched to.
        crashes: How many of these were proven crashes of the process.
        power_attempts: Attempts of the active slot that ended with the machine.
        degraded: The active slot has failed and there was nothing better to run.
        trial_rows: Rows that the active slot answered in its trial.
        trial_since_s: Odometer at the first result of the trial; None before it.
        activated_s: Odometer when the active slot was switched to.
        odometer_s: Odometer at this commit: the reading never falls below.
        counted: Load marks that are already counted (so that no attempt counts twice).
        ack_generations: Base id → (number, random) of the highest base generation seen.
        acked: Hashes of sealed segments that a base holds safely.
        acked_at_s: Hash → odometer when it was marked: pruned `keep_acked_days` later.
        events: (kind, data) of changes that the journal has not recorded yet. They are committed
            with the change that they tell of, and taken out once the journal has them durably.
    """

    number: int
    trusted: Trusted
    policy: Policy
    epoch: str
    epoch_parent: str | None = None
    epoch_heads: tuple[tuple[int, int, str], ...] = ()
    epoch_reason: str = "init"
    disk_id: str = ""
    slots: tuple[SlotRecord, ...] = ()
    active: str | None = None
    kit_floor: int = 0
    trusted_version: int = 0
    trusted_digest: str = ""
    rejected: frozenset[str] = frozenset()
    revoked_digests: frozenset[str] = frozenset()
    revoked_keys: frozenset[str] = frozenset()
    stopped_digests: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    attempts: int = 0
    crashes: int = 0
    power_attempts: int = 0
    degraded: bool = False
    trial_rows: int = 0
    trial_since_s: int | None = None
    activated_s: int = 0
    odometer_s: int = 0
    counted: frozenset[str] = frozenset()
    ack_generations: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    acked: frozenset[str] = frozenset()
    acked_at_s: Mapping[str, int] = field(default_factory=dict)
    events: tuple[tuple[str, Mapping[str, object]], ...] = ()

    def slot(self, digest: str | None) -> SlotRecord | None:
        """Return the record of an installed bundle, None if there is none."""
        return next((slot for slot in self.slots if slot.digest == digest), None)

    def with_slot(self, record: SlotRecord) -> Generation:
        """Return a copy in which `record` stands in the place of the one of its digest."""
        kept = tuple(record if s.digest == record.digest else s for s in self.slots)
        return replace(self, slots=kept)

    def is_revoked(self, record: SlotRecord) -> bool:
        """Whether a quorum revoked this bundle or one of the keys that signed it."""
        return record.digest in self.revoked_digests or not self.revoked_keys.isdisjoint(
            record.signers
        )


def current_number(disk: Disk, state: Path) -> int:
    """Return N of the generation that counts.

    Raises:
        NotInitialisedError: No commit was ever made here.
    """
    target = disk.readlink(state / CURRENT)
    if target is None or not target.startswith("gen-") or not target[4:].isdigit():
        raise NotInitialisedError(f"there is no device home at {state.parent}")
    return int(target[4:])


def read(disk: Disk, state: Path, number: int) -> Generation:
    """Read a generation.

    Raises:
        MachineError: It is damaged: the disk is failing.
        UnsupportedVersionError: A newer edgepack-device wrote it.
    """
    folder = state / f"gen-{number}"
    try:
        head, body = disk.read(folder / "generation.json").split(b"\n", 1)
        if sha256(body).hex().encode() != head:
            raise FormatError("generation.json differs from its digest")
        value = json.loads(body)
        metadata = {}
        for name, digest in value["metadata"].items():
            metadata[name] = disk.read(folder / f"{name}.json")
            if sha256(metadata[name]).hex() != digest:
                raise FormatError(f"{name}.json differs from its digest")
        return _from_json(value, number, metadata)
    except UnsupportedVersionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, FormatError) as error:
        raise MachineError(
            f"the state of this device is damaged: {folder}: {error}",
            why="nothing in it can be trusted any more",
            next="check the disk, then initialise the device again with its kit",
        ) from None


def commit(disk: Disk, state: Path, generation: Generation) -> None:
    """Write `generation` and make it the one that counts; durable when this returns.

    A failure or a power cut at any step leaves either the old or the new generation in force.
    Clean-up of what came before is `clean`, and is the caller's next step.
    """
    name = f"gen-{generation.number}"
    folder = state / name
    disk.rmtree(folder)  # left over from a commit that was cut off
    disk.mkdir(folder)
    for file, data in _to_files(generation).items():
        with new_file(disk, folder / file) as handle:
            write_all(handle, data)
    disk.fsync_dir(folder)
    disk.fsync_dir(state)  # the folder is durable before anything names it
    temporary = state / f"{CURRENT}.tmp"
    disk.unlink(temporary)
    disk.symlink(name, temporary)
    disk.rename(temporary, state / CURRENT)
    disk.fsync_dir(state)


def clean(disk: Disk, state: Path, number: int) -> None:
    """Remove every generation but `number`. Only after the commit of `number` is durable."""
    for name in disk.list(state):
        if name == f"{CURRENT}.tmp":
            disk.unlink(state / name)
        elif name.startswith("gen-") and name != f"gen-{number}":
            disk.rmtree(state / name)


# --- bytes -----------------------------------------------------------------------------------

_SETS = (
    "rejected",
    "revoked_digests",
    "revoked_keys",
    "stopped_digests",
    "tokens",
    "counted",
    "acked",
)
_OWN = ("number", "trusted", "policy", "slots")


def _to_files(generation: Generation) -> dict[str, bytes]:
    metadata = {
        name: data for name in _METADATA if (data := getattr(generation.trusted, name)) is not None
    }
    value: dict[str, Any] = {
        item.name: getattr(generation, item.name)
        for item in fields(Generation)
        if item.name not in _OWN
    }
    for name in _SETS:
        value[name] = sorted(value[name])
    value["ack_generations"] = {k: list(v) for k, v in generation.ack_generations.items()}
    value["events"] = [[kind, dict(data)] for kind, data in generation.events]
    value["epoch_heads"] = [list(head) for head in generation.epoch_heads]
    value["slots"] = [
        {item.name: _plain(getattr(slot, item.name)) for item in fields(SlotRecord)}
        for slot in generation.slots
    ]
    value["policy"] = policies.to_json(generation.policy)
    value["floor"] = generation.trusted.floor
    value["metadata"] = {name: sha256(data).hex() for name, data in metadata.items()}
    value["version"] = VERSION
    body = canonical.encode(value)
    head = sha256(body).hex().encode()
    result = {f"{name}.json": data for name, data in metadata.items()}
    return {**result, "generation.json": head + b"\n" + body}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _from_json(value: dict[str, Any], number: int, metadata: Mapping[str, Any]) -> Generation:
    if value["version"] != VERSION:
        raise UnsupportedVersionError(f"the state of this device has version {value['version']}")
    value.setdefault("kit_floor", 0)  # older runtimes did not note it
    given: dict[str, Any] = {
        item.name: value[item.name] for item in fields(Generation) if item.name not in _OWN
    }
    given["acked_at_s"] = {str(k): int(at) for k, at in value["acked_at_s"].items()}
    for name in _SETS:
        given[name] = frozenset(given[name])
    given["ack_generations"] = {
        k: (int(n), str(r)) for k, (n, r) in value["ack_generations"].items()
    }
    given["epoch_heads"] = tuple((int(a), int(b), str(c)) for a, b, c in value["epoch_heads"])
    given["events"] = tuple((str(kind), dict(data)) for kind, data in value["events"])
    slots = tuple(
        SlotRecord(**{**item, "signers": tuple(item["signers"])}) for item in value["slots"]
    )
    if any(slot.state not in _STATES for slot in slots):
        raise FormatError("a slot has no valid state")
    return Generation(
        number=number,
        trusted=Trusted(floor=int(value["floor"]), **metadata),
        policy=policies.from_json(value["policy"]),
        slots=slots,
        **given,
    )
