"""Whatever the bytes are: nothing else is accepted, and only our errors leave the verifier."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runtime.errors import EdgepackError, FormatError, VerificationError
from device_runtime.trust.bundle import read_roots
from support.trustsim import DISK, Base, Device, pack, unpack

if TYPE_CHECKING:
    from conftest import SoakBudget


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, Device, bytes, Path]:
    """A device at root 1 with bundle 1, a new one, and bundle 2 under root 2."""
    base = Base.at(tmp_path_factory.mktemp("bytes") / "ws")
    device, fresh = base.device(), base.device()
    device.install(base.publish())
    base.rotate("targets")
    file = base.publish(model=b"small", xz=True)
    device.verify(file)
    return device, fresh, file.read_bytes(), file.with_name("x.edgepack")


def attempt(device: Device, path: Path, data: bytes) -> str | None:
    """Verify bytes; returns the digest if they are accepted. Anything unexpected is raised."""
    path.write_bytes(data)
    with contextlib.suppress(FormatError, VerificationError):
        read_roots(DISK, path, device.policy)
    try:
        return device.verify(path).digest
    except (FormatError, VerificationError) as error:
        refusal = error
    assert refusal.exit in (10, 20)
    assert "\n" not in refusal.line()
    return None


def flips(data: bytes, positions: list[int]) -> list[bytes]:
    chosen = random.Random(7)
    found = []
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << chosen.randrange(8)
        found.append(bytes(changed))
    return found


def test_sampled_bit_flips_are_never_accepted(world: tuple[Device, Device, bytes, Path]) -> None:
    device, fresh, data, path = world
    chosen = random.Random(1).sample(range(len(data)), 500)
    for i, changed in enumerate(flips(data, chosen)):
        assert attempt((device, fresh)[i % 2], path, changed) is None, chosen[i]


def test_sampled_truncations_are_never_accepted(
    world: tuple[Device, Device, bytes, Path],
) -> None:
    device, _, data, path = world
    for size in random.Random(2).sample(range(len(data)), 150):
        assert attempt(device, path, data[:size]) is None, size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=3000))
def test_random_bytes(world: tuple[Device, Device, bytes, Path], data: bytes) -> None:
    assert attempt(world[0], world[3], data) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_any_json_in_any_field_of_any_document(
    world: tuple[Device, Device, bytes, Path], data: st.DataObject
) -> None:
    """Walk into a document, put something else there; signatures then hold for nothing."""
    from device_runtime.format import canonical

    device, _, raw, path = world
    entries = unpack(raw)
    name = data.draw(st.sampled_from([n for n in entries if n.endswith(".json")]))
    value = canonical.decode(entries[name], name)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(json_values)
            break
        place = inner
    if value == canonical.decode(entries[name], name):
        return
    try:
        entries[name] = canonical.encode(value)
    except ValueError:
        return
    assert attempt(device, path, pack(entries)) is None


@pytest.mark.soak
def test_every_bit_flip_and_every_truncation(
    world: tuple[Device, Device, bytes, Path], soak_budget: SoakBudget
) -> None:
    _, fresh, data, path = world
    order = list(range(len(data)))
    random.Random(3).shuffle(order)  # a bounded run sees a fair sample
    done = 0
    while soak_budget.more(done, len(order)):
        position = order[done]
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            assert attempt(fresh, path, bytes(changed)) is None, (position, bit)
        assert attempt(fresh, path, data[:position]) is None, position
        done += 1
    print(f"{done:,} of {len(order):,} bytes: {done * 9:,} changed bundles, none accepted")


def test_the_pristine_bundle_is_accepted(world: tuple[Device, Device, bytes, Path]) -> None:
    device, fresh, data, path = world
    assert attempt(device, path, data) == attempt(fresh, path, data) is not None


def test_a_folder_or_nothing_in_place_of_a_file(
    world: tuple[Device, Device, bytes, Path], tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises((OSError, EdgepackError)):
            world[0].verify(path)
