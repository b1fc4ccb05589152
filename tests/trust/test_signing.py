"""What `sign` refuses to sign, and what it draws."""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from device_runtime import policy as policies
from device_runtime.errors import FormatError, UsageError
from device_runtime.format import canonical
from edgepack.errors import ClockError, KeyringError
from edgepack.keys import ceremony, roles, sign
from edgepack.keys.ceremony import Outcome
from support.attacks import split
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


def test_a_root_far_in_the_future_needs_force_and_draws_no_key_without(base: Base) -> None:
    """Its time moves the floor of every device, like that of a bundle."""
    base.publish()
    held = {key.id for key in base.ring.keys}
    base.clock.advance(401 * DAY)
    made: tuple[Callable[..., Outcome], ...] = (
        partial(ceremony.rotate, role="root"),
        partial(ceremony.rotate, role="targets"),
        partial(ceremony.revoke, what=f"{NAME}-1"),
        partial(ceremony.recover),
        partial(ceremony.recover, floor=True),
    )
    for make in made:
        with pytest.raises(ClockError, match=r"401\.0 days after what was signed last") as caught:
            make(base.ws, base.ring, clock=base.clock)
        assert "--force-time" in caught.value.next
        assert {key.id for key in base.ring.keys} == held
        assert list(roles.roots(base.ws)) == [1]
    for number, make in enumerate(made, 2):
        make(base.ws, base.ring, clock=base.clock, force_time=number == 2)
        assert list(roles.roots(base.ws))[-1] == number


def test_bundles_signed_since_keep_an_old_root_from_looking_like_a_leap(base: Base) -> None:
    for _ in range(3):
        base.clock.advance(300 * DAY)
        base.publish()
    assert base.rotate("targets").complete


def test_a_custodian_does_not_sign_a_root_of_a_day_to_come(base: Base, tmp_path: Path) -> None:
    other = split(base, tmp_path)
    half = base.rotate("root").path
    base.clock.advance(-2 * DAY)
    sign_half = partial(ceremony.sign_half, other.ws, other.ring, half, clock=base.clock)
    with pytest.raises(ClockError, match=r"2\.0 days after this machine's clock"):
        sign_half(force_time=False)
    assert sign_half(force_time=True).complete
    base.clock.advance(30 * DAY)  # one that was long on its way is as good as on its first day
    assert sign_half(force_time=False).complete


def test_a_root_that_expires_before_the_bundle_is_refused(base: Base) -> None:
    base.clock.advance(9.5 * 365 * DAY)
    with pytest.raises(KeyringError, match="root expires"):
        base.publish(force_time=True)
    base.rotate("root", force_time=True)
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


def _with_policy(base: Base, **kwargs: Any) -> Path:
    policy = canonical.encode(policies.to_json(roles.class_policy(base.ws, "field")))
    return base.build(extra={"policy.json": policy}, **kwargs)


def _change_class(base: Base, line: str) -> None:
    config = base.ws.root / "edgepack.toml"
    config.write_text(config.read_text().replace("[class.field]", f"[class.field]\n{line}"))


@pytest.mark.parametrize(
    "line", ["fresh_days = 61", 'log_mode = "sketch"', "control_flow = true", 'notify = "x"']
)
def test_a_policy_from_before_its_class_was_changed_is_not_signed(base: Base, line: str) -> None:
    """It would undo the policy of every kit that was written in between."""
    file = _with_policy(base)
    _change_class(base, line)
    field = line.split(" =", maxsplit=1)[0]
    with pytest.raises(UsageError, match=f"class field .* after this .* built: {field}$") as caught:
        sign.sign_file(base.ws, base.ring, file, clock=base.clock)
    assert caught.value.next == "edgepack build, then sign what it makes"
    done = sign.sign_file(base.ws, base.ring, _with_policy(base), clock=base.clock)
    assert (done.complete, done.version) == (True, 1)  # the refused one used no version up


def test_a_policy_of_an_older_edgepack_that_lacks_a_default_is_the_same_policy(base: Base) -> None:
    said = policies.to_json(roles.class_policy(base.ws, "field"))
    assert said.pop("psi_cold") == 0.25
    file = base.build(extra={"policy.json": canonical.encode(said)})
    assert sign.sign_file(base.ws, base.ring, file, clock=base.clock).complete


def test_a_policy_that_was_changed_while_a_half_signed_bundle_travelled_is_not_completed(
    base: Base, tmp_path: Path
) -> None:
    """The floor of a kit that was written meanwhile knows nothing of this bundle."""
    other = split(base, tmp_path)
    half = sign.sign_file(base.ws, base.ring, _with_policy(base), clock=base.clock)
    finish = partial(ceremony.sign_half, clock=base.clock, force_time=False)
    came = finish(other.ws, other.ring, half.path).path
    before = (base.ws.root / "edgepack.toml").read_text()
    _change_class(base, "threads = 2")
    with pytest.raises(UsageError, match="after this bundle was built: threads"):
        finish(base.ws, base.ring, came)
    assert half.path.exists()
    assert not half.path.with_suffix(".edgepack").exists()
    (base.ws.root / "edgepack.toml").write_text(before)
    assert finish(base.ws, base.ring, came).complete


def test_a_bundle_of_an_older_policy_is_not_taken_over_from_another_custodian(
    base: Base, tmp_path: Path
) -> None:
    other = split(base, tmp_path)
    release = next(base.ws.keys.glob("release-*.key"))
    shutil.move(release, other.ws.keys / release.name)
    base.__dict__.pop("ring", None)
    half = sign.sign_file(base.ws, base.ring, _with_policy(base), clock=base.clock)
    finish = partial(ceremony.sign_half, clock=base.clock, force_time=False)
    done = finish(other.ws, other.ring, half.path)
    assert done.complete
    _change_class(base, "threads = 2")
    with pytest.raises(UsageError, match="after this bundle was built: threads"):
        finish(base.ws, base.ring, done.path)
    assert not (base.ws.out / f"{NAME}-1.edgepack").exists()
