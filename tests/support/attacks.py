"""What the tests of attacks share: the attacker's pens, and the device's refusal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import EdgepackError
from support import trustsim
from support.trustsim import Base


def signer(base: Base, role: str, kind: str = "ed25519") -> Any:
    """Return the signer of one key of a role: what a thief of that key has."""
    keyid = next(k.id for k in base.ring.of_role(role) if k.kind == kind)
    found = base.ring.signer(keyid)
    assert found is not None
    return found


def quorum_of(base: Base, role: str) -> list[Any]:
    """Return the signers of both families."""
    return [signer(base, role), signer(base, role, "ml-dsa")]


def refused(error: type[EdgepackError], device: trustsim.Device, file: Path) -> EdgepackError:
    """The device refuses the file and trusts afterwards what it trusted before."""
    before = device.trusted
    with pytest.raises(error) as caught:
        device.verify(file)
    assert device.trusted == before
    assert caught.value.what
    assert caught.value.next
    return caught.value


def split(base: Base, tmp_path: Path) -> Base:
    """Move the ML-DSA keys of root and targets to a second custodian's machine."""
    other = Base(tmp_path / "other" / "ws", base.clock)
    shutil.copytree(base.folder, other.folder)
    for path in base.ws.keys.glob("*-ml-dsa-*.key"):
        path.unlink()
    for path in other.ws.keys.glob("*.key"):
        if "ml-dsa" not in path.name:
            path.unlink()
    base.__dict__.pop("ring", None)
    return other
