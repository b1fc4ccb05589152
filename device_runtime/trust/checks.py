"""What a genuine bundle may still be refused for: age, revocation, device, listing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from device_runtime._version import __version__
from device_runtime.errors import (
    ForkError,
    FormatError,
    IncompatibleError,
    RevokedError,
    RollbackError,
    RootChainError,
    VerificationError,
)
from device_runtime.format.container import Index
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.custom import Targets


def check_order(
    document: quorum.Document,
    targets: Targets,
    trusted: Trusted,
    root: Mapping[str, object],
    policy: Policy,
    facts: quorum.RootFacts,
) -> None:
    """Compare with the trusted targets and the list of revocations.

    Raises:
        RevokedError, RollbackError, ForkError: As said.
    """
    if document.digest in facts.revoked_digests | targets.revoked_digests:
        raise RevokedError(f"{targets.name} {targets.version} was revoked by its base")
    if facts.revoked_keys & set(document.signatures):
        raise RevokedError(f"{targets.name} {targets.version} is signed by a revoked key")
    if trusted.targets is None:
        return
    before = quorum.read_document(trusted.targets, "the trusted targets.json", "targets")
    try:
        quorum.signers(before, "targets", root, policy.families, "the trusted targets.json")
    except VerificationError:
        # Signed by keys that the root has dropped since: whoever stole them must not be able to
        # hold this device at a version that the base will never reach.
        return
    version = int(before.signed["version"])
    if targets.version < version:
        raise RollbackError(f"version {targets.version} is older than the trusted {version}")
    if targets.version == version and before.digest != document.digest:
        raise ForkError(f"this is another {targets.name} {version} than the one that is trusted")


def check_device(targets: Targets, policy: Policy) -> None:
    """Refuse what is genuine, but for another kind of device or a newer runtime.

    Raises:
        IncompatibleError: As said.
    """
    if targets.device_class != policy.device_class:
        raise IncompatibleError(
            f"this bundle is for devices of class {targets.device_class}, "
            f"this device is of class {policy.device_class}"
        )
    if release(targets.min_runtime) > release(__version__):
        raise IncompatibleError(
            f"this bundle needs edgepack-device {targets.min_runtime}, here is {__version__}",
            next="update edgepack-device on this device first",
        )


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as 1.2.3; FormatError if it has none."""
    found = re.match(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,4}", version)
    if found is None:
        raise FormatError(f"{version!r} is not a version")
    numbers = [int(part) for part in found[0].split(".")]
    return tuple(numbers + [0] * (5 - len(numbers)))


def check_listing(index: Index, targets: Targets, roots: Mapping[int, bytes]) -> None:
    """Compare what the container holds with what is signed, entry by entry.

    Raises:
        VerificationError: Something is surplus, missing, or of another length.
        RootChainError: A root is not the one that the bundle was signed with.
    """
    there, signed = set(index.names("payload")), set(targets.payload)
    if there != signed:
        surplus, missing = sorted(there - signed), sorted(signed - there)
        raise VerificationError(f"payload: not signed {surplus}, signed but missing {missing}")
    for name, target in targets.payload.items():
        if index.entries[f"payload/{name}"].size != target.length:
            raise VerificationError(f"payload/{name} has another length than was signed")
    if {version: quorum.root_sha256(data) for version, data in roots.items()} != targets.roots:
        raise RootChainError("the roots of the bundle are not those that it was signed with")
