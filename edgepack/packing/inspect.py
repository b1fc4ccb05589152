"""What a bundle or candidate holds, for people: verify, inspect, diff."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime.crypt import sha256
from device_runtime.disk import Disk, RealDisk
from device_runtime.errors import FormatError, UsageError
from device_runtime.format import canonical, container
from device_runtime.format.words import words
from device_runtime.generation import Trusted
from device_runtime.policy import Policy
from device_runtime.trust import bundle as bundles
from device_runtime.trust import quorum
from device_runtime.trust.custom import read_targets
from device_runtime.trust.source import open_source
from edgepack.errors import WorkspaceError
from edgepack.workspace import Workspace

PARTS = {"lineage": "lineage.json", "sbom": "sbom.cdx.json", "card": "MODEL_CARD.md"}
LIMIT = 512 << 20


# --- verify ------------------------------------------------------------------------------------


def verify_file(
    path: Path,
    *,
    root: str | None = None,
    workspace: str | None = None,
    disk: Disk | None = None,
) -> dict[str, Any]:
    """Check every signature and every digest of a signed bundle.

    Args:
        path: The bundle.
        root: A trusted root.json; default: the chain of the workspace.
        workspace: Where to look for it; default: upwards from here.
        disk: Where to read from.

    Returns:
        name, version, digest, root_version, root_words (as `keys list` shows them for that root),
        issued, class, signers, files, bytes.

    Raises:
        UsageError: There is no such file, or nothing to trust.
        FormatError, VerificationError: As the device would raise them.
    """
    from device_runtime.clock import SystemClock

    disk = disk or RealDisk()
    if not path.is_file():
        raise UsageError(f"there is no file {path}", next="give a signed bundle")
    trusted, policies = trust_of(root, workspace, disk)
    kind = claimed_class(path, disk)
    policy = policies.get(kind, Policy(kind))
    wall = SystemClock().wall_ns() // 1_000_000_000
    found = bundles.verify(disk, path, trusted, policy, name=None, wall_s=wall)
    bundles.verify_payload(disk, found)
    return {
        "name": found.name,
        "version": found.version,
        "digest": found.digest,
        "root_version": found.root_version,
        "root_words": words(sha256(found.trusted.root)),
        "issued": found.issued,
        "class": found.device_class,
        "signers": list(found.signers),
        "files": len(found.payload),
        "bytes": path.stat().st_size,
    }


def claimed_class(path: Path, disk: Disk) -> str:
    """Return the class of device that a bundle says it is for, UNVERIFIED.

    Raises:
        FormatError: It is no signed bundle.
    """
    entry = "metadata/targets.json"
    with open_source(disk, path, Policy("any")) as source:
        if entry not in source.index.entries:
            raise FormatError(f"this is not a signed bundle: it has no {entry}")
        data = source.small(entry, quorum.MAX_DOCUMENT)
    signed = quorum.read_document(data, "targets.json", "targets").signed
    return read_targets(signed).device_class


def trust_of(
    root: str | None, workspace: str | None, disk: Disk
) -> tuple[Trusted, Mapping[str, Policy]]:
    """Return whom to trust and the policies by class.

    Raises:
        UsageError: Neither a root nor a workspace.
    """
    if root is not None:
        path = Path(root)
        if not path.is_file():
            raise UsageError(f"there is no file {path}", next="give a root.json that you trust")
        data = disk.read(path, 1 << 20)
        return Trusted(data, floor=quorum.root_facts(data).issued), {}
    try:
        ws = Workspace.find(workspace, disk=disk)
    except WorkspaceError:
        raise UsageError(
            "no workspace here, and no root of trust given", next="add --root ROOT.json"
        ) from None
    from edgepack.keys.roles import trusted

    return trusted(ws), {name: item.policy for name, item in ws.classes.items()}


# --- inspect -----------------------------------------------------------------------------------


def read_files(path: Path, disk: Disk | None = None) -> dict[str, bytes]:
    """Return the files of a bundle's payload (expanded) or of a candidate's folder, unverified.

    Raises:
        UsageError: There is nothing there, or it is neither.
        FormatError: Not a container, or one that would fill the memory.
    """
    disk = disk or RealDisk()
    if path.is_dir():
        if not (path / "candidate.json").is_file():
            raise UsageError(f"{path} is no candidate's folder")
        return {name: (path / name).read_bytes() for name in disk.list(path)}
    if not path.is_file():
        raise UsageError(f"there is no file {path}", next="give a bundle or a candidate's folder")
    size = path.stat().st_size
    with disk.open_read(path) as file:

        def read_at(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        files: dict[str, bytes] = {}
        room = LIMIT
        for name, entry in container.index(read_at, size).entries.items():
            short = _short(name)
            if short in files:
                raise FormatError(f"two files of {path.name} are called {short}")
            files[short] = _expanded(name, read_at(entry.offset, entry.size), room)
            room -= len(files[short]) if name.endswith(".xz") else 0
        return files


def _short(name: str) -> str:
    return name.removeprefix("payload/").removesuffix(".xz")


def _expanded(name: str, data: bytes, room: int) -> bytes:
    if not name.endswith(".xz"):
        return data
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
        raw = reader.decompress(data, room)
    except lzma.LZMAError as error:
        raise FormatError(f"{name} is not valid xz: {error}") from None
    if not reader.eof:
        raise FormatError(f"{name} does not end, or expands to more than {LIMIT >> 20} MiB")
    return raw


def inspect_file(path: Path, part: str = "") -> tuple[dict[str, Any], str]:
    """Return (what a bundle or candidate says about itself, the same as text). Unverified.

    Args:
        path: Bundle or candidate folder.
        part: `lineage`, `sbom`, `card`, or empty for an overview.
    """
    files = read_files(path)
    if part == "card":
        text = _need(files, PARTS[part], path).decode(errors="replace")
        return {"card": text}, text
    if part:
        value = canonical.decode(_need(files, PARTS[part], path), PARTS[part], limit=LIMIT)
        return {part: value}, _pretty(value)
    try:
        facts = overview(path, files)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path.name} does not follow its format: {error!r}"[:300]) from None
    width = max(len(key) for key in facts)
    lines = [f"{key:<{width}}  {_line(value)}" for key, value in facts.items() if key != "files"]
    lines += ["", *(f"  {size:>10,}  {name}" for name, size in facts["files"].items())]
    return facts, "\n".join(lines)


def _need(files: Mapping[str, bytes], name: str, path: Path) -> bytes:
    if name not in files:
        raise UsageError(f"{path} has no {name}", next="build the candidate first")
    return files[name]


def overview(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the facts that `inspect` prints."""
    facts: dict[str, Any] = {"file": str(path), "bytes": _size(path)}
    schema = _json(files, "schema.json")
    lineage = _json(files, "lineage.json")
    manifest = _json(files, "manifest.json") or _json(files, "candidate.json")
    signed = _json(files, "metadata/targets.json").get("signed")
    if signed:
        facts["version"] = signed["version"]
        facts["digest"] = hashlib.sha256(_encoded(signed)).hexdigest()
        facts["expires"] = signed.get("expires")
    elif not path.is_dir():
        facts["version"] = "unsigned"
    facts |= {
        "name": manifest.get("name"),
        "class": manifest.get("device_class"),
        "task": schema.get("task"),
        "answers": schema.get("output", {}).get("names"),
        "inputs": [c["name"] for c in schema.get("columns", ()) if c["role"] == "input"],
        "key": next((c["name"] for c in schema.get("columns", ()) if c["role"] == "key"), None),
        "time": next((c["name"] for c in schema.get("columns", ()) if c["role"] == "time"), None),
        "model_bytes": manifest.get("model_bytes"),
        "operators": manifest.get("operators"),
        "opsets": manifest.get("opsets"),
        "min_onnxruntime": manifest.get("min_onnxruntime"),
        "peak_rss_bytes": manifest.get("peak_rss_bytes"),
        "trained_on": lineage.get("data"),
        "seed": lineage.get("seed"),
        "parent": lineage.get("parent"),
    }
    if "metrics.json" in files:
        facts["metrics"] = _json(files, "metrics.json")
    facts["files"] = {name: len(data) for name, data in sorted(files.items())}
    return facts


def _encoded(signed: Any) -> bytes:
    return quorum.encode_signed(signed)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.iterdir() if item.is_file())


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    value = canonical.decode(files[name], name, limit=LIMIT)
    return value if isinstance(value, dict) else {}


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _pretty(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


# --- diff --------------------------------------------------------------------------------------


def diff_files(one: Path, two: Path) -> list[dict[str, Any]]:
    """Return what differs between two bundles or candidates: [{what, one, two}], by name."""
    left, right = read_files(one), read_files(two)
    changes: list[dict[str, Any]] = []
    for name in sorted(set(left) | set(right)):
        a, b = left.get(name), right.get(name)
        if a == b:
            continue
        if a is None or b is None:
            changes.append({"what": name, "one": _bytes(a), "two": _bytes(b)})
        elif name.endswith(".json"):
            before = _flat(canonical.decode(a, name, limit=LIMIT))
            after = _flat(canonical.decode(b, name, limit=LIMIT))
            for key in sorted(set(before) | set(after)):
                if before.get(key) != after.get(key):
                    what = f"{name} {key}"
                    changes.append({"what": what, "one": before.get(key), "two": after.get(key)})
        else:
            changes.append({"what": name, "one": _bytes(a), "two": _bytes(b)})
    return changes


def _bytes(data: bytes | None) -> str | None:
    if data is None:
        return None
    return f"{len(data):,} bytes {hashlib.sha256(data).hexdigest()[:12]}"


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    """Flatten JSON to path → scalar; a list whose items have a `name` goes by that name."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [
            (str(item["name"]) if isinstance(item, dict) and "name" in item else str(i), item)
            for i, item in enumerate(value)
        ]
    else:
        return {where or ".": value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{where}.{key}" if where else key)
    return flat
