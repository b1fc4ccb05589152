"""docs/OPERATIONS.md, "Update the runtime of a device": try, switch, switch back, one home."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from device_runtime.clock import SystemClock
from device_runtime.home import open_home
from device_runtime.slots.install import Steps, install
from support import devicelab, realbundle, trustsim

REPOSITORY = Path(__file__).parents[2]


def environment(folder: Path, *, broken: bool = False) -> Path:
    """Make a second environment with this one's packages; `broken`: onnxruntime is damaged."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    there = f"{REPOSITORY}\n{sysconfig.get_paths()['purelib']}\n"
    (packages / "here.pth").write_text(there)
    if broken:
        (packages / "onnxruntime" / "capi").mkdir(parents=True)
        (packages / "onnxruntime" / "capi" / "libonnxruntime.so.1.99.0").write_bytes(b"damaged")
        (packages / "onnxruntime" / "__init__.py").write_text("raise ImportError('damaged')\n")
    return folder


def run(env: Path, root: Path, *arguments: object, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [env / "bin" / "python", "-m", "device_runtime", *map(str, arguments), "--home", root],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def switch(link: Path, to: str) -> None:
    """ln -sfn TO link.new && mv -T link.new link."""
    link.with_suffix(".new").symlink_to(to)
    os.replace(link.with_suffix(".new"), link)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    base = trustsim.Base.at(tmp_path / "ws")
    devicelab.new_home(base, tmp_path / "home")
    done = devicelab.run(tmp_path / "home", "install", devicelab.bundle(base))
    assert done.returncode == 0, done.stderr
    return tmp_path / "home"


def test_a_runtime_is_tried_switched_to_and_switched_back(home: Path, tmp_path: Path) -> None:
    row = "id,at,x,c\n7,,1.5,a\n"
    link = tmp_path / "env"
    environment(tmp_path / "env-1")
    switch(link, "env-1")
    assert run(link, home, "predict", stdin=row)[0] == 0

    environment(tmp_path / "env-2")
    code, said = run(tmp_path / "env-2", home, "doctor")
    assert "fail" not in said.lower(), said
    assert code in (0, 77)  # 77 = a note about this machine
    switch(link, "env-2")
    first = run(link, home, "predict", stdin=row)
    switch(link, "env-1")
    second = run(link, home, "predict", stdin=row)
    assert first[0] == second[0] == 0
    assert answers(first[1]) == answers(second[1])


def test_doctor_refuses_a_runtime_that_cannot_run_the_model(home: Path, tmp_path: Path) -> None:
    env = environment(tmp_path / "env-3", broken=True)
    code, said = run(env, home, "doctor")
    assert code != 0
    assert "onnxruntime" in said
    assert "Traceback" not in said


def test_doctor_refuses_a_runtime_that_answers_otherwise(home: Path, tmp_path: Path) -> None:
    """Made the other way round: the runtime is as it was, the signed answers are others."""
    wrong = devicelab.payload(1.0) | {"selftest.cols": devicelab.payload(2.0)["selftest.cols"]}
    file = realbundle.publish(trustsim.Base(tmp_path / "ws"), wrong)
    opened = open_home(home, disk=trustsim.DISK, clock=SystemClock())
    with opened.lock():
        install(opened, file, steps=Steps(test=lambda *_: None))
    done = devicelab.run(home, "doctor")
    assert done.returncode == 77
    assert b"answered differently than at build" in done.stdout


def answers(output: str) -> list[str]:
    """The lines of an answer without the record ids, which are never the same twice."""
    return [line.partition(",")[2] for line in output.splitlines()]
