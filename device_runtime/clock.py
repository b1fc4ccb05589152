"""Three clocks: boot id, monotonic, wall.

No decision of edgepack may hang on the wall clock of a device; it is recorded, never believed.
"""

from __future__ import annotations

import time
from functools import partial

from device_runtime.record import Protocol

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Clock(Protocol):
    """Where time comes from. Tests and the simulator pass their own."""

    def boot_id(self) -> bytes:
        """Return 16 bytes that change with every boot of the machine."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some point in this boot; never goes back."""

    def wall_ns(self) -> int:
        """Return what the machine believes to be nanoseconds since 1970-01-01 UTC."""


class SystemClock:
    """The clocks of this machine.

    Monotonic is CLOCK_BOOTTIME, which goes on during suspend: the odometer counts it. Both are
    functions in C: each journaled row asks them, and a method in Python would take twice as long.
    """

    monotonic_ns = staticmethod(partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME))
    wall_ns = staticmethod(time.time_ns)

    def __init__(self) -> None:
        self._boot: bytes | None = None  # a process does not outlive its boot

    def boot_id(self) -> bytes:
        """Return the kernel's boot id; 16 zero bytes where there is none."""
        if self._boot is None:
            try:
                with open(_BOOT_ID, encoding="utf-8") as file:
                    self._boot = bytes.fromhex(file.read().strip().replace("-", ""))
            except (OSError, ValueError):
                self._boot = bytes(16)
        return self._boot
