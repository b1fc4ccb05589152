"""Key files: one private key each, encrypted with AES-256-GCM under scrypt of a passphrase.

A new passphrase is given to every key file here, or to none. The files under it are written to
`next.part/`, synced, and that folder is renamed to `next/`: this is the commit. From then on they
replace the old ones, one rename each. A crash before the commit leaves the old passphrase. After it
the new one holds: whoever opens the ring next finishes the renames (`settle`) and needs no
passphrase for that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.crypt import Aead, sha256
from device_runtime.disk import Disk, RealDisk, write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from edgepack.errors import KeyringError

VERSION = 1
RESTORE = "restore it from a copy of keys/"
NEXT = "next"
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}  # 32 MiB, about 0.1 s
_LIMITS = {"n": 1 << 17, "r": 8, "p": 4}
_LABEL = b"edgepack key file v1\0"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One private key on disk, still encrypted.

    Attributes:
        path: The file.
        role: `root`, `targets`, `release`, `base`, `journal`, `recovery` or `oms`.
        kind: `ed25519`, `ml-dsa`, `identity`, `journal` or `oms`.
        id: TUF key id, base id, recipient id, or digest of the public key.
        created: Unix seconds.
        body: The whole JSON object.
    """

    path: Path
    role: str
    kind: str
    id: str
    created: int
    body: Mapping[str, Any]


class Passphrase:
    """Opens and seals key files; scrypt runs once for each salt."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.masters: dict[str, bytes] = {}

    def open(self, body: Mapping[str, Any]) -> bytes | None:
        """Return the private key in a key file; None if this is not its passphrase."""
        return self._aead(body).open(0, bytes.fromhex(body["box"]), _aad(body))

    def seal(self, fields: Mapping[str, Any], secret: bytes, salt: str) -> dict[str, Any]:
        """Return the body of a key file.

        Args:
            fields: `role`, `kind`, `id`, `public` and `created`.
            secret: The private key.
            salt: Of scrypt, hex; may be shared by files, each has its own nonce.
        """
        body: dict[str, Any] = {
            "format": "edgepack-key",
            "version": VERSION,
            **fields,
            "kdf": {"name": "scrypt", **_SCRYPT, "salt": salt},
            "nonce": os.urandom(16).hex(),
        }
        body["box"] = self._aead(body).seal(0, secret, _aad(body)).hex()
        return body

    def _aead(self, body: Mapping[str, Any]) -> Aead:
        """Return the cipher of one key file: its key is used for this one box only."""
        salt = str(body["kdf"]["salt"])
        if salt not in self.masters:
            self.masters[salt] = hashlib.scrypt(
                self._text.encode(),
                salt=bytes.fromhex(salt),
                **{name: min(int(body["kdf"][name]), limit) for name, limit in _LIMITS.items()},
                maxmem=256 << 20,
                dklen=32,
            )
        return Aead(sha256(_LABEL, self.masters[salt], bytes.fromhex(body["nonce"])))


def key_files(folder: Path, disk: Disk | None = None) -> tuple[KeyFile, ...]:
    """Return every key file in a folder, oldest first; nothing is decrypted.

    Raises:
        KeyringError: One of them is damaged.
    """
    disk = disk or RealDisk()
    found = []
    for name in disk.list(folder):
        if not name.endswith(".key"):
            continue
        path = folder / name
        try:
            body = canonical.decode(disk.read(path, 1 << 20), name)
            if (body["format"], body["version"]) != ("edgepack-key", VERSION):
                raise KeyringError(f"{path} is not a key file that this edgepack reads")
            key = KeyFile(path, body["role"], body["kind"], body["id"], body["created"], body)
        except (FormatError, KeyError, TypeError) as error:
            raise KeyringError(f"{path} is damaged: {error}", next=RESTORE) from None
        found.append(key)
    return tuple(sorted(found, key=lambda key: (key.created, key.role, key.kind, key.id)))


def fresh_salt() -> str:
    """Return a new salt, hex."""
    return os.urandom(16).hex()


def write_key(disk: Disk, folder: Path, body: Mapping[str, Any]) -> None:
    """Write a key file under the name that its role, kind and id give it."""
    role, kind = str(body["role"]), str(body["kind"])
    name = f"{role}-{body['id'][:8]}.key" if role == kind else f"{role}-{kind}-{body['id'][:8]}.key"
    write_durable(disk, folder / name, canonical.encode(body))


def reseal(folder: Path, old: Passphrase, new: Passphrase, disk: Disk) -> tuple[int, int]:
    """Seal every key file of a folder with a new passphrase: all of them or none.

    Returns:
        How many were sealed anew, and how many had the new passphrase before.

    Raises:
        KeyringError: A file opens with neither; nothing is changed.
    """
    salt, bodies, had = fresh_salt(), [], 0
    for key in key_files(folder, disk):
        if new.open(key.body) is not None:
            had += 1
            continue
        secret = old.open(key.body)
        if secret is None:
            raise KeyringError(
                f"the passphrase does not open {key.path.name}",
                why="no file was changed",
                next="take that file out of keys/, or give the passphrase that it has",
            )
        kept = {name: key.body[name] for name in _FIELDS}
        bodies.append((key.path.name, new.seal(kept, secret, salt), secret))
    part = folder / f"{NEXT}.part"
    disk.rmtree(part)
    disk.mkdir(part)
    for name, body, secret in bodies:
        write_durable(disk, part / name, canonical.encode(body))
        if new.open(canonical.decode(disk.read(part / name), name)) != secret:
            raise KeyringError(f"{part / name} cannot be read back", next="check the disk")
    disk.rename(part, folder / NEXT)
    disk.fsync_dir(folder)
    settle(folder, disk)
    return len(bodies), had


def settle(folder: Path, disk: Disk) -> None:
    """Finish a change of the passphrase that was committed and cut off; nothing to do otherwise."""
    staged = folder / NEXT
    if disk.kind(staged) != "dir":
        return
    for name in disk.list(staged):
        disk.rename(staged / name, folder / name)
    disk.fsync_dir(folder)
    disk.fsync_dir(staged)
    disk.rmtree(staged)
    disk.fsync_dir(folder)


_FIELDS = ("role", "kind", "id", "public", "created")


def _aad(body: Mapping[str, Any]) -> bytes:
    return canonical.encode({name: body[name] for name in _FIELDS})
