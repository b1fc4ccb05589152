"""`edgepack-device …`: parse, call, print. Everything heavy is imported where it is needed.

Where a process serves this home, `sync`, `predict`, `label`, `install` and `rollback` go through
its control socket; otherwise they own the home themselves while they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace as Options
from typing import TYPE_CHECKING, Any

from device_runtime.arguments import Argument, Command, help_of, help_of_all, read
from device_runtime.errors import (
    DoctorError,
    EdgepackError,
    InputError,
    InterruptedByUserError,
    UsageError,
    is_interrupt,
)

if TYPE_CHECKING:
    from device_runtime.device import Device
    from device_runtime.home import Home
    from device_runtime.model.session import Engine

Outcome = tuple[dict[str, Any], list[str], EdgepackError | None]  # see `verbs.Outcome`
PROG = "edgepack-device"


def run(arguments: list[str]) -> int:
    """Parse and run one command; return the exit status."""
    as_json = "--json" in arguments
    try:
        _no_core_dumps()
        parsed = _parse(arguments)
        if isinstance(parsed, str):
            print(parsed)
            return 0
        return _say(parsed[0].run(parsed[1]), as_json=as_json)
    except BrokenPipeError:  # nobody reads any more: `predict | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except BaseException as failure:  # noqa: BLE001
        return report(failure, as_json=as_json)


def report(failure: BaseException, *, as_json: bool) -> int:
    """Print what ended a command; return its exit status."""
    outcome: Outcome = {}, [], _as_error(failure)
    try:
        return _say(outcome, as_json=as_json)
    except OSError:  # stdout itself is what failed: a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _say(outcome, as_json=False)


def _say(outcome: Outcome, *, as_json: bool) -> int:
    result, text, error = outcome
    if as_json:
        import json

        failed = {} if error is None else {"error": error.as_json()}
        print(json.dumps({"ok": error is None, **result, **failed}, default=str))
    else:
        print("".join(f"{line}\n" for line in text), end="")
    sys.stdout.flush()
    if error is not None and not as_json:
        _tell(error)
    return error.exit if error is not None else 0


def _tell(error: EdgepackError) -> None:
    """Print the line of an error, and its issues."""
    for line in (error.line(), *(f"  {issue}" for issue in getattr(error, "issues", ()))):
        print("".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)


def _as_error(failure: BaseException) -> EdgepackError:
    if is_interrupt(failure):
        return InterruptedByUserError("interrupted", why="nothing is half-written")
    if isinstance(failure, EdgepackError):
        return failure
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


def _init(options: Options) -> Outcome:
    from device_runtime import provision

    typed = options.fingerprint
    kit = Path(_file(options.kit, "the kit that the base wrote for this device"))
    return provision.init(_root(options), kit, lambda text: typed or _ask(text))


def _file(path: str, what: str) -> str:
    """Return where the file lies that a person named; a link is his to follow."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}", next=f"give {what}")
    return os.path.realpath(path)


def _sync(options: Options) -> Outcome:
    arguments = {"stick": os.path.abspath(options.stick), "dry_run": options.dry_run}
    return _do(options, "sync", arguments)


def _install(options: Options) -> Outcome:
    file = _file(options.file, "a signed bundle: NAME-VERSION.edgepack")
    return _do(options, "install", {"file": file, "retry": options.retry})


def _rollback(options: Options) -> Outcome:
    return _do(options, "rollback", {})


def _label(options: Options) -> Outcome:
    if bool(options.file) == (options.id is not None) or (options.id and options.value is None):
        raise UsageError("give either ID and VALUE, or --file", next="see: label --help")
    file = os.path.abspath(options.file) if options.file else None
    return _do(options, "label", {"id": options.id, "value": options.value, "file": file})


def _predict(options: Options) -> Outcome:
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
    options: Options, verb: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> Outcome:
    """Let the process that serves this home do it; own the home here where there is none."""
    path = _root(options) / "run" / "control.sock"
    if os.path.lexists(path):
        from device_runtime import control

        answer = control.ask(path, verb, arguments, descriptors=descriptors)
        if answer is not None:
            return control.as_outcome(answer)
    engine: Engine = getattr(options, "engine", "capi")
    if verb == "predict" and engine == "capi":
        from device_runtime.model.ortlib import Ahead

        _ahead = Ahead()  # loads onnxruntime while this thread imports and verifies
    from device_runtime import verbs
    from device_runtime.device import Device
    from device_runtime.screen import Progress

    with (
        Progress(verb, quiet=options.json) as progress,
        Device.open(_root(options), disk=progress.disk, engine=engine) as device,
    ):
        return verbs.perform(device, verb, arguments, watcher=progress, descriptors=descriptors)


def _status(options: Options) -> Outcome:
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
            why="; ".join(health.shortened(warm["reasons"], 3)),
            next="plug in a stick with a newer bundle and run: edgepack-device sync STICK",
        )
    return found, health.lines(found), error


def _doctor(options: Options) -> Outcome:
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


def _wipe(options: Options) -> Outcome:
    from device_runtime import provision

    home = _home(options)
    return provision.wipe(home, lambda text: home.card.name if options.yes else _ask(text))


def _notify(options: Options) -> Outcome:
    from device_runtime import provision

    return provision.notify(_home(options), options.result, options.status)


def _serve(options: Options) -> Outcome:
    from device_runtime import serve
    from device_runtime.model.ortlib import two_heaps

    two_heaps()
    with _device(options) as device:
        serve.run(device, socket_path=options.socket, port=options.port, quiet=options.json)
    return {"served": True}, ["stopped in order"], None


# --- helpers -------------------------------------------------------------------------------------


def _root(options: Options) -> Path:
    home = options.home or os.environ.get("EDGEPACK_HOME")
    if not home:
        raise UsageError("which device?", next="give --home DIR, or set EDGEPACK_HOME")
    return Path(home).absolute()


def _home(options: Options) -> Home:
    from device_runtime.clock import SystemClock
    from device_runtime.disk import RealDisk
    from device_runtime.home import open_home

    return open_home(_root(options), disk=RealDisk(), clock=SystemClock())


def _device(options: Options) -> Device:
    from device_runtime.device import Device

    return Device.open(_root(options), engine=getattr(options, "engine", "capi"))


def _ask_status(options: Options) -> dict[str, Any] | None:
    """Ask the process that serves this home; its counts are newer than its notes."""
    path = _root(options) / "run" / "control.sock"
    if not os.path.lexists(path):
        return None
    from device_runtime import control

    answer = control.ask(path, "status", {})
    return None if answer is None else control.as_outcome(answer)[0]


def _ask(question: str) -> str:
    if sys.stdin.isatty():
        with suppress(EOFError):
            return input(question)
    raise UsageError("nobody is here to answer", next="give it as an option: see --help")


# --- arguments -----------------------------------------------------------------------------------


def _parse(arguments: list[str]) -> tuple[Command, Options] | str:
    """Return what was typed; a text where only help or the version was asked for."""
    name = (arguments or [""])[0]
    if name in COMMANDS:
        options = read(f"{PROG} {name}", COMMANDS[name], arguments[1:])
        return (COMMANDS[name], options) if options else help_of(f"{PROG} {name}", COMMANDS[name])
    if name == "--version":
        from device_runtime._version import __version__

        return f"{PROG} {__version__}"
    if name in {"-h", "--help"}:
        return help_of_all(PROG, "Verify, run and journal a signed model.", COMMANDS)
    raise UsageError(f"there is no command {name!r}", next=f"see: {PROG} --help")


_EVERY = (
    Argument("--home", "the device (or EDGEPACK_HOME)", "DIR"),
    Argument("--json", "one JSON object on stdout", default=False),
)
_ENGINE = Argument("--engine", "how the model runs", "E", "capi", choices=("capi", "python"))


def _command(run: Callable[[Options], Outcome], help: str, *takes: Argument) -> Command:
    return Command(run, help, (*takes, *_EVERY))


def _word(name: str, help: str) -> Argument:
    return Argument(name, help, needed=True)


def _switch(name: str, help: str) -> Argument:
    return Argument(name, help, default=False)


COMMANDS: dict[str, Command] = {
    "init": _command(
        _init,
        "make this machine a device, from a kit",
        _word("KIT", "file of the base"),
        Argument("--fingerprint", "the eight words of the kit", "WORDS"),
    ),
    "sync": _command(
        _sync,
        "the visit of a stick: leave the journal, take the bundle",
        _word("STICK", "folder where the stick is mounted"),
        _switch("--dry-run", "only say what would be done"),
    ),
    "install": _command(
        _install,
        "install a bundle by hand",
        _word("FILE", "signed bundle"),
        _switch("--retry", "also if it was rejected before"),
    ),
    "rollback": _command(_rollback, "go back to the other good bundle"),
    "predict": _command(
        _predict,
        "answer rows of CSV, NDJSON or .npy",
        Argument("FILE", "- for stdin", default="-"),
        Argument("--out", "write the answers here, resumably", "F"),
        _switch("--resume", "go on with a killed run"),
        _switch("--template", "print a header and a real row"),
        _ENGINE,
    ),
    "serve": _command(
        _serve,
        "answer requests on a local socket (Open Inference Protocol)",
        Argument("--socket", "unix socket (default: HOME/run/serve.sock)", "P"),
        Argument("--port", "loopback TCP port; 0 picks one", "N", kind=int),
        _ENGINE,
    ),
    "label": _command(
        _label,
        "the truth about a row",
        Argument("ID", "record id, or value of the key"),
        Argument("VALUE", "the truth"),
        Argument("--file", "CSV with a column record (or key) and truth", "F"),
    ),
    "status": _command(
        _status,
        "bundle, age, temperature, journal",
        _switch("--check", "exit 77 unless fresh"),
        _switch("--prometheus", "as metrics"),
    ),
    "doctor": _command(
        _doctor,
        "is this machine able",
        Argument("--units", "write systemd units and a udev rule", "DIR"),
    ),
    "notify": _command(
        _notify,
        "tell people how a sync ended, as the policy says",
        Argument("--result", "SERVICE_RESULT of systemd", "R", default="success"),
        Argument("--status", "EXIT_STATUS of systemd", "S", default="0"),
    ),
    "wipe": _command(_wipe, "remove this device, its key first", _switch("--yes", "do not ask")),
}
