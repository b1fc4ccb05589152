"""What a person or a script sees: lines, tables, progress, errors.

With `--json` a command prints one object on stdout and nothing else. Progress goes to stderr, and
only to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from device_runtime.disk import machine_error
from device_runtime.errors import (
    EdgepackError,
    InterruptedByUserError,
    UsageError,
    is_interrupt,
)
from edgepack.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

P = ParamSpec("P")
R = TypeVar("R")


class InternalError(EdgepackError):
    """A bug of ours: something was raised that is not in the tree of errors."""

    advice = "set EDGEPACK_DEBUG=1, repeat the command, and report what it prints"


class Screen:
    """Where a command writes.

    Attributes:
        json: Whether only one JSON object is to be printed, at the end.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self._bars: Bars | None = None

    def line(self, text: str = "") -> None:
        """Print one line for a person."""
        if not self.json:
            print(plain(text), flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """Print one line to stderr: something to know that is not the result."""
        print(plain(text), file=sys.stderr, flush=True)  # noqa: T201

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = ""
    ) -> None:
        """Print a plain table; numbers are right-aligned."""
        if self.json:
            return
        text = [[_cell(value) for value in row] for row in rows]
        widths = [
            max([len(name), *(len(row[i]) for row in text)]) for i, name in enumerate(columns)
        ]
        right = [
            bool(rows) and all(isinstance(row[i], (int, float)) or row[i] is None for row in rows)
            for i in range(len(columns))
        ]
        if title:
            self.line(title)
        for row in [list(columns), ["-" * width for width in widths], *text]:
            cells = [
                cell.rjust(width) if at_right else cell.ljust(width)
                for cell, width, at_right in zip(row, widths, right, strict=True)
            ]
            self.line("  ".join(cells).rstrip())

    @contextmanager
    def step(self, label: str) -> Iterator[Progress]:
        """Show that the block runs, and how far it is as far as it says so."""
        if self.json or not sys.stderr.isatty():
            yield Progress()
            return
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=20),
            bars.TextColumn("{task.fields[count]}"),
            bars.TimeElapsedColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            self._bars = shown
            try:
                yield _Bar(shown, shown.add_task(label, total=None, count=""))
            finally:
                self._bars = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the progress off the screen while a person is asked something."""
        if self._bars is not None:
            self._bars.stop()
        yield
        if self._bars is not None:
            self._bars.start()

    def done(self, result: Mapping[str, Any], next: str = "") -> None:
        """End the command: print the JSON object, or what to type next."""
        if self.json:
            value = {"ok": True, **result, **({"next": next} if next else {})}
            print(json.dumps(value, default=str, sort_keys=False))  # noqa: T201
        elif next:
            self.line(f"next: {next}")


def plain(text: str) -> str:
    """Return text without control characters: what a stick or device says may reach a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


class _Bar(Progress):
    """Progress as one line of a terminal: what, a bar, the share, the units, the time."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        super().__init__()
        self._bars, self._task = bars, task
        self._total, self._unit = 0, ""

    def begin(self, what: str, total: int, unit: str = "bytes") -> None:
        self._total, self._unit = total, unit
        self._bars.update(self._task, description=what)
        self.reach(0)

    def reach(self, done: int) -> None:
        super().reach(done)
        self._bars.update(
            self._task,
            completed=done,
            total=self._total or None,
            count=_share(done, self._total, self._unit),
        )


def _share(done: int, total: int, unit: str) -> str:
    """Return how far it is in words: ` 25%  1.2 of 4.8 MB`."""
    if not total:
        return ""
    share = f"{min(1, done / total):4.0%}"
    if unit == "bytes":
        return f"{share}  {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
    return f"{share}  {done:,} of {total:,} {unit}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def guard(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that each failure ends in one line and its exit code."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        import typer

        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except BrokenPipeError as end:  # nobody reads any more: `keys list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from end
        except BaseException as error:  # noqa: BLE001
            code = report_failure(error, as_json=bool(kwargs.get("json")))
            raise typer.Exit(code) from None

    return guarded


def report_failure(error: BaseException, *, as_json: bool) -> int:
    """Print an error for a person or a script and return the exit status."""
    failure = as_failure(error)
    if as_json:
        print(json.dumps({"ok": False, "error": failure.as_json()}))  # noqa: T201
    else:
        print(plain(failure.line()), file=sys.stderr, flush=True)  # noqa: T201
        for issue in getattr(failure, "issues", ())[:20]:
            print(plain(f"  {issue}"), file=sys.stderr)  # noqa: T201
    return failure.exit


def as_failure(error: BaseException) -> EdgepackError:
    """Translate anything that was raised into an error of the tree."""
    import sqlite3

    import typer

    if is_interrupt(error) or isinstance(error, typer.Abort):
        return InterruptedByUserError("interrupted", why="nothing is half-written")
    if isinstance(error, EdgepackError):
        return error
    if hasattr(error, "format_message"):  # typer's, which keeps the class to itself
        return _usage(error)
    if os.environ.get("EDGEPACK_DEBUG"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError):
        return machine_error(error, "working")
    if isinstance(error, sqlite3.Error):
        from edgepack.database import database_error

        return database_error(error)
    if isinstance(error, MemoryError):
        return InternalError("out of memory")
    return InternalError(f"{type(error).__name__}: {error}")


def _usage(error: Any) -> UsageError:
    what = " ".join(error.format_message().split()).removesuffix(".")
    command = getattr(error.ctx, "command_path", "edgepack")
    return UsageError(what[:1].lower() + what[1:], next=f"see: {command} --help")
