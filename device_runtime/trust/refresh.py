"""The TUF client: python-tuf's ngclient, fed from a bundle instead of a network.

All rules of the TUF workflow are python-tuf's. What is added here is what an air-gapped device
needs beside them:

- Nothing is written. Trusted state goes in as bytes and comes out as bytes; the caller commits it
  together with the slot, so a damaged bundle burns no version.
- The clock is given. For a device without a trusted clock the reference is the signed time floor.
  ngclient has no public way to set it; `_trusted_set.reference_time` is private, so tuf is pinned
  to one minor version and a test fails if the attribute vanishes.
- A threshold of two accepts two keys of one family. Here root and targets must really be signed by
  every family of the policy: Ed25519 and ML-DSA-65.
- The floor rises only by `issued` of accepted roots and targets (quorum roles). A root may reset
  it, once, because each root version is walked once.
- Timestamp, snapshot and targets of a bundle have one version. A stolen release key alone can
  therefore not fast-forward a device.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from securesystemslib.exceptions import Error as SigningError
from tuf.api import exceptions as tuf_errors
from tuf.api._payload import Root
from tuf.api.metadata import Metadata
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from device_runtime.errors import (
    DigestMismatchError,
    EdgepackError,
    ExpiredError,
    FormatError,
    RollbackError,
    RootChainError,
    ThresholdError,
    TooLargeError,
    VerificationError,
)
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.record import replace
from device_runtime.trust import quorum

# What hostile metadata can make a library raise that expects friendly metadata.
_SLIPS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SigningError,
)
_NOWHERE = "/dev/null"  # no file can lie below it: ngclient finds no cache and cannot make one
ROLES = ("timestamp", "snapshot", "targets")
_CONFIG = UpdaterConfig(prefix_targets_with_hash=False)


class BundleFetcher(FetcherInterface):
    """Gives ngclient the metadata files of a bundle; every other file is "404"."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.rpartition("/")[2])
        if data is None:
            raise tuf_errors.DownloadHTTPError(f"the bundle has no {url}", 404)
        return iter((data,))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file; ngclient's own would go through a temporary file."""
        data = b"".join(self.fetch(url))
        if len(data) > max_length:
            raise tuf_errors.DownloadLengthMismatchError(f"{url} is over {max_length} bytes")
        return data


class MemoryUpdater(Updater):
    """ngclient on a copy of the trusted state that lives in memory only.

    Attributes:
        state: Role → trusted bytes; what ngclient accepted is replaced here.
    """

    def __init__(
        self,
        root: bytes,
        state: Mapping[str, bytes | None],
        fetcher: FetcherInterface,
        reference: int | None,
        *,
        url: str = "bundle:",
        config: UpdaterConfig = _CONFIG,
    ) -> None:
        self.state = {role: data for role, data in state.items() if data is not None}
        super().__init__(_NOWHERE, url, fetcher=fetcher, config=config, bootstrap=root)
        if reference is not None:
            moment = dt.datetime.fromtimestamp(reference, dt.UTC)
            self._trusted_set.reference_time = moment

    @property
    def trusted(self) -> Any:
        """The set of trusted metadata."""
        return self._trusted_set

    def _load_local_metadata(self, rolename: str) -> bytes:
        if rolename not in self.state:
            raise FileNotFoundError(rolename)
        return self.state[rolename]

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        self.state[rolename] = data

    def _persist_root(self, version: int, data: bytes) -> None:  # noqa: ARG002
        self.state[Root.type] = data

    def _update_root_symlink(self) -> None:
        """There is no folder and so no link in it."""


def advance_root(bundle_roots: Mapping[int, bytes], trusted: Trusted, policy: Policy) -> Trusted:
    """Walk from the trusted root to the newest that a bundle carries.

    The result may be committed at once, before anything else of the bundle is looked at: a
    verified root and its revocations must not be forgotten because a self-test failed.

    Args:
        bundle_roots: Version → bytes; what is not newer than the trusted root is not read.
        trusted: What the device trusts.
        policy: Signature families, number of rotations.

    Raises:
        RootChainError: A root is missing in between, or there are too many.
        ThresholdError: A root lacks signatures, or a family of them.
        FormatError, VerificationError: Anything else is wrong with a root.
    """
    first, newest = quorum.root_facts(trusted.root).version, max(bundle_roots, default=0)
    if newest <= first:
        return trusted
    updater = _guarded(MemoryUpdater, trusted.root, {}, BundleFetcher({}), None)
    if newest - first > policy.max_root_rotations:
        raise RootChainError(f"the bundle carries {newest - first} new roots at once")
    current, floor = trusted.root, trusted.floor
    for version in range(first + 1, newest + 1):
        if version not in bundle_roots:
            raise RootChainError(f"the bundle lacks root {version}")
        current = bundle_roots[version]
        _guarded(_step, updater, version, current, policy)
        facts = quorum.root_facts(current)
        floor = max(floor, facts.issued) if facts.floor_reset is None else facts.floor_reset
    return replace(trusted, root=current, floor=floor)


def _step(updater: MemoryUpdater, version: int, data: bytes, policy: Policy) -> None:
    """Let ngclient take one root, then ask for every family, of the old keys and the new."""
    what = f"root {version}"
    document = quorum.read_document(data, what, "root")
    before = updater.trusted.root
    try:
        root = updater.trusted.update_root(data)
    except tuf_errors.BadVersionNumberError:
        raise RootChainError(f"what stands as {what} is another version") from None
    metadata = Metadata[Root].from_bytes(data)
    result = root.get_root_verification_result(before, document.payload, metadata.signatures)
    for part in (result.first, result.second):
        missing = set(policy.families) - {key.keytype for key in part.signed.values()}
        if missing:
            families = " and ".join(sorted(missing))
            raise ThresholdError(f"{what} lacks a signature of family {families}")
    if set(metadata.signatures) - set(result.signed):
        raise ThresholdError(f"{what} has a surplus signature that does not hold")


def refresh(files: Mapping[str, bytes], trusted: Trusted, reference: int) -> Trusted:
    """Run the TUF workflow on the metadata of a bundle under a root that `advance_root` gave.

    Args:
        files: `timestamp.json`, `snapshot.json`, `targets.json` of the bundle.
        trusted: What the device trusts, its root already advanced.
        reference: What expiry is compared with; unix seconds.

    Returns:
        The new trusted state; the floor is not yet raised.

    Raises:
        RollbackError: Older than what is trusted.
        ExpiredError: Expired at `reference`.
        ThresholdError, DigestMismatchError, FormatError, VerificationError: As named.
    """
    local = {role: getattr(trusted, role) for role in ROLES}
    state = _refresh(files, trusted.root, local, reference)
    if state["timestamp"] != files["timestamp.json"]:
        # Same version as the trusted one: ngclient keeps what it has and never looks at the
        # bundle's. Let the bundle stand on its own feet; the caller compares the digests.
        state = _refresh(files, trusted.root, {}, reference)
    for role in ROLES:
        if state[role] != files[f"{role}.json"]:
            raise VerificationError(f"{role}.json of the bundle is not the one it was signed with")
    return replace(trusted, **{role: state[role] for role in ROLES})


def _refresh(
    files: Mapping[str, bytes], root: bytes, local: Mapping[str, bytes | None], reference: int
) -> dict[str, bytes]:
    updater = _guarded(MemoryUpdater, root, local, BundleFetcher(files), reference)
    _guarded(updater.refresh)
    versions = {role: updater.trusted[role].version for role in ROLES}
    if len(set(versions.values())) != 1:
        raise VerificationError(f"timestamp, snapshot and targets differ in version: {versions}")
    return dict(updater.state)


def _guarded(call: Any, *args: Any) -> Any:
    """Call python-tuf and translate whatever it raises into our tree."""
    try:
        return call(*args)
    except EdgepackError:
        raise
    except tuf_errors.ExpiredMetadataError as error:
        raise ExpiredError(str(error)) from None
    except tuf_errors.BadVersionNumberError as error:
        raise RollbackError(f"older than what this device trusts: {error}") from None
    except tuf_errors.UnsignedMetadataError as error:
        raise ThresholdError(str(error)) from None
    except tuf_errors.LengthOrHashMismatchError as error:
        raise DigestMismatchError(f"metadata of two bundles are mixed: {error}") from None
    except tuf_errors.DownloadLengthMismatchError as error:
        raise TooLargeError(str(error)) from None
    except tuf_errors.DownloadError as error:
        raise FormatError(str(error)) from None
    except tuf_errors.RepositoryError as error:
        raise VerificationError(str(error)) from None
    except _SLIPS as error:
        raise VerificationError(f"metadata cannot be understood: {error!r}"[:300]) from None
