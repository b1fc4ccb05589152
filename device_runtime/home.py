"""The folder of one device: who it is, what it trusts, and who may write to it now.

identity/   device.key (secret, 0600), device.json (the card)
state/      gen-N/, the link `current`, odometer
slots/      one folder for each installed bundle, named by its digest
journal/  sentinel/  run/ (lock, control socket, load marks)  tmp/
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from device_runtime import generation as generations
from device_runtime.clock import Clock
from device_runtime.crypt import Identity, PublicIdentity, sha256
from device_runtime.disk import Disk, lock, suppress_full, write_durable
from device_runtime.errors import BusyError, IncompatibleError, MachineError, NotInitialisedError
from device_runtime.format import canonical
from device_runtime.generation import Generation, Trusted
from device_runtime.policy import Policy
from device_runtime.record import Protocol, dataclass, replace

FOLDERS = ("identity", "state", "slots", "journal", "run", "sentinel", "tmp")
ODOMETER_EVERY_S = 600  # a power cut loses at most this much of the odometer
_CARD_VERSION = 1


class KitLike(Protocol):
    """What a home needs of a kit (`device_runtime.trust.kit.Kit` is one)."""

    @property
    def kit_id(self) -> str:
        """Random id of the kit."""

    @property
    def device_name(self) -> str:
        """What people call the device."""

    @property
    def device_class(self) -> str:
        """Kind of device."""

    @property
    def bundle_name(self) -> str:
        """The one bundle that this home runs."""

    @property
    def floor(self) -> int:
        """Signed time of the kit, seconds since 1970-01-01 UTC."""

    @property
    def roots(self) -> Mapping[int, bytes]:
        """Every root, by version."""

    @property
    def policy(self) -> Policy:
        """What the device shall accept."""


@dataclass(frozen=True, slots=True)
class DeviceCard:
    """Who this device is; nothing in it is secret.

    Attributes:
        device_id: 32 hex: the fingerprint of its keys.
        name: What people call it.
        kit_id: The kit that it was initialised with.
        bundle_name: The one bundle that it runs.
        device_class: Kind of device.
        disk_id: Identity of the disk at `init`; see `disk_id`.
        public: Its public keys.
    """

    device_id: str
    name: str
    kit_id: str
    bundle_name: str
    device_class: str
    disk_id: str
    public: PublicIdentity


class Home:
    """One device home. Made by `create_home` and `open_home`.

    Reading is open to everybody; whoever commits must hold `lock()`.
    """

    def __init__(self, root: Path, *, disk: Disk, clock: Clock, disk_id: str) -> None:
        self.root = root
        self.disk = disk
        self.clock = clock
        self.disk_id = disk_id
        self.identity_dir = root / "identity"
        self.state = root / "state"
        self.slots = root / "slots"
        self.journal = root / "journal"
        self.run = root / "run"
        self.sentinel = root / "sentinel"
        self.tmp = root / "tmp"
        # Load marks of this process, in the order in which they were armed: (token, descriptor,
        # whether faulthandler was enabled before the first). Kept by `slots.marker`.
        self.marks: list[tuple[str, int, bool]] = []
        self._card: DeviceCard | None = None
        self._generation: Generation | None = None

    @property
    def card(self) -> DeviceCard:
        """Who this device is."""
        if self._card is None:
            self._card = _read_card(self.disk, self.identity_dir / "device.json")
        return self._card

    @property
    def moved(self) -> bool:
        """Whether this home lies on another disk than before: a copy, so a new epoch is due."""
        return self.disk_id != (self.generation().disk_id or self.card.disk_id)

    def settle_disk(self) -> Generation:
        """Take this disk for the home's own, once the new epoch has begun."""
        return self.commit(replace(self.generation(), disk_id=self.disk_id))

    def identity(self) -> Identity:
        """Return the private keys of this device."""
        raw = self.disk.read(self.identity_dir / "device.key")
        return Identity.from_bytes(raw, self.card.public)

    def slot_dir(self, digest: str) -> Path:
        """Return the folder of an installed bundle."""
        return self.slots / digest

    # --- state -------------------------------------------------------------------------------

    def generation(self) -> Generation:
        """Return the generation that counts now."""
        number = generations.current_number(self.disk, self.state)
        if self._generation is None or self._generation.number != number:
            self._generation = generations.read(self.disk, self.state, number)
        return self._generation

    def commit(self, generation: Generation) -> Generation:
        """Make a changed copy of the current generation the one that counts.

        Args:
            generation: Made by `dataclasses.replace` from what `generation()` returned.

        Returns:
            The same with its new number; it survives a power cut from here on.

        Raises:
            BusyError: Somebody else committed meanwhile.
        """
        number = generations.current_number(self.disk, self.state)
        if number != generation.number:
            raise BusyError(f"the state of {self.root} was changed by another process")
        new = replace(generation, number=number + 1, odometer_s=self.odometer_s())
        generations.commit(self.disk, self.state, new)
        self._generation = new
        generations.clean(self.disk, self.state, new.number)
        self.sweep()
        return new

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own this home while the block runs; what a crash left behind is cleaned up first.

        Raises:
            BusyError: Another process owns it.
        """
        with lock(self.run / "lock", f"the device home {self.root}"):
            self.recover()
            yield

    def recover(self) -> None:
        """Clean up after whatever ended the last owner. Only with the lock held.

        The sync comes first: the link that we see may live in the page cache only, and what it
        replaced must stay until that is settled.
        """
        number = generations.current_number(self.disk, self.state)
        stale = [n for n in self.disk.list(self.state) if _is_leftover(n, f"gen-{number}")]
        if stale or self._unused_slots() or self.disk.list(self.tmp):
            self.disk.fsync_dir(self.state)
            generations.clean(self.disk, self.state, number)
            self.sweep()
            for name in self.disk.list(self.tmp):
                self.disk.rmtree(self.tmp / name)
                self.disk.unlink(self.tmp / name)
        self.tick()

    def sweep(self) -> None:
        """Remove payloads that no slot names. Only after the commit is durable."""
        for name in self._unused_slots():
            self.disk.rmtree(self.slots / name)

    def _unused_slots(self) -> list[str]:
        used = {slot.digest for slot in self.generation().slots}
        return [name for name in self.disk.list(self.slots) if name not in used]

    # --- odometer ----------------------------------------------------------------------------

    def odometer_s(self) -> int:
        """Return the seconds that this machine was powered on since `init`.

        Counted by the monotonic clock, so no wall clock can turn it; it may miss up to
        `ODOMETER_EVERY_S` before each power cut and never goes back.
        """
        now_s = self.clock.monotonic_ns() // 1_000_000_000
        total, boot, since_s = self._read_odometer()
        if boot == self.clock.boot_id().hex():
            total += max(0, now_s - since_s)
        elif boot:
            total += now_s  # the monotonic clock began with this boot
        return max(total, self.generation().odometer_s)

    def tick(self) -> None:
        """Write the odometer down when it is due; call it now and then. A full disk can wait."""
        now_s = self.clock.monotonic_ns() // 1_000_000_000
        _, boot, since_s = self._read_odometer()
        if boot != self.clock.boot_id().hex() or now_s - since_s >= ODOMETER_EVERY_S:
            with suppress_full():
                self._write_odometer(self.odometer_s())

    def _read_odometer(self) -> tuple[int, str, int]:
        try:
            total, boot, since_s = self.disk.read(self.state / "odometer", 200).split()
            return int(total), boot.decode(), int(since_s)
        except (OSError, ValueError):
            return 0, "", 0

    def _write_odometer(self, total_s: int) -> None:
        now_s = self.clock.monotonic_ns() // 1_000_000_000
        line = f"{total_s} {self.clock.boot_id().hex()} {now_s}\n"
        write_durable(self.disk, self.state / "odometer", line.encode())


def create_home(
    root: Path, kit: KitLike, *, disk: Disk, clock: Clock, disk_id: str | None = None
) -> Home:
    """Make a new device from a kit whose words were typed.

    Args:
        root: Folder of the home; made if it is missing.
        kit: A verified kit.
        disk: Where it lies.
        clock: The clocks of this machine.
        disk_id: Identity of the disk; measured when None.

    Raises:
        MachineError: There is a device already.
    """
    if disk.readlink(root / "state" / generations.CURRENT) is not None:
        raise MachineError(
            f"there is a device at {root} already",
            next="give another folder with --home, or wipe this one: edgepack-device wipe",
        )
    for name in FOLDERS:
        disk.mkdir(root / name)
    home = Home(root, disk=disk, clock=clock, disk_id=disk_id or disk_identity(root / "identity"))
    identity = Identity.generate()
    write_durable(disk, home.identity_dir / "device.key", identity.to_bytes())
    card = DeviceCard(
        device_id=identity.public.id,
        name=kit.device_name,
        kit_id=kit.kit_id,
        bundle_name=kit.bundle_name,
        device_class=kit.device_class,
        disk_id=home.disk_id,
        public=identity.public,
    )
    write_durable(disk, home.identity_dir / "device.json", _card_bytes(card))
    disk.fsync_dir(root)
    disk.fsync_dir(root.parent)
    first = Generation(
        number=1,
        trusted=Trusted(root=kit.roots[max(kit.roots)], floor=kit.floor),
        policy=kit.policy,
        kit_floor=kit.floor,
        epoch=os.urandom(8).hex(),
    )
    generations.commit(disk, home.state, first)
    home.tick()
    return home


def open_home(root: Path, *, disk: Disk, clock: Clock, disk_id: str | None = None) -> Home:
    """Open a device home; writes nothing.

    Raises:
        NotInitialisedError: There is none at `root`.
    """
    generations.current_number(disk, root / "state")
    return Home(root, disk=disk, clock=clock, disk_id=disk_id or disk_identity(root / "identity"))


def apply_kit(home: Home, kit: KitLike) -> Generation:
    """Take the policy of a kit whose words were typed on this device.

    Raises:
        IncompatibleError: The kit is for another device, class or bundle.
    """
    card = home.card
    for what, ours, theirs in (
        ("device", card.name, kit.device_name),
        ("class", card.device_class, kit.device_class),
        ("bundle", card.bundle_name, kit.bundle_name),
    ):
        if ours != theirs:
            raise IncompatibleError(f"this kit is for {what} {theirs}, not {ours}")
    generation = home.generation()
    trusted = replace(generation.trusted, floor=max(generation.trusted.floor, kit.floor))
    return home.commit(replace(generation, policy=kit.policy, kit_floor=kit.floor, trusted=trusted))


def disk_identity(path: Path) -> str:
    """Return 16 hex characters that change when a home is copied to another disk.

    Made of the folder's inode (another after a copy of files) and of the serial number of the
    hardware below it (another after a copy of the whole disk). Where the hardware tells none,
    a copy of the whole disk is found later, by the acks of the base.
    """
    stat = os.stat(path)
    parts = [str(stat.st_ino)]
    block = Path("/sys/dev/block") / f"{os.major(stat.st_dev)}:{os.minor(stat.st_dev)}"
    for folder in _hardware(block):
        for name in ("device/serial", "device/cid", "device/wwid", "wwid", "serial"):
            try:
                parts.append((folder / name).read_text().strip())
            except (OSError, UnicodeDecodeError):
                continue
    return sha256("\0".join(parts).encode()).hex()[:16]


def _hardware(block: Path) -> list[Path]:
    """Return the folders of the whole disks below a block device (through LVM and dm-crypt)."""
    try:
        folder = block.resolve(strict=True)
        if (folder / "partition").exists():
            folder = folder.parent
        below = sorted((folder / "slaves").iterdir()) if (folder / "slaves").is_dir() else []
    except OSError:
        return []
    found = [disk for item in below for disk in _hardware(item)]
    return found or [folder]


def _is_leftover(name: str, current: str) -> bool:
    return name == f"{generations.CURRENT}.tmp" or (name.startswith("gen-") and name != current)


def _card_bytes(card: DeviceCard) -> bytes:
    return canonical.encode(
        {
            "format": "edgepack-device",
            "version": _CARD_VERSION,
            "device_id": card.device_id,
            "name": card.name,
            "kit_id": card.kit_id,
            "bundle_name": card.bundle_name,
            "device_class": card.device_class,
            "disk_id": card.disk_id,
            "ed25519": card.public.ed25519.hex(),
            "mldsa65": card.public.mldsa65.hex(),
        }
    )


def _read_card(disk: Disk, path: Path) -> DeviceCard:
    try:
        value = json.loads(disk.read(path))
        public = PublicIdentity(bytes.fromhex(value["ed25519"]), bytes.fromhex(value["mldsa65"]))
        names = ("device_id", "name", "kit_id", "bundle_name", "device_class", "disk_id")
        return DeviceCard(**{name: str(value[name]) for name in names}, public=public)
    except FileNotFoundError:
        raise NotInitialisedError(f"there is no device card at {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise MachineError(f"the card of this device is damaged: {path}: {error!r}") from None
