"""The local server: the protocol, hostile clients, hot switches; nothing is dropped or lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from device_runtime.courier import Stick
from device_runtime.disk import RealDisk
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


@pytest.fixture(autouse=True)
def _hang_up():
    yield
    while LINES:
        LINES.pop().close()


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


def test_the_protocol_over_a_private_unix_socket(lab):
    with serving(lab) as (_, address):
        path = lab.root / "run" / "serve.sock"
        assert address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
        line = unix(lab)
        for where in ("/v2/health/live", "/v2/health/ready", "/v2", f"/v2/models/{NAME}"):
            line.request("GET", where)
            answer = line.getresponse()
            assert answer.status == 200
            value = json.loads(answer.read())
        assert value["versions"] == ["1"]
        assert {item["name"] for item in value["inputs"]} == {"id", "at", "x", "c"}
        status, value = ask(line, [(1, 3.0, "b"), (2, -3.0, "c")])
        assert status == 200
        assert column(value, "y") == ["yes", "no"]
        assert column(value, "flag") == ["ok", "ok"]
        assert value["parameters"]["durable"] is False
        status, value = ask(line, [(1, 3.0, "b")], outputs=["y"])
        assert [item["name"] for item in value["outputs"]] == ["y"]
    assert not path.exists()
    assert len(lab.rows()) == 3


def test_a_real_client_of_the_protocol_is_served(lab):
    triton = pytest.importorskip("tritonclient.http")
    import numpy as np

    with serving(lab, "--port", "0") as (_, address):
        client = triton.InferenceServerClient(address.removeprefix("http://"))
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        assert client.get_model_metadata(NAME)["name"] == NAME
        x = triton.InferInput("x", [2], "FP32")
        x.set_data_from_numpy(np.array([3.0, -3.0], np.float32), binary_data=False)
        c = triton.InferInput("c", [2], "BYTES")
        c.set_data_from_numpy(np.array(["a", "b"], dtype=object), binary_data=False)
        key = triton.InferInput("id", [2], "INT64")
        key.set_data_from_numpy(np.array([1, 2]), binary_data=False)
        wanted = [triton.InferRequestedOutput("y", binary_data=False)]
        answer = client.infer(NAME, [x, c, key], outputs=wanted)
        assert answer.as_numpy("y").tolist() in ([b"yes", b"no"], ["yes", "no"])
        client.close()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"not json", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "inputs"),
        (b"[" * 100_000, "not JSON"),
        (b'{"inputs": [{"name": "x"}]}', "no shape"),
        (b'{"inputs": [{"name": "q", "shape": [1], "data": [1]}]}', "no input"),
        (b'{"inputs": [{"name": "x", "shape": [2], "data": [1]}]}', "1 values for shape"),
        (b'{"inputs": [{"name": "x", "shape": [-1], "data": [1]}]}', "no shape"),
        (b'{"inputs": [{"name": "x", "shape": [1, 7], "data": [1]}]}', "must be"),
        (b'{"inputs": [{"name": "x", "shape": [true], "data": [1]}]}', "no shape"),
        (b'{"inputs": [{"name": "x", "shape": [1], "data": "hello"}]}', "no list"),
        (b'{"inputs": [{"name": "x", "shape": [0], "data": []}]}', "no rows"),
        (b'{"inputs": [{"name": "x", "shape": [1], "data": ["warm"]}]}', "no row fits"),
        (
            b'{"inputs": [{"name": "x", "shape": [1]}, {"name": "x", "shape": [1]}]}'.replace(
                b"[1]}", b'[1], "data": [1]}'
            ),
            "twice",
        ),
        (b'{"inputs": [{"name": "x", "shape": [99999999], "data": []}]}', "0 values"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [1]}]}', "is FP32"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": [], "data": [1]}]}', "is FP32"),
        (b'{"inputs": [{"name": "x", "shape": [1], "data": [' + b"[]," * (1 << 20), "send `data`"),
        (
            b'{"outputs": [7], "inputs": [{"name": "x", "shape": [1], "data": [1]}]}',
            "no output '7'",
        ),
    ],
)
def test_hostile_bodies_get_a_clear_400(server, body, wanted):
    line = server()
    line.request("POST", f"/v2/models/{NAME}/infer", body)
    answer = line.getresponse()
    text = answer.read().decode()
    assert answer.status == 400
    assert wanted in text


@pytest.fixture(scope="module")
def server(_template, tmp_path_factory):
    """Start one server for all hostile requests: it must survive every one of them."""
    import shutil

    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(_template.root, folder / "home", symlinks=True)

    class Lab:
        root = folder / "home"

    with serving(Lab) as (process, _):
        yield lambda: unix(Lab)
        assert process.poll() is None


def _raw(server, data, *, then_wait=True):
    line = server()
    line.connect()
    with suppress(BrokenPipeError):  # it has answered and hung up already
        line.sock.sendall(data)
    answer = b""
    while then_wait:
        piece = line.sock.recv(65536)
        if not piece:
            break
        answer += piece
        if b"\r\n\r\n" in answer:
            break
    line.close()
    return answer.split(b"\r\n")[0].decode()


INFER = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 404),
        ("GET /v2/models/other HTTP/1.1\r\n\r\n", 404),
        (f"GET /v2/models/{NAME}/versions/9 HTTP/1.1\r\n\r\n", 404),
        ("DELETE /v2 HTTP/1.1\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        ("GET /v2 HTTP/2.0\r\n\r\n", 505),
        (INFER + "Content-Length: 99999999999\r\n\r\n", 413),
        (INFER + "Content-Length: 999999999999999999999\r\n\r\n", 400),
        (INFER + "Content-Length: -1\r\n\r\n", 400),
        (INFER + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (INFER + "Transfer-Encoding: chunked\r\n\r\n", 411),
        (INFER + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", 415),
        (INFER + "Inference-Header-Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi", 415),
        ("GET /v2 HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET /v2 HTTP/1.1\r\n" + "a: " + "x" * 20_000 + "\r\n\r\n", 431),
    ],
)
def test_hostile_heads_get_their_status(server, head, status):
    assert f" {status} " in _raw(server, head.encode())


def test_a_head_request_gets_no_body(server):
    line = server()
    line.connect()
    line.sock.sendall(b"HEAD /v2 HTTP/1.1\r\n\r\nGET /v2/health/live HTTP/1.1\r\n\r\n")
    answer = b""
    while b'{"live":true}' not in answer:
        answer += line.sock.recv(65536)
    assert b"\r\n\r\nHTTP/1.1 200 OK" in answer


def test_an_id_that_is_half_a_character_comes_back_as_it_was(server):
    line = server()
    inputs = [{"name": "x", "shape": [1], "data": [1.0]}, {"name": "id", "shape": [1], "data": [1]}]
    line.request("POST", f"/v2/models/{NAME}/infer", json.dumps({"id": "\ud800", "inputs": inputs}))
    answer = line.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["id"] == "\ud800"


def test_many_large_requests_at_once_need_little_more_memory_than_one(make_lab):
    """32 bodies of a million numbers each: 1.3 GB if all of them were decoded together."""
    size = 4 << 20
    lab = make_lab(max_request_bytes=size, request_timeout_s=300.0)
    numbers = b"0.5," * ((size - 100) // 4)
    body = b'{"inputs":[{"name":"x","shape":[1],"data":[' + numbers + b"0]}]}"
    statuses = []

    def client():
        line = unix(lab)
        line.connect()
        line.sock.settimeout(300)
        line.request("POST", f"/v2/models/{NAME}/infer", body)
        statuses.append(line.getresponse().status)

    with serving(lab) as (process, _):
        threads = [threading.Thread(target=client) for _ in range(32)]
        for thread in threads:
            thread.start()
        assert ask(unix(lab), [(1, 3.0, "a")])[0] == 200  # a small one goes ahead
        for thread in threads:
            thread.join()
        most = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert statuses == [400] * 32
    assert int(most[1]) < 300_000


def test_clients_that_go_away_or_stall_leave_nothing_behind(server):
    for data in (b"", b"POST", INFER.encode(), INFER.encode() + b"Content-Length: 50\r\n\r\n{"):
        _raw(server, data, then_wait=False)
    line = server()
    assert ask(line, [(1, 3.0, "a")])[0] == 200


def test_more_connections_than_allowed_get_503(server):
    lines = [server() for _ in range(64)]
    for line in lines:
        line.connect()  # taken in the order in which they come
    try:
        assert " 503 " in _raw(server, b"GET /v2 HTTP/1.1\r\n\r\n")
    finally:
        for line in lines:
            line.close()
    wait_until(lambda: " 200 " in _raw(server, b"GET /v2 HTTP/1.1\r\n\r\n"))
    assert ask(server(), [(1, 3.0, "a")])[0] == 200


def test_a_slow_request_is_ended(make_lab):
    lab = make_lab(request_timeout_s=0.5)
    with serving(lab):
        line = unix(lab)
        line.connect()
        line.sock.sendall(INFER.encode())
        answer = line.sock.recv(65536)  # or the client's own 30 s
        assert b" 408 " in answer
        line.close()


def test_under_load_a_sync_a_label_and_an_install_drop_no_request_and_lose_no_row(make_lab):
    """While requests come in: plug in a stick with a newer bundle, label, roll on."""
    lab = make_lab(trial_rows=1)
    newer = lab.bundle(-4.0)
    stick = lab.folder / "stick"
    (stick / "EDGEPACK" / "bundles").mkdir(parents=True)
    (stick / "EDGEPACK" / "bundles" / newer.name).write_bytes(newer.read_bytes())
    stop = threading.Event()
    seen: list[tuple[str, str]] = []
    failures: list[object] = []

    def client(number):
        line = unix(lab)
        at = 0
        while not stop.is_set():
            try:
                status, value = ask(line, [(number * 1_000_000 + at, 2.0, "a")])
            except Exception as error:
                failures.append(error)
                return
            if status != 200:
                failures.append(value)
                return
            seen.append((value["model_version"], column(value, "record")[0]))
            at += 1
        line.close()

    with serving(lab):
        threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: seen or failures)
        done = lab.run("sync", stick, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["installed"]["version"] == 2
        labelled = lab.run("label", seen[0][1], "yes", "--json")
        assert json.loads(labelled.stdout)["labels"] == 1
        rows = devicelab.csv_of(devicelab.rows(500), lab.folder / "rows.csv")
        out = lab.run("predict", rows, "--out", lab.folder / "out.csv", "--json")
        assert json.loads(out.stdout)["rows"] == 500
        piped = lab.run("predict", "-", stdin=rows.read_bytes())
        assert piped.stdout.count(b"\n") == 501
        state = json.loads(lab.run("status", "--json").stdout)
        assert state["serving"]
        assert state["bundle"]["version"] == 2
        wait_until(lambda: failures or any(version == "2" for version, _ in seen))
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {version for version, _ in seen} == {"1", "2"}
    kept = lab.rows()
    records = [record for _, record in seen]
    assert len(set(records)) == len(records)
    assert set(records) <= set(kept)
    assert len(kept) == len(records) + 1000
    with Stick.open(stick, RealDisk(), write=False) as found:
        assert found.files("reports")


def test_a_run_whose_asker_was_killed_is_resumed_without_a_row_twice(lab):
    """The server would go on with the first run while the second writes into the same file."""
    rows = devicelab.csv_of(devicelab.rows(200_000), lab.folder / "rows.csv")
    out = lab.folder / "out.csv"
    words = devicelab.command(lab.root, "predict", rows, "--out", out)
    with serving(lab):
        for _ in range(3):
            size = out.stat().st_size if out.exists() else 0
            asker = subprocess.Popen([*words, "--resume"], stdout=subprocess.DEVNULL)
            wait_until(
                lambda known=size, run=asker: (
                    run.poll() is not None or (out.exists() and out.stat().st_size > known)
                )
            )
            asker.kill()
            asker.wait()
        done = lab.run("predict", rows, "--out", out, "--resume", "--json")
        assert json.loads(done.stdout)["ok"], done.stdout
    lines = out.read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == [str(n) for n in range(200_000)]
    assert len({line.split(",")[0] for line in lines}) == 200_000
    state = json.loads(lab.run("status", "--json").stdout)
    assert state["journal"]["rows_on_device"] == 200_000


def test_sigterm_answers_what_was_asked_and_seals(lab):
    with serving(lab) as (process, _):
        line = unix(lab)
        assert ask(line, [(1, 2.0, "a")])[0] == 200
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    assert len(lab.rows()) == 1


def test_a_stop_under_load_leaves_no_request_without_an_answer(lab):
    """A client may fail to send; what it could send is answered, and each answer is journaled."""
    answered, lost = [], []

    def client():
        line = unix(lab)
        while True:
            try:
                value = ask(line, [(1, 2.0, "a")])[1]
            except BrokenPipeError:
                return  # it could not be sent
            except Exception as error:
                lost.append(error)
                return
            answered.append(column(value, "record")[0])
            if line.sock is None:  # "Connection: close"
                return

    for _ in range(3):
        before = len(answered)
        with serving(lab) as (process, _):
            threads = [threading.Thread(target=client) for _ in range(16)]
            for thread in threads:
                thread.start()
            wait_until(lambda known=before: len(answered) > known + 50 or lost)
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
    assert not lost
    assert set(answered) == set(lab.rows())


def test_a_storm_of_signals_stops_it_all_the_same(make_lab):
    """A handler that takes a lock waits for ever if it interrupts the thread that holds it."""
    lab = make_lab(group_ms=0)  # it looks for work without a pause
    for _ in range(3):
        with serving(lab) as (process, _):
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
                time.sleep(0.0002)


def test_a_socket_left_behind_by_a_crash_is_no_obstacle(lab):
    process = subprocess.Popen(
        devicelab.command(lab.root, "serve", "--json"), stdout=subprocess.PIPE
    )
    assert process.stdout.readline()
    assert ask(unix(lab), [(1, 2.0, "a")])[0] == 200
    process.kill()
    process.communicate()
    assert (lab.root / "run" / "control.sock").exists()
    done = lab.run("predict", "-", stdin=b"id,at,x,c\n5,,1,a\n")
    assert done.returncode == 0, done.stderr
    assert len(lab.rows()) == 2
    with serving(lab):
        assert ask(unix(lab), [(1, 2.0, "a")])[0] == 200


def test_another_user_is_not_answered(lab, monkeypatch):
    from device_runtime import control
    from device_runtime.errors import PermissionDeniedError

    monkeypatch.setattr(control, "_peer_uid", lambda _: 4242)
    with lab.open() as device:
        served = control.Control(device)
        answer = control.ask(lab.root / "run" / control.NAME, "status", {})
        with pytest.raises(PermissionDeniedError):
            control.as_outcome(answer)
        served.close()
