"""Where invalid bytes are kept for whoever wants to know what happened; bounded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from device_runtime.clock import Clock
from device_runtime.disk import write_all
from edgepack.registry import Registry
from edgepack.workspace import Workspace

MAX_BYTES = 512 << 20
MAX_FILE = 64 << 20
"""Of one file: one huge piece of rubbish leaves room for what comes after it."""


class Quarantine:
    """The folder `quarantine/` of a workspace."""

    def __init__(self, ws: Workspace, registry: Registry, clock: Clock) -> None:
        self._ws = ws
        self._registry = registry
        self._clock = clock
        self._room: int | None = None  # bytes that are left, once it was looked at

    def add(self, name: str, chunks: Iterable[bytes], line: str) -> None:
        """Keep a copy while there is room, and an alarm in any case.

        Args:
            name: Of the file; the time is put before it.
            chunks: Its bytes.
            line: What a person is told.
        """
        folder, disk = self._ws.quarantine, self._ws.disk
        now = self._clock.wall_ns()
        if self._room is None:
            disk.mkdir(folder)
            self._room = MAX_BYTES - sum(disk.size(folder / item) for item in disk.list(folder))
        target = folder / f"{now}-{name}"
        if self._room > 0:
            limit = min(self._room, MAX_FILE)
            self._room -= limit - max(0, self._keep(target, chunks, limit))
        self._registry.alarm("quarantine", "", target.name, line, now)

    def _keep(self, target: Path, chunks: Iterable[bytes], room: int) -> int:
        handle = self._ws.disk.create(target)
        try:
            for chunk in chunks:
                room -= len(chunk)
                if room < 0:
                    break
                write_all(handle, chunk)
            handle.sync()
        finally:
            handle.close()
        self._ws.disk.fsync_dir(target.parent)
        return room
