"""The verb `train`: a recipe of a workspace → a candidate, whatever the recipe brings."""

from __future__ import annotations

from typing import Any

from edgepack.candidate import Candidate, make_candidate
from edgepack.candidate.refused import explained
from edgepack.recipe import load_recipe
from edgepack.tables import ignored, read_table
from edgepack.train.engines import check_beforehand
from edgepack.workspace import Workspace


def train_recipe(
    ws: Workspace, name: str | None = None, until: Any = None
) -> tuple[Candidate, list[str]]:
    """Train one recipe (the only one, if no name is given).

    Returns:
        The candidate, and the columns of the data that have no role.

    Raises:
        RecipeError, DataError, LeakError: The recipe or its data.
        ConversionError, ParityError: The model.
    """
    recipe = load_recipe(ws.recipe_folder(name))
    ws.device_class(recipe.device_class)
    with explained(ws, recipe.name):
        if recipe.model is not None:
            from edgepack.candidate.given import make_given

            return make_given(ws, recipe), []
        if recipe.engine == "stream":
            from edgepack.candidate.streaming import make_streamed

            return make_streamed(ws, recipe, until=until), []
        if until is None:  # with a cut nobody knows yet how much stays
            check_beforehand(recipe)
        frame = read_table(recipe, until)
        return make_candidate(ws, recipe, frame, until=until), _unused(recipe, frame)


def _unused(recipe: Any, frame: Any) -> list[str]:
    if recipe.function("rows") is not None or recipe.data is None:
        return []
    import pyarrow.parquet as pq

    from edgepack.tables import sources

    path = sources(recipe)[0]
    if path.suffix not in (".parquet", ".pq") or not path.is_file():
        return []
    del frame
    return ignored(recipe, [str(item) for item in pq.read_schema(path).names])
