"""A journal that was just opened."""

import pytest

from support.journalworld import World


@pytest.fixture
def world():
    world = World()
    world.open()
    return world
