"""A device whose disk is in memory and whose bundles are made up: the real slots code runs on it.

The fake verifier keeps the rules of the real one (roots only forward, versions, forks, revoked
digests); everything from the generation to the load marks is the product's own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from device_runtime.disk import write_all
from device_runtime.errors import (
    AdmissionError,
    DigestMismatchError,
    ForkError,
    ModelLoadError,
    RevokedError,
    RollbackError,
    SelfTestError,
    ThresholdError,
)
from device_runtime.generation import Trusted
from device_runtime.home import Home, create_home, open_home
from device_runtime.policy import Policy
from device_runtime.slots import install as installer
from device_runtime.slots import rules
from device_runtime.slots.install import Installed, RootStep, Steps
from device_runtime.slots.slot import Started, load_model
from edgepack.sim.clock import FixedClock
from support.memdisk import Dead, MemDisk

ROOT = Path("/device")
STICK = Path("/stick")
POLICY = Policy("test")


def hex64(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Bundle:
    """A made-up bundle.

    Attributes:
        kind: `sound`, `crash` (dies while it loads), `error` (refuses to load), `badtest`,
            `transient` (no room at the first try).
    """

    version: int
    root: int = 1
    kind: str = "sound"
    revokes: frozenset[str] = frozenset()
    name: str = "demo"
    digest: str = ""
    signers: tuple[str, ...] = ()
    revokes_keys: frozenset[str] = frozenset()
    stops: frozenset[str] = frozenset()
    policy: Policy | None = None
    content: bytes = b""
    tries: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.digest = self.digest or hex64(f"{self.name}-{self.version}")
        self.content = self.content or f"model {self.digest}".encode() * 20

    @property
    def file(self) -> Path:
        return STICK / f"{self.name}-{self.version}.edgepack"


def root_bytes(version: int) -> bytes:
    return json.dumps({"signed": {"version": version}}).encode()


def root_version(root: bytes) -> int:
    return int(json.loads(root)["signed"]["version"])


class Device:
    """One device with its stick, and what happens to both."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.disk = MemDisk()
        self.clock = FixedClock()
        self.bundles: dict[Path, Bundle] = {}
        self.started: Started | None = None
        self.crashed = False  # a signal ended the process, not the fuse
        kit = SimpleNamespace(
            kit_id="00" * 8,
            device_name="buoy-1",
            device_class=policy.device_class,
            bundle_name="demo",
            floor=1_700_000_000,
            roots={1: root_bytes(1)},
            policy=policy,
        )
        self.home = create_home(ROOT, kit, disk=self.disk, clock=self.clock, disk_id="d")
        self.steps = Steps(
            advance=self._advance,
            verify=self._verify,
            admit=self._admit,
            copy=self._copy,
            test=self._test,
            load=self._load,
        )

    # --- what people and nature do -----------------------------------------------------------

    def put(self, bundle: Bundle) -> Bundle:
        self.bundles[bundle.file] = bundle
        return bundle

    def install(self, bundle: Bundle, *, retry: bool = False) -> Installed:
        self.put(bundle)
        self._enter()
        result = installer.install(self.home, bundle.file, retry=retry, steps=self.steps)
        if result.outcome == "installed":
            self._stop()
        return result

    def start(self) -> Started | None:
        """Start the process: load and answer once; None if the process died of it."""
        self._enter()
        self._stop()
        try:
            self.started, _ = load_model(self.home, self._open, load=self._load)
        except Dead:
            if not self.crashed:
                raise
            self.kill()
            return None
        self.started.first_result()
        return self.started

    def begin_and_die(self, how: str = "kill") -> None:
        """Start and die between load-begin and the first result, by `kill` or `power`."""
        self._enter()
        self._stop()
        opened: list[object] = []
        self.started, _ = load_model(self.home, opened.append, load=self._load)
        self.started.asked()
        self.power() if how == "power" else self.kill()

    def ripen(self, rows: int = 1000) -> None:
        if self.started is not None:
            self.started.ripen(rows)

    def good(self, bundle: Bundle) -> Bundle:
        """Install, start and ripen."""
        assert self.install(bundle).outcome == "installed"
        self.start()
        self.ripen()
        assert self.record(bundle).state == "good"
        return bundle

    def kill(self) -> None:
        """SIGKILL: memory is gone, the page cache is not."""
        self.disk.revive()
        self.started, self.crashed = None, False
        self._reopen()

    def power(self, choose=None) -> None:
        """A power cut: another boot; what was not synced is lost."""
        self.disk.power_cut(choose or (lambda: False))
        self.started, self.crashed = None, False
        self.clock.boot = hashlib.sha256(self.clock.boot).digest()[:16]
        self.clock.monotonic = 1_000_000_000
        self._reopen()

    # --- what tests look at ------------------------------------------------------------------

    @property
    def generation(self):
        return self.home.generation()

    def record(self, bundle: Bundle):
        return self.generation.slot(bundle.digest)

    @property
    def running(self) -> int:
        """Version that runs; 0 if none."""
        return self.started.slot.version if self.started else 0

    def _enter(self) -> None:
        self.home.recover()

    def _stop(self) -> None:
        if self.started is not None:
            self.started.close()
            self.started = None

    def _reopen(self) -> None:
        self.home = open_home(ROOT, disk=self.disk, clock=self.clock, disk_id="d")

    # --- the steps ---------------------------------------------------------------------------

    def _advance(self, disk, file: Path, trusted: Trusted, policy: Policy) -> RootStep:
        bundle = self.bundles[file]
        if bundle.root <= root_version(trusted.root):
            return RootStep(trusted, frozenset(), frozenset(), frozenset())
        new = replace(trusted, root=root_bytes(bundle.root))
        return RootStep(new, bundle.revokes_keys, bundle.revokes, bundle.stops)

    def _verify(self, disk, file: Path, trusted: Trusted, policy: Policy, *, name, wall_s):
        bundle = self.bundles[file]
        assert bundle.name == name
        if bundle.root < root_version(trusted.root):
            raise ThresholdError("signed by keys that were dropped")
        before = json.loads(trusted.targets) if trusted.targets else {"version": 0, "digest": ""}
        if bundle.version < before["version"]:
            raise RollbackError("older")
        if bundle.version == before["version"] and bundle.digest != before["digest"]:
            raise ForkError("another one")
        if bundle.digest in bundle.revokes:
            raise RevokedError("revoked")
        signed = json.dumps({"version": bundle.version, "digest": bundle.digest}).encode()
        return SimpleNamespace(
            name=bundle.name,
            version=bundle.version,
            digest=bundle.digest,
            trusted=replace(trusted, timestamp=b"t", snapshot=b"s", targets=signed),
            issued=1_700_000_000 + bundle.version,
            signers=bundle.signers,
            revoked_keys=bundle.revokes_keys,
            revoked_digests=bundle.revokes,
            stopped_digests=bundle.stops,
            policy=bundle.policy,
            made_up=bundle,
        )

    def _admit(self, home: Home, verified, policy: Policy) -> None:
        bundle: Bundle = verified.made_up
        bundle.tries += 1
        if bundle.kind == "transient" and bundle.tries == 1:
            raise AdmissionError("no room")

    def _copy(self, disk: MemDisk, verified, target: Path) -> None:
        bundle: Bundle = verified.made_up
        if bundle.kind == "damaged":
            raise DigestMismatchError("model.onnx is not what was signed")
        disk.mkdir(target / "metadata")
        for name, data in (("model.onnx", bundle.content), ("metadata/root.json", b"r")):
            handle = disk.create(target / name)
            write_all(handle, data)
            handle.sync()
            handle.close()
        disk.fsync_dir(target / "metadata")
        disk.fsync_dir(target)

    def _test(self, folder: Path, home: Home, verified, policy: Policy) -> None:
        if verified.made_up.kind == "badtest":
            raise SelfTestError("row 3 is answered differently than at build")

    def _load(self, disk: MemDisk, slot: Path, *, root_sha256, digest, policy):
        bundle = next(b for b in self.bundles.values() if b.digest == digest)
        if disk.read(slot / "model.onnx") != bundle.content:
            raise DigestMismatchError("model.onnx of this slot is not what was signed")
        return SimpleNamespace(
            version=bundle.version, digest=digest, kind=bundle.kind, bundle=bundle
        )

    def _open(self, slot) -> str:
        if slot.kind == "error":
            raise ModelLoadError("onnxruntime does not take the model")
        if slot.kind == "crash":
            # What the armed signal handler leaves behind; see test_marker.py for the real one.
            for name in self.disk.list(self.home.run):
                if name.startswith("load-"):
                    node = self.disk._find(self.home.run / name)
                    node.seen += b"Fatal Python error: Segmentation fault\n\n"
            self.crashed = self.disk.dead = True
            raise Dead("segmentation fault")
        return "session"


def can_run(disk: MemDisk, device: Device) -> bool:
    """Whether a start on this disk would find a slot that loads."""
    home = open_home(ROOT, disk=disk, clock=FixedClock(), disk_id="d")
    generation = home.generation()
    unusable: set[str] = set()
    while record := rules.choose(generation, unusable):
        try:
            device._load(
                disk,
                home.slot_dir(record.digest),
                root_sha256="",
                digest=record.digest,
                policy=POLICY,
            )
            return True
        except (OSError, DigestMismatchError):
            unusable.add(record.digest)
    return False


def crash_out(device: Device, times: int = 3) -> None:
    """Let the active slot crash so many times."""
    for _ in range(times):
        assert device.start() is None
