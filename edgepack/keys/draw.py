"""Draw the keys of a base, one function for each kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from securesystemslib.signer._key import SSlibKey

from device_runtime.crypt import Identity, generate_recipient, sha256


def private_key(kind: str, seed: bytes) -> Any:
    """Return the private key that a seed of 32 bytes stands for."""
    if kind == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(seed)
    return MLDSA65PrivateKey.from_seed_bytes(seed)


def draw(kind: str) -> tuple[str, str, str, bytes]:
    """Return kind, id, public half and secret of a new key."""
    return _DRAW[kind](kind)


def _draw_tuf(kind: str) -> tuple[str, str, str, bytes]:
    seed = os.urandom(32)
    key = SSlibKey.from_crypto(private_key(kind, seed).public_key())
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
