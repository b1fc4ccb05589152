"""The local server: hostile, slow and greedy clients; each gets its status, none stops it."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from support.servelab import NAME, ask, serving, unix, wait_until

pytestmark = pytest.mark.usefixtures("hang_up")


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
