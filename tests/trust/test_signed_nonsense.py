"""A careless or malicious base signs nonsense properly: still only our errors leave."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runtime.errors import FormatError, VerificationError
from device_runtime.policy import Policy
from device_runtime.trust.kit import read_kit
from device_runtime.trust.refresh import advance_root
from device_runtime.trust.token import read_token
from edgepack.fleet.kit import write_kit
from edgepack.keys import ceremony, roles
from edgepack.registry import PlanRow, Registry
from support.trustsim import (
    DISK,
    NAME,
    Base,
    document,
    pack,
    relink,
    sign_document,
    unpack,
)

EXPECTED = (FormatError, VerificationError)
relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=120,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=6)
    | st.sampled_from(["", "00", "a" * 64, "../x", "2026-01-01T00:00:00Z", "ed25519"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "sha256", "length", "keyids", "name"]), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base.at(tmp_path_factory.mktemp("nonsense") / "ws")


def mangle(value: Any, data: st.DataObject) -> Any:
    """Exchange, remove or add something somewhere in a JSON value."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and data.draw(st.integers(0, 3)):
            place = inner
            continue
        if data.draw(st.integers(0, 3)) == 0:
            del place[key]
        else:
            place[key] = data.draw(values)
        return value


@pytest.fixture(scope="module")
def entries(base: Base) -> dict[str, bytes]:
    return unpack(base.publish(xz=True, model=b"m" * 50).read_bytes())


@relaxed
@given(data=st.data())
def test_targets(base: Base, entries: dict[str, bytes], data: st.DataObject) -> None:
    changed = dict(entries)
    value = document(changed, "targets")
    value["signed"] = mangle(value["signed"], data)
    try:
        changed["metadata/targets.json"] = sign_document(value, base.ring.signers("targets"))
        relink(changed, base.ring.signers("release")[0])
    except (KeyError, FormatError, ValueError):
        return
    path = base.folder / "nonsense.edgepack"
    path.write_bytes(pack(changed))
    with contextlib.suppress(EXPECTED):
        base.device().verify(path)


@relaxed
@given(data=st.data())
def test_snapshot_and_timestamp(base: Base, entries: dict[str, bytes], data: st.DataObject) -> None:
    changed = dict(entries)
    name = data.draw(st.sampled_from(["snapshot", "timestamp"]))
    value = document(changed, name)
    value["signed"] = mangle(value["signed"], data)
    changed[f"metadata/{name}.json"] = sign_document(value, base.ring.signers("release"))
    path = base.folder / "nonsense.edgepack"
    path.write_bytes(pack(changed))
    with contextlib.suppress(EXPECTED):
        base.device().verify(path)


@relaxed
@given(data=st.data())
def test_roots(base: Base, data: st.DataObject) -> None:
    device = base.device()
    metadata = roles.new_root(device.trusted.root, roles.Change({}), base.now)
    value = {"signed": mangle(metadata.signed.to_dict(), data), "signatures": []}
    raw = sign_document(value, base.ring.signers("root"))
    with contextlib.suppress(EXPECTED):
        advance_root({2: raw}, device.trusted, device.policy)


@relaxed
@given(data=st.data())
def test_tokens(base: Base, data: st.DataObject) -> None:
    base_token = {
        "_type": "edgepack-downgrade",
        "version": 1,
        "name": NAME,
        "from": {"version": 2, "sha256": "a" * 64},
        "to": {"version": 1, "sha256": "b" * 64},
        "issued": 5,
    }
    value = {"signed": mangle(base_token, data), "signatures": []}
    raw = sign_document(value, base.ring.signers("targets"))
    try:
        token = read_token(raw, roles.newest_root(base.ws), Policy("field"))
    except EXPECTED:
        return
    assert 0 < token.to_version < token.from_version


@pytest.fixture(scope="module")
def kit(base: Base) -> dict[str, bytes]:
    path: Path = base.folder / "x.kit"
    with Registry.open(base.ws.registry) as registry:
        registry.put_plan(PlanRow("d", "field", NAME, "", 0))
    write_kit(base.ws, base.ring, "d", path, clock=base.clock)
    return unpack(path.read_bytes())


@relaxed
@given(data=st.data())
def test_kits(base: Base, kit: dict[str, bytes], data: st.DataObject) -> None:
    changed = dict(kit)
    value = document(changed, "kit")
    value["signed"] = mangle(value["signed"], data)
    changed["metadata/kit.json"] = sign_document(value, base.ring.signers("targets"))
    path = base.folder / "nonsense.kit"
    path.write_bytes(pack(changed))
    with contextlib.suppress(EXPECTED):
        read_kit(DISK, path)


def test_the_genuine_ones_are_accepted(base: Base, kit: dict[str, bytes]) -> None:
    path = base.folder / "good.kit"
    path.write_bytes(pack(kit))
    assert read_kit(DISK, path).bundle_name == NAME
    base.publish()
    base.publish()
    done = ceremony.downgrade(base.ws, base.ring, NAME, 1, clock=base.clock)
    read_token(done.path.read_bytes(), roles.newest_root(base.ws), Policy("field"))
