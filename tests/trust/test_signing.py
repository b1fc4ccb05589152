"""What `sign` refuses to sign, and what it draws."""

from __future__ import annotations

import lzma

import pytest

from device_runtime import policy as policies
from device_runtime.errors import FormatError, UsageError
from device_runtime.format import canonical
from edgepack.errors import ClockError, KeyringError
from edgepack.keys import roles, sign
from support.trustsim import DAY, NAME, Base, unpack


def test_signing_before_the_last_bundle_needs_force(base: Base) -> None:
    base.publish()
    base.clock.advance(-2 * DAY)
    with pytest.raises(ClockError):
        base.publish()
    assert base.publish(force_time=True).name == f"{NAME}-2.edgepack"


def test_signing_far_in_the_future_needs_force(base: Base) -> None:
    base.clock.advance(73 * 365 * DAY)
    with pytest.raises(ClockError):
        base.publish()


def test_a_root_that_expires_before_the_bundle_is_refused(base: Base) -> None:
    base.clock.advance(9.5 * 365 * DAY)
    with pytest.raises(KeyringError, match="root expires"):
        base.publish(force_time=True)
    base.rotate("root")
    assert base.device().install(base.publish()).root_version == 2


def test_a_missing_root_at_the_base_is_named(base: Base) -> None:
    base.rotate("root")
    base.rotate("root")
    (base.ws.metadata / "2.root.json").unlink()
    with pytest.raises(KeyringError, match="lacks root 2"):
        base.publish()


def test_every_version_is_drawn_once(base: Base) -> None:
    assert base.publish().name == f"{NAME}-1.edgepack"
    with pytest.raises(FormatError):
        base.publish(extra={"model.sig": b"own"})
    assert base.publish().name == f"{NAME}-2.edgepack"
    assert base.publish("valve").name == "valve-1.edgepack"


def test_versions_go_on_above_what_devices_report_after_a_restore(base: Base) -> None:
    from edgepack.registry import Registry

    with Registry.open(base.ws.registry) as registry:
        registry.saw_version(NAME, 9)
    assert base.publish().name == f"{NAME}-10.edgepack"


def test_signing_a_signed_bundle_is_a_mistake(base: Base) -> None:
    file = base.publish()
    with pytest.raises(UsageError):
        sign.sign_file(base.ws, base.ring, file, clock=base.clock)


def test_the_same_payload_gives_the_same_signed_part_but_for_version_and_time(base: Base) -> None:
    one, two = (unpack(base.publish(model=b"m").read_bytes()) for _ in range(2))
    payload = [name for name in one if name.startswith("payload/")]
    assert [one[name] for name in payload] == [two[name] for name in payload]  # model.sig too


@pytest.mark.parametrize("role", ["journal", "recovery", "base"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_policy_with_rotated_keys_is_not_signed(base: Base, role: str, packed: bool) -> None:
    """It would lead devices back to the old keys; building again takes a moment."""
    policy = canonical.encode(policies.to_json(roles.class_policy(base.ws, "field")))
    name, data = ("policy.json.xz", lzma.compress(policy)) if packed else ("policy.json", policy)
    file = base.build(extra={name: data})
    base.rotate(role)
    with pytest.raises(KeyringError, match="after this bundle was built"):
        sign.sign_file(base.ws, base.ring, file, clock=base.clock)
