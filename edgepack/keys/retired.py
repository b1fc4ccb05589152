"""Keys that are out of use: destroyed once nobody needs them any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from device_runtime.errors import UsageError
from edgepack.keys import roles
from edgepack.keys.ceremony import Outcome, settled_root
from edgepack.keys.ring import FAMILIES, Ring
from edgepack.registry import Registry


def forget(ws: Any, ring: Ring, what: str) -> Outcome:
    """Destroy a key that is not in use any more: what is not there cannot be stolen.

    Nobody can read old journals with a journal key that is gone; nobody can sign with a key that
    an old root named, for a device that has not yet seen the newer ones.

    Args:
        ws: The workspace.
        ring: Its keys.
        what: Id of the key (8 characters or more).

    Raises:
        UsageError: It is in use, or no such key is here; or a device still has journals for it, or
            journals that cannot be read yet are held here.
    """
    public, named = ring.public(), roles.root_keyids(settled_root(ws))
    retired = {key.id for key in public.journal[1:]}
    retired |= {k.id for role in FAMILIES for k in ring.of_role(role) if k.id not in named[role]}
    retired |= {key.id for key in ring.of_role("base") if key.id != public.base.id}
    retired |= {key.id for key in ring.of_role("oms") if key.body["public"] != public.oms}
    found = [keyid for keyid in sorted(retired) if len(what) >= 8 and keyid.startswith(what)]
    if len(found) != 1:
        raise UsageError(f"{what} is no key that is out of use", next="see: edgepack keys list")
    if found[0] in {key.id for key in public.journal}:
        _nobody_needs(ws, found[0])
        ring.write_public(
            replace(public, journal=tuple(k for k in public.journal if k.id != found[0]))
        )
    ring.destroy(found[0])
    then = "delete it from copies of keys/ and from backups too"
    return Outcome(ring.folder, True, (), f"key {found[0]} is gone", then)


def _nobody_needs(ws: Any, keyid: str) -> None:
    with Registry.open(ws.registry) as registry:
        out, held = registry.recipients_out().get(keyid, []), registry.held()
    if out:
        raise UsageError(
            f"devices still have journals for this key: {', '.join(out)}",
            next="bring them home first: edgepack sync STICK",
        )
    if held:
        raise UsageError(
            f"{len(held)} journals are held here that may need this key",
            next="import them first; see: edgepack status",
        )
