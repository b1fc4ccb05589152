"""Randomness by seed: whatever is drawn while a world is played comes from its seed.

Ids decide in which order folders and packs are read, so a world whose ids differ is another world,
and a failure that cannot be shown again is worth nothing. Ids and keys are drawn by `os.urandom`.
Key wrapping draws inside the library, which takes no seed: a world uses one of its own instead, as
long as the real one and bound to the same things. It hides nothing; a world has nothing to hide.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from device_runtime.crypt import Aead, RecipientKey, sha256
from device_runtime.errors import UndecryptableError
from device_runtime.journal import reader, seal

_WRAPPED_BYTES, _SEALED_BYTES = 1168, 48  # of the real one; of a 32-byte key and its tag


@contextmanager
def drawn_from(rng: random.Random) -> Iterator[None]:
    """Let everything random come from `rng`; not for threads, and never outside a laboratory."""
    made_up: list[tuple[ModuleType, str, Any]] = [
        (os, "urandom", rng.randbytes),
        (seal, "wrap_key", _wrap),
        (reader, "unwrap_key", _unwrap),
    ]
    real = [getattr(module, name) for module, name, _ in made_up]
    for module, name, ours in made_up:
        setattr(module, name, ours)
    try:
        yield
    finally:
        for (module, name, _), theirs in zip(made_up, real, strict=True):
            setattr(module, name, theirs)


def chance(*parts: object) -> random.Random:
    """Return randomness that is the same every time for the same parts."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311


def _box(recipient: str) -> Aead:
    return Aead(sha256(b"edgepack laboratory\0", recipient.encode()))


def _wrap(key: bytes, recipient: RecipientKey, info: bytes) -> bytes:
    sealed = _box(recipient.id).seal(0, key, info)
    return sealed + os.urandom(_WRAPPED_BYTES - len(sealed))


def _unwrap(wrapped: Sequence[tuple[str, bytes]], secrets: dict[str, bytes], info: bytes) -> bytes:
    for recipient, blob in wrapped:
        if recipient in secrets:
            key = _box(recipient).open(0, blob[:_SEALED_BYTES], info)
            if key is not None:
                return key
    names = ", ".join(recipient for recipient, _ in wrapped) or "nobody"
    raise UndecryptableError(f"no key at hand for a segment that was encrypted to {names}")
