"""The base station: train, prove, pack, sign, bring journals home, learn, ship the next bundle."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes time, and the command line begins here
if TYPE_CHECKING:
    from typing import Any

__all__ = ["pack"]


def __getattr__(name: str) -> Any:
    """Load `pack` when it is asked for: the command line must start without scikit-learn."""
    if name == "pack":
        from edgepack.api import pack

        return pack
    raise AttributeError(name)
