"""The key ring: every private key of a base, encrypted at rest, one file each.

`keys/ring.json` holds what is public. `keys/ROLE-KIND-ID.key` holds one private key, encrypted with
AES-256-GCM under scrypt of the passphrase. A key file may be moved to another machine (a second
custodian, a safe): what is not there cannot sign, and everything else goes on.

Kinds of key: `ed25519` and `ml-dsa` sign TUF roles; `identity` is the base's own (signs acks);
`journal` opens journals that were encrypted to this base, `recovery` does the same from a safe;
`oms` (ECDSA P-256) signs `model.sig` for strangers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from device_runtime.crypt import (
    Aead,
    Identity,
    PublicIdentity,
    RecipientKey,
    generate_recipient,
    sha256,
)
from device_runtime.disk import Disk, RealDisk, write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from edgepack.errors import KeyringError

VERSION = 1
RING = "ring.json"
OMS_PUBLIC = "oms.pub"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "root": ("ed25519", "ml-dsa"),
    "targets": ("ed25519", "ml-dsa"),
    "release": ("ed25519",),  # timestamp and snapshot
}
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}  # 32 MiB, about 0.1 s
_RESTORE = "restore it from a copy of keys/"
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


@dataclass(frozen=True, slots=True)
class PublicRing:
    """What is public about a ring; read without a passphrase.

    Attributes:
        base: The base's own identity.
        journal: Journal keys, the current one first.
        recovery: The offline recovery key.
        oms: Public key for `model_signing verify key`, PEM.
    """

    base: PublicIdentity
    journal: tuple[RecipientKey, ...]
    recovery: RecipientKey
    oms: str

    @property
    def recipients(self) -> tuple[RecipientKey, ...]:
        """Whom devices encrypt to: the current journal key and the recovery key."""
        return (self.journal[0], self.recovery)


def read_public(folder: Path, disk: Disk | None = None) -> PublicRing:
    """Read `ring.json`.

    Raises:
        KeyringError: There is no ring, or it is damaged.
    """
    path = folder / RING
    try:
        value = canonical.decode((disk or RealDisk()).read(path), RING)
        if (value["format"], value["version"]) != ("edgepack-ring", VERSION):
            raise KeyringError(f"{path} is not a key ring that this edgepack reads")
        base = value["base"]
        return PublicRing(
            PublicIdentity(bytes.fromhex(base["ed25519"]), bytes.fromhex(base["mldsa65"])),
            tuple(RecipientKey(bytes.fromhex(item)) for item in value["journal"]),
            RecipientKey(bytes.fromhex(value["recovery"])),
            str(value["oms"]),
        )
    except FileNotFoundError:
        raise KeyringError(f"there is no key ring in {folder}", next="run: edgepack init") from None
    except (FormatError, KeyError, TypeError, ValueError) as error:
        raise KeyringError(f"{path} is damaged: {error}", next=_RESTORE) from None


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
            raise KeyringError(f"{path} is damaged: {error}", next=_RESTORE) from None
        found.append(key)
    return tuple(sorted(found, key=lambda key: (key.created, key.role, key.kind, key.id)))


class Ring:
    """An opened key ring."""

    def __init__(self, folder: Path, passphrase: str, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self._passphrase = passphrase
        self._masters: dict[str, bytes] = {}
        self._secrets: dict[Path, bytes] = {}
        self.keys = key_files(self.folder, self.disk)

    @classmethod
    def create(
        cls, folder: Path, passphrase: str, *, now: int = 0, disk: Disk | None = None
    ) -> Ring:
        """Draw every key of a new base.

        Args:
            folder: Is made; must not hold a ring.
            passphrase: One for all keys.
            now: Unix seconds, for the record.
            disk: Where to write.

        Raises:
            KeyringError: There is a ring already.
        """
        disk = disk or RealDisk()
        if disk.exists(folder / RING):
            raise KeyringError(f"{folder} holds a key ring already")
        disk.mkdir(folder)
        ring = cls(folder, passphrase, disk)
        for role in FAMILIES:
            ring.draw(role, now)
        base, oms = ring.draw("base", now), ring.draw("oms", now)
        journal, recovery = ring.draw("journal", now), ring.draw("recovery", now)
        identity = Identity.from_bytes(ring.secret(base[0])).public
        public = PublicRing(
            identity,
            (RecipientKey(bytes.fromhex(journal[0].body["public"])),),
            RecipientKey(bytes.fromhex(recovery[0].body["public"])),
            oms[0].body["public"],
        )
        ring.write_public(public)
        return ring

    @classmethod
    def open(cls, folder: Path, passphrase: str, *, disk: Disk | None = None) -> Ring:
        """Open a ring; the passphrase is tried on the first key file.

        Raises:
            KeyringError: No ring, a damaged one, or the wrong passphrase.
        """
        disk = disk or RealDisk()
        read_public(folder, disk)
        ring = cls(folder, passphrase, disk)
        if ring.keys:
            ring.secret(ring.keys[0])
        return ring

    @property
    def base_id(self) -> str:
        """The base's id, 32 hex characters."""
        return self.public().base.id

    def public(self) -> PublicRing:
        """Return what is public."""
        return read_public(self.folder, self.disk)

    def write_public(self, public: PublicRing) -> None:
        """Replace ring.json, and oms.pub for strangers."""
        value = {
            "format": "edgepack-ring",
            "version": VERSION,
            "base": {"ed25519": public.base.ed25519.hex(), "mldsa65": public.base.mldsa65.hex()},
            "journal": [key.raw.hex() for key in public.journal],
            "recovery": public.recovery.raw.hex(),
            "oms": public.oms,
        }
        write_durable(self.disk, self.folder / RING, canonical.encode(value))
        write_durable(self.disk, self.folder / OMS_PUBLIC, public.oms.encode(), 0o644)

    def of_role(self, role: str) -> tuple[KeyFile, ...]:
        """Return the key files of one role that are here, oldest first."""
        return tuple(key for key in self.keys if key.role == role)

    def signer(self, keyid: str) -> CryptoSigner | None:
        """Return the TUF signer of a key id, None where its key file is elsewhere."""
        for key in self.keys:
            if key.id == keyid and key.kind in ("ed25519", "ml-dsa"):
                return CryptoSigner(_private(key.kind, self.secret(key)))
        return None

    def signers(self, role: str) -> tuple[CryptoSigner, ...]:
        """Return a signer for every key of a TUF role that is here."""
        return tuple(
            CryptoSigner(_private(key.kind, self.secret(key))) for key in self.of_role(role)
        )

    def identity(self) -> Identity:
        """Return the base's own identity: it signs acks."""
        return Identity.from_bytes(self.secret(self._one("base", self.base_id)))

    def oms_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the ECDSA key of `model.sig`."""
        current = sha256(self.public().oms.encode()).hex()
        secret = int.from_bytes(self.secret(self._one("oms", current)), "big")
        return ec.derive_private_key(secret, ec.SECP256R1())

    def has_oms_key(self) -> bool:
        """Whether the key of `model.sig` is here; without it a bundle goes without."""
        return any(key.body["public"] == self.public().oms for key in self.of_role("oms"))

    def journal_secrets(self) -> dict[str, bytes]:
        """Return recipient id → secret, of every journal key that is here, retired ones too."""
        return {
            key.id: self.secret(key)
            for key in (*self.of_role("journal"), *self.of_role("recovery"))
        }

    def journal_recipients(self) -> tuple[RecipientKey, ...]:
        """Return whom devices encrypt to."""
        return self.public().recipients

    def draw(self, role: str, now: int) -> tuple[KeyFile, ...]:
        """Draw the keys of a role and write them; ring.json is not touched.

        Returns:
            One key file for each family of the role.
        """
        drawn = tuple(_draw(kind) for kind in FAMILIES.get(role, (role,)))
        files = tuple(self._write_key(role, *parts, now) for parts in drawn)
        self.keys = key_files(self.folder, self.disk)
        return files

    def destroy(self, keyid: str) -> None:
        """Remove the key file of an id; what was encrypted to it can never be read again."""
        for key in self.keys:
            if key.id == keyid:
                self.disk.unlink(key.path)
        self.disk.fsync_dir(self.folder)
        self.keys = key_files(self.folder, self.disk)

    def secret(self, key: KeyFile) -> bytes:
        """Decrypt a private key.

        Raises:
            KeyringError: The passphrase is wrong, or the file is damaged.
        """
        if key.path not in self._secrets:
            opened = self._aead(key.body).open(0, bytes.fromhex(key.body["box"]), _aad(key.body))
            if opened is None:
                raise KeyringError(
                    f"the passphrase does not open {key.path.name}", why="or the file is damaged"
                )
            self._secrets[key.path] = opened
        return self._secrets[key.path]

    def _one(self, role: str, keyid: str) -> KeyFile:
        for key in self.of_role(role):
            if key.id == keyid:
                return key
        raise KeyringError(f"the {role} key is not in {self.folder}", next="bring it back")

    def _aead(self, body: Mapping[str, Any]) -> Aead:
        """Return the cipher of one key file: its key is used for this one box only."""
        salt = str(body["kdf"]["salt"])
        if salt not in self._masters:
            self._masters[salt] = hashlib.scrypt(
                self._passphrase.encode(),
                salt=bytes.fromhex(salt),
                **{name: min(int(body["kdf"][name]), limit) for name, limit in _LIMITS.items()},
                maxmem=256 << 20,
                dklen=32,
            )
        return Aead(sha256(_LABEL, self._masters[salt], bytes.fromhex(body["nonce"])))

    def _write_key(
        self, role: str, kind: str, keyid: str, public: str, secret: bytes, now: int
    ) -> KeyFile:
        salt = self.keys[0].body["kdf"]["salt"] if self.keys else os.urandom(16).hex()
        body: dict[str, Any] = {
            "format": "edgepack-key",
            "version": VERSION,
            "role": role,
            "kind": kind,
            "id": keyid,
            "public": public,
            "created": now,
            "kdf": {"name": "scrypt", **_SCRYPT, "salt": salt},
            "nonce": os.urandom(16).hex(),
        }
        body["box"] = self._aead(body).seal(0, secret, _aad(body)).hex()
        name = f"{role}-{keyid[:8]}.key" if role == kind else f"{role}-{kind}-{keyid[:8]}.key"
        path = self.folder / name
        write_durable(self.disk, path, canonical.encode(body))
        key = KeyFile(path, role, kind, keyid, now, body)
        self.keys = (*self.keys, key)
        return key


_LIMITS = {"n": 1 << 17, "r": 8, "p": 4}


def _aad(body: Mapping[str, Any]) -> bytes:
    names = ("role", "kind", "id", "public", "created")
    return canonical.encode({name: body[name] for name in names})


def _private(kind: str, seed: bytes) -> Any:
    if kind == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(seed)
    return MLDSA65PrivateKey.from_seed_bytes(seed)


def _draw(kind: str) -> tuple[str, str, str, bytes]:
    """Return kind, id, public half and secret of a new key."""
    return _DRAW[kind](kind)


def _draw_tuf(kind: str) -> tuple[str, str, str, bytes]:
    seed = os.urandom(32)
    key = SSlibKey.from_crypto(_private(kind, seed).public_key())
    return kind, key.keyid, key.keyval["public"], seed


def _draw_identity(_kind: str) -> tuple[str, str, str, bytes]:
    identity = Identity.generate()
    public = identity.public
    return "identity", public.id, (public.ed25519 + public.mldsa65).hex(), identity.to_bytes()


def _draw_journal(_kind: str) -> tuple[str, str, str, bytes]:
    secret, public = generate_recipient()
    return "journal", public.id, public.raw.hex(), secret


def _draw_oms(_kind: str) -> tuple[str, str, str, bytes]:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = private.private_numbers().private_value.to_bytes(32, "big")
    return "oms", sha256(pem).hex(), pem.decode(), secret


_DRAW: Mapping[str, Callable[[str], tuple[str, str, str, bytes]]] = {
    "ed25519": _draw_tuf,
    "ml-dsa": _draw_tuf,
    "base": _draw_identity,
    "journal": _draw_journal,
    "recovery": _draw_journal,
    "oms": _draw_oms,
}
