"""The local server: the protocol, and whom it answers."""

from __future__ import annotations

import json
import stat
import subprocess

import pytest

from support import devicelab
from support.servelab import NAME, ask, column, serving, unix

pytestmark = pytest.mark.usefixtures("hang_up")


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
