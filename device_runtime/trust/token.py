"""The emergency downgrade: a quorum-signed order to go back from one version to another.

It is the only way back, because a genuine older bundle is refused by its version. The token names
both bundles by version *and* digest. A device acts on it only if `from` is what it trusts and `to`
is a good, unrevoked slot it still has; the trusted version stays, so a replay does nothing.

Bytes: canonical JSON, `{"signatures": […], "signed": {"_type": "edgepack-downgrade", …}}`, as
docs/FORMAT-bundle.md says. File name: `NAME-FROM-to-TO.downgrade`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device_runtime.errors import FormatError, UnsupportedVersionError, VerificationError
from device_runtime.format.manifest import NAME
from device_runtime.policy import Policy
from device_runtime.record import dataclass
from device_runtime.trust import quorum

KIND = "edgepack-downgrade"
VERSION = 1
MAX_BYTES = 64 << 10
SUFFIX = ".downgrade"


@dataclass(frozen=True, slots=True)
class Token:
    """An order to go back.

    Attributes:
        name: Bundle name.
        from_version: The version that is trusted and shall not run any more.
        from_digest: Its digest, hex.
        to_version: The older version that shall run again.
        to_digest: Its digest, hex.
        issued: When it was made; unix seconds.
    """

    name: str
    from_version: int
    from_digest: str
    to_version: int
    to_digest: str
    issued: int

    @property
    def file_name(self) -> str:
        """What the file is called on a stick."""
        return f"{self.name}-{self.from_version}-to-{self.to_version}{SUFFIX}"


def token_signed(token: Token) -> dict[str, Any]:
    """Return the `signed` part of a token."""
    return {
        "_type": KIND,
        "version": VERSION,
        "name": token.name,
        "from": {"version": token.from_version, "sha256": token.from_digest},
        "to": {"version": token.to_version, "sha256": token.to_digest},
        "issued": token.issued,
    }


def read_token(data: bytes, root: bytes, policy: Policy) -> Token:
    """Verify a token under the targets role of the trusted root.

    Args:
        data: The file.
        root: The newest root that this device trusts.
        policy: Signature families.

    Raises:
        FormatError: It does not follow its format.
        VerificationError: It is not signed by the quorum.
    """
    document = _document(data)
    trusted = quorum.read_root(root)
    quorum.signers(document, "targets", trusted, policy.families, "the downgrade token")
    return token_of(document.signed)


def claimed_token(data: bytes) -> Token:
    """Read a token UNVERIFIED: it only serves to pass over one that is not meant for us.

    Raises:
        FormatError, VerificationError: It does not follow its format.
    """
    return token_of(_document(data).signed)


def _document(data: bytes) -> quorum.Document:
    if len(data) > MAX_BYTES:
        raise FormatError(f"a downgrade token has at most {MAX_BYTES} bytes")
    return quorum.read_document(data, "the downgrade token", KIND)


def token_of(value: Mapping[str, Any]) -> Token:
    """Read the `signed` part of a token, whoever signed it; errors as `read_token`."""
    try:
        if value["version"] != VERSION:
            raise UnsupportedVersionError(f"the downgrade token has version {value['version']}")
        token = Token(
            str(value["name"]),
            int(value["from"]["version"]),
            str(value["from"]["sha256"]),
            int(value["to"]["version"]),
            str(value["to"]["sha256"]),
            int(value["issued"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the downgrade token does not follow its format: {error!r}") from None
    if token_signed(token) != value or not NAME.fullmatch(token.name):
        raise FormatError("the downgrade token does not follow its format")
    if not 0 < token.to_version < token.from_version:
        raise VerificationError("a downgrade token must lead to an older version")
    return token
