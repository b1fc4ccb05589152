"""The key ring: every private key of a base, encrypted at rest, one file each.

`keys/ring.json` holds what is public. `keys/ROLE-KIND-ID.key` holds one private key (see
`keys.keyfile`). A key file may be moved to another machine (a second custodian, a safe): what is
not there cannot sign, and everything else goes on.

Kinds of key: `ed25519` and `ml-dsa` sign TUF roles; `identity` is the base's own (signs acks);
`journal` opens journals that were encrypted to this base, `recovery` does the same from a safe;
`oms` (ECDSA P-256) signs `model.sig` for strangers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer._crypto_signer import CryptoSigner

from device_runtime.crypt import Identity, PublicIdentity, RecipientKey, sha256
from device_runtime.disk import Disk, RealDisk, write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from edgepack.errors import KeyringError
from edgepack.keys import keyfile
from edgepack.keys.draw import draw, private_key
from edgepack.keys.keyfile import KeyFile, Passphrase, key_files

VERSION = 1
RING = "ring.json"
OMS_PUBLIC = "oms.pub"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "root": ("ed25519", "ml-dsa"),
    "targets": ("ed25519", "ml-dsa"),
    "release": ("ed25519",),  # timestamp and snapshot
}


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
        raise KeyringError(f"{path} is damaged: {error}", next=keyfile.RESTORE) from None


class Ring:
    """An opened key ring."""

    def __init__(self, folder: Path, passphrase: str, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self.passphrase = Passphrase(passphrase)
        self._secrets: dict[Path, bytes] = {}
        keyfile.settle(folder, disk)
        self.look()

    def look(self) -> None:
        """See which key files are here."""
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
                return CryptoSigner(private_key(key.kind, self.secret(key)))
        return None

    def signers(self, role: str) -> tuple[CryptoSigner, ...]:
        """Return a signer for every key of a TUF role that is here."""
        return tuple(
            CryptoSigner(private_key(key.kind, self.secret(key))) for key in self.of_role(role)
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

    def draw(self, role: str, now: int, kinds: tuple[str, ...] = ()) -> tuple[KeyFile, ...]:
        """Draw the keys of a role and write them; ring.json is not touched.

        Args:
            role: Whose.
            now: Unix seconds, for the record.
            kinds: Only these families of the role; all if empty.

        Returns:
            One key file for each family of the role.
        """
        drawn = [draw(kind) for kind in kinds or FAMILIES.get(role, (role,))]
        salt = self.keys[0].body["kdf"]["salt"] if self.keys else keyfile.fresh_salt()
        for kind, keyid, public, secret in drawn:
            fields = {"role": role, "kind": kind, "id": keyid, "public": public, "created": now}
            keyfile.write_key(self.disk, self.folder, self.passphrase.seal(fields, secret, salt))
        self.look()
        made = [keyid for _, keyid, _, _ in drawn]
        return tuple(sorted((k for k in self.keys if k.id in made), key=lambda k: made.index(k.id)))

    def destroy(self, keyid: str) -> None:
        """Remove the key file of an id; what was encrypted to it can never be read again."""
        for key in self.keys:
            if key.id == keyid:
                self.disk.unlink(key.path)
        self.disk.fsync_dir(self.folder)
        self.look()

    def secret(self, key: KeyFile) -> bytes:
        """Decrypt a private key.

        Raises:
            KeyringError: The passphrase is wrong, or the file is damaged.
        """
        if key.path not in self._secrets:
            opened = self.passphrase.open(key.body)
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
