"""One process owns a home; others ask it through `run/control.sock`.

A request is one line of JSON, with the descriptors that it needs beside it (SCM_RIGHTS): so the
owner reads and writes exactly the files that the asker could open. The answer is one line of JSON.
Only the owner's user, and root, are answered.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from device_runtime import errors, verbs
from device_runtime.disk import RealDisk, machine_error
from device_runtime.errors import EdgepackError, RequestError
from device_runtime.format import canonical

if TYPE_CHECKING:
    from device_runtime.device import Device

NAME = "control.sock"
MAX_REQUEST = 1 << 20
MAX_ANSWER = 64 << 20
READ_TIMEOUT_S = 10.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def ask(
    path: Path, verb: str, arguments: Mapping[str, Any], *, descriptors: Sequence[int] = ()
) -> dict[str, Any] | None:
    """Ask the owner of a home to do something; None if nobody listens any more.

    Raises:
        EdgepackError: What the owner answered where nothing was done.
        RequestError: The owner went away in the middle.
    """
    with closing(socket.socket(socket.AF_UNIX)) as line:
        try:
            with short(path) as name:
                line.connect(name)
        except (FileNotFoundError, ConnectionRefusedError):
            return None  # left behind by a crash
        request = json.dumps({"verb": verb, "arguments": dict(arguments)}).encode() + b"\n"
        try:
            if descriptors:
                socket.send_fds(line, [request], list(descriptors))
            else:
                line.sendall(request)
            raw = _read_line(line, MAX_ANSWER)
        except OSError as error:
            raise RequestError(f"the process that serves this device went away: {error}") from None
    answer = canonical.decode(raw, "the answer of the serving process", limit=MAX_ANSWER)
    if not isinstance(answer, dict):
        raise RequestError("the serving process gave no answer", next="repeat the command")
    return answer


def as_outcome(answer: Mapping[str, Any]) -> verbs.Outcome:
    """Return an answer as the outcome of the command; raise where nothing was done."""
    error = _as_error(answer["error"]) if answer.get("error") else None
    if error is not None and not answer.get("result"):
        raise error
    return dict(answer["result"]), [str(text) for text in answer["text"]], error


def _as_error(value: Mapping[str, Any]) -> EdgepackError:
    """Return the error of the tree that another process has raised."""
    kinds = _kinds(EdgepackError)
    kind = kinds.get(str(value.get("code")), EdgepackError)
    error = kind(str(value["what"]), why=str(value["why"]), next=str(value["next"]))
    if isinstance(error, errors.InputError):
        error.issues = tuple(str(issue) for issue in value.get("issues", ()))
    return error


def _kinds(kind: type[EdgepackError]) -> dict[str, type[EdgepackError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found = {**_kinds(child), **found}
    return found


class _Asker(verbs.Watcher):
    """Ends a run whose asker went away, as a kill would have ended his own: he may repeat it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        line.setblocking(False)

    def count(self, rows: int) -> None:
        with suppress(BlockingIOError):
            if not self._line.recv(1, socket.MSG_PEEK):
                raise RequestError(f"the asker went away after {rows} rows")


class Control:
    """Answers the control socket of an open device, one thread for each request."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._path = device.home.run / NAME
        self._socket = listen_unix(self._path, 0o600)
        Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening; what is being done is finished by its own thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._device.home.disk.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        descriptors: list[int] = []
        with closing(line):
            try:
                line.settimeout(READ_TIMEOUT_S)
                answer = self._answer(line, descriptors)
                line.settimeout(None)
                line.sendall(json.dumps(answer, default=str).encode() + b"\n")
            except OSError:
                return  # the asker went away; what was done is done
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _answer(self, line: socket.socket, descriptors: list[int]) -> dict[str, Any]:
        try:
            first, received, _, _ = socket.recv_fds(line, 1 << 16, 4)
            descriptors += received
            if _peer_uid(line) not in (0, os.geteuid()):
                raise errors.PermissionDeniedError("this device belongs to another user")
            raw = first if first.endswith(b"\n") else first + _read_line(line, MAX_REQUEST)
            request = canonical.decode(raw, "the request", limit=MAX_REQUEST)
            outcome = verbs.perform(
                self._device,
                str(request["verb"]),
                request["arguments"],
                watcher=_Asker(line),
                descriptors=descriptors,
            )
        except EdgepackError as error:
            return {"result": {}, "text": [], "error": error.as_json()}
        except OSError as error:
            failed = machine_error(error, "working")
            return {"result": {}, "text": [], "error": failed.as_json()}
        except Exception as error:  # noqa: BLE001
            bug = EdgepackError(f"{type(error).__name__}: {error}", why="a bug of ours")
            return {"result": {}, "text": [], "error": bug.as_json()}
        result, text, problem = outcome
        return {"result": result, "text": text, "error": problem and problem.as_json()}


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Listen on a unix socket with these permissions; what a crash left there is replaced.

    Raises:
        OSError: The folder is not there or may not be written.
    """
    listening = socket.socket(socket.AF_UNIX)
    try:
        if os.path.lexists(path):
            if not path.is_socket():
                raise errors.MachineError(f"{path} is there and is no socket")
            RealDisk().unlink(path)
        with short(path) as name:
            mask = os.umask(0o177)
            try:
                listening.bind(name)
            finally:
                os.umask(mask)
            os.chmod(name, mode)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def short(path: Path) -> Iterator[str]:
    """Give a name of a unix socket that fits into the 107 bytes that the kernel takes."""
    if len(os.fsencode(path)) <= 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _peer_uid(line: socket.socket) -> int:
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _read_line(line: socket.socket, limit: int) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = line.recv(1 << 16)
        if not piece:
            raise ConnectionResetError("the line ended")
        data += piece
        if len(data) > limit:
            raise RequestError(f"more than {limit} bytes in one line")
    return bytes(data)
