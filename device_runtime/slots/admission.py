"""May this bundle run here? Asked before a byte of the model is copied or loaded.

A refusal is not remembered: a policy, a disk or a runtime may be another at the next visit.
"""

from __future__ import annotations

import os
from pathlib import Path

from device_runtime.errors import AdmissionError, IncompatibleError, MachineError, ModelLoadError
from device_runtime.format.manifest import Manifest
from device_runtime.home import Home
from device_runtime.model.graph import GraphFacts, admit, inspect_graph
from device_runtime.policy import Policy
from device_runtime.trust.bundle import VerifiedBundle
from device_runtime.trust.checks import release
from device_runtime.trust.load import mapped

STAGING_MARGIN = 16 << 20  # metadata, folders, and what else grows meanwhile
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_LIMIT = 1 << 60


def check(home: Home, bundle: VerifiedBundle, policy: Policy) -> None:
    """Compare a verified bundle with this machine: onnxruntime, operators, RAM, disk.

    (Name, class and edgepack-device are signed in targets.json, and were compared with it.)

    Raises:
        IncompatibleError: It is for another onnxruntime.
        AdmissionError: This machine cannot run it, or has no room to stage it.
    """
    manifest = bundle.manifest
    _check_runtime(manifest)
    claimed = GraphFacts(
        ir_version=manifest.ir_version,
        opsets=manifest.opsets,
        operators=manifest.operators,
        inputs=(),
        outputs=(),
        nodes=0,
        initializer_bytes=0,
        size=manifest.model_bytes,
    )
    admit(claimed, manifest, policy, onnxruntime=installed_onnxruntime())
    _check_ram(manifest, policy)
    _check_disk(home, bundle)


def check_graph(folder: Path, home: Home, manifest: Manifest, policy: Policy) -> None:
    """Walk the staged model: it is an admissible graph, and the one that the manifest describes.

    Raises:
        AdmissionError: Not an ONNX file, one that hides something, or one that holds more than the
            manifest says or the policy allows.
    """
    model = mapped(home.disk, folder / "model.onnx", manifest.model_bytes)
    try:
        facts = inspect_graph(model, max_bytes=policy.max_model_bytes)
    except ModelLoadError as error:
        raise AdmissionError(error.what, why="such a file is never loaded") from None
    admit(facts, manifest, policy, onnxruntime=installed_onnxruntime())


def _check_runtime(manifest: Manifest) -> None:
    here = installed_onnxruntime()
    if release(manifest.min_onnxruntime) > release(here):
        raise IncompatibleError(
            f"this bundle needs onnxruntime {manifest.min_onnxruntime}, here is {here}",
            next="update edgepack-device and its packages on this device first",
        )


def _check_ram(manifest: Manifest, policy: Policy) -> None:
    limit = min(policy.ram_bytes or _NO_LIMIT, machine_ram())
    if manifest.peak_rss_bytes > limit:
        raise AdmissionError(
            f"the model needs {manifest.peak_rss_bytes / 2**20:,.0f} MiB of memory, "
            f"this device has {limit / 2**20:,.0f} MiB for it",
            next="ask the base for a smaller model; the previous one runs on",
        )


def _check_disk(home: Home, bundle: VerifiedBundle) -> None:
    # The new slot is staged while both old ones are there. A packed file lies beside its content
    # for a moment.
    packed = max((bundle.payload[name].length for name in bundle.raw), default=0)
    content = sum(target.length for target in bundle.installed.values())
    need = content + packed + STAGING_MARGIN
    free = home.disk.free_bytes(home.slots)
    if free < need:
        raise AdmissionError(
            f"the bundle needs {need / 2**20:,.1f} MiB of disk, {free / 2**20:,.1f} MiB are free",
            next=f"free {(need - free) / 2**20:,.1f} MiB and install it again",
        )


def machine_ram() -> int:
    """Return the memory of this machine in bytes, or of the control group if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in _CGROUP:
        try:
            with open(name, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total


def installed_onnxruntime() -> str:
    """Return the version of onnxruntime that is installed, without importing it.

    Raises:
        MachineError: There is none.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        raise MachineError(
            "onnxruntime is not installed",
            next="install edgepack-device with its dependencies again",
        ) from None
