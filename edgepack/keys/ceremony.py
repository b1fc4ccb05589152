"""Ceremonies: found a base, rotate, revoke, recover, go back.

Each makes a new root (or a token) and signs it with what this ring can sign. What is incomplete is
a `.half` file for the next custodian: `edgepack keys sign FILE` there, and the file comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from securesystemslib.signer._key import SSlibKey
from securesystemslib.signer._signature import Signature
from tuf.api._payload import Root
from tuf.api.metadata import Metadata

from device_runtime.clock import Clock
from device_runtime.crypt import PublicIdentity, RecipientKey
from device_runtime.disk import write_durable
from device_runtime.errors import FormatError, UsageError
from device_runtime.format import canonical
from device_runtime.policy import Policy
from device_runtime.trust import quorum
from device_runtime.trust.token import KIND, Token, read_token, token_of, token_signed
from edgepack.errors import KeyringError
from edgepack.keys import roles, sign
from edgepack.keys.keyfile import KeyFile, Passphrase, reseal
from edgepack.keys.lints import DAY, last_signed, lint_half_root, lint_root
from edgepack.keys.ring import FAMILIES, PublicRing, Ring
from edgepack.registry import Registry

_CARRY = "edgepack sync STICK carries it to the devices"
ALIASES = {"timestamp": "release", "snapshot": "release"}
_SCHEMES = {"ed25519": ("ed25519", "ed25519"), "ml-dsa": ("ml-dsa", "ml-dsa-65/1")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a ceremony made.

    Attributes:
        path: The file: a root, a token, or ring.json; half-signed if not complete.
        complete: Whether every signature is there.
        missing: Ids of the keys that have not signed.
        what: One line for a person.
        then: What to do once it is complete.
    """

    path: Path
    complete: bool
    missing: tuple[str, ...]
    what: str
    then: str = "edgepack build && edgepack sign: the next bundle carries it"


def found(ws: Any, passphrase: str, clock: Clock) -> Ring:
    """Make the key ring and root 1 of a new workspace.

    Raises:
        KeyringError: There is a ring or a root already.
    """
    if ws.disk.list(ws.metadata):
        raise KeyringError(f"{ws.metadata} holds roots already")
    now = roles.seconds(clock)
    ring = Ring.create(ws.keys, passphrase, now=now, disk=ws.disk)
    keys = {role: _public_keys(ring.of_role(role)) for role in ("root", "targets", "release")}
    ws.disk.mkdir(ws.metadata)
    _make_root(ws, ring, None, roles.Change(keys), now)
    return ring


def rotate(
    ws: Any, ring: Ring, role: str, *, clock: Clock, family: str = "", force_time: bool = False
) -> Outcome:
    """Draw new keys for a role.

    Args:
        ws: The workspace.
        ring: Its keys.
        role: `root`, `targets`, `timestamp` (with `snapshot`: the release key), `journal`, `base`,
            `recovery`, `oms`.
        clock: For the time in the new root.
        family: `ed25519` or `ml-dsa`: only that key of root or targets, so that each of two
            custodians draws his own; both if empty.
        force_time: Make the root although its time leaps.

    Raises:
        UsageError: No such role or family, or one that cannot be rotated.
        KeyringError: Keys or roots are missing.
    """
    role, now = ALIASES.get(role, role), roles.seconds(clock)
    if family and family not in FAMILIES.get(role, ()):
        raise UsageError(f"{role} has no key of family {family}", next="see: edgepack keys list")
    if role in FAMILIES:
        root = settled_root(ws)
        stay = [key for key in roles.keys_of(root, role) if family and key.keytype != family]
        with roles.named_or_gone(ws, ring):
            drawn = _public_keys(ring.draw(role, now, (family,) if family else ()))
            change = roles.Change({role: (*drawn, *stay)})
            return _make_root(ws, ring, root, change, now, force_time)
    if role not in _OWN:
        raise UsageError(
            f"{role!r} cannot be rotated",
            next="give root, targets, timestamp, journal, base, recovery or oms",
        )
    public, drawn_half = ring.public(), str(ring.draw(role, now)[0].body["public"])
    ring.write_public(_with(public, role, drawn_half))
    return Outcome(ring.folder / "ring.json", complete=True, missing=(), what=_OWN[role])


_OWN = {
    "journal": "new journal key: devices use it after the next bundle; never delete the old ones",
    "base": "new identity of this base: devices believe its acks, and no longer those of the old "
    "one, after the next bundle",
    "recovery": "new recovery key: move its file to the safe, and keep the old one there too",
    "oms": "new key for model.sig: give keys/oms.pub to those who check it",
}


def _with(public: PublicRing, role: str, half: str) -> PublicRing:
    """Return ring.json with the public half of a new key that stands in no root."""
    if role == "oms":
        return replace(public, oms=half)
    raw = bytes.fromhex(half)
    if role == "base":
        return replace(public, base=PublicIdentity(raw[:32], raw[32:]))
    if role == "recovery":
        return replace(public, recovery=RecipientKey(raw))
    return replace(public, journal=(RecipientKey(raw), *public.journal))


def passphrase(ring: Ring, new: str) -> Outcome:
    """Seal every key file that is here with a new passphrase: all of them or none.

    Raises:
        UsageError: It is the passphrase that they have.
        KeyringError: A file opens with neither passphrase.
    """
    count, had = reseal(ring.folder, ring.passphrase, Passphrase(new), ring.disk)
    if not count:
        raise UsageError("every key here has this passphrase already", next="give another one")
    what = f"sealed with the new passphrase: {count} of {count + had} key files"
    return Outcome(ring.folder, complete=True, missing=(), what=what)


def revoke(
    ws: Any, ring: Ring, what: str, *, clock: Clock, stop: bool = False, force_time: bool = False
) -> Outcome:
    """Revoke a key or a bundle, in a new root.

    A revoked key of a role is replaced at once. Every installed bundle that it signed is passed
    over by devices as soon as another one is good; a revoked bundle is never installed again.

    Args:
        ws: The workspace.
        ring: Its keys.
        what: A key id (8 characters or more), `NAME-VERSION`, or a bundle digest.
        clock: For the time in the new root.
        stop: A revoked bundle must not run even where nothing else can.
        force_time: Make the root although its time leaps.

    Raises:
        UsageError: Nothing here is called so.
    """
    root, now = settled_root(ws), roles.seconds(clock)
    with Registry.open(ws.registry) as registry:
        bundles = {f"{row.name}-{row.version}": row.digest for row in registry.bundles()}
    digests = {d for name, d in bundles.items() if what in (name, d)}
    if digests:
        gone = frozenset(digests)
        ended = gone if stop else frozenset()
        change = roles.Change({}, revoke_digests=gone, stop_digests=ended)
        return _make_root(ws, ring, root, change, now, force_time)
    if stop:
        raise UsageError(
            f"{what} is no bundle, and only bundles are stopped", next="see: edgepack status"
        )
    current = roles.root_keyids(root)
    known = {key.id for key in ring.keys} | {keyid for ids in current.values() for keyid in ids}
    matches = [keyid for keyid in sorted(known) if len(what) >= 8 and keyid.startswith(what)]
    if len(matches) != 1:
        raise UsageError(f"nothing here is called {what}", next="see: edgepack keys list")
    if any(key.id == matches[0] and key.kind not in _SCHEMES for key in ring.keys):
        raise UsageError(
            f"{matches[0][:16]} stands in no root: it signs no bundles",
            next="edgepack keys rotate journal; later: edgepack keys forget KEY",
        )
    with roles.named_or_gone(ws, ring):
        keys = {
            role: _public_keys(ring.draw(role, now))
            for role, keyids in current.items()
            if matches[0] in keyids
        }
        change = roles.Change(keys, revoke_keys=frozenset(matches))
        return _make_root(ws, ring, root, change, now, force_time)


def recover(
    ws: Any, ring: Ring, *, clock: Clock, floor: bool = False, force_time: bool = False
) -> Outcome:
    """Make the root that ends an emergency.

    Args:
        ws: The workspace.
        ring: Its keys.
        clock: The host's clock; with `floor` it must be right.
        floor: The base had signed with a clock in the future: set the time floor of every device
            back to now, and revoke what was signed in the future. Without it: the release
            (timestamp) key was stolen and is replaced.
        force_time: Make the root although its time leaps.
    """
    if not floor:
        return rotate(ws, ring, "release", clock=clock, force_time=force_time)
    root, now = settled_root(ws), roles.seconds(clock)
    with Registry.open(ws.registry) as registry:
        future = frozenset(row.digest for row in registry.bundles() if row.issued > now + DAY)
    change = roles.Change({}, revoke_digests=future, floor_reset=now)
    return _make_root(ws, ring, root, change, now, force_time)


def downgrade(ws: Any, ring: Ring, name: str, version: int, *, clock: Clock) -> Outcome:
    """Sign an emergency order to go back from the newest bundle to an older one.

    Raises:
        UsageError: There is no such older bundle, or no device knows today's targets keys.
    """
    with Registry.open(ws.registry) as registry:
        rows = {row.version: row for row in registry.bundles(name)}
    if not rows or version not in rows or version >= max(rows):
        raise UsageError(
            f"{name} {version} is not an older signed bundle", next="see: edgepack status"
        )
    newest, older = rows[max(rows)], rows[version]
    root = roles.newest_root(ws)
    if older.digest in quorum.root_facts(root).revoked_digests:
        raise UsageError(f"{name} {version} is revoked", next="go back to another version")
    known = roles.root_keyids(roles.roots(ws).get(newest.root_version, root))
    if known["targets"] != roles.root_keyids(root)["targets"]:
        raise UsageError(
            f"the targets keys are newer than {name} {newest.version}: no device knows them yet",
            why="it would refuse the order",
            next="edgepack build && edgepack sign: a newer bundle replaces the bad one",
        )
    token = Token(
        name,
        newest.version,
        newest.digest,
        older.version,
        older.digest,
        roles.seconds(clock),
    )
    body = {"signed": token_signed(token), "signatures": []}
    return _sign_token(ws, ring, body, token)


def sign_half(ws: Any, ring: Ring, file: Path, *, clock: Clock, force_time: bool) -> Outcome:
    """Add this ring's signatures to a half-signed root, token or bundle.

    Raises:
        FormatError: It is none of them.
    """
    if ws.disk.kind(file) != "file":
        raise UsageError(f"there is no file {file}", next="give a .half file")
    if ws.disk.read(file, 1) != b"{":
        signed = sign.sign_file(ws, ring, file, clock=clock, force_time=force_time)
        what = f"{signed.name} {signed.version}, digest {signed.digest[:16]}"
        return Outcome(signed.path, signed.complete, signed.missing, what, _CARRY)
    data = ws.disk.read(file, quorum.MAX_DOCUMENT)
    value = canonical.decode(data, file.name, canonical=True)
    kind = value.get("signed", {}).get("_type") if isinstance(value, dict) else None
    if kind == KIND:
        return _sign_token(ws, ring, value, token_of(value["signed"]))
    if kind != "root":
        raise FormatError(f"{file} is neither a half-signed root, token nor bundle")
    lint_half_root(roles.seconds(clock), quorum.root_facts(data).issued, force_time)
    return _finish_root(ws, ring, Metadata[Root].from_bytes(data))


def settled_root(ws: Any) -> bytes:
    """Return the root that the next one follows, unless there is a half-signed next one.

    Raises:
        UsageError: As said: two different roots of one number would split the fleet.
    """
    root: bytes = roles.newest_root(ws)
    version = quorum.root_facts(root).version + 1
    half = ws.metadata / f"{version}.root.half"
    if ws.disk.exists(half):
        raise UsageError(
            f"root {version} is half-signed already: {half}",
            why="two different roots of one number would split the fleet",
            next="finish it: edgepack keys sign FILE; or delete it if nobody completed it",
        )
    return root


def _make_root(
    ws: Any,
    ring: Ring,
    previous: bytes | None,
    change: roles.Change,
    now: int,
    force_time: bool = False,
) -> Outcome:
    if previous is not None:
        facts, resets = quorum.root_facts(previous), change.floor_reset is not None
        with Registry.open(ws.registry) as registry:
            last = last_signed(registry, facts)
        lint_root(now, facts, last, force_time, resets=resets)
    return _finish_root(ws, ring, roles.new_root(previous, change, now))


def _finish_root(ws: Any, ring: Ring, metadata: Metadata[Root]) -> Outcome:
    version = metadata.signed.version
    previous = roles.roots(ws).get(version - 1) if version > 1 else None
    if version > 1 and previous is None:
        raise KeyringError(f"root {version - 1} is not in {ws.metadata}", next="bring it here")
    data = roles.to_bytes(metadata)
    done, half = (ws.metadata / f"{version}.root.{end}" for end in ("json", "half"))
    for path in (done, half):
        if ws.disk.exists(path) and quorum.read_root(ws.disk.read(path)) != quorum.read_root(data):
            raise UsageError(
                f"{path} is another root {version} than that",
                why="two different roots of one number would split the fleet",
                next="delete the half-signed one that is not wanted, and repeat its change later",
            )
    what = roles.describe(previous, data)
    if ws.disk.exists(done):
        ws.disk.unlink(half)
        return Outcome(done, complete=True, missing=(), what=f"{what}, complete before")
    wanted = roles.signing_keyids(previous, data)
    roles.sign_with(metadata, ring, wanted)
    path, complete = roles.save_root(ws, metadata, previous)
    missing = tuple(keyid for keyid in wanted if keyid not in metadata.signatures)
    return Outcome(path, complete, missing, what)


def _sign_token(ws: Any, ring: Ring, body: dict[str, Any], token: Token) -> Outcome:
    root = roles.newest_root(ws)
    payload = quorum.encode_signed(body["signed"])
    signatures = {item["keyid"]: item["sig"] for item in body["signatures"]}
    keyids = roles.root_keyids(root)["targets"]
    for keyid in keyids:
        signer = ring.signer(keyid)
        if keyid not in signatures and signer is not None:
            made: Signature = signer.sign(payload)
            signatures[keyid] = made.signature
    body["signatures"] = [{"keyid": k, "sig": signatures[k]} for k in sorted(signatures)]
    data = canonical.encode(body)
    missing = tuple(keyid for keyid in keyids if keyid not in signatures)
    path = ws.out / (token.file_name + (".half" if missing else ""))
    if not missing:
        read_token(data, root, Policy("base"))
        ws.disk.unlink(ws.out / (token.file_name + ".half"))
    write_durable(ws.disk, path, data, 0o644)
    what = f"{token.name}: back from {token.from_version} to {token.to_version}"
    return Outcome(path, not missing, missing, what, _CARRY)


def _public_keys(files: tuple[KeyFile, ...]) -> tuple[SSlibKey, ...]:
    return tuple(
        SSlibKey(key.id, *_SCHEMES[key.kind], {"public": str(key.body["public"])}) for key in files
    )
