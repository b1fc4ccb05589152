"""The conformance client works; the whole suite runs where a checkout of it is named."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.trustsim import DAY, Base, unpack

CLIENT = Path(__file__).with_name("client.py")
CHECKOUT = os.environ.get("TUF_CONFORMANCE", "")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def client(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CLIENT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_client_keeps_the_suites_contract(served: tuple[Path, str], tmp_path: Path) -> None:
    import time

    folder, url = served
    base = Base.at(tmp_path / "ws")
    base.clock.wall = time.time_ns() - DAY * 10**9
    for name, data in unpack(base.publish(force_time=True).read_bytes()).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    state = tmp_path / "state"
    where = ("--metadata-dir", state)
    assert client(*where, "init", base.ws.metadata / "1.root.json").returncode == 0
    done = client("--metadata-url", f"{url}/metadata", *where, "refresh")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in state.iterdir()) == [
        f"{role}.json" for role in ("root", "snapshot", "targets", "timestamp")
    ]
    targets = ("--target-name", "model.onnx", "--target-base-url", f"{url}/payload")
    into = ("--target-dir", tmp_path / "got")
    done = client("--metadata-url", f"{url}/metadata", *where, *targets, *into, "download")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got" / "model.onnx").read_bytes() == b"model"

    value = json.loads((folder / "metadata" / "timestamp.json").read_bytes())
    value["signed"]["version"] = 9
    (folder / "metadata" / "timestamp.json").write_text(json.dumps(value))
    done = client("--metadata-url", f"{url}/metadata", *where, "refresh")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.elsewhere
@pytest.mark.skipif(not CHECKOUT, reason="TUF_CONFORMANCE names no checkout of tuf-conformance")
def test_the_conformance_suite_passes() -> None:
    """The suite is not on the package index; it brings its own environment."""
    entry = f"{sys.executable} {CLIENT}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tuf_conformance", "--entrypoint", entry, "-q"],
        cwd=CHECKOUT,
        check=False,
    )
    assert done.returncode == 0
