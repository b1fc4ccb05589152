"""The beginning and the end of a device: `init` from a kit, `wipe`; and telling people."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from device_runtime.clock import SystemClock
from device_runtime.device import Device
from device_runtime.disk import RealDisk
from device_runtime.errors import InputError, MachineError, NotInitialisedError, RollbackError
from device_runtime.format import words
from device_runtime.home import Home, create_home, open_home
from device_runtime.trust.kit import read_kit
from device_runtime.verbs import Outcome

NOTIFY_TIMEOUT_S = 60


def init(root: Path, file: Path, ask: Callable[[str], str]) -> Outcome:
    """Make a device from a kit; on a device, take the policy of a newer kit.

    Args:
        root: Folder of the home.
        file: The kit.
        ask: Asks for the words of the kit.

    Raises:
        InputError: The words are not those of this kit.
        FormatError, VerificationError: The kit is not whole.
    """
    disk, clock = RealDisk(), SystemClock()
    kit = read_kit(disk, file)
    if not words.same(ask("the eight words that the base shows for this kit: "), kit.words):
        raise InputError(
            "these are not the words of this kit",
            why="it may be another kit, or somebody changed it",
            next="compare with: edgepack device kit",
        )
    try:
        home = open_home(root, disk=disk, clock=clock)
    except NotInitialisedError:
        home = create_home(root, kit, disk=disk, clock=clock)
        text = f"initialised {home.card.name} at {root}"
    else:
        from device_runtime.slots.install import take_kit

        with home.lock():
            take_kit(home, kit)
        text = f"took the policy of the newer kit on {home.card.name}"
    installed, note = None, ""
    if kit.bundle is not None:
        target = home.tmp / kit.bundle
        with Device.open(root) as device:
            kit.extract(disk, kit.bundle, target)
            try:
                found = device.install(target)
                installed, note = {"version": found.version, "digest": found.digest}, found.note
            except RollbackError as error:  # a newer kit may bring an older bundle
                note = error.what
            finally:
                disk.unlink(target)
    card = home.card
    said = words.words(card.public.fingerprint)
    lines = [
        text,
        f"its words are: {said}",
        "the base shows the same words when it meets the device",
    ]
    if note:
        lines.append(f"the bundle in the kit: {note}")
    lines.append("next: edgepack-device sync STICK")
    result = {
        "device": card.name,
        "id": card.device_id,
        "words": said,
        "home": str(root),
        "installed": installed,
    }
    return result, lines, None


def wipe(home: Home, ask: Callable[[str], str]) -> Outcome:
    """Remove a device, its key first.

    Raises:
        InputError: The name that was typed is not its name.
        BusyError: It is being used.
    """
    name, disk = home.card.name, home.disk
    typed = ask(f"everything in {home.root} goes; type the device's name to do it: ")
    if typed.strip() != name:
        raise InputError("that is not its name; nothing was removed", next="repeat the command")
    with home.lock():
        disk.unlink(home.identity_dir / "device.key")
        disk.fsync_dir(home.identity_dir)
        for path in [home.root / entry for entry in disk.list(home.root)]:
            disk.rmtree(path) if disk.kind(path) == "dir" else disk.unlink(path)
        disk.fsync_dir(home.root)
    return {"wiped": name}, [f"{name} is no device any more; tell the base to retire it"], None


def notify(home: Home, result: str, status: str) -> Outcome:
    """Run the command of the signed policy; the unit that syncs a stick calls this.

    Args:
        home: The device.
        result: SERVICE_RESULT of systemd, given to the command as EDGEPACK_RESULT.
        status: EXIT_STATUS of systemd, given as EDGEPACK_STATUS.
    """
    line = home.generation().policy.notify
    if not line:
        return {"ran": False}, [], None
    environment = {**os.environ, "EDGEPACK_RESULT": result, "EDGEPACK_STATUS": status}
    try:
        words = shlex.split(line)
        done = subprocess.run(words, env=environment, check=False, timeout=NOTIFY_TIMEOUT_S)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"notify of the policy failed: {error}", next="make a new kit") from None
    return {"ran": True, "exit": done.returncode}, [], None
