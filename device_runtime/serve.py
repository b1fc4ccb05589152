"""Open Inference Protocol v2 (JSON over HTTP/1.1) on a unix socket, or on loopback when asked.

One thread for each connection, a bounded number of them, bounded bodies, a deadline for each
request from its first byte. Large requests take turns, so that many at once need little more memory
than one; small ones never wait for them. The bundle is switched between two requests; none is
dropped. What is not JSON over plain HTTP/1.1 with a Content-Length is refused with a 4xx that says
why.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event, Lock, Semaphore, Thread
from typing import Any

from device_runtime import inference
from device_runtime.control import Control, listen_unix
from device_runtime.device import Device
from device_runtime.errors import EdgepackError, MachineError, RequestError
from device_runtime.policy import Policy

SOCKET = "serve.sock"
LOOPBACK = "127.0.0.1"
MAX_HEAD = 16 << 10
LARGE = 64 << 10  # bytes; of larger bodies READERS are read at a time, and one is answered
READERS = 4
IDLE_S = 60.0
DRAIN_S = 10.0
_REASON = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class HttpError(Exception):
    """A request that ends with this status.

    Attributes:
        status: HTTP status.
        body: JSON object of the answer.
    """

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **more}


class Server:
    """Answers a listening socket for an open device. Close it to stop in order."""

    def __init__(self, device: Device, listening: socket.socket) -> None:
        self._device = device
        self._policy: Policy = device.generation.policy
        self._listening = listening
        self._stopping = Event()
        self._lock = Lock()
        self._lines: set[socket.socket] = set()
        self._busy: set[socket.socket] = set()
        self._reading, self._answering = Semaphore(READERS), Lock()
        device.load()
        Thread(target=self._accept, name="serve", daemon=True).start()

    def close(self) -> None:
        """Take no more connections, answer what was asked, then hang up.

        A line that takes no more bytes still gives those that came: a request is either answered,
        or could not be sent.
        """
        self._stopping.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._end(lambda line: line not in self._busy, socket.SHUT_RD)
        deadline = time.monotonic() + DRAIN_S
        while self._lines and time.monotonic() < deadline:
            time.sleep(0.005)
        self._end(lambda _: True, socket.SHUT_RDWR)

    def _end(self, chosen: Callable[[socket.socket], bool], how: int) -> None:
        with self._lock:
            for line in filter(chosen, self._lines):
                with suppress(OSError):
                    line.shutdown(how)

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                time.sleep(0.05)  # out of descriptors, say
                continue
            with self._lock:
                full = len(self._lines) >= self._policy.max_queue
                if not full:
                    self._lines.add(line)
            if full:
                busy = {"error": f"more than {self._policy.max_queue} connections"}
                with suppress(OSError):
                    line.settimeout(1.0)
                    line.sendall(_response(503, busy, close=True))
                line.close()
                continue
            Thread(target=self._connection, args=(line,), daemon=True).start()

    def _connection(self, line: socket.socket) -> None:
        try:
            if line.family != socket.AF_UNIX:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = _Reader(line, self._policy.request_timeout_s)
            keep = True
            while keep and reader.wait(IDLE_S):
                with self._lock:
                    self._busy.add(line)
                keep = self._request(line, reader)
                with self._lock:
                    self._busy.discard(line)
                if self._stopping.is_set():
                    line.shutdown(socket.SHUT_RD)
        except OSError:
            return  # the other side went away
        finally:
            with self._lock:
                self._lines.discard(line)
                self._busy.discard(line)
            line.close()

    def _request(self, line: socket.socket, reader: _Reader) -> bool:
        """Answer one request; return whether the connection stays."""
        keep, method = False, ""
        try:
            method, path, headers = reader.head()
            keep = headers.get("connection", "").lower() != "close" and not self._stopping.is_set()
            size = reader.announced(headers, self._policy.max_request_bytes)
            large = size > LARGE
            with self._reading if large else nullcontext():
                body = reader.body(headers, line, size)
                with self._answering if large else nullcontext():
                    status, answer = 200, self._answer(method, path, headers, body)
        except HttpError as error:
            status, answer = error.status, error.body
            keep = keep and status in (400, 404, 405) and reader.clean
        except EdgepackError as error:
            status, answer = _status_of(error), {"error": error.what, **error.as_json()}
        except Exception as error:  # noqa: BLE001
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
        data = _response(status, answer, close=not keep)
        line.sendall(data.partition(b"{")[0] if method == "HEAD" else data)
        return keep

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytearray) -> Any:
        parts = [part for part in path.partition("?")[0].split("/") if part]
        route = inference.route(parts, self._device)
        if route is None:
            raise HttpError(404, f"there is nothing at {path[:200]}")
        if method != route.method:
            raise HttpError(405, f"{route.method} is the method for {path[:200]}")
        if route.method == "POST":
            if "inference-header-content-length" in headers:
                raise HttpError(415, "binary tensors are not taken: send JSON (binary_data=False)")
            try:
                request = inference.decode(body)
            except RequestError as error:
                raise HttpError(400, error.what) from None
        else:
            request = {}
        return route.answer(request)


def _status_of(error: EdgepackError) -> int:
    if error.code in ("run.request", "run.input"):
        return 400
    return 503 if error.exit in (30, 50, 77) else 500


def _response(status: int, body: Any, *, close: bool) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    data = text.encode(errors="backslashreplace")  # half a surrogate pair: JSON's own escape
    head = (
        f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + data


class _Reader:
    """Reads requests of one connection, each within its deadline.

    Attributes:
        clean: Whether the last request was read to its end.
    """

    def __init__(self, line: socket.socket, timeout_s: float) -> None:
        self._line = line
        self._timeout_s = timeout_s
        self._data = bytearray()
        self._deadline = 0.0
        self.clean = True

    def wait(self, seconds: float) -> bool:
        """Wait for the first byte of a request; False at the end of the connection."""
        if not self._data:
            self._line.settimeout(seconds)
            try:
                self._data += self._line.recv(1 << 16)
            except TimeoutError:
                return False
        self._deadline = time.monotonic() + self._timeout_s
        self.clean = False
        return bool(self._data)

    def _more(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise HttpError(408, f"no whole request within {self._timeout_s:g} s")
        self._line.settimeout(left)
        try:
            piece = self._line.recv(1 << 18)
        except TimeoutError:
            raise HttpError(408, f"no whole request within {self._timeout_s:g} s") from None
        if not piece:
            raise ConnectionResetError("the client went away")
        self._data += piece

    def head(self) -> tuple[str, str, dict[str, str]]:
        """Return method, path and headers (names in lower case)."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > MAX_HEAD:
                raise HttpError(431, f"the head is larger than {MAX_HEAD} bytes")
            self._more()
        if end > MAX_HEAD:
            raise HttpError(431, f"the head is larger than {MAX_HEAD} bytes")
        text = self._data[:end].decode("latin-1")
        del self._data[: end + 4]
        first, *lines = text.split("\r\n")
        try:
            method, path, version = first.split(" ")
        except ValueError:
            raise HttpError(400, "this is not an HTTP request") from None
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise HttpError(505, "speak HTTP/1.1")
        headers: dict[str, str] = {}
        for row in lines:
            name, colon, value = row.partition(":")
            name = name.lower()
            if not colon or not name or name != name.strip() or name in headers:
                raise HttpError(400, "a header is malformed or stands twice")
            headers[name] = value.strip()
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return method, path, headers

    def announced(self, headers: Mapping[str, str], limit: int) -> int:
        """Return the size of the body that is to come."""
        if "transfer-encoding" in headers:
            raise HttpError(411, "send a Content-Length, not a Transfer-Encoding")
        if "content-encoding" in headers:
            raise HttpError(415, "send the body as it is, not compressed")
        announced = headers.get("content-length", "0")
        if not (announced.isascii() and announced.isdigit() and len(announced) < 16):
            raise HttpError(400, "Content-Length is not a number")
        size = int(announced)
        if size > limit:
            raise HttpError(413, f"the body has {size} bytes; {limit} are allowed")
        return size

    def body(self, headers: Mapping[str, str], line: socket.socket, size: int) -> bytearray:
        """Return the next `size` bytes."""
        if headers.get("expect", "").lower() == "100-continue" and len(self._data) < size:
            line.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._data) < size:
            self._more()
        body = self._data[:size]
        del self._data[:size]
        self.clean = True
        line.settimeout(self._timeout_s)
        return body


def run(device: Device, *, socket_path: str | None, port: int | None, quiet: bool) -> None:
    """Serve until SIGTERM or Ctrl-C, then stop in order.

    Args:
        device: The open device.
        socket_path: Unix socket; `HOME/run/serve.sock` by default.
        port: Loopback port instead; 0 picks a free one.
        quiet: Print the address as JSON.

    Raises:
        NoSlotError: There is no bundle to serve.
        MachineError: The address cannot be used.
    """
    path = Path(socket_path) if socket_path else device.home.run / SOCKET
    try:
        if port is not None:
            listening = socket.create_server((LOOPBACK, port), backlog=128)
            address = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        else:
            listening = listen_unix(path, 0o660)
            address = f"unix:{path}"
    except (OSError, OverflowError) as error:
        where = f"{LOOPBACK}:{port}" if port is not None else str(path)
        raise MachineError(
            f"{where} cannot be used: {error}", next="give another --socket or --port"
        ) from None
    stop: list[int] = []  # no Event: its lock may be held by the very thread that is interrupted
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: stop.append(number))
    server = control = None
    try:
        server = Server(device, listening)
        control = Control(device)
        line = {"serving": address, "pid": os.getpid()}
        text = json.dumps(line) if quiet else f"serving on {address}; stop with Ctrl-C"
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        wait_s = min(0.1, device.generation.policy.group_ms / 1000)
        while not stop:
            time.sleep(wait_s)
            device.tick()
    finally:
        if control is not None:
            control.close()
        if server is not None:
            server.close()
        listening.close()
        if port is None:
            device.home.disk.unlink(path)
