"""A server of a lab's home in a process of its own, and clients on its socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

from support import devicelab, trustsim

NAME = trustsim.NAME


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        folder = os.open(os.path.dirname(self.path), os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(self.path)}")
        finally:
            os.close(folder)


@contextmanager
def serving(lab, *arguments):
    process = subprocess.Popen(
        devicelab.command(lab.root, "serve", "--json", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)["serving"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert errors == b""


LINES: list[UnixConnection] = []


def unix(lab):
    LINES.append(UnixConnection(lab.root / "run" / "serve.sock"))
    return LINES[-1]


def wait_until(true):
    """Wait as long as it takes on a slow machine; the test's own limit ends it."""
    while not true():
        time.sleep(0.01)


def ask(line, rows, outputs=None, name=NAME):
    body = {
        "inputs": [
            {"name": "id", "datatype": "INT64", "shape": [len(rows)], "data": [r[0] for r in rows]},
            {"name": "x", "datatype": "FP32", "shape": [len(rows)], "data": [r[1] for r in rows]},
            {"name": "c", "datatype": "BYTES", "shape": [len(rows)], "data": [r[2] for r in rows]},
        ]
    }
    if outputs:
        body["outputs"] = [{"name": name} for name in outputs]
    line.request("POST", f"/v2/models/{name}/infer", json.dumps(body))
    answer = line.getresponse()
    value = json.loads(answer.read())
    return answer.status, value


def column(value, name):
    return next(item["data"] for item in value["outputs"] if item["name"] == name)


def hang_up():
    """Close every line that `unix` gave."""
    while LINES:
        LINES.pop().close()
