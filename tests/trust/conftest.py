"""A base with its keys, fresh for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.trustsim import Base


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A base (a copy: the same keys in every test)."""
    return Base.at(tmp_path / "ws")
