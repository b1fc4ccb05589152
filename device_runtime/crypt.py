"""The only use of `cryptography` on the device: digests, signatures, AEAD, key wrapping.

Sizes in bytes: Ed25519 public key 32, signature 64 (RFC 8032); ML-DSA-65 public key 1952,
signature 3309 (FIPS 204); HPKE (RFC 9180) with ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM.
Imports are made inside functions where a path does not need them: start-up time counts. Hashes
come from here too: `hashlib` would load a second OpenSSL (2.5 ms and 4 MB of every start).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.bindings import _rust
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, Hash

from device_runtime.errors import UndecryptableError
from device_runtime.record import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
ED25519_SIGNATURE = 64
_X25519_BYTES = 32
_MLKEM768_BYTES = 1184


def _made(family: str, name: str, public: str) -> Any:
    """Return what a constructor of `cryptography` calls in the end, without its modules.

    The public ones import every kind of key there is, some only to ask whether this one is
    supported: 15 ms of each start. Where a version is built otherwise, `public` it is.

    Args:
        family: Where it lies in the library.
        name: What it is called there.
        public: Module and name within `cryptography.hazmat.primitives`.

    Raises:
        ImportError: This version has neither.
    """
    found = getattr(getattr(getattr(_rust, "openssl", None), family, None), name, None)
    if found is None:
        from importlib import import_module

        module, kind, *method = public.split(" ")
        found = getattr(import_module(f"cryptography.hazmat.primitives.{module}"), kind)
        for part in method:
            found = getattr(found, part)
    return found


_read_ed25519: Callable[[bytes], Ed25519PublicKey] = _made(
    "ed25519", "from_public_bytes", "asymmetric.ed25519 Ed25519PublicKey from_public_bytes"
)
_read_ed25519_private: Callable[[bytes], Ed25519PrivateKey] = _made(
    "ed25519", "from_private_bytes", "asymmetric.ed25519 Ed25519PrivateKey from_private_bytes"
)
_AesGcm: Callable[[bytes], AESGCM] = _made("aead", "AESGCM", "ciphers.aead AESGCM")


def sha256(*parts: bytes | bytearray | memoryview) -> bytes:
    """Return the SHA-256 of the concatenated parts."""
    digest = Hash(SHA256())
    for part in parts:
        digest.update(part)
    return digest.finalize()


def sha512(data: bytes) -> bytes:
    """Return the SHA-512."""
    digest = Hash(SHA512())
    digest.update(data)
    return digest.finalize()


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """Both public keys of a signer: Ed25519 (32 bytes) and ML-DSA-65 (1952 bytes)."""

    ed25519: bytes
    mldsa65: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over both public keys. A device's id is its first 16 bytes in hex."""
        return sha256(b"edgepack identity v1\0", self.ed25519, self.mldsa65)

    @property
    def id(self) -> str:
        """Return 32 hex characters: what names this signer in files and folders."""
        return self.fingerprint[:16].hex()

    def verify_fast(self, signature: bytes, message: bytes) -> bool:
        """Whether the Ed25519 signature holds."""
        return verify_ed25519(self.ed25519, signature, message)

    def verify_both(self, signature: bytes, message: bytes) -> bool:
        """Whether Ed25519 (first 64 bytes) and ML-DSA-65 (the rest) both hold."""
        return verify_ed25519(
            self.ed25519, signature[:ED25519_SIGNATURE], message
        ) and verify_mldsa65(self.mldsa65, signature[ED25519_SIGNATURE:], message)


class Identity:
    """Private keys of a device or a base: Ed25519 and ML-DSA-65."""

    def __init__(self, ed25519_seed: bytes, mldsa65_seed: bytes) -> None:
        self._seeds = (ed25519_seed, mldsa65_seed)
        self._ed = _read_ed25519_private(ed25519_seed)
        self._public: PublicIdentity | None = None

    @classmethod
    def generate(cls) -> Identity:
        """Draw a new identity from the system's randomness."""
        import os

        return cls(os.urandom(KEY_BYTES), os.urandom(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes, public: PublicIdentity | None = None) -> Identity:
        """Read what `to_bytes` wrote (64 bytes: both seeds).

        Args:
            raw: The seeds.
            public: The public keys where they are known: they need not be computed again.
        """
        made = cls(raw[:KEY_BYTES], raw[KEY_BYTES : 2 * KEY_BYTES])
        made._public = public
        return made

    def to_bytes(self) -> bytes:
        """Return both seeds, 64 bytes. Secret."""
        return self._seeds[0] + self._seeds[1]

    @property
    def public(self) -> PublicIdentity:
        """Both public keys."""
        if self._public is None:
            from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

            second = MLDSA65PrivateKey.from_seed_bytes(self._seeds[1]).public_key()
            self._public = PublicIdentity(
                self._ed.public_key().public_bytes_raw(), second.public_bytes_raw()
            )
        return self._public

    def sign_fast(self, message: bytes) -> bytes:
        """Return an Ed25519 signature, 64 bytes, deterministic."""
        return self._ed.sign(message)

    def sign_both(self, message: bytes) -> bytes:
        """Return Ed25519 + ML-DSA-65 signatures, 64 + 3309 bytes; the second is randomised."""
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        return self._ed.sign(message) + MLDSA65PrivateKey.from_seed_bytes(self._seeds[1]).sign(
            message
        )


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature (RFC 8032) holds; malformed keys and signatures do not."""
    try:
        _read_ed25519(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_mldsa65(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an ML-DSA-65 signature (FIPS 204) holds.

    Closed where the library lacks ML-DSA: the import fails, and nothing is skipped.
    """
    try:
        name = "asymmetric.mldsa MLDSA65PublicKey from_public_bytes"
        read = _made("mldsa", "from_mldsa65_public_bytes", name)
        read(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    except UnsupportedAlgorithm as error:
        raise ImportError(str(error)) from None
    return True


class Aead:
    """AES-256-GCM under a key that is used for one stream only; the nonce is a counter."""

    def __init__(self, key: bytes) -> None:
        self._gcm = _AesGcm(key)
        self.encrypt = self._gcm.encrypt  # (nonce, data, aad): the journal's innermost loop
        self.encrypt_into = self._gcm.encrypt_into  # (nonce, data, aad, buffer)

    def seal(self, counter: int, data: bytes | bytearray | memoryview, aad: bytes) -> bytes:
        """Encrypt; `counter` must never repeat under one key. Result is 16 bytes longer."""
        return self._gcm.encrypt(counter.to_bytes(12, "little"), data, aad)

    def open(self, counter: int, data: bytes | bytearray | memoryview, aad: bytes) -> bytes | None:
        """Decrypt; None where the tag does not hold."""
        try:
            return self._gcm.decrypt(counter.to_bytes(12, "little"), data, aad)
        except InvalidTag:
            return None


@dataclass(frozen=True, slots=True)
class RecipientKey:
    """Public half of a key that journals are encrypted to: ML-KEM-768 (1184) + X25519 (32)."""

    raw: bytes

    @property
    def id(self) -> str:
        """First 16 hex characters of the key's SHA-256."""
        return sha256(b"edgepack recipient v1\0", self.raw).hex()[:16]


def generate_recipient() -> tuple[bytes, RecipientKey]:
    """Return (secret, public) of a new journal key; the secret is 64 + 32 bytes of seeds."""
    import os

    secret = os.urandom(64 + _X25519_BYTES)
    return secret, RecipientKey(_recipient_public(secret))


def _recipient_private(secret: bytes) -> Any:
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return hpke.MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(secret[:64]),
        X25519PrivateKey.from_private_bytes(secret[64:]),
    )


def _recipient_public(secret: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    first = MLKEM768PrivateKey.from_seed_bytes(secret[:64]).public_key().public_bytes_raw()
    second = X25519PrivateKey.from_private_bytes(secret[64:]).public_key().public_bytes_raw()
    return first + second


def _suite() -> Any:
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def get_ready_to_wrap() -> None:
    """Import what `wrap_key` will need, where there is time for it: while a model opens."""
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

    del hpke, mlkem, x25519


def wrap_key(key: bytes, recipient: RecipientKey, info: bytes) -> bytes:
    """Encrypt a 32-byte key to a recipient (HPKE, RFC 9180 base mode); 1120 + 48 bytes."""
    from cryptography.hazmat.primitives import hpke

    name = "asymmetric.mlkem MLKEM768PublicKey from_public_bytes"
    first = _made("mlkem", "from_mlkem768_public_bytes", name)
    name = "asymmetric.x25519 X25519PublicKey from_public_bytes"
    second = _made("x25519", "from_public_bytes", name)
    public = hpke.MLKEM768X25519PublicKey(
        first(recipient.raw[:_MLKEM768_BYTES]), second(recipient.raw[_MLKEM768_BYTES:])
    )
    return bytes(_suite().encrypt(key, public, info=info))


def unwrap_key(
    wrapped: Sequence[tuple[str, bytes]], secrets: dict[str, bytes], info: bytes
) -> bytes:
    """Open the first wrapped key for which a secret is at hand.

    Args:
        wrapped: (recipient id, wrapped bytes) in the order of the header.
        secrets: Recipient id → secret of `generate_recipient`.
        info: What the key was bound to when it was wrapped.

    Raises:
        UndecryptableError: No secret fits.
    """
    for recipient, blob in wrapped:
        secret = secrets.get(recipient)
        if secret is None:
            continue
        try:
            return bytes(_suite().decrypt(blob, _recipient_private(secret), info=info))
        except (InvalidTag, ValueError):
            continue
    names = ", ".join(recipient for recipient, _ in wrapped) or "nobody"
    raise UndecryptableError(f"no key at hand for a segment that was encrypted to {names}")
