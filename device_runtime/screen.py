"""Progress for people: bytes and rows, on a terminal only, from the second second on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from device_runtime.disk import Disk, Handle, RealDisk
from device_runtime.verbs import Watcher

if TYPE_CHECKING:
    from threading import Event, Thread

EVERY_S = 0.5
AFTER_S = 1.0


class Progress(Watcher):
    """Counts what a command does and shows it on stderr. Use with `with`.

    Attributes:
        disk: A disk of this machine that counts the bytes it writes and reads.
    """

    def __init__(self, label: str, *, quiet: bool) -> None:
        self.disk: Disk = _CountingDisk(self)
        self.bytes = 0
        self._label = label
        self._rows = 0
        self._on = not quiet and sys.stderr.isatty()
        self._stop: Event | None = None
        self._thread: Thread | None = None
        self._shown = False

    def step(self, label: str) -> None:
        """Say what is being done now."""
        self._label = label

    def count(self, rows: int) -> None:
        """Say how many rows are done."""
        self._rows = rows

    def __enter__(self) -> Self:
        if self._on:
            from threading import Event, Thread  # only a terminal pays for them

            self._stop = Event()
            self._thread = Thread(target=self._show, args=(self._stop,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None and self._stop is not None:
            self._stop.set()
            self._thread.join()
        if self._shown:
            _put("\r\x1b[K")

    def _show(self, stop: Event) -> None:
        if stop.wait(AFTER_S):
            return
        while not stop.wait(EVERY_S):
            self._shown = True
            done = f"{self._rows:,} rows" if self._rows else f"{self.bytes / 1e6:,.1f} MB"
            _put(f"\r\x1b[K{self._label}: {done}")


def _put(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class _CountingHandle:
    def __init__(self, inner: Handle, progress: Progress) -> None:
        self._inner, self._progress = inner, progress
        self.sync, self.truncate, self.close = inner.sync, inner.truncate, inner.close
        self.prepare, self.push = inner.prepare, inner.push

    def write(self, data: bytes | bytearray | memoryview) -> int:
        written = self._inner.write(data)
        self._progress.bytes += written
        return written


class _CountingDisk(RealDisk):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def create(self, path: Path, mode: int = 0o600) -> Handle:
        return _CountingHandle(super().create(path, mode), self._progress)

    def open_read(self, path: Path) -> IO[bytes]:
        self._progress.bytes += self.size(path)
        return super().open_read(path)
