"""A kit: the one file that a new device is initialised with.

It is a container like a bundle: `metadata/kit.json` (signed by the targets quorum of the newest
root beside it), every root, `payload/policy.json`, and optionally a bundle and wheels. The
signature says that the kit is whole and of one piece. That it is the *right* kit says only a
person: the eight words of the file's SHA-256, read out at the base and typed at the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime import policy as policies
from device_runtime.disk import Disk
from device_runtime.errors import (
    DigestMismatchError,
    FormatError,
    RootChainError,
    TooLargeError,
    UnsupportedVersionError,
)
from device_runtime.format import canonical, words
from device_runtime.format.manifest import NAME
from device_runtime.policy import Policy
from device_runtime.record import dataclass
from device_runtime.trust import quorum
from device_runtime.trust.custom import Target, file_name, short_text
from device_runtime.trust.quorum import whole
from device_runtime.trust.source import open_source

KIND = "edgepack-kit"
VERSION = 1
KIT = "kit.json"
POLICY = "policy.json"
_LIMITS = Policy("kit")  # what is accepted before there is a policy


@dataclass(frozen=True)
class Kit:
    """A kit whose signatures and digests of small files hold.

    Attributes:
        path: The file.
        kit_id: Random id, 32 hex: one kit is for one device.
        device_name: How the base calls the device.
        device_class: Kind of device.
        bundle_name: The one bundle name that this device will run.
        floor: First time floor; unix seconds.
        roots: Every root, version → bytes.
        policy: What the device accepts from now on.
        words: Eight words of the file's SHA-256, joined by a space.
        bundle: Name of the bundle that came along, for `extract`; None without.
        wheels: Names of the wheels that came along.
        files: Name → length and digest of everything in `payload/`.
    """

    path: Path
    kit_id: str
    device_name: str
    device_class: str
    bundle_name: str
    floor: int
    roots: Mapping[int, bytes]
    policy: Policy
    words: str
    bundle: str | None
    wheels: tuple[str, ...]
    files: Mapping[str, Target]

    def extract(self, disk: Disk, name: str, target: Path) -> None:
        """Copy a file out of the kit, hashing while copying; it is synced when this returns.

        Raises:
            DigestMismatchError, LengthMismatchError, FormatError: It is not what was signed.
            OSError: The medium cannot be read, or the disk not written.
        """
        with open_source(disk, self.path, _LIMITS) as source:
            source.copy(f"payload/{name}", self.files[name], disk, target)
        disk.fsync_dir(target.parent)


def read_kit(disk: Disk, path: Path) -> Kit:
    """Read a kit and verify that it is of one piece. Nothing is trusted before its words match.

    Raises:
        FormatError: It does not follow docs/FORMAT-kit.md.
        VerificationError: It is not signed by the quorum of its own newest root.
        OSError: The medium cannot be read.
    """
    entry, limit = f"payload/{POLICY}", quorum.MAX_DOCUMENT  # read before its words are typed
    with open_source(disk, path, _LIMITS) as source:
        listed = source.index.entries
        small = [name for name in listed if name.startswith("metadata/") or name == entry]
        if KIT not in source.index.names("metadata") or entry not in listed:
            raise FormatError(f"this is not a kit: it has no metadata/{KIT} or no {entry}")
        if listed[entry].size > limit:
            raise TooLargeError(f"{entry} has {listed[entry].size:,} bytes")
        digest, kept = source.whole(small)
        there = set(source.index.names("payload"))
    roots, document = _metadata(kept)
    newest = quorum.read_root(roots[max(roots)], "the kit's root")
    _self_signed(roots)
    quorum.signers(document, "targets", newest, _LIMITS.families, KIT)
    said = document.signed
    files = files_of(said)
    if set(files) != there:
        raise FormatError("the kit holds other files than it lists")
    if hashlib.sha256(kept[entry]).hexdigest() != files[POLICY].sha256:
        raise DigestMismatchError(f"{entry} is not what was signed")
    policy = policies.from_json(canonical.decode(kept[entry], POLICY, limit=limit))
    bundles = [name for name in files if name.endswith(".edgepack")]
    try:
        kit = Kit(
            path=path,
            kit_id=short_text(said["kit"]),
            device_name=short_text(said["device"]),
            device_class=short_text(said["class"]),
            bundle_name=short_text(said["bundle"]),
            floor=whole(said["floor"]),
            roots=roots,
            policy=policy,
            words=words.words(digest),
            bundle=bundles[0] if bundles else None,
            wheels=tuple(sorted(name for name in files if name.endswith(".whl"))),
            files=files,
        )
    except (KeyError, TypeError) as error:
        raise FormatError(f"{KIT} does not follow its format: {error!r}") from None
    if len(bundles) > 1 or not NAME.fullmatch(kit.bundle_name) or len(kit.kit_id) != 32:
        raise FormatError(f"{KIT} does not follow its format")
    if policy.device_class != kit.device_class:
        raise FormatError("the kit's policy is for another class of device")
    return kit


def _metadata(kept: Mapping[str, bytes]) -> tuple[dict[int, bytes], quorum.Document]:
    roots = quorum.roots_in({name.removeprefix("metadata/"): kept[name] for name in kept})
    # kit.json and policy.json are the two that are not roots.
    if sorted(roots) != list(range(1, len(roots) + 1)) or len(roots) + 2 != len(kept):
        raise RootChainError("the kit does not carry exactly the roots 1, 2, 3 …")
    document = quorum.read_document(kept[f"metadata/{KIT}"], KIT, KIND)
    said = {str(version): quorum.root_sha256(data) for version, data in roots.items()}
    if not roots or document.signed.get("roots") != said:
        raise RootChainError("the roots of the kit are not those that it was signed with")
    if document.signed.get("version") != VERSION:
        raise UnsupportedVersionError(f"{KIT} is of another version than this program reads")
    return roots, document


def _self_signed(roots: Mapping[int, bytes]) -> None:
    """The newest root is signed by its own keys; signatures of the root before are left aside."""
    version = max(roots)
    document = quorum.read_document(roots[version], f"root {version}", "root")
    try:
        keyids = set(document.signed["roles"]["root"]["keyids"])
    except (KeyError, TypeError) as error:
        raise FormatError(f"root {version} does not follow its format: {error!r}") from None
    kept = {keyid: sig for keyid, sig in document.signatures.items() if keyid in keyids}
    mine = quorum.Document(document.signed, document.payload, kept, document.raw)
    quorum.signers(mine, "root", document.signed, _LIMITS.families, f"root {version}")


def files_of(said: Mapping[str, Any]) -> dict[str, Target]:
    """Return name → length and digest of the payload that a kit.json lists."""
    try:
        files = {
            file_name(name): Target(whole(item["length"]), short_text(item["sha256"]))
            for name, item in said["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{KIT} does not follow its format: {error!r}") from None
    if POLICY not in files:
        raise FormatError(f"the kit has no payload/{POLICY}")
    return files
