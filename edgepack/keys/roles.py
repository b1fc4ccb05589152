"""Roots of trust: who may sign what, as TUF metadata in `WS/metadata/`.

One root for the whole workspace, versions 1, 2, 3 …, every one of them kept: each bundle carries
them all, so a device that slept through ten rotations walks them one by one. `root` and `targets`
need Ed25519 *and* ML-DSA-65; `timestamp` and `snapshot` share one Ed25519 release key.

Two custodians: a root that lacks a signature is `N.root.half`, a file that travels; each custodian
adds what his keys can sign, and the last one finds it complete.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from securesystemslib.signer._key import Key
from tuf.api._payload import Root
from tuf.api.metadata import Metadata

from device_runtime.clock import Clock
from device_runtime.disk import Disk, write_durable
from device_runtime.errors import EdgepackError
from device_runtime.format import canonical
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.refresh import advance_root
from edgepack.errors import KeyringError
from edgepack.keys.ring import FAMILIES, PublicRing, Ring, read_public

ROOT_DAYS = 3650
FAMILIES_NEEDED = ("ed25519", "ml-dsa")
_FILE = re.compile(r"([1-9][0-9]*)\.root\.json")
_TUF_ROLES: Mapping[str, tuple[str, ...]] = {
    "root": ("root",),
    "targets": ("targets",),
    "release": ("timestamp", "snapshot"),
}


class Folders(Protocol):
    """What the keys need of a workspace."""

    @property
    def keys(self) -> Path:
        """Folder of the key ring."""
        ...

    @property
    def metadata(self) -> Path:
        """Folder of the roots."""
        ...

    @property
    def disk(self) -> Disk:
        """Where everything is written through."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What a new root changes.

    Attributes:
        keys: Role (`root`, `targets`, `release`) → its new public keys; others stay.
        revoke_keys: Key ids that no installed slot may rely on any more.
        revoke_digests: Bundle digests that must not be installed, and not run while another can.
        stop_digests: Those of them that must not run even as a last resort.
        floor_reset: Value that devices set their time floor to, unix seconds; None: leave it.
    """

    keys: Mapping[str, tuple[Key, ...]]
    revoke_keys: frozenset[str] = frozenset()
    revoke_digests: frozenset[str] = frozenset()
    stop_digests: frozenset[str] = frozenset()
    floor_reset: int | None = None


def new_root(previous: bytes | None, change: Change, now: int) -> Metadata[Root]:
    """Return the next root, unsigned.

    Args:
        previous: The newest root, None for version 1.
        change: What is different.
        now: When it is made; unix seconds.
    """
    if previous is None:
        root = Root(consistent_snapshot=False)
        facts = None
    else:
        root = Metadata[Root].from_bytes(previous).signed
        root.version += 1
        facts = quorum.root_facts(previous)
    for role, keys in change.keys.items():
        for tuf_role in _TUF_ROLES[role]:
            for keyid in list(root.roles[tuf_role].keyids):
                root.revoke_key(keyid, tuf_role)
            for key in keys:
                root.add_key(key, tuf_role)
            root.roles[tuf_role].threshold = len(FAMILIES[role])
    root.expires = moment(now + ROOT_DAYS * 86400)
    custom: dict[str, Any] = {"v": 1, "issued": now}
    revoked_keys = change.revoke_keys | (facts.revoked_keys if facts else frozenset())
    revoked_digests = change.revoke_digests | (facts.revoked_digests if facts else frozenset())
    stopped = change.stop_digests | (facts.stopped_digests if facts else frozenset())
    lists = {
        "revoked_keys": revoked_keys,
        "revoked_digests": revoked_digests,
        "stopped_digests": stopped,
    }
    custom.update((name, sorted(items)) for name, items in lists.items() if items)
    if change.floor_reset is not None:
        custom["floor_reset"] = change.floor_reset
    root.unrecognized_fields[quorum.CUSTOM] = custom
    return Metadata(root)


def root_keyids(root: bytes) -> dict[str, tuple[str, ...]]:
    """Return role (`root`, `targets`, `release`) → key ids of a root."""
    roles = quorum.read_root(root)["roles"]
    return {role: tuple(roles[names[0]]["keyids"]) for role, names in _TUF_ROLES.items()}


def keys_of(root: bytes, role: str) -> tuple[Key, ...]:
    """Return the public keys of a role (`root`, `targets`, `release`) in a root."""
    signed = Metadata[Root].from_bytes(root).signed
    return tuple(signed.keys[keyid] for keyid in signed.roles[_TUF_ROLES[role][0]].keyids)


def sign_with(metadata: Metadata[Any], ring: Ring, keyids: Iterable[str]) -> int:
    """Add every signature that this ring can give; return how many of `keyids` have signed."""
    wanted = tuple(dict.fromkeys(keyids))
    for keyid in wanted:
        if keyid not in metadata.signatures and (signer := ring.signer(keyid)) is not None:
            metadata.sign(signer, append=True)
    return sum(keyid in metadata.signatures for keyid in wanted)


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """Return the canonical bytes of a signed document."""
    return canonical.encode(metadata.to_dict())


def moment(seconds: int) -> dt.datetime:
    """Return unix seconds as TUF wants a time."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def seconds(clock: Clock) -> int:
    """Return the wall clock of this machine; unix seconds."""
    return clock.wall_ns() // 1_000_000_000


def roots(ws: Folders) -> dict[int, bytes]:
    """Return every complete root of a workspace.

    Raises:
        KeyringError: There is none, or one is missing in between.
    """
    found = {
        int(match[1]): ws.disk.read(ws.metadata / name)
        for name in ws.disk.list(ws.metadata)
        if (match := _FILE.fullmatch(name))
    }
    if not found:
        raise KeyringError(f"there is no root of trust in {ws.metadata}", next="edgepack init")
    missing = [str(v) for v in range(1, max(found) + 1) if v not in found]
    if missing:
        raise KeyringError(
            f"{ws.metadata} lacks root {', '.join(missing)}", next="restore it from a backup"
        )
    return dict(sorted(found.items()))


def newest_root(ws: Folders) -> bytes:
    """Return the newest complete root; errors as `roots`."""
    every = roots(ws)
    return every[max(every)]


def trusted(ws: Folders) -> Trusted:
    """Return what a device with this workspace's first root, walked to the newest, would trust.

    Raises:
        KeyringError: The chain of roots does not hold.
    """
    every = roots(ws)
    facts = quorum.root_facts(every[1])
    try:
        return advance_root(every, Trusted(every[1], floor=facts.issued), Policy("base"))
    except EdgepackError as error:
        raise KeyringError(
            f"the roots in {ws.metadata} do not follow one another: {error.what}",
            next="restore metadata/ from a backup",
        ) from None


def describe(previous: bytes | None, new: bytes) -> str:
    """Return in one line what a root changes: what a custodian is about to sign."""
    facts = quorum.root_facts(new)
    if previous is None:
        return f"root {facts.version}"
    parts = []
    for role, keyids in root_keyids(new).items():
        before = root_keyids(previous)[role]
        signs = [f"-{key[:8]}" for key in before if key not in keyids]
        signs += [f"+{key[:8]}" for key in keyids if key not in before]
        parts += [f"{role} {' '.join(signs)}"] if signs else []
    old = quorum.root_facts(previous)
    for what, now, then in (
        ("keys", facts.revoked_keys, old.revoked_keys),
        ("bundles", facts.revoked_digests, old.revoked_digests),
        ("(not even as a last resort)", facts.stopped_digests, old.stopped_digests),
    ):
        names = " ".join(item[:8] for item in sorted(now - then))
        parts += [f"revokes {what} {names}"] if names else []
    if facts.floor_reset is not None:
        parts.append(f"sets the time floor to {moment(facts.floor_reset):%Y-%m-%d %H:%M}Z")
    return f"root {facts.version} ({'; '.join(parts) or 'a new time and expiry'})"


def save_root(ws: Folders, metadata: Metadata[Root], previous: bytes | None) -> tuple[Path, bool]:
    """Write a root: as `N.root.json` if every signature is there, else as `N.root.half`.

    Args:
        ws: The workspace.
        metadata: The root with the signatures that it has so far.
        previous: The root before it; None for version 1.

    Returns:
        The file, and whether it is complete.
    """
    version, data = metadata.signed.version, to_bytes(metadata)
    complete = ws.metadata / f"{version}.root.json"
    half = ws.metadata / f"{version}.root.half"
    document = quorum.read_document(data, "the new root", "root")
    wanted = signing_keyids(previous, data)
    if set(wanted) - set(document.signatures):
        write_durable(ws.disk, half, data, 0o644)
        return half, False
    if previous is not None:
        before = Trusted(previous, floor=0)
        advance_root({version: data}, before, Policy("base"))
    else:
        quorum.signers(document, "root", document.signed, FAMILIES_NEEDED, "root 1")
    write_durable(ws.disk, complete, data, 0o644)
    ws.disk.unlink(half)
    return complete, True


@contextmanager
def named_or_gone(ws: Folders, ring: Ring) -> Iterator[None]:
    """Where a block fails, remove the keys that it drew, unless a root names them already."""
    before = {key.id for key in ring.keys}
    try:
        yield
    except BaseException:
        ring.look()
        named = b"".join(ws.disk.read(ws.metadata / name) for name in ws.disk.list(ws.metadata))
        for key in ring.keys:
            if key.id not in before and key.id.encode() not in named:
                ring.destroy(key.id)
        raise


def signing_keyids(previous: bytes | None, new: bytes) -> tuple[str, ...]:
    """Return who must sign a new root: the keys of the old root and its own."""
    old = root_keyids(previous)["root"] if previous is not None else ()
    return tuple(dict.fromkeys((*old, *root_keyids(new)["root"])))


def class_policy(ws: Any, device_class: str) -> Policy:
    """Return the policy of a class, with the journal recipients and ack keys of this base.

    Args:
        ws: The workspace; `ws.policy(name)` gives what edgepack.toml says.
        device_class: Name of the class.

    Raises:
        KeyringError: There is no key ring.
    """
    policy: Policy = ws.policy(device_class)
    recipients, ack_keys = named_in_policy(read_public(ws.keys, ws.disk))
    return replace(policy, recipients=recipients, ack_keys=ack_keys)


def named_in_policy(public: PublicRing) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return whom devices encrypt to and whose acks they believe, as policy.json has it."""
    recipients = tuple(key.raw.hex() for key in public.recipients)
    return recipients, ((public.base.ed25519.hex(), public.base.mldsa65.hex()),)
