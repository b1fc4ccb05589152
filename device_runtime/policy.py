"""policy.json: what this device accepts. Every limit of the device stands here, with its unit.

The first policy comes with the kit; a later one travels in a bundle, but what loosens trust
(`operators`, `control_flow`, `clock_trusted`, `families`, `notify`) is only taken from a kit.
"""

from __future__ import annotations

from typing import Any

from device_runtime.errors import FormatError
from device_runtime.format.canonical import expect
from device_runtime.record import asdict, dataclass, fields, replace

VERSION = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """What a class of device accepts.

    Attributes:
        device_class: Kind of device; a bundle for another class is refused.
        clock_trusted: Whether the machine's wall clock may gate an install.
        families: Signature families that root and targets must both carry.
        operators: Allowed ONNX operators as `domain:Name`; `domain:*` allows a whole domain.
        control_flow: Whether Loop, If and Scan are allowed.
        threads: Threads within one operator.
        recipients: Journal keys (hex, 1216 bytes each), 1 to 3; one is the offline recovery key.
        ack_keys: Public keys of bases whose acks may prune: [ed25519 hex, mldsa65 hex] each.
        durability: `each` (fdatasync per append), `group` (every `group_ms`) or `os`.
        strict: Whether a journal that cannot be written makes `predict` fail.
        log_mode: `full` rows, or `sketch` only.
        quota_bytes: Room for the journal.
        reserve_bytes: Kept free within the quota for seals and holes.
        segment_bytes: An open segment is sealed at this size.
        segment_seconds: ... or at this age.
        group_ms: Milliseconds between syncs under `group`.
        keep_acked_days: Acked segments are pruned after this time, or when room is needed.
        ram_bytes: Memory that a model may use at its peak; 0 = what the machine has.
        selftest_floor_seconds: Shortest wall limit of a self-test.
        selftest_factor: Wall limit as a multiple of the time at build.
        trial_seconds: A trial is good after its first result and this time ...
        trial_rows: ... or this many rows.
        max_attempts: Failed loads in one boot before a slot is rejected.
        max_power_attempts: ... and counted over boots.
        max_bundle_bytes: Largest bundle; FAT32 holds 4,294,967,295.
        max_entries: Entries in a container.
        max_metadata_bytes: Metadata of a container, all together.
        max_json_bytes: Largest JSON file of a payload.
        max_model_bytes: Largest raw model.
        max_root_rotations: Roots that one refresh may walk.
        max_rows_per_request: Rows in one request to the local server.
        max_request_bytes: Body of one request.
        max_queue: Requests that may wait.
        request_timeout_s: Seconds until a slow request is ended.
        fresh_days: Age below which a model is `fresh` ...
        cold_days: ... and from which it is `cold`.
        psi_cooling: PSI from which a drifted input makes the model `cooling` ...
        psi_cold: ... and `cold`.
        notify: Command line that is run after a sync by the udev unit; empty: none. Of a kit only:
            a bundle brings data, never a command.
    """

    device_class: str
    clock_trusted: bool = False
    families: tuple[str, ...] = ("ed25519", "ml-dsa")
    operators: tuple[str, ...] = ("ai.onnx:*", "ai.onnx.ml:*")
    control_flow: bool = False
    threads: int = 1
    recipients: tuple[str, ...] = ()
    ack_keys: tuple[tuple[str, str], ...] = ()
    durability: str = "group"
    strict: bool = True
    log_mode: str = "full"
    quota_bytes: int = 2 << 30
    reserve_bytes: int = 32 << 20
    segment_bytes: int = 16 << 20
    segment_seconds: int = 3600
    group_ms: int = 100
    keep_acked_days: int = 30
    ram_bytes: int = 0
    selftest_floor_seconds: float = 10.0
    selftest_factor: float = 10.0
    trial_seconds: int = 600
    trial_rows: int = 1000
    max_attempts: int = 3
    max_power_attempts: int = 10
    max_bundle_bytes: int = 4_294_967_295
    max_entries: int = 4096
    max_metadata_bytes: int = 8 << 20
    max_json_bytes: int = 8 << 20
    max_model_bytes: int = 2 << 30
    max_root_rotations: int = 4096
    max_rows_per_request: int = 65_536
    max_request_bytes: int = 16 << 20
    max_queue: int = 64
    request_timeout_s: float = 30.0
    fresh_days: int = 60
    cold_days: int = 120
    psi_cooling: float = 0.1
    psi_cold: float = 0.25
    notify: str = ""


def to_json(policy: Policy) -> dict[str, Any]:
    """Return the JSON object of a policy."""
    value = asdict(policy)
    for name, item in value.items():
        if isinstance(item, tuple):
            value[name] = [list(part) if isinstance(part, tuple) else part for part in item]
    return {"format": "edgepack-policy", "version": VERSION, **value}


def from_json(value: Any) -> Policy:
    """Read policy.json. Unknown fields are refused: a policy must not be half understood.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: It does not follow docs/FORMAT-bundle.md.
    """
    try:
        expect(value, "edgepack-policy", VERSION)
        given = {name: item for name, item in value.items() if name not in ("format", "version")}
        for name in ("families", "operators", "recipients"):
            if name in given:
                given[name] = tuple(str(item) for item in given[name])
        if "ack_keys" in given:
            given["ack_keys"] = tuple((str(a), str(b)) for a, b in given["ack_keys"])
        policy = Policy(**given)
        _check(policy)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"policy.json does not follow its format: {error!r}") from None
    return policy


def _check(policy: Policy) -> None:
    defaults = Policy("x")
    for item in fields(Policy):
        value, default = getattr(policy, item.name), getattr(defaults, item.name)
        if isinstance(default, float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise FormatError(f"policy.json: {item.name} must be a number")
        elif type(value) is not type(default):
            raise FormatError(f"policy.json: {item.name} must be a {type(default).__name__}")
    if policy.durability not in ("each", "group", "os"):
        raise FormatError("policy.json: durability must be each, group or os")
    if policy.log_mode not in ("full", "sketch"):
        raise FormatError("policy.json: log_mode must be full or sketch")
    if set(policy.families) != {"ed25519", "ml-dsa"}:
        raise FormatError("policy.json: families must be ed25519 and ml-dsa")
    if len(policy.recipients) > 3:
        raise FormatError("policy.json: at most 3 journal recipients")


def from_bundle(current: Policy, carried: Policy) -> Policy:
    """Return the policy after a bundle brought one along: nothing in it may loosen trust."""
    return replace(
        carried,
        device_class=current.device_class,
        clock_trusted=current.clock_trusted and carried.clock_trusted,
        families=current.families,
        operators=current.operators,
        control_flow=current.control_flow and carried.control_flow,
        notify=current.notify,  # a command: bundles bring models, never code
    )
