"""`edgepack keys …`: custody of the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgepack.cli.opened import JSON, WORKSPACE, open_ring, open_workspace
from edgepack.cli.screen import Screen, guard

if TYPE_CHECKING:
    from edgepack.fleet.kit import Written
    from edgepack.keys.ceremony import Outcome

_FILE = typer.Argument(help="A .half file from another custodian.")
_FORCE = typer.Option(False, "--force-time", help="Sign although times differ.")


def register(app: typer.Typer) -> None:
    """Add the `keys` commands."""
    keys = typer.Typer(help="Custody: which keys sign, rotate, revoke, recover, go back.")
    keys.command("list")(list_keys)
    keys.command("rotate")(rotate)
    keys.command("revoke")(revoke)
    keys.command("recover")(recover)
    keys.command("forget")(forget)
    keys.command("passphrase")(passphrase)
    keys.command("downgrade")(downgrade)
    keys.command("sign")(sign)
    app.add_typer(keys, name="keys")


@guard
def list_keys(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Show who must sign what, and which of these keys are here."""
    from device_runtime.crypt import sha256
    from device_runtime.format.words import words
    from device_runtime.trust.quorum import root_facts, root_sha256
    from edgepack.keys import roles
    from edgepack.keys.keyfile import key_files
    from edgepack.keys.ring import read_public

    ws, screen = open_workspace(workspace), Screen(json)
    root = roles.newest_root(ws)
    facts, said = root_facts(root), words(bytes.fromhex(root_sha256(root)))
    here = {key.id: key for key in key_files(ws.keys, ws.disk)}
    public = read_public(ws.keys, ws.disk)
    used = [(role, keyid) for role, ids in roles.root_keyids(root).items() for keyid in ids]
    used += [("base", public.base.id), ("recovery", public.recovery.id)]
    used += [("journal", public.journal[0].id), ("oms", sha256(public.oms.encode()).hex())]
    idle = [("journal", key.id) for key in public.journal[1:]]
    idle += [(k.role, k.id) for k in here.values() if (k.role, k.id) not in used + idle]
    rows = [
        {"role": role, "id": keyid, "kind": here[keyid].kind if keyid in here else None,
         "here": keyid in here, "in_use": (role, keyid) in used}
        for role, keyid in used + idle
    ]  # fmt: skip
    screen.table(
        ["role", "kind", "id", "private key"],
        [
            [
                row["role"] if row["in_use"] else f"{row['role']}, not in use",
                row["kind"],
                str(row["id"])[:16],
                "here" if row["here"] else "elsewhere",
            ]
            for row in rows
        ],
        f"root {facts.version}, expires {_day(facts.expires)}, words: {said}",
    )
    if here.keys() & {public.recovery.id}:
        screen.line("the recovery key is on this machine: move its file to a safe, off this disk")
    screen.done(
        {
            "root": facts.version,
            "words": said,
            "expires": facts.expires,
            "keys": rows,
            "revoked_keys": sorted(facts.revoked_keys),
            "revoked_digests": sorted(facts.revoked_digests),
        }
    )


@guard
def rotate(
    role: str = typer.Argument(help="root, targets, timestamp, journal, base, recovery or oms."),
    family: str = typer.Option(
        "", help="Only the ed25519 or the ml-dsa key of root or targets: each custodian his own."
    ),
    force_time: bool = _FORCE,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Draw new keys for a role. Devices learn of it with the next bundle."""
    from device_runtime.clock import SystemClock
    from edgepack.keys import ceremony

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        with screen.step("drawing keys"):
            outcome = ceremony.rotate(
                ws, ring, role, clock=SystemClock(), family=family, force_time=force_time
            )
        _show(screen, outcome)


@guard
def revoke(
    what: str = typer.Argument(help="A key id, NAME-VERSION of a bundle, or a bundle digest."),
    stop: bool = typer.Option(False, "--stop", help="It must not run even as a last resort."),
    force_time: bool = _FORCE,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Revoke a key or a bundle. Devices pass it over as soon as they have another one."""
    from device_runtime.clock import SystemClock
    from edgepack.keys import ceremony

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        with screen.step("revoking"):
            outcome = ceremony.revoke(
                ws, ring, what, clock=SystemClock(), stop=stop, force_time=force_time
            )
        _show(screen, outcome)


@guard
def recover(
    floor: bool = typer.Option(
        False, "--floor", help="This base had signed with a clock in the future: end that."
    ),
    force_time: bool = _FORCE,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Replace a stolen release key, or set the time floor back."""
    from device_runtime.clock import SystemClock
    from edgepack.keys import ceremony

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        with screen.step("recovering"):
            outcome = ceremony.recover(
                ws, ring, clock=SystemClock(), floor=floor, force_time=force_time
            )
        _show(screen, outcome)


@guard
def forget(
    key: str = typer.Argument(help="Id of a key that is not in use any more."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Destroy a key that is not in use. A journal key only when no device needs it any more."""
    from edgepack.keys import retired

    ws = open_workspace(workspace)
    with ws.lock():
        _show(Screen(json), retired.forget(ws, open_ring(ws), key))


@guard
def passphrase(workspace: str = WORKSPACE, json: bool = JSON) -> None:
    """Give every key that is here a new passphrase. Keys that are elsewhere keep theirs."""
    from edgepack.keys import ceremony
    from edgepack.keys.ring import Ring, read_public
    from edgepack.workspace import NEW_ENVIRONMENT, ask_passphrase

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        read_public(ws.keys, ws.disk)
        # Not `Ring.open`: the passphrase that is given may be that of one key which came back.
        ring = Ring(ws.keys, ws.passphrase(), ws.disk)
        new = ask_passphrase("New passphrase: ", confirm=True, variable=NEW_ENVIRONMENT)
        with screen.step("encrypting keys"):
            outcome = ceremony.passphrase(ring, new)
        then = "edgepack backup: copies of keys/ that are made before open with the old one"
        _show(screen, outcome, then)


@guard
def downgrade(
    name: str = typer.Argument(help="Bundle name."),
    version: int = typer.Argument(help="The older version that shall run again."),
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Sign an emergency order to go back to an older bundle."""
    from device_runtime.clock import SystemClock
    from edgepack.keys import ceremony

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        with screen.step("signing"):
            outcome = ceremony.downgrade(ws, ring, name, version, clock=SystemClock())
        _show(screen, outcome)


@guard
def sign(
    file: Path = _FILE,
    force_time: bool = _FORCE,
    workspace: str = WORKSPACE,
    json: bool = JSON,
) -> None:
    """Add signatures to what is half-signed. A root, token, bundle or kit; with the keys here."""
    from device_runtime.clock import SystemClock
    from edgepack.fleet import kit
    from edgepack.keys import ceremony

    ws, screen = open_workspace(workspace), Screen(json)
    with ws.lock():
        ring = open_ring(ws)
        if file.is_file() and kit.is_kit(ws.disk, file):
            with screen.step("signing"):
                written = kit.sign_kit(ws, ring, file)
            show_kit(screen, written)
            return
        with screen.step("signing"):
            outcome = ceremony.sign_half(ws, ring, file, clock=SystemClock(), force_time=force_time)
        _show(screen, outcome)


def show_kit(screen: Screen, kit: Written) -> None:
    """Print what became of a kit: its words, or who must sign it yet."""
    said = {"kit": str(kit.path), "words": kit.words, "missing": list(kit.missing)}
    if kit.missing:
        screen.line(f"{kit.path} for {kit.device} is half-signed; still missing: "
                    + ", ".join(keyid[:16] for keyid in kit.missing))  # fmt: skip
        next_step = f"take it to the next custodian: edgepack keys sign {kit.path.name}"
    else:
        screen.line(f"{kit.path} for {kit.device}; type these words on the device:")
        screen.line(f"  {kit.words}")
        next_step = f"on the device: edgepack-device init {kit.path}"
    screen.done(said, next_step)


def _show(screen: Screen, outcome: Outcome, then: str = "") -> None:
    screen.line(f"{outcome.what}: {outcome.path}")
    if outcome.complete:
        next_step = then or outcome.then
    else:
        missing = ", ".join(keyid[:16] for keyid in outcome.missing)
        screen.line(f"half-signed; still missing: {missing}")
        next_step = f"take it to the next custodian: edgepack keys sign {outcome.path.name}"
    screen.done(
        {
            "file": str(outcome.path),
            "what": outcome.what,
            "complete": outcome.complete,
            "missing": list(outcome.missing),
        },
        next_step,
    )


def _day(seconds: int) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d")
