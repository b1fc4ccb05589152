"""What devices and bases say to each other on a stick: acks, device reports, enrolments.

Pure: bytes ⇄ frozen records, as signed canonical JSON. Signing is passed in; verifying is done by
the caller with `Signed.message` and `Signed.signature`. Bytes: docs/FORMAT-stick.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_runtime.errors import FormatError, TooLargeError, UnsupportedVersionError
from device_runtime.format import canonical
from device_runtime.format.strict import (
    count_field,
    generation_field,
    hex_field,
    lane_field,
    one_of_field,
    text_field,
)
from device_runtime.record import dataclass, field

VERSION = 1
MAX_ACK_BYTES = 64 << 20
MAX_REPORT_BYTES = 1 << 20
SIGNATURE_BYTES = 64 + 3309
_TAIL = rb',"format":"edgepack-([a-z]+)","signature":"([0-9a-f]{%d})","version":([0-9]{1,9})}\Z' % (
    2 * SIGNATURE_BYTES
)

Sign = Callable[[bytes], bytes]
"""Message → Ed25519 + ML-DSA-65 signatures, 64 + 3309 bytes."""

# --- signed JSON ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed JSON object that was read and not yet verified.

    Attributes:
        kind: `ack`, `report` or `enrolment`.
        body: The object.
        message: The bytes that were signed.
        signature: Ed25519 + ML-DSA-65, 3373 bytes.
    """

    kind: str
    body: dict[str, Any]
    message: bytes
    signature: bytes


def _message(kind: str, body: object) -> bytes:
    return f"edgepack {kind} v{VERSION}\0".encode() + canonical.encode(body)


def encode_signed(kind: str, body: dict[str, Any], sign: Sign) -> bytes:
    """Return the bytes of a signed object: one canonical JSON line."""
    signature = sign(_message(kind, body)).hex()
    envelope = {
        "body": body,
        "format": f"edgepack-{kind}",
        "signature": signature,
        "version": VERSION,
    }
    return canonical.encode(envelope)


def signed_part(data: bytes, kind: str, limit: int = MAX_REPORT_BYTES) -> tuple[bytes, bytes]:
    """Return message and signature of a signed object, without reading a word of it.

    What nobody signed must not cost the time and memory that its JSON would take.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: Too large, another kind of file, or not what `encode_signed` writes.
    """
    if len(data) > limit:
        raise TooLargeError(f"the {kind} is larger than {limit} bytes")
    tail = re.search(_TAIL, data[-2 * SIGNATURE_BYTES - 200 :])
    if tail is None or not data.startswith(b'{"body":{') or tail[1] != kind.encode():
        raise FormatError(f"this is no {kind}")
    if int(tail[3]) != VERSION:
        raise UnsupportedVersionError(f"the {kind} has version {int(tail[3])}")
    prefix = f"edgepack {kind} v{VERSION}\0".encode()
    return prefix + data[8 : tail.start() - len(tail.string)], bytes.fromhex(tail[2].decode())


def decode_signed(data: bytes, kind: str, *, limit: int = MAX_REPORT_BYTES) -> Signed:
    """Read a signed object; the caller verifies it before it believes a word.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: Not canonical, too large, or another kind of file.
    """
    message, signature = signed_part(data, kind, limit)
    body = canonical.decode(message.split(b"\0", 1)[1], f"the {kind}", limit=limit, canonical=True)
    return Signed(kind, body, message, signature)


# --- acks -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """The base holds this very segment safely. `hash` is hex."""

    epoch: str
    lane: int
    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Ack:
    """A set of true facts that a base says to one device. Replaying it is harmless.

    Attributes:
        base: Id of the base that signs.
        device: Id of the device.
        generation: (number, random hex): raised when the base was restored.
        custody: `backup` (also in the newest backup) or `archive`.
        facts: Sorted.
    """

    base: str
    device: str
    generation: tuple[int, str]
    custody: str
    facts: tuple[Fact, ...]


def encode_ack(ack: Ack, sign: Sign) -> bytes:
    """Return the bytes of an ack. Numbers are stored as ranges, one hash for each number."""
    lanes: dict[tuple[str, int], list[Fact]] = {}
    for fact in sorted(ack.facts):
        lanes.setdefault((fact.epoch, fact.lane), []).append(fact)
    facts = [
        {
            "epoch": epoch,
            "lane": lane,
            "ranges": _ranges([fact.number for fact in group]),
            "hashes": [fact.hash for fact in group],
        }
        for (epoch, lane), group in lanes.items()
    ]
    body = {
        "base": ack.base,
        "custody": ack.custody,
        "device": ack.device,
        "facts": facts,
        "generation": list(ack.generation),
    }
    return encode_signed("ack", body, sign)


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def decode_ack(data: bytes) -> tuple[Ack, Signed]:
    """Read an ack.

    Raises:
        FormatError: It does not follow its format.
    """
    signed = decode_signed(data, "ack", limit=MAX_ACK_BYTES)
    body = signed.body
    try:
        facts: list[Fact] = []
        for group in body["facts"]:
            hashes = [hex_field(item, 64) for item in group["hashes"]]
            epoch, lane = hex_field(group["epoch"], 16), lane_field(group["lane"])
            numbers = _numbers(group["ranges"], len(hashes))
            facts += [Fact(epoch, lane, n, h) for n, h in zip(numbers, hashes, strict=True)]
        ack = Ack(
            base=hex_field(body["base"], 32),
            device=hex_field(body["device"], 32),
            generation=generation_field(body["generation"]),
            custody=one_of_field(body["custody"], ("archive", "backup")),
            facts=tuple(facts),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the ack does not follow its format: {error!r}") from None
    return ack, signed


def _numbers(ranges: Any, expected: int) -> list[int]:
    numbers: list[int] = []
    for first, last in ranges:
        if count_field(last) - count_field(first) >= expected - len(numbers):
            raise FormatError("the ack lists more numbers than hashes")
        numbers += range(first, last + 1)
    if len(numbers) != expected:
        raise FormatError("the ack lists more hashes than numbers")
    return numbers


# --- device report --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotLine:
    """One installed bundle in a report."""

    version: int
    digest: str
    state: str


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What a device says about itself; the base trusts it as far as the device.

    Attributes:
        device: Device id.
        name: Its alias.
        epoch: Current journal epoch.
        counter: Sequence of the newest PRIORITY record: a higher one is newer within an epoch.
        runtime: Version of edgepack-device.
        bundle_name: The one bundle name that it runs.
        trusted_version: Highest version that it ever trusted.
        trusted_digest: ... and its digest; empty when none.
        slots: Installed bundles, the active one first.
        floor: Latest signed time seen, unix seconds.
        odometer_s: Powered-on seconds since the active bundle was activated.
        generations: Base id → (number, random) that it goes by.
        heads: Epoch → lane → (highest number, hash) of its sealed segments.
        oldest: Epoch → lane → lowest number still on it: acks below may be trimmed.
        recipients: Ids of the journal keys that segments still on it are wrapped to.
        status: Anything else worth showing: quota, rows, refusals, clocks, temperature.
    """

    device: str
    name: str
    epoch: str
    counter: int
    runtime: str
    bundle_name: str
    trusted_version: int = 0
    trusted_digest: str = ""
    slots: tuple[SlotLine, ...] = ()
    floor: int = 0
    odometer_s: int = 0
    generations: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    heads: Mapping[str, Mapping[str, tuple[int, str]]] = field(default_factory=dict)
    oldest: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    recipients: tuple[str, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)


def report_body(report: DeviceReport) -> dict[str, Any]:
    """Return a report as a JSON object."""
    return {
        "bundle_name": report.bundle_name,
        "counter": report.counter,
        "device": report.device,
        "epoch": report.epoch,
        "floor": report.floor,
        "generations": {base: list(pair) for base, pair in report.generations.items()},
        "heads": {e: {k: list(v) for k, v in lanes.items()} for e, lanes in report.heads.items()},
        "name": report.name,
        "odometer_s": report.odometer_s,
        "oldest": {e: dict(lanes) for e, lanes in report.oldest.items()},
        "recipients": list(report.recipients),
        "runtime": report.runtime,
        "slots": [[item.version, item.digest, item.state] for item in report.slots],
        "status": dict(report.status),
        "trusted_digest": report.trusted_digest,
        "trusted_version": report.trusted_version,
    }


def report_from_body(body: Mapping[str, Any]) -> DeviceReport:
    """Read a report's JSON object.

    Raises:
        FormatError: It does not follow its format.
    """
    try:
        return DeviceReport(
            device=hex_field(body["device"], 32),
            name=text_field(body["name"]),
            epoch=hex_field(body["epoch"], 16),
            counter=count_field(body["counter"]),
            runtime=text_field(body["runtime"]),
            bundle_name=text_field(body["bundle_name"]),
            trusted_version=count_field(body["trusted_version"]),
            trusted_digest=text_field(body["trusted_digest"]),
            slots=tuple(
                SlotLine(count_field(a), text_field(b), text_field(c)) for a, b, c in body["slots"]
            ),
            floor=count_field(body["floor"]),
            odometer_s=count_field(body["odometer_s"]),
            generations={
                hex_field(b, 32): generation_field(g) for b, g in body["generations"].items()
            },
            heads={
                hex_field(e, 16): {
                    str(lane_field(int(k))): (count_field(n), hex_field(h, 64))
                    for k, (n, h) in v.items()
                }
                for e, v in body["heads"].items()
            },
            oldest={
                hex_field(e, 16): {str(lane_field(int(k))): count_field(n) for k, n in v.items()}
                for e, v in body["oldest"].items()
            },
            recipients=tuple(text_field(item) for item in body["recipients"]),
            status=dict(body["status"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"the report does not follow its format: {error!r}") from None


def encode_report(report: DeviceReport, sign: Sign) -> bytes:
    """Return the bytes of a report."""
    return encode_signed("report", report_body(report), sign)


def decode_report(data: bytes) -> tuple[DeviceReport, Signed]:
    """Read a report.

    Raises:
        FormatError: It does not follow its format.
    """
    signed = decode_signed(data, "report")
    return report_from_body(signed.body), signed


# --- enrolment ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A new device introduces itself. Signed by its own keys; trust comes from the words.

    Attributes:
        device: Device id: the first 16 bytes of its fingerprint, hex.
        name: The name in its kit.
        kit_id: The kit that it was initialised with.
        device_class: Its class.
        bundle_name: The bundle that it will run.
        ed25519: Public key, 32 bytes.
        mldsa65: Public key, 1952 bytes.
    """

    device: str
    name: str
    kit_id: str
    device_class: str
    bundle_name: str
    ed25519: bytes
    mldsa65: bytes


def encode_enrolment(item: Enrolment, sign: Sign) -> bytes:
    """Return the bytes of an enrolment."""
    body = {
        "bundle_name": item.bundle_name,
        "device": item.device,
        "device_class": item.device_class,
        "ed25519": item.ed25519.hex(),
        "kit_id": item.kit_id,
        "mldsa65": item.mldsa65.hex(),
        "name": item.name,
    }
    return encode_signed("enrolment", body, sign)


def decode_enrolment(data: bytes) -> tuple[Enrolment, Signed]:
    """Read an enrolment. That `device` fits the keys is for the caller to check.

    Raises:
        FormatError: It does not follow its format.
    """
    signed = decode_signed(data, "enrolment")
    body = signed.body
    try:
        item = Enrolment(
            device=hex_field(body["device"], 32),
            name=text_field(body["name"]),
            kit_id=text_field(body["kit_id"]),
            device_class=text_field(body["device_class"]),
            bundle_name=text_field(body["bundle_name"]),
            ed25519=bytes.fromhex(hex_field(body["ed25519"], 64)),
            mldsa65=bytes.fromhex(hex_field(body["mldsa65"], 3904)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the enrolment does not follow its format: {error!r}") from None
    return item, signed
