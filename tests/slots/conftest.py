"""A device in memory, and its first good bundle."""

from __future__ import annotations

import pytest

from support.slotworld import Bundle, Device


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def first(device: Device) -> Bundle:
    return device.good(Bundle(1))
