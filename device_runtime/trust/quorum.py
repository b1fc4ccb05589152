"""Who signed this? Signatures of TUF documents, checked without importing the TUF client.

The installer verifies with python-tuf (`trust.refresh`). Every start must verify again, and there
an import of python-tuf and securesystemslib would cost more than everything else together. So
what is needed of them stands here a second time: canonical JSON (OLPC), key formats, thresholds.
It is tested differentially against python-tuf.

Rules of a signed document here, stricter than TUF:
- its bytes are canonical JSON: one document, one form;
- every signature is by a key of the role and holds; nothing surplus, nothing twice;
- the threshold is met, and each signature family of the policy is among those that hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from device_runtime.crypt import sha256, sha512, verify_ed25519, verify_mldsa65
from device_runtime.errors import FormatError, ThresholdError, UnknownKeyError, VerificationError
from device_runtime.format import canonical
from device_runtime.record import dataclass

T = TypeVar("T")
CUSTOM = "x-edgepack"  # our signed fields within root and targets
MAX_DOCUMENT = 1 << 20  # bytes; what nobody signed is parsed to learn who should have signed it
_LIMITS = {"root": 256 << 10, "snapshot": 16 << 10, "timestamp": 16 << 10}

# DER of SubjectPublicKeyInfo up to the key itself (id-ml-dsa-65, 2.16.840.1.101.3.4.3.18).
_MLDSA65_DER = bytes.fromhex("308207b2300b0609608648016503040312038207a100")
_ROOT_NAME = re.compile(r"([1-9][0-9]{0,5})\.root\.json")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, slots=True)
class Document:
    """A signed document that was read, not yet verified.

    Attributes:
        signed: What was signed.
        payload: The canonical bytes of `signed`, which the signatures are over.
        signatures: Key id → signature.
        raw: The whole file.
    """

    signed: Mapping[str, Any]
    payload: bytes
    signatures: Mapping[str, bytes]
    raw: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of `payload`, hex: names what was signed, whoever signed it."""
        return sha256(self.payload).hex()


@dataclass(frozen=True, slots=True)
class RootFacts:
    """What edgepack reads from a root of trust.

    Attributes:
        version: 1, 2, 3 …
        issued: When it was made by the base's clock; unix seconds.
        expires: Unix seconds.
        floor_reset: Value that this root sets the time floor to, or None.
        revoked_keys: Key ids that no slot may rely on any more.
        revoked_digests: Bundle digests that must not be installed or run.
        stopped_digests: Revoked ones that must not run even as a last resort.
    """

    version: int
    issued: int
    expires: int
    floor_reset: int | None
    revoked_keys: frozenset[str]
    revoked_digests: frozenset[str]
    stopped_digests: frozenset[str]


def encode_signed(value: object) -> bytes:
    """Return canonical JSON as TUF signs it (OLPC): only quote and backslash are escaped.

    Raises:
        FormatError: A value that it has no form for, such as a float.
    """
    parts: list[str] = []
    _encode(value, parts)
    return "".join(parts).encode()


def _encode(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
    elif value is None or isinstance(value, bool):
        parts.append({True: "true", False: "false", None: "null"}[value])
    elif isinstance(value, int):
        parts.append(str(value))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            parts.append("," if i else "[")
            _encode(item, parts)
        parts.append("]" if value else "[]")
    elif isinstance(value, dict):
        for i, key in enumerate(sorted(value)):
            parts.append("," if i else "{")
            _encode(key, parts)
            parts.append(":")
            _encode(value[key], parts)
        parts.append("}" if value else "{}")
    else:
        raise FormatError(f"a signed document holds {value!r}, which is not allowed")


def read_document(data: bytes, what: str, kind: str) -> Document:
    """Read `{"signatures": [...], "signed": {...}}` in canonical JSON.

    Args:
        data: The bytes.
        what: For the error, such as "targets.json".
        kind: What `signed._type` must say.

    Raises:
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    value = _decode(data, what, kind)
    try:
        signatures: dict[str, bytes] = {}
        for item in value["signatures"]:
            if set(item) != {"keyid", "sig"} or item["keyid"] in signatures:
                raise FormatError(f"{what} has a signature with surplus fields, or one twice")
            signature = bytes.fromhex(item["sig"])
            if not is_hex(item["keyid"]) or signature.hex() != item["sig"]:
                raise FormatError(f"{what} has a signature or key id that is not lower-case hex")
            signatures[item["keyid"]] = signature
        return Document(value["signed"], encode_signed(value["signed"]), signatures, bytes(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{what} does not follow its format: {error!r}") from None


def roots_in(files: Mapping[str, T]) -> dict[int, T]:
    """Return version → content of the files that are named `N.root.json`."""
    return {int(found[1]): files[n] for n in files if (found := _ROOT_NAME.fullmatch(n))}


def read_root(data: bytes, what: str = "the root") -> Mapping[str, Any]:
    """Return the signed part of a root that is trusted already.

    Raises:
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    signed: Mapping[str, Any] = _decode(data, what, "root")["signed"]
    return signed


def _decode(data: bytes, what: str, kind: str) -> Any:
    limit = _LIMITS.get(kind, MAX_DOCUMENT)
    value = canonical.decode(data, what, limit=limit, canonical=True)
    try:
        if set(value) == {"signed", "signatures"} and value["signed"]["_type"] == kind:
            return value
    except (KeyError, TypeError):
        pass
    raise FormatError(f"{what} is not a signed {kind} document")


def signers(
    document: Document, role: str, root: Mapping[str, Any], families: Sequence[str], what: str
) -> tuple[str, ...]:
    """Verify all signatures of a document under one role of a root; return the key ids.

    Args:
        document: What was read.
        role: `root`, `targets`, `snapshot` or `timestamp`.
        root: The `signed` part of the trusted root.
        families: Key types that must all be among the signers, such as `ed25519` and `ml-dsa`.
        what: For the error.

    Raises:
        UnknownKeyError: A signature by a key that is not in the role.
        ThresholdError: A signature does not hold, too few, or a family is missing.
    """
    try:
        keys, role_keys = root["keys"], root["roles"][role]["keyids"]
        threshold = root["roles"][role]["threshold"]
        found: set[str] = set()
        for keyid, signature in document.signatures.items():
            if keyid not in role_keys:
                raise UnknownKeyError(f"{what} is signed by a key that the root does not name")
            if not _holds(keys[keyid], signature, document.payload):
                raise ThresholdError(f"a signature of {what} does not hold")
            found.add(keys[keyid]["keytype"])
        count = len(document.signatures)
        if not isinstance(threshold, int) or threshold < 1 or count < threshold:
            raise ThresholdError(f"{what} has {count} of {threshold} signatures that it needs")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(f"the root has no usable keys for {role}: {error!r}") from None
    except ImportError:
        raise ThresholdError(
            f"{what} cannot be verified: this machine's cryptography has no ML-DSA",
            next="install the pinned wheels of edgepack-device",
        ) from None
    missing = [family for family in families if family not in found]
    if missing:
        raise ThresholdError(f"{what} lacks a signature of family {' and '.join(missing)}")
    return tuple(sorted(document.signatures))


def _holds(key: Mapping[str, Any], signature: bytes, payload: bytes) -> bool:
    public = key["keyval"]["public"]
    kind = (key["keytype"], key["scheme"])
    if kind == ("ed25519", "ed25519"):
        return verify_ed25519(bytes.fromhex(public), signature, payload)
    if kind == ("ml-dsa", "ml-dsa-65/1"):
        # TAP 21: what is signed is b"tuf", the version of the scheme, SHA-512 of the document.
        message = b"tuf\x01" + sha512(payload)
        return verify_mldsa65(_mldsa65_from_pem(public), signature, message)
    return False


def _mldsa65_from_pem(pem: str) -> bytes:
    lines = pem.strip().split("\n")
    if lines[0] != "-----BEGIN PUBLIC KEY-----" or lines[-1] != "-----END PUBLIC KEY-----":
        return b""
    try:
        der = base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error:
        return b""
    return der[len(_MLDSA65_DER) :] if der.startswith(_MLDSA65_DER) else b""


def root_sha256(root: bytes) -> str:
    """Return the SHA-256 of a root file, hex: how a slot pins the root it was verified with."""
    return sha256(root).hex()


def root_facts(root: bytes) -> RootFacts:
    """Read a root that is trusted already.

    Raises:
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    return facts_of(read_root(root))


def facts_of(signed: Mapping[str, Any]) -> RootFacts:
    """As `root_facts`, of what `read_root` returned."""
    try:
        custom = signed.get(CUSTOM, {})
        reset = custom.get("floor_reset")
        return RootFacts(
            version=whole(signed["version"]),
            issued=whole(custom.get("issued", 0)),
            expires=unix_seconds(signed["expires"]),
            floor_reset=None if reset is None else whole(reset),
            revoked_keys=hex_set(custom.get("revoked_keys", [])),
            revoked_digests=hex_set(custom.get("revoked_digests", [])),
            stopped_digests=hex_set(custom.get("stopped_digests", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"the root does not follow its format: {error!r}") from None


def unix_seconds(text: str) -> int:
    """Return unix seconds of a TUF time such as 2026-01-01T00:00:00Z; ValueError if it is none."""
    if not _TIME.fullmatch(text):
        message = f"{text!r} is not a time"
        raise ValueError(message)
    import datetime as dt  # not needed at a start

    return int(dt.datetime.fromisoformat(text).timestamp())


def hex_set(items: object) -> frozenset[str]:
    """Return a list of hex texts as a set; TypeError or ValueError if it is none."""
    if not isinstance(items, list) or not all(is_hex(item) for item in items):
        message = "not a list of hex texts"
        raise TypeError(message)
    return frozenset(items)


def is_hex(item: object) -> bool:
    """Whether this is lower-case hex of at least one byte."""
    try:
        return isinstance(item, str) and item != "" and bytes.fromhex(item).hex() == item
    except ValueError:
        return False


def whole(value: object) -> int:
    """Return a number that JSON keeps exactly; TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        message = f"{value!r} is not a whole number"
        raise TypeError(message)
    return value
