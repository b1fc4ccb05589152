"""The load mark: how the next start learns what became of this one.

One small file in `run/` for each process that loads a model. Its first line says which slot and
which boot. Appended are `idle` when the model is open and waits for its first rows, `asked` when
they have come, `result` when they are answered. The file is removed at an orderly end, so a file
that is found there means that its process died, and it tells how:

- text of a fatal signal in it: a proven crash (SEGV, ILL, BUS, FPE, ABRT). `faulthandler` writes
  it from its signal handler, on its own stack, into a descriptor that is already open;
- it was opening, or answering for the first time, same boot: killed from outside, or by the kernel
  for want of memory;
- the same with another boot: the machine went down with it;
- it was idle, or had answered before: killed or powered off. Nothing to count.

The file is synced for a trial only. A good slot pays nothing but one `open` at a cold start; what
a power cut then hides is not the model's fault anyway.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Literal

from device_runtime.disk import Handle, RealDisk, suppress_full, write_all
from device_runtime.home import Home
from device_runtime.record import dataclass

PREFIX = "load-"
_LIMIT = 64 << 10
Fate = Literal["crash", "kill", "power", "worked"]


@dataclass(frozen=True, slots=True)
class Found:
    """A mark of a process that is no more.

    Attributes:
        token: Random name of the mark.
        digest: Slot that it loaded.
        fate: How it ended.
        detail: First line of the crash, else empty.
    """

    token: str
    digest: str
    fate: Fate
    detail: str = ""


class Mark:
    """The mark of a load in this process. Made by `place`.

    A process that switches to another bundle has two for a while. The one armed last takes the
    text of a signal; when it goes, the one before takes over again.
    """

    def __init__(self, home: Home, token: str) -> None:
        self.token = token
        self._home = home
        self._path = home.run / f"{PREFIX}{token}"
        self._handle: Handle | None = None
        home.marks.append((token, -1, False))

    def write(self, line: bytes, *, durable: bool) -> None:
        """Create the file."""
        handle = self._home.disk.create(self._path)
        self._handle = handle
        write_all(handle, line)
        if durable:
            handle.sync()
            self._home.disk.fsync_dir(self._home.run)

    def arm(self) -> None:
        """Let fatal signals of this process leave their text in the mark."""
        if not isinstance(self._home.disk, RealDisk):
            return
        others = [mark for mark in self._home.marks if mark[1] >= 0]
        before = others[-1][2] if others else faulthandler.is_enabled()
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._drop()
        self._home.marks.append((self.token, fd, before))
        _listen(fd)

    def note(self, step: Literal["idle", "asked", "result"]) -> None:
        """Append how far it has come."""
        if self._handle is not None:
            with suppress_full():
                write_all(self._handle, step.encode() + b"\n")

    def remove(self) -> None:
        """End in order: nothing will be counted."""
        fd, before = self._drop()
        if fd >= 0:
            others = [mark for mark in self._home.marks if mark[1] >= 0]
            if others:
                _listen(others[-1][1])
            else:
                faulthandler.disable()
                if before and sys.__stderr__ is not None:
                    faulthandler.enable(sys.__stderr__)
            os.close(fd)
        if self._handle is not None:
            self._handle.close()
        self._home.disk.unlink(self._path)

    def _drop(self) -> tuple[int, bool]:
        _, fd, before = next(mark for mark in self._home.marks if mark[0] == self.token)
        self._home.marks[:] = [mark for mark in self._home.marks if mark[0] != self.token]
        return fd, before


def _listen(fd: int) -> None:
    # One thread only: walking the others in a broken process may crash before it has written.
    faulthandler.enable(file=fd, all_threads=False)


def place(home: Home, digest: str, *, durable: bool) -> Mark:
    """Write the mark of this process before it loads `digest`, and let it listen.

    On a disk that is full the model runs unwatched: that is better than no model.
    """
    token = os.urandom(8).hex()
    mark = Mark(home, token)
    with suppress_full():
        mark.write(f"load {digest} {home.clock.boot_id().hex()}\n".encode(), durable=durable)
        mark.arm()
    return mark


def find(home: Home) -> list[Found]:
    """Return the marks of dead processes. Only with the lock held: none can be alive."""
    result = []
    boot = home.clock.boot_id().hex()
    for token in _dead(home):
        text = home.disk.read(home.run / f"{PREFIX}{token}", _LIMIT).decode(errors="replace")
        result.append(_read(token, text, boot))
    return result


def forget(home: Home) -> None:
    """Remove the marks that `find` gave, once they are counted."""
    for token in _dead(home):
        home.disk.unlink(home.run / f"{PREFIX}{token}")
    home.disk.fsync_dir(home.run)


def _dead(home: Home) -> list[str]:
    ours = {f"{PREFIX}{mark[0]}" for mark in home.marks}
    names = [n for n in home.disk.list(home.run) if n.startswith(PREFIX) and n not in ours]
    return [name.removeprefix(PREFIX) for name in names]


def _read(token: str, text: str, boot: str) -> Found:
    head, _, rest = text.partition("\n")
    words = head.split()
    digest, then = (words[1], words[2]) if len(words) == 3 else ("", "")
    if "Fatal Python error" in rest:
        line = next(line for line in rest.splitlines() if "Fatal Python error" in line)
        return Found(token, digest, "crash", line.removeprefix("Fatal Python error: ")[:80])
    if not digest or rest.endswith("idle\n") or "result" in rest:
        return Found(token, digest, "worked")
    return Found(token, digest, "kill" if then == boot else "power")
