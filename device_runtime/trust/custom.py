"""`x-edgepack` in targets.json: what edgepack signs beside the names and digests of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device_runtime.errors import FormatError, UnsupportedVersionError
from device_runtime.format.container import NAME as FILE_NAME
from device_runtime.format.manifest import NAME
from device_runtime.record import dataclass
from device_runtime.trust.quorum import CUSTOM, hex_set, whole

VERSION = 1


@dataclass(frozen=True)
class Target:
    """One file: its length in bytes and its SHA-256 in hex."""

    length: int
    sha256: str


@dataclass(frozen=True)
class Targets:
    """What targets.json says.

    Attributes:
        version: Version of the bundle.
        name: Name of the bundle.
        device_class: Kind of device that it is for.
        min_runtime: Lowest version of edgepack-device.
        issued: When it was signed by the base's clock; unix seconds.
        payload: Name → length and digest, as it lies in the container.
        raw: Name of a packed file (`X.xz`) → name (`X`), and length and digest of what is in it.
        roots: Version → digest of every root that the bundle carries.
        revoked_keys: Key ids that no slot may rely on any more.
        revoked_digests: Bundle digests that must not be installed or run.
        stopped_digests: Revoked ones that must not run even as a last resort.
    """

    version: int
    name: str
    device_class: str
    min_runtime: str
    issued: int
    payload: Mapping[str, Target]
    raw: Mapping[str, tuple[str, Target]]
    roots: Mapping[int, str]
    revoked_keys: frozenset[str]
    revoked_digests: frozenset[str]
    stopped_digests: frozenset[str]

    @property
    def installed(self) -> Mapping[str, Target]:
        """Name → length and digest, as files lie in a slot: packed files in their raw form."""
        return {
            self.raw[name][0] if name in self.raw else name: (
                self.raw[name][1] if name in self.raw else target
            )
            for name, target in self.payload.items()
        }


def read_targets(signed: Mapping[str, Any]) -> Targets:
    """Read the signed part of a targets.json.

    Raises:
        UnsupportedVersionError: Signed by a newer edgepack.
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    try:
        custom = signed[CUSTOM]
        if custom["v"] != VERSION:
            raise UnsupportedVersionError(f"the bundle's metadata has version {custom['v']}")
        payload = {
            file_name(name): Target(whole(item["length"]), _digest(item["hashes"]["sha256"]))
            for name, item in signed["targets"].items()
        }
        raw = {
            name: (file_name(item["name"]), Target(whole(item["length"]), _digest(item["sha256"])))
            for name, item in custom["raw"].items()
        }
        targets = Targets(
            version=whole(signed["version"]),
            name=short_text(custom["name"]),
            device_class=short_text(custom["class"]),
            min_runtime=short_text(custom["min_runtime"]),
            issued=whole(custom["issued"]),
            payload=payload,
            raw=raw,
            roots={int(version): _digest(item) for version, item in custom["roots"].items()},
            revoked_keys=hex_set(custom.get("revoked_keys", [])),
            revoked_digests=hex_set(custom.get("revoked_digests", [])),
            stopped_digests=hex_set(custom.get("stopped_digests", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"targets.json does not follow its format: {error!r}") from None
    _check(targets, signed)
    return targets


def _check(targets: Targets, signed: Mapping[str, Any]) -> None:
    if not NAME.fullmatch(targets.name) or targets.version < 1:
        raise FormatError(f"{targets.name!r} {targets.version} names no bundle")
    if signed.get("delegations"):
        raise FormatError("targets.json delegates, which no bundle does")
    for packed, (name, _) in targets.raw.items():
        if packed not in targets.payload or packed != name + ".xz":
            raise FormatError(f"targets.json describes the content of {packed}, which is not there")
    names = [name.lower() for name in targets.installed]
    if len(set(names)) != len(targets.payload) or "metadata" in names:
        raise FormatError("targets.json gives two files one name")


def file_name(name: object) -> str:
    """Return a name that is safe in any folder; ValueError for any other."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name) or len(name) > 91:
        message = f"{name!r} is not a file name"
        raise ValueError(message)
    return name


def short_text(value: object) -> str:
    """Return a printable text of at most 64 characters; TypeError for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isprintable():
        message = f"{value!r} is not a short text"
        raise TypeError(message)
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or len(value) != 64 or not hex_set([value]):
        message = f"{value!r} is not a SHA-256"
        raise ValueError(message)
    return value
