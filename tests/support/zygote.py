"""Processes that are really killed, forked from a warm one: a fresh interpreter costs more."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

Report = Callable[[str], None]
Act = Callable[[Report], None]


def killed(act: Act, seconds: float) -> list[str]:
    """Fork, let `act` run for a while after its first report, kill it; return what it reported.

    A report that was cut off by the kill is left out: nobody ever read it.

    Raises:
        RuntimeError: The child ended by itself.
    """
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run(act, into)
    os.close(into)
    told = _first(out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    while piece := os.read(out, 1 << 16):
        told += piece
    os.close(out)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = told.decode().split("\n")[:-1]
    if status != -signal.SIGKILL:
        raise RuntimeError(f"the child ended with {status}: {lines[-1:]}")
    return lines


def _first(out: int) -> bytes:
    ready, _, _ = select.select([out], [], [], 60)
    return os.read(out, 1 << 16) if ready else b""


def _run(act: Act, into: int) -> None:
    def report(text: str) -> None:
        os.write(into, text.encode() + b"\n")

    try:
        act(report)
    except BaseException as error:
        report(repr(error))
    finally:
        os._exit(3)
