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
    NotInitialisedError,
    UsageError,
)

if TYPE_CHECKING:
    from device_runtime.device import Device
    from device_runtime.home import Home
    from device_runtime.model.session import Engine

Outcome = tuple[dict[str, Any], list[str], EdgepackError | None]
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
        options = _parser().parse_args(arguments)
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
            print(error.line(), file=sys.stderr)
    sys.stdout.flush()
    return error.exit if error is not None else 0


def _fail(failure: BaseException, *, as_json: bool) -> int:
    error = _as_error(failure)
    if as_json:
        print(json.dumps({"ok": False, "error": error.as_json()}))
    else:
        print(error.line(), file=sys.stderr)
        for issue in getattr(error, "issues", ())[:20]:
            print(f"  {issue}", file=sys.stderr)
    return error.exit


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
    from device_runtime.clock import SystemClock
    from device_runtime.disk import RealDisk
    from device_runtime.format import words
    from device_runtime.home import apply_kit, create_home, open_home
    from device_runtime.trust.kit import read_kit

    disk, clock, root = RealDisk(), SystemClock(), _root(options)
    kit = read_kit(disk, Path(options.kit))
    typed = options.fingerprint or _ask("the eight words that the base shows for this kit: ")
    if not words.same(typed, kit.words):
        raise InputError(
            "these are not the words of this kit",
            why="it may be another kit, or somebody changed it",
            next="compare with: edgepack device kit",
        )
    try:
        home = open_home(root, disk=disk, clock=clock)
    except NotInitialisedError:
        home = create_home(root, kit, disk=disk, clock=clock)
        text = f"initialised {home.card.name} at {root}"
    else:
        with home.lock():
            apply_kit(home, kit)
        text = f"took the policy of the newer kit on {home.card.name}"
    installed = None
    if kit.bundle is not None:
        with _device(options) as device:
            target = home.tmp / kit.bundle
            kit.extract(disk, kit.bundle, target)
            found = device.install(target)
            installed = {"version": found.version, "digest": found.digest}
            disk.unlink(target)
    card = home.card
    lines = [text, f"its id is {card.device_id}"]
    if installed:
        lines.append(f"installed bundle {installed['version']} from the kit")
    lines.append("next: edgepack-device sync STICK")
    result = {"device": card.name, "id": card.device_id, "home": str(root), "installed": installed}
    return result, lines, None


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
    from device_runtime.disk import RealDisk

    home = _home(options)
    if not options.yes:
        typed = _ask(f"everything in {home.root} goes; type the device's name to do it: ")
        if typed.strip() != home.card.name:
            raise InputError("that is not its name; nothing was removed", next="repeat the command")
    name, disk = home.card.name, RealDisk()
    with home.lock():
        disk.unlink(home.identity_dir / "device.key")
        disk.fsync_dir(home.identity_dir)
        for entry in disk.list(home.root):
            disk.rmtree(home.root / entry)
    return {"wiped": name}, [f"{name} is no device any more; tell the base to retire it"], None


def _notify(options: argparse.Namespace) -> Outcome:
    """Run the command of the signed policy; used by the unit that syncs a stick."""
    import shlex
    import subprocess

    line = _home(options).generation().policy.notify
    if not line:
        return {"ran": False}, [], None
    environment = {
        **os.environ,
        "EDGEPACK_RESULT": options.result,
        "EDGEPACK_STATUS": options.status,
    }
    code = subprocess.run(shlex.split(line), env=environment, check=False, timeout=60).returncode
    return {"ran": True, "exit": code}, [], None


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


def _parser() -> argparse.ArgumentParser:
    from device_runtime._version import __version__

    parser = _Parser(prog="edgepack-device", description="Verify, run and journal a signed model.")
    parser.add_argument("--version", action="version", version=f"edgepack-device {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--home", metavar="DIR", help="folder of the device (or EDGEPACK_HOME)")
    shared.add_argument("--json", action="store_true", help="one JSON object on stdout")
    commands: Any = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Command, help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, parents=[shared], help=help, description=help
        )
        made.set_defaults(run=run)
        return made

    command = add("init", _init, "make this machine a device, from a kit")
    command.add_argument("kit", metavar="KIT")
    command.add_argument("--fingerprint", metavar="WORDS", help="the eight words of the kit")
    command = add("sync", _sync, "the visit of a stick: leave the journal, take the bundle")
    command.add_argument("stick", metavar="STICK", help="folder where the stick is mounted")
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")
    command = add("install", _install, "install a bundle by hand")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--retry", action="store_true", help="also if it was rejected before")
    add("rollback", _rollback, "go back to the other good bundle")
    command = add("predict", _predict, "answer rows of CSV, NDJSON or .npy")
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="- for stdin")
    command.add_argument("--out", metavar="F", help="write the answers here, resumably")
    command.add_argument("--resume", action="store_true", help="go on with a killed run")
    command.add_argument("--engine", choices=("capi", "python"), default="capi")
    command.add_argument("--template", action="store_true", help="print a header and a real row")
    command = add("serve", _serve, "answer requests on a local socket (Open Inference Protocol)")
    command.add_argument("--socket", metavar="P", help="unix socket (default: HOME/run/serve.sock)")
    command.add_argument("--port", type=int, metavar="N", help="loopback TCP port; 0 picks one")
    command.add_argument("--engine", choices=("capi", "python"), default="capi")
    command = add("label", _label, "the truth about a row")
    command.add_argument("id", metavar="ID", nargs="?", help="record id, or value of the key")
    command.add_argument("value", metavar="VALUE", nargs="?")
    command.add_argument("--file", metavar="F", help="CSV with a column record (or key) and truth")
    command = add("status", _status, "bundle, age, temperature, journal")
    command.add_argument("--check", action="store_true", help="exit 77 unless fresh")
    command.add_argument("--prometheus", action="store_true", help="as metrics")
    command = add("doctor", _doctor, "is this machine able")
    command.add_argument("--units", metavar="DIR", help="write systemd units and a udev rule")
    command = add("notify", _notify, "tell people how a sync ended, as the policy says")
    command.add_argument("--result", default="success", help="SERVICE_RESULT of systemd")
    command.add_argument("--status", default="0", help="EXIT_STATUS of systemd")
    command = add("wipe", _wipe, "remove this device, its key first")
    command.add_argument("--yes", action="store_true", help="do not ask")
    return parser
