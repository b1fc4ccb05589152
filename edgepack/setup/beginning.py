"""`init`: a workspace with keys and a recipe, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.clock import Clock, SystemClock
from device_runtime.disk import Disk, RealDisk
from edgepack.recipe import load_recipe
from edgepack.setup.starts import bundle_name, copy_story, write_from_data
from edgepack.workspace import Workspace, ask_passphrase, beside, new_root


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the person wished to start from; empty texts for what was not given.

    Attributes:
        story: Recipe that comes along.
        data: Table to look at.
        target: Its column to predict.
        model: Trained model.
        samples: Real rows for it.
        allow_pickle: Whether the model may be unpickled.
    """

    story: str = ""
    data: str = ""
    target: str = ""
    model: str = ""
    samples: str = ""
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """What was made.

    Attributes:
        root: Absolute folder of the workspace.
        recipe: Name of the recipe in it; "" for none.
        notes: What a person should know.
    """

    root: Path
    recipe: str
    notes: tuple[str, ...] = ()


def ask_new() -> str:
    """Return the passphrase for new keys."""
    return ask_passphrase("Passphrase for the new keys: ", confirm=True)


def begin(
    folder: Path,
    wish: Beginning,
    *,
    ask: Callable[[], str] = ask_new,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> Begun:
    """Make the workspace: all of it, or nothing.

    Args:
        folder: Its place.
        wish: What it begins with.
        ask: Returns the passphrase for its keys; called once the place is known to be good.
        clock: Says when the keys were made.
        disk: What it is written through.

    Raises:
        WorkspaceError: The folder is not empty, or lies in another workspace.
        RecipeError, DataError, ConversionError: What to start from is not there or not usable.
        KeyringError: No passphrase.
    """
    from edgepack.keys.ceremony import found

    disk = disk or RealDisk()
    root = new_root(folder)
    passphrase = ask()
    with beside(root, disk) as part:
        ws = Workspace.create(part, disk=disk)
        name, notes = _recipe(ws, wish)
        found(ws, passphrase, clock or SystemClock())
    return Begun(root, name, notes)


def _recipe(ws: Workspace, wish: Beginning) -> tuple[str, tuple[str, ...]]:
    if wish.story:
        copy_story(wish.story, ws.recipes / wish.story)
        return wish.story, ()
    if wish.data:
        path = Path(wish.data)
        name = bundle_name(path.stem)
        write_from_data(path, wish.target, ws.recipes / name)
        load_recipe(ws.recipes / name)
        return name, ("bundle.toml was written by looking at the data: read it before training",)
    if wish.model:
        from edgepack.setup.bringing import write_from_model

        name = bundle_name(Path(wish.model).stem)
        notes = write_from_model(
            Path(wish.model),
            Path(wish.samples),
            ws.recipes / name,
            allow_pickle=wish.allow_pickle,
        )
        load_recipe(ws.recipes / name)
        return name, notes
    return "", ()
