"""Install a bundle: one transaction from a file on a stick to the slot that is on trial.

Steps, repeated by number where they are done:

1. walk the roots; a newer verified root and its revocations are committed at once, so that a
   failed self-test cannot make the device forget them;
2. verify metadata, versions and small files;
3. already here, rejected before, revoked?
4. admission: may this model run on this machine?
5. copy the payload into `tmp/`, digests while copying, everything synced;
6. walk the graph, run the self-test in a child process;
7. move the folder to `slots/<digest>` and sync;
8. one commit: slot, timestamp, snapshot, targets, floor, policy. Then clean up.

Until step 8 the old generation holds; a damaged stick, a full disk or a power cut burns no version.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from device_runtime import policy as policies
from device_runtime.disk import Disk
from device_runtime.errors import (
    AdmissionError,
    FormatError,
    IncompatibleError,
    RevokedError,
    RollbackError,
    SelfTestError,
    VerificationError,
)
from device_runtime.generation import Generation, SlotRecord, Trusted
from device_runtime.home import Home, apply_kit
from device_runtime.policy import Policy
from device_runtime.record import dataclass, replace
from device_runtime.slots import admission, rules
from device_runtime.slots.selftest import SelfTestResult, run_selftest
from device_runtime.slots.slot import Loader
from device_runtime.trust import bundle as bundles
from device_runtime.trust import quorum
from device_runtime.trust.bundle import VerifiedBundle
from device_runtime.trust.kit import Kit
from device_runtime.trust.load import load_slot
from device_runtime.trust.refresh import advance_root
from device_runtime.trust.token import Token, claimed_token, read_token

Outcome = Literal["installed", "already", "older", "rejected-before"]
_VERSION = re.compile(r"-([0-9]{1,9})\.edgepack$")


@dataclass(frozen=True, slots=True)
class Installed:
    """What became of a file.

    Attributes:
        name: Bundle name.
        version: Its version; 0 where it is not known.
        digest: Its bundle digest; empty where it is not known.
        outcome: `installed` (on trial now), `already`, `older` than what is trusted, or
            `rejected-before`.
        note: One line for people.
    """

    name: str
    version: int
    digest: str
    outcome: Outcome
    note: str


@dataclass(frozen=True, slots=True)
class RootStep:
    """The newest root that a file proves, and what that root revokes."""

    trusted: Trusted
    revoked_keys: frozenset[str]
    revoked_digests: frozenset[str]
    stopped_digests: frozenset[str]


def advance(disk: Disk, file: Path, trusted: Trusted, policy: Policy) -> RootStep:
    """Walk the roots of a bundle; nothing else of it is looked at.

    Raises:
        FormatError, VerificationError: A root is missing or not signed by the one before.
    """
    return _walk(bundles.read_roots(disk, file, policy), trusted, policy)


def _walk(roots: Mapping[int, bytes], trusted: Trusted, policy: Policy) -> RootStep:
    new = advance_root(roots, trusted, policy)
    facts = quorum.root_facts(new.root)
    return RootStep(new, facts.revoked_keys, facts.revoked_digests, facts.stopped_digests)


def prove(folder: Path, home: Home, bundle: VerifiedBundle, policy: Policy) -> SelfTestResult:
    """Walk the staged graph and run the self-test."""
    admission.check_graph(folder, home, bundle.manifest, policy)
    return run_selftest(folder, bundle.manifest, policy)


@dataclass(frozen=True, slots=True)
class Steps:
    """The outside of the transaction; tests of the transaction itself put others in."""

    advance: Callable[[Disk, Path, Trusted, Policy], RootStep] = advance
    verify: Callable[..., VerifiedBundle] = bundles.verify
    admit: Callable[[Home, VerifiedBundle, Policy], None] = admission.check
    copy: Callable[[Disk, VerifiedBundle, Path], None] = bundles.copy_payload
    test: Callable[[Path, Home, VerifiedBundle, Policy], object] = prove
    compare: Callable[[Disk, VerifiedBundle], None] = bundles.verify_payload
    load: Loader = load_slot
    claimed_token: Callable[[bytes], Token] = claimed_token
    read_token: Callable[[bytes, bytes, Policy], Token] = read_token


REAL = Steps()


def install(
    home: Home, file: Path, *, retry: bool = False, whole: bool = False, steps: Steps = REAL
) -> Installed:
    """Install a bundle; the home's lock must be held.

    Args:
        home: The device.
        file: `NAME-VERSION.edgepack`.
        retry: Try a bundle that was rejected before.
        whole: Read the payload even where the bundle is installed already: somebody who installs a
            file by hand wants to know if it is damaged, a visit of a stick has no time for that.
        steps: For tests.

    Raises:
        FormatError, VerificationError: Not genuine, or not for this device; nothing changed but,
            perhaps, a newer root.
        AdmissionError: This machine cannot run it. Not remembered, unless the model turns out to
            be another than its manifest says.
        SelfTestError: It failed here; remembered, not tried again by itself.
        OSError: The stick cannot be read or the disk not written; not remembered.
    """
    generation = _commit_root(home, steps.advance(home.disk, file, *_trust(home)))  # 1
    try:
        bundle = steps.verify(  # 2
            home.disk,
            file,
            *_trust(home),
            name=home.card.bundle_name,
            wall_s=home.clock.wall_ns() // 1_000_000_000,
        )
    except RollbackError as error:
        found = _VERSION.search(file.name)
        version = int(found[1]) if found else 0
        return Installed(home.card.bundle_name, version, "", "older", error.what)
    generation = _commit_revocations(home, bundle)
    known = _known(generation, bundle, retry)  # 3
    if known is not None:
        if whole:
            steps.compare(home.disk, bundle)
        return known
    steps.admit(home, bundle, generation.policy)  # 4
    staged = _stage(home, bundle, steps)  # 5
    try:
        steps.test(staged, home, bundle, generation.policy)  # 6
    except (SelfTestError, AdmissionError) as error:
        _reject(home, bundle, error.what)
        home.disk.rmtree(staged)
        raise
    pin = _place(home, bundle, staged, steps)  # 7
    _activate(home, bundle, pin)  # 8
    return Installed(
        bundle.name,
        bundle.version,
        bundle.digest,
        "installed",
        f"{bundle.name} {bundle.version} is installed and on trial",
    )


def take_kit(home: Home, kit: Kit) -> None:
    """Take the newer roots and the policy of a kit whose words were typed; the lock must be held.

    The roots are walked like those of a bundle: one of them may set back the time floor.

    Raises:
        IncompatibleError: The kit is for another device, of another base, or too old.
        FormatError, VerificationError: A root is not signed by the one before.
    """
    trusted, policy = _trust(home)
    root = quorum.read_root(trusted.root)
    if quorum.read_root(kit.roots.get(root["version"], kit.roots[1])) != root:
        raise IncompatibleError(
            f"this kit lacks root {root['version']}, which this device trusts",
            why="it is older, or of another base",
            next="write a new one: edgepack device kit; for another base, first: wipe",
        )
    step = _walk(kit.roots, trusted, policy)
    _commit_root(home, step)
    apply_kit(home, kit)


def downgrade(home: Home, token: bytes, *, steps: Steps = REAL) -> bool:
    """Act on a downgrade token, which may lie on every stick; the home's lock must be held.

    Returns:
        Whether it acted. It does nothing if `from` is not what is trusted, `to` is not a good and
        unrevoked slot, or it has acted before. Such a token is not even verified: those that keys
        of before have signed may lie on sticks for years.

    Raises:
        FormatError, VerificationError: It would act, but is not signed by the quorum.
    """
    generation = home.generation()
    order = steps.claimed_token(token)
    target = generation.slot(order.to_digest)
    name = f"{order.from_digest}/{order.to_digest}/{order.issued}"
    if (
        order.name != home.card.bundle_name
        or (order.from_version, order.from_digest)
        != (generation.trusted_version, generation.trusted_digest)
        or target is None
        or (target.version, target.state) != (order.to_version, "good")
        or generation.is_revoked(target)
        or generation.active == target.digest
        or name in generation.tokens
    ):
        return False
    steps.read_token(token, generation.trusted.root, generation.policy)
    new = rules.note(generation, "slot.downgrade", version=order.from_version, to=target.version)
    left = new.slot(order.from_digest)
    if left is not None:
        new = new.with_slot(replace(left, state="rejected"))
    new = replace(new, rejected=new.rejected | {order.from_digest}, tokens=new.tokens | {name})
    home.commit(rules.switch(new, target.digest, home.odometer_s()))
    return True


def _trust(home: Home) -> tuple[Trusted, Policy]:
    generation = home.generation()
    return generation.trusted, generation.policy


def _commit_root(home: Home, step: RootStep) -> Generation:
    generation = home.generation()
    settled = replace(generation.trusted, root=step.trusted.root, floor=step.trusted.floor)
    new = replace(generation, trusted=settled)
    if new.trusted != generation.trusted:
        new = rules.note(new, "trust.root", sha256=quorum.root_sha256(step.trusted.root))
    new = rules.revoke(new, step.revoked_keys, step.revoked_digests, step.stopped_digests)
    return _commit_settled(home, generation, new)


def _commit_revocations(home: Home, bundle: VerifiedBundle) -> Generation:
    generation = home.generation()
    new = rules.revoke(
        generation, bundle.revoked_keys, bundle.revoked_digests, bundle.stopped_digests
    )
    return _commit_settled(home, generation, new)


def _commit_settled(home: Home, generation: Generation, new: Generation) -> Generation:
    """Commit what changed, if anything did; pass over an active slot that is revoked now."""
    if new == generation:
        return generation
    return home.commit(rules.settle(new, home.odometer_s()))


def _known(generation: Generation, bundle: VerifiedBundle, retry: bool) -> Installed | None:
    """Return the answer for a bundle that needs no installing; None if it does."""
    title = f"{bundle.name} {bundle.version}"
    if bundle.digest in generation.revoked_digests or not generation.revoked_keys.isdisjoint(
        bundle.signers
    ):
        raise RevokedError(f"{title} was revoked by its base")
    record = generation.slot(bundle.digest)
    if record is not None and record.state in ("trial", "good"):
        note = f"{title} is installed already"
        return Installed(bundle.name, bundle.version, bundle.digest, "already", note)
    if bundle.digest in generation.rejected and not retry:
        note = f"{title} was rejected by this device before; to try it again: install FILE --retry"
        return Installed(bundle.name, bundle.version, bundle.digest, "rejected-before", note)
    return None


def _stage(home: Home, bundle: VerifiedBundle, steps: Steps) -> Path:
    staged = home.tmp / f"stage-{os.urandom(8).hex()}"
    home.disk.mkdir(staged)
    try:
        steps.copy(home.disk, bundle, staged)
    except BaseException:
        home.disk.rmtree(staged)
        raise
    return staged


def _place(home: Home, bundle: VerifiedBundle, staged: Path, steps: Steps) -> str:
    """Move the staged folder to its place; return the digest of the root that it is pinned to."""
    generation = home.generation()
    slot, record = home.slot_dir(bundle.digest), generation.slot(bundle.digest)
    if record is not None:
        # The same bundle once more. What is there may be the last thing that could run, so it is
        # replaced only if it could not.
        try:
            pin = record.root_sha256
            steps.load(
                home.disk, slot, root_sha256=pin, digest=record.digest, policy=generation.policy
            )
            home.disk.rmtree(staged)
            return pin
        except (VerificationError, FormatError, FileNotFoundError):
            pass
    home.disk.rmtree(slot)
    home.disk.rename(staged, slot)
    home.disk.fsync_dir(home.tmp)
    home.disk.fsync_dir(home.slots)
    return quorum.root_sha256(bundle.trusted.root)


def _reject(home: Home, bundle: VerifiedBundle, reason: str) -> None:
    generation = home.generation()
    new = rules.note(
        generation, "install.rejected", version=bundle.version, digest=bundle.digest, reason=reason
    )
    record = new.slot(bundle.digest)
    if record is not None:
        new = new.with_slot(replace(record, state="rejected"))
    home.commit(replace(new, rejected=new.rejected | {bundle.digest}))


def _activate(home: Home, bundle: VerifiedBundle, pin: str) -> None:
    generation = home.generation()
    leaves = rules.victim(generation, bundle.digest)
    before = generation.slot(bundle.digest)
    record = SlotRecord(
        digest=bundle.digest,
        version=bundle.version,
        state="trial",
        ever_good=before is not None and before.ever_good,
        root_sha256=pin,
        issued=bundle.issued,
        signers=bundle.signers,
    )
    kept = tuple(slot for slot in generation.slots if leaves is None or slot != leaves)
    policy = generation.policy
    # A kit of a base in 2099 counts no longer once a root has set the floor back.
    if bundle.policy and bundle.issued > min(generation.kit_floor, generation.trusted.floor):
        policy = policies.from_bundle(policy, bundle.policy)
    new = rules.note(
        generation,
        "install.installed",
        version=bundle.version,
        digest=bundle.digest,
        replaced=leaves.version if leaves else 0,
    )
    new = replace(
        new,
        trusted=bundle.trusted,
        trusted_version=bundle.version,
        trusted_digest=bundle.digest,
        policy=policy,
        slots=(*kept, record),
        rejected=new.rejected - {bundle.digest},
    )
    home.commit(rules.switch(new, bundle.digest, home.odometer_s()))
