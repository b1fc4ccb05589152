"""What the commands do with an open device, and how they say what became of it.

The same functions run in the command's own process and, through the control socket, in the one
that serves the home.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from device_runtime.errors import EdgepackError, InputError, UsageError

if TYPE_CHECKING:
    from device_runtime.device import Device
    from device_runtime.stream import StreamResult

Outcome = tuple[dict[str, Any], list[str], EdgepackError | None]
"""The JSON object, the lines for a person, and the error that decides the exit code."""


class Watcher:
    """Is told how far a command is; this one does not care."""

    def step(self, label: str) -> None:
        """Something else is being done now."""

    def count(self, rows: int) -> None:
        """So many rows are done."""


def perform(
    device: Device,
    verb: str,
    arguments: Mapping[str, Any],
    *,
    watcher: Watcher,
    descriptors: Sequence[int] = (),
) -> Outcome:
    """Do one command.

    Args:
        device: The open device.
        verb: `sync`, `install`, `rollback`, `label`, `predict` or `status`.
        arguments: As the command line gives them; paths are absolute.
        watcher: Is told about progress.
        descriptors: For `predict`: input, and output where `out` is None. They are not closed.

    Raises:
        EdgepackError: Nothing was done, or not all of it.
    """
    if verb == "predict":
        return _predict(device, arguments, watcher, descriptors)
    verbs: dict[str, Callable[[Device, Mapping[str, Any], Watcher], Outcome]] = {
        "sync": _sync,
        "install": _install,
        "rollback": _rollback,
        "label": _label,
        "status": _status,
    }
    if verb not in verbs:
        raise UsageError(f"there is no command {verb[:40]!r}")
    return verbs[verb](device, arguments, watcher)


def _sync(device: Device, arguments: Mapping[str, Any], watcher: Watcher) -> Outcome:
    stick = str(arguments["stick"])
    if arguments.get("dry_run"):
        found = device.preview(stick)
        return found, [f"{name}: {value}" for name, value in found.items()], None
    report = device.sync(stick, step=watcher.step)
    text = [f"note: {note}" for note in report.notes] + [report.line, "safe to remove"]
    return report.as_json(), text, report.error


def _install(device: Device, arguments: Mapping[str, Any], watcher: Watcher) -> Outcome:
    watcher.step("installing")
    found = device.install(str(arguments["file"]), retry=bool(arguments.get("retry")))
    result = {
        "name": found.name,
        "version": found.version,
        "digest": found.digest,
        "outcome": found.outcome,
        "note": found.note,
    }
    return result, [found.note or f"{found.name} {found.version}: {found.outcome}"], None


def _rollback(device: Device, _arguments: Mapping[str, Any], _watcher: Watcher) -> Outcome:
    version = device.rollback()
    return {"version": version}, [f"bundle {version} runs again; the other one is rejected"], None


def _label(device: Device, arguments: Mapping[str, Any], watcher: Watcher) -> Outcome:
    file = arguments.get("file")
    if file is None:
        device.label(str(arguments["id"]), arguments["value"])
        return {"labels": 1}, ["1 label is in the journal"], None
    try:
        with open(str(file), "rb") as stream:
            count = device.label_file(stream, progress=watcher.count)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{file} is not a file", next="give a CSV file of labels") from None
    return {"labels": count}, [f"{count:,} labels are in the journal"], None


def _status(device: Device, _arguments: Mapping[str, Any], _watcher: Watcher) -> Outcome:
    from device_runtime import health

    device.save()
    found = {**health.status(device.home), "serving": True}
    return found, health.lines(found), None


def _predict(
    device: Device, arguments: Mapping[str, Any], watcher: Watcher, descriptors: Sequence[int]
) -> Outcome:
    out = arguments.get("out")
    if len(descriptors) < (1 if out else 2):
        raise UsageError("predict needs an input and an output")
    if out and os.path.exists(out) and os.path.samefile(descriptors[0], out):
        raise UsageError(f"{out} is the input itself", next="give another --out")
    start = time.monotonic()
    with ExitStack() as stack:
        source = stack.enter_context(open(descriptors[0], "rb", closefd=False))
        target: Path | BinaryIO = Path(str(out))
        if not out:
            target = stack.enter_context(open(descriptors[1], "wb", closefd=False))
        result = device.predict_stream(
            source,
            target,
            name=str(arguments.get("name") or ""),
            ndjson=bool(arguments.get("ndjson")),
            resume=bool(arguments.get("resume")),
            progress=watcher.count,
        )
    return _answered(result, time.monotonic() - start, to_file=bool(out))


def _answered(result: StreamResult, seconds: float, *, to_file: bool) -> Outcome:
    """Say what became of a run; invalid rows make exit 40 although the others were answered."""
    body = {
        "rows": result.rows,
        "ok_rows": result.ok,
        "invalid": result.invalid,
        "abstained": result.abstained,
        "unlike": result.unlike,
        "seconds": round(seconds, 3),
        "resumed_from": result.resumed_from,
        "recovered": result.recovered,
        "ignored": list(result.ignored),
    }
    text = []
    if to_file:
        text.append(
            f"{result.rows:,} rows answered and journaled in {seconds:.1f} s: {result.ok:,} ok, "
            f"{result.abstained:,} abstained, {result.unlike:,} unlike, {result.invalid:,} invalid"
        )
        if result.resumed_from:
            text.append(f"went on after {result.resumed_from:,} rows")
        if result.ignored:
            text.append(f"columns that the bundle does not know: {', '.join(result.ignored)}")
    error = None
    if result.invalid:
        error = InputError(
            f"{result.invalid:,} row{'s do' if result.invalid > 1 else ' does'} not fit the schema;"
            " the others were answered",
            result.issues,
            next="see the flag column; compare with: edgepack-device predict --template",
        )
    return body, text, error
