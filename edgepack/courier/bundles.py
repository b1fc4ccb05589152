"""What the base puts on a stick for its devices: their newest bundles, and downgrade tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

from device_runtime.courier.stick import Stick
from device_runtime.disk import file_chunks, write_durable
from device_runtime.errors import EdgepackError, StickFullError
from device_runtime.format.stick import bundle_path, parse_bundle_name
from edgepack.progress import UNSEEN, Progress
from edgepack.registry import BundleRow, Registry
from edgepack.workspace import Workspace

DOWNGRADE = ".downgrade"


def put_bundles(
    ws: Workspace,
    registry: Registry,
    stick: Stick,
    lines: list[str],
    progress: Progress = UNSEEN,
) -> list[str]:
    """Put the newest bundle of every name that a device of this base runs on the stick.

    Returns:
        `name version` of what lies there now. What is missing or does not fit goes to `lines`.
    """
    done: list[str] = []
    wanted = {device.bundle for device in registry.devices("accepted")}
    wanted |= {plan.bundle for plan in registry.plans() if plan.kit_id}  # a kit is on its way
    revoked = _revoked(ws)
    for name in sorted(wanted):
        newest = next((b for b in registry.bundles(name) if b.digest not in revoked), None)
        if newest is None:
            continue
        path = ws.root / newest.path
        if not ws.disk.exists(path):
            lines.append(f"{newest.path} is missing: sign {name} again")
            continue
        try:
            _put_bundle(ws, stick, newest, path, progress)
        except StickFullError as error:
            lines.append(f"{error.what}; {error.next}")
            continue
        done.append(f"{name} {newest.version}")
        _remove_older(registry, stick, newest)
    return done


def _revoked(ws: Workspace) -> frozenset[str]:
    """Return the digests that a quorum revoked: no device would install them."""
    from device_runtime.trust.quorum import root_facts
    from edgepack.keys.roles import newest_root

    try:
        return root_facts(newest_root(ws)).revoked_digests
    except EdgepackError:
        return frozenset()  # a workspace without roots has no bundles either


def _put_bundle(
    ws: Workspace, stick: Stick, bundle: BundleRow, path: Path, progress: Progress
) -> None:
    relative = bundle_path(bundle.name, bundle.version)
    hasher, size = hashlib.sha256(), 0
    for piece in file_chunks(ws.disk, path):
        hasher.update(piece)
        size += len(piece)
    if not stick.holds(relative, hasher.digest(), size):
        progress.begin(f"writing {bundle.name} {bundle.version}", size)
        stick.put(relative, progress.counted(file_chunks(ws.disk, path)), size)


def put_tokens(ws: Workspace, registry: Registry, stick: Stick, lines: list[str]) -> list[str]:
    """Emergency downgrade tokens travel beside the bundles; a replay of one does nothing.

    Returns:
        Those that lie there now. One that devices would not believe is taken off the stick.
    """
    done, there = [], set(stick.files("bundles"))
    for file in ws.disk.list(ws.out):
        if not file.endswith(DOWNGRADE):
            continue
        data, path = ws.disk.read(ws.out / file), f"bundles/{file}"
        try:
            _believed(ws, registry, data)
        except EdgepackError as error:
            if file in there:
                stick.remove(path)
                lines.append(f"{file} was taken off the stick: {error.what}")
            continue
        whole = stick.holds(path, hashlib.sha256(data).digest(), len(data))
        if whole or stick.put_if_room(path, data):
            done.append(file)
        else:
            lines.append(f"no room on the stick for {file}")
    return done


def _believed(ws: Workspace, registry: Registry, data: bytes) -> None:
    """Verify a token as a device does that has met the newest bundle of its name.

    Raises:
        EdgepackError: Damaged, or signed by keys that were rotated out since.
    """
    from device_runtime.policy import Policy
    from device_runtime.trust.token import claimed_token, read_token
    from edgepack.keys.roles import roots

    every, known = roots(ws), registry.bundles(claimed_token(data).name)
    met = min(max(every), known[0].root_version if known else 1)
    read_token(data, every[met], Policy("base"))


def take_roots(ws: Workspace, stick: Stick, lines: list[str]) -> None:
    """Take over newer roots from the bundles on a stick: this base was restored from before them.

    Without them it would make other roots of the same numbers, and no device would believe it.
    What is taken is signed by the quorum of the newest root here, as a device would ask for.
    """
    from device_runtime.generation import Trusted
    from device_runtime.policy import Policy
    from device_runtime.trust.bundle import read_roots
    from device_runtime.trust.refresh import advance_root
    from edgepack.keys.roles import roots

    limits = Policy("base")
    for file in stick.files("bundles"):
        path = stick.path(f"bundles/{file}")
        if path is None or parse_bundle_name(file) is None:
            continue
        try:
            ours, theirs = roots(ws), read_roots(stick.disk, path, limits)
            advance_root(theirs, Trusted(ours[max(ours)]), limits)
        except (EdgepackError, OSError):
            continue  # no bundle, or not one of this base
        newer = [version for version in sorted(theirs) if version > max(ours)]
        for version in newer:
            write_durable(ws.disk, ws.metadata / f"{version}.root.json", theirs[version], 0o644)
        if newer:
            lines.append(
                f"{file} brought root {newer[-1]}, newer than those of this base: where "
                "`edgepack keys list` shows its keys as elsewhere and they are lost, rotate them"
            )


def _remove_older(registry: Registry, stick: Stick, newest: BundleRow) -> None:
    """Remove older versions that were signed here; a stranger's files stay."""
    ours = {row.version for row in registry.bundles(newest.name)}
    for file in stick.files("bundles"):
        parsed = parse_bundle_name(file)
        older = parsed is not None and parsed[0] == newest.name and parsed[1] < newest.version
        if older and parsed is not None and parsed[1] in ours:
            stick.remove(f"bundles/{file}")
