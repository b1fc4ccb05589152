"""A clock that tests and the simulator move by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FixedClock:
    """A clock that stands still until it is told to move: tests, simulation, rebuilds."""

    wall: int = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
    monotonic: int = 1_000_000_000
    boot: bytes = b"\x01" * 16

    def boot_id(self) -> bytes:
        """Return the boot id that was set."""
        return self.boot

    def monotonic_ns(self) -> int:
        """Return the monotonic time that was set."""
        return self.monotonic

    def wall_ns(self) -> int:
        """Return the wall time that was set."""
        return self.wall

    def advance(self, seconds: float) -> None:
        """Let both clocks move forward together."""
        self.wall += int(seconds * 1e9)
        self.monotonic += int(seconds * 1e9)
