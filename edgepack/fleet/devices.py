"""Devices of a workspace: planned, enrolled, accepted by their words, retired, compromised."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from device_runtime.clock import Clock
from device_runtime.courier.stick import Stick
from device_runtime.crypt import PublicIdentity
from device_runtime.errors import FormatError, UsageError
from device_runtime.format.manifest import NAME
from device_runtime.format.receipt import MAX_REPORT_BYTES, Enrolment, decode_enrolment
from device_runtime.format.stick import enrol_path
from device_runtime.format.strict import is_id
from device_runtime.format.words import words
from edgepack.errors import DeviceUnknownError
from edgepack.registry import DeviceRow, PlanRow, Registry
from edgepack.workspace import Workspace


@dataclass(frozen=True, slots=True)
class NewDevice:
    """An enrolled device that nobody has accepted yet.

    Attributes:
        id: Device id.
        name: Its name here.
        words: Fingerprint words: they must be the ones that `init` showed on the device.
        note: Why to look twice; empty as a rule.
    """

    id: str
    name: str
    words: str
    note: str = ""


def new_device(
    ws: Workspace,
    registry: Registry,
    name: str,
    *,
    device_class: str | None = None,
    bundle: str | None = None,
    clock: Clock,
) -> PlanRow:
    """Plan a device; the next step is its kit.

    Args:
        ws: Names the classes and recipes.
        registry: Remembers the plan.
        name: What people will call it: lower case letters, digits, hyphens.
        device_class: A `[class.NAME]` of edgepack.toml; the only one when None.
        bundle: The bundle that it will run; the only recipe when None.
        clock: Says when.

    Raises:
        UsageError: The name is not valid or taken; several classes or recipes and none named; the
            recipe is for another class.
        WorkspaceError: No such class.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a device",
            next="use lower case letters, digits and hyphens, at most 64",
        )
    if registry.plan(name) or registry.find_device(name):
        raise UsageError(f"there is a device {name} already", next="see: edgepack device list")
    if device_class is None:
        if len(ws.classes) != 1:
            there = ", ".join(sorted(ws.classes))
            raise UsageError("which class of device?", next=f"give --class, one of: {there}")
        device_class = next(iter(ws.classes))
    chosen = ws.device_class(device_class).name
    folder = ws.recipe_folder(bundle)
    check_class(
        ws, folder.name, chosen, f"edgepack device new {name} --bundle {folder.name} --class"
    )
    plan = PlanRow(name, chosen, folder.name, "", clock.wall_ns())
    registry.put_plan(plan)
    return plan


def check_class(ws: Workspace, bundle: str, device_class: str, again: str) -> None:
    """See to it that devices of a class could install what its recipe makes.

    Args:
        ws: The workspace.
        bundle: Bundle name; one without a recipe that can be read says nothing.
        device_class: Class of the device.
        again: The command that would fit, but for the class at its end.

    Raises:
        UsageError: The recipe is for another class.
    """
    path = ws.recipes / bundle / "bundle.toml"
    try:
        wanted = tomllib.loads(ws.disk.read(path).decode()).get("class", "field")
    except (OSError, ValueError):
        return
    if wanted != device_class:
        raise UsageError(
            f"bundle {bundle} is made for class {wanted}; a device of class {device_class} would "
            "never install it",
            next=f'{again} {wanted}; or write class = "{device_class}" into '
            f"bundles/{bundle}/bundle.toml",
        )


def read_enrolments(
    stick: Stick, registry: Registry, clock: Clock, *, dry_run: bool = False
) -> tuple[list[NewDevice], list[str]]:
    """Take new devices' public keys off a stick; they wait for somebody to compare the words.

    Returns:
        Every device that waits now, and one line for each file that is not believed.
    """
    lines: list[str] = []
    waiting: dict[str, NewDevice] = {}
    for row in registry.devices("pending"):
        waiting[row.device] = NewDevice(row.device, row.name, row.words)
    for file in stick.files("enrol"):
        device = file.removesuffix(".json")
        if not file.endswith(".json") or not is_id(device):
            continue
        known = registry.find_device(device)
        if known is not None and known.device == device:
            continue
        try:
            item = _verified(stick, device)
        except FormatError as error:
            lines.append(f"{file} is not believed: {error.what}")
            continue
        plan = registry.plan(item.name)
        if plan is None or not plan.kit_id:
            lines.append(f"device {device[:8]} says it is {item.name!r}, which has no kit here")
            continue
        row, note = _pending(registry, plan, item, clock.wall_ns())
        if not dry_run:
            registry.put_device(row)
            if note:
                registry.alarm("kit", device, item.kit_id, f"{row.name}: {note}", clock.wall_ns())
        waiting[device] = NewDevice(device, row.name, row.words, note)
    return list(waiting.values()), lines


def _verified(stick: Stick, device: str) -> Enrolment:
    data = stick.get(enrol_path(device), MAX_REPORT_BYTES)
    if data is None:
        raise FormatError("it is gone")
    item, signed = decode_enrolment(data)
    public = PublicIdentity(item.ed25519, item.mldsa65)
    if item.device != device or public.id != device:
        raise FormatError("its id does not fit its keys")
    if not public.verify_both(signed.signature, signed.message):
        raise FormatError("it is not signed by the keys that it names")
    return item


def _pending(registry: Registry, plan: PlanRow, item: Enrolment, now: int) -> tuple[DeviceRow, str]:
    """Return the row of a new device, and what is odd about it."""
    others = [row for row in registry.devices() if row.kit_id == item.kit_id]
    taken = {row.name for row in registry.devices()}
    name, number = plan.name, 2
    while name in taken:
        name, number = f"{plan.name}-{number}", number + 1
    public = PublicIdentity(item.ed25519, item.mldsa65)
    note = ""
    if others:
        there = ", ".join(row.name for row in others)
        note = f"its kit was used before, by {there}: initialised again, or copied?"
    elif plan.kit_id != item.kit_id:
        note = "it was initialised with an older kit than the newest of that name"
    row = DeviceRow(
        device=item.device,
        name=name,
        device_class=plan.device_class,
        bundle=plan.bundle,
        kit_id=item.kit_id,
        state="pending",
        ed25519=item.ed25519,
        mldsa65=item.mldsa65,
        words=words(public.fingerprint),
        seen=now,
        changed=now,
    )
    return row, note


def accept(registry: Registry, name_or_id: str, clock: Clock) -> DeviceRow:
    """Accept a waiting device, after somebody compared its words. Accepting twice is fine.

    Raises:
        DeviceUnknownError: Nobody of that name or id has enrolled.
        UsageError: It was retired or marked as compromised.
    """
    row = registry.find_device(name_or_id)
    if row is None:
        raise DeviceUnknownError(
            f"no device {name_or_id!r} has enrolled here",
            next="initialise it with its kit, let it write to a stick, then sync that stick here",
        )
    if row.state not in ("pending", "accepted"):
        raise UsageError(f"{row.name} is {row.state}", next="give the machine a new kit")
    accepted = replace(row, state="accepted", changed=clock.wall_ns())
    registry.put_device(accepted)
    return accepted


def retire(registry: Registry, name: str, clock: Clock) -> DeviceRow:
    """Stop expecting a device: no more bundles for it; what it still sends is imported.

    Raises:
        UsageError: Nobody accepted it, or its keys may be in other hands: its rows must stay out.
    """
    row = registry.device(name)
    if row.state == "pending":
        raise UsageError(
            f"nobody compared the words of {row.name}: retired, its journal would be imported",
            next="leave it as it is: what it sends is held, and no bundle is handed out for it",
        )
    if row.state == "compromised":
        raise UsageError(
            f"{row.name} is compromised: retired, its rows would count again",
            next="leave it as it is: no bundle is handed out for it",
        )
    row = replace(row, state="retired", changed=clock.wall_ns())
    registry.put_device(row)
    return row


def compromise(registry: Registry, name: str, since: str | None, clock: Clock) -> DeviceRow:
    """Mark a device whose keys may be in other hands: its rows and labels are left out.

    Args:
        registry: Where it stands.
        name: Name or id.
        since: An import serial, or a date and time (ISO 8601, UTC) of import: what came from then
            on is left out. None: everything that it ever sent.
        clock: Says when.

    Raises:
        UsageError: `since` is neither.
    """
    row = registry.device(name)
    marked = replace(
        row, state="compromised", since=since_serial(registry, since), changed=clock.wall_ns()
    )
    registry.put_device(marked)
    return marked


def since_serial(registry: Registry, since: str | None) -> int:
    """Return the first import serial that is not trusted any more."""
    if since is None:
        return 0
    if since.isdigit():
        return int(since)
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise UsageError(
            f"{since!r} is no date", next="give a date such as 2026-05-31, or an import serial"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    begin_ns = int(moment.timestamp() * 1e9)
    later = [row.serial for row in registry.segments(state=None) if row.imported >= begin_ns]
    return min(later, default=registry.next_serial())
