"""`model.sig`: an OpenSSF Model Signing signature, for strangers.

A device never reads it: it knows no expiry, no rollback, no rotation. But anybody who extracts a
bundle with `tar` can run the public tool on the payload:

    model_signing verify key payload --signature payload/model.sig --public_key oms.pub

Source: https://github.com/sigstore/model-transparency, docs/model_signing_format.md (v1.0):
an in-toto statement in a DSSE envelope in a Sigstore bundle v0.3. ECDSA is made deterministic
(RFC 6979), so the same payload and key give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_runtime.format import canonical

FILE = "model.sig"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


def sign_model(name: str, files: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the bytes of model.sig.

    Args:
        name: What the signature calls the model.
        files: File name → SHA-256 in hex, of every file beside model.sig.
        key: ECDSA P-256.
    """
    resources = [
        {"name": file, "algorithm": "sha256", "digest": files[file]} for file in sorted(files)
    ]
    total = hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in resources))
    payload = canonical.encode(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": total.hexdigest()}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [FILE],
                },
                "resources": resources,
            },
        }
    )
    message = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return canonical.encode(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [
                    {"sig": base64.b64encode(key.sign(message, algorithm)).decode(), "keyid": ""}
                ],
            },
        }
    )
