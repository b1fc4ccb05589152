"""What others can check with their own tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgepack.keys import oms
from support.trustsim import Base


@pytest.fixture
def extracted(tmp_path: Path) -> tuple[Base, Path]:
    base = Base.at(tmp_path / "ws")
    file = base.publish(model=b"m" * 70_000, xz=True, extra={"notes.txt": b"hello"})
    folder = tmp_path / "out"
    folder.mkdir()
    subprocess.run(["tar", "xf", file, "-C", folder], check=True)
    (tmp_path / "oms.pub").write_bytes((base.ws.keys / "oms.pub").read_bytes())
    return base, folder


def model_signing(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "model_signing", "verify", "key", str(folder / "payload")),
        *("--signature", str(folder / "payload" / "model.sig")),
        *("--public_key", str(folder.parent / "oms.pub")),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_public_model_signing_tool_accepts_the_extracted_payload(
    extracted: tuple[Base, Path],
) -> None:
    done = model_signing(extracted[1])
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout + done.stderr
    (extracted[1] / "payload" / "notes.txt").write_text("changed")
    assert model_signing(extracted[1]).returncode != 0


def test_model_sig_is_the_same_bytes_for_the_same_files(extracted: tuple[Base, Path]) -> None:
    key = extracted[0].ring.oms_key()
    files = {"a": "00" * 32, "b": "11" * 32}
    assert oms.sign_model("x", files, key) == oms.sign_model(
        "x", dict(reversed(files.items())), key
    )
