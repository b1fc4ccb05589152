"""One trained world, made once; each test gets a copy."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_limits

from support.learnworld import Field, World, nature


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Threads that wait for each other on a busy machine make small fits slow."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def trained(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base with bundle 1, trained on January; nothing came home yet."""
    world = World(tmp_path_factory.mktemp("trained"))
    world.train()
    return world


@pytest.fixture
def world(trained: World, tmp_path) -> World:
    """A copy of the trained world."""
    return trained.copy(tmp_path)


@pytest.fixture(scope="session")
def _returned(trained: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[str]]:
    world = trained.copy(tmp_path_factory.mktemp("returned"))
    device = world.device()
    frame = nature(40, 4000, 2, first=30)
    ids = device.predict(frame)
    device.label(ids, frame["worn"].tolist())
    device.come_home()
    world.catch_up()
    return world, ids


@pytest.fixture
def returned(_returned: tuple[World, list[str]], tmp_path) -> World:
    """A copy of a world to which 4,000 labelled rows came home."""
    source, ids = _returned
    world = source.copy(tmp_path)
    world.ids = ids
    world.frame = nature(40, 4000, 2, first=30)
    return world


__all__ = ["Field"]
