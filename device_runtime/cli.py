"""`edgepack-device …`: parse, call, print. Everything heavy is imported where it is needed.

Where a process serves this home, `sync`, `predict`, `label`, `install` and `rollback` go through
its control socket; otherwise they own the home themselves while they run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from device_runtime.errors import (
    DoctorError,
    EdgepackError,
    InputError,
    InterruptedByUserError,
    UsageError,
)

if TYPE_CHECKING:
    from device_runtime.device import Device
    from device_runtime.home import Home
    from device_runtime.model.session import Engine

Outcome = tuple[dict[str, Any], list[str], EdgepackError | None]
WIDTH = 100  # of the help
Command = Callable[[argparse.Namespace], Outcome]


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are errors of the tree."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, next=f"see: {self.prog} --help")


def run(arguments: list[str]) -> int:
    """Parse and run one command; return the exit status."""
    as_json = "--json" in arguments
    try:
        _no_core_dumps()
        options = _parse(arguments)
        result, text, error = options.run(options)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    except BrokenPipeError:  # nobody reads any more: `predict | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except BaseException as failure:  # noqa: BLE001
        return _fail(failure, as_json=as_json)
    if as_json:
        body = {"ok": error is None, **result}
        if error is not None:
            body["error"] = error.as_json()
        print(json.dumps(body, default=str))
    else:
        for line in text:
            print(line)
        if error is not None:
            _tell(error)
    sys.stdout.flush()
    return error.exit if error is not None else 0


def _fail(failure: BaseException, *, as_json: bool) -> int:
    error = _as_error(failure)
    if as_json:
        print(json.dumps({"ok": False, "error": error.as_json()}))
    else:
        _tell(error)
    return error.exit


def _tell(error: EdgepackError) -> None:
    """Print the line of an error, and the first of its issues."""
    for line in (error.line(), *(f"  {issue}" for issue in getattr(error, "issues", ())[:20])):
        print("".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)


def _as_error(failure: BaseException) -> EdgepackError:
    if isinstance(failure, EdgepackError):
        return failure
    if isinstance(failure, KeyboardInterrupt):
        return InterruptedByUserError("interrupted", why="nothing is half-written")
    if os.environ.get("EDGEPACK_DEBUG"):
        import traceback

        traceback.print_exception(failure, file=sys.stderr)
    if isinstance(failure, OSError):
        from device_runtime.disk import machine_error

        return machine_error(failure, "working")
    return EdgepackError(f"{type(failure).__name__}: {failure}", why="a bug of ours")


def _no_core_dumps() -> None:
    """A core dump would hold keys and inputs."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


# --- commands ------------------------------------------------------------------------------------


def _init(options: argparse.Namespace) -> Outcome:
    from device_runtime import provision

    typed = options.fingerprint
    return provision.init(_root(options), Path(options.kit), lambda text: typed or _ask(text))


def _sync(options: argparse.Namespace) -> Outcome:
    arguments = {"stick": os.path.abspath(options.stick), "dry_run": options.dry_run}
    return _do(options, "sync", arguments)


def _install(options: argparse.Namespace) -> Outcome:
    arguments = {"file": os.path.abspath(options.file), "retry": options.retry}
    return _do(options, "install", arguments)


def _rollback(options: argparse.Namespace) -> Outcome:
    return _do(options, "rollback", {})


def _label(options: argparse.Namespace) -> Outcome:
    if bool(options.file) == (options.id is not None) or (options.id and options.value is None):
        raise UsageError("give either ID and VALUE, or --file", next="see: label --help")
    file = os.path.abspath(options.file) if options.file else None
    return _do(options, "label", {"id": options.id, "value": options.value, "file": file})


def _predict(options: argparse.Namespace) -> Outcome:
    if options.template:
        with _device(options) as device:
            text = device.template()
        return {"template": text}, [text.rstrip("\n")], None
    if options.resume and not options.out:
        raise UsageError("--resume needs --out", next="name the file that was cut off")
    if options.json and not options.out:
        raise UsageError("--json needs --out: stdout cannot hold both", next="add --out F")
    name = "" if options.file == "-" else options.file
    arguments = {
        "out": os.path.abspath(options.out) if options.out else None,
        "name": name,
        "ndjson": (options.out or name).endswith((".ndjson", ".jsonl")),
        "resume": options.resume,
    }
    if options.file == "-":
        return _do(options, "predict", arguments, (sys.stdin.fileno(), sys.stdout.fileno()))
    try:
        with open(options.file, "rb") as source:
            return _do(options, "predict", arguments, (source.fileno(), sys.stdout.fileno()))
    except (FileNotFoundError, IsADirectoryError) as error:
        if error.filename != options.file:
            raise
        raise InputError(f"{name} is not a file", next="give a file, or - for stdin") from None


def _do(
    options: argparse.Namespace,
    verb: str,
    arguments: Mapping[str, Any],
    descriptors: Sequence[int] = (),
) -> Outcome:
    """Let the process that serves this home do it; own the home here where there is none."""
    path = _root(options) / "run" / "control.sock"
    if os.path.lexists(path):
        from device_runtime import control

        answer = control.ask(path, verb, arguments, descriptors=descriptors)
        if answer is not None:
            return control.as_outcome(answer)
    from device_runtime import verbs
    from device_runtime.device import Device
    from device_runtime.screen import Progress

    engine: Engine = getattr(options, "engine", "capi")
    with (
        Progress(verb, quiet=options.json) as progress,
        Device.open(_root(options), disk=progress.disk, engine=engine) as device,
    ):
        return verbs.perform(device, verb, arguments, watcher=progress, descriptors=descriptors)


def _status(options: argparse.Namespace) -> Outcome:
    from device_runtime import health

    found = _ask_status(options) or health.status(_home(options))
    if options.prometheus:
        if not options.json:
            return found, [health.prometheus(found).rstrip("\n")], None
        found["prometheus"] = health.prometheus(found)
    error: EdgepackError | None = None
    warm = found["temperature"]
    if options.check and warm["state"] != "fresh":
        error = DoctorError(
            f"the model is {warm['state']}",
            why="; ".join(warm["reasons"]),
            next="plug in a stick with a newer bundle and run: edgepack-device sync STICK",
        )
    return found, health.lines(found), error


def _doctor(options: argparse.Namespace) -> Outcome:
    from device_runtime import doctor, units
    from device_runtime.clock import SystemClock
    from device_runtime.disk import RealDisk

    if options.units:
        written = units.write(Path(options.units), _root(options), RealDisk())
        lines = [f"wrote {path}" for path in written]
        return {"units": [str(path) for path in written]}, [*lines, units.NEXT], None
    findings = doctor.examine(_root(options), RealDisk(), SystemClock())
    text = []
    for item in findings:
        text.append(f"{item.level:<5} {item.what:<12} {item.found}")
        if item.next:
            text.append(f"{'':<18} → {item.next}")
    bad = [item for item in findings if item.level == "bad"]
    error = None
    if bad:
        error = DoctorError(
            f"{len(bad)} of {len(findings)} checks failed: {', '.join(b.what for b in bad)}",
            next=bad[0].next,
        )
    return {"findings": [item.as_json() for item in findings]}, text, error


def _wipe(options: argparse.Namespace) -> Outcome:
    from device_runtime import provision

    home = _home(options)
    return provision.wipe(home, lambda text: home.card.name if options.yes else _ask(text))


def _notify(options: argparse.Namespace) -> Outcome:
    from device_runtime import provision

    return provision.notify(_home(options), options.result, options.status)


def _serve(options: argparse.Namespace) -> Outcome:
    from device_runtime import serve

    with _device(options) as device:
        serve.run(device, socket_path=options.socket, port=options.port, quiet=options.json)
    return {"served": True}, ["stopped in order"], None


# --- helpers -------------------------------------------------------------------------------------


def _root(options: argparse.Namespace) -> Path:
    home = options.home or os.environ.get("EDGEPACK_HOME")
    if not home:
        raise UsageError("which device?", next="give --home DIR, or set EDGEPACK_HOME")
    return Path(home).absolute()


def _home(options: argparse.Namespace) -> Home:
    from device_runtime.clock import SystemClock
    from device_runtime.disk import RealDisk
    from device_runtime.home import open_home

    return open_home(_root(options), disk=RealDisk(), clock=SystemClock())


def _device(options: argparse.Namespace) -> Device:
    from device_runtime.device import Device

    return Device.open(_root(options), engine=getattr(options, "engine", "capi"))


def _ask_status(options: argparse.Namespace) -> dict[str, Any] | None:
    """Ask the process that serves this home; its counts are newer than its notes."""
    path = _root(options) / "run" / "control.sock"
    if not os.path.lexists(path):
        return None
    from device_runtime import control

    answer = control.ask(path, "status", {})
    return None if answer is None else control.as_outcome(answer)[0]


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to answer", next="give it as an option: see --help")
    return input(question)


# --- arguments -----------------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse; only the parser of the command at hand is made, because a start must be short."""
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        run, text, add = COMMANDS[name]
        parser = _Parser(
            prog=f"edgepack-device {name}", description=text, formatter_class=_formatter
        )
        parser.add_argument("--home", metavar="DIR", help="the device (or EDGEPACK_HOME)")
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        add(parser)
        options = parser.parse_args(arguments[1:])
        options.run = run
        return options
    from device_runtime._version import __version__

    listing = "".join(f"  {name:<10}{text}\n" for name, (_, text, _) in COMMANDS.items())
    parser = _Parser(
        prog="edgepack-device",
        usage="edgepack-device [-h] [--version] COMMAND ...",
        description="Verify, run and journal a signed model.",
        epilog=f"commands:\n{listing}\neach has its own --help",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=WIDTH),
    )
    parser.add_argument("--version", action="version", version=f"edgepack-device {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=tuple(COMMANDS))
    return parser.parse_args(arguments[:1])  # ends here: help, version or a mistake


def _formatter(prog: str) -> argparse.HelpFormatter:
    """A width of its own: asking the terminal for it imports `shutil` at every start."""
    return argparse.HelpFormatter(prog, width=WIDTH)


def _add_init(command: argparse.ArgumentParser) -> None:
    command.add_argument("kit", metavar="KIT")
    command.add_argument("--fingerprint", metavar="WORDS", help="the eight words of the kit")


def _add_sync(command: argparse.ArgumentParser) -> None:
    command.add_argument("stick", metavar="STICK", help="folder where the stick is mounted")
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_install(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE")
    command.add_argument("--retry", action="store_true", help="also if it was rejected before")


def _add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="- for stdin")
    command.add_argument("--out", metavar="F", help="write the answers here, resumably")
    command.add_argument("--resume", action="store_true", help="go on with a killed run")
    command.add_argument("--engine", choices=("capi", "python"), default="capi")
    command.add_argument("--template", action="store_true", help="print a header and a real row")


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.add_argument("--socket", metavar="P", help="unix socket (default: HOME/run/serve.sock)")
    command.add_argument("--port", type=int, metavar="N", help="loopback TCP port; 0 picks one")
    command.add_argument("--engine", choices=("capi", "python"), default="capi")


def _add_label(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", metavar="ID", nargs="?", help="record id, or value of the key")
    command.add_argument("value", metavar="VALUE", nargs="?")
    command.add_argument("--file", metavar="F", help="CSV with a column record (or key) and truth")


def _add_status(command: argparse.ArgumentParser) -> None:
    command.add_argument("--check", action="store_true", help="exit 77 unless fresh")
    command.add_argument("--prometheus", action="store_true", help="as metrics")


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("--units", metavar="DIR", help="write systemd units and a udev rule")


def _add_notify(command: argparse.ArgumentParser) -> None:
    command.add_argument("--result", default="success", help="SERVICE_RESULT of systemd")
    command.add_argument("--status", default="0", help="EXIT_STATUS of systemd")


def _add_wipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask")


COMMANDS: dict[str, tuple[Command, str, Callable[[argparse.ArgumentParser], None]]] = {
    "init": (_init, "make this machine a device, from a kit", _add_init),
    "sync": (_sync, "the visit of a stick: leave the journal, take the bundle", _add_sync),
    "install": (_install, "install a bundle by hand", _add_install),
    "rollback": (_rollback, "go back to the other good bundle", lambda _: None),
    "predict": (_predict, "answer rows of CSV, NDJSON or .npy", _add_predict),
    "serve": (_serve, "answer requests on a local socket (Open Inference Protocol)", _add_serve),
    "label": (_label, "the truth about a row", _add_label),
    "status": (_status, "bundle, age, temperature, journal", _add_status),
    "doctor": (_doctor, "is this machine able", _add_doctor),
    "notify": (_notify, "tell people how a sync ended, as the policy says", _add_notify),
    "wipe": (_wipe, "remove this device, its key first", _add_wipe),
}
