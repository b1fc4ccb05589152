"""Train a signed bundle again from its lineage: the same rows, recipe and seed, the same bytes?

Nothing is written. What is compared stands in lineage.json of the bundle: digests of the recipe's
files, of the rows, and of model.onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepack.candidate import lineage as lineages
from edgepack.candidate.measuring import train
from edgepack.candidate.streaming import made_streamed
from edgepack.errors import DataError, ParityError, RecipeError
from edgepack.learn.reference import Reference, references
from edgepack.learn.trial import Trial
from edgepack.recipe import Recipe, load_recipe
from edgepack.registry import Registry
from edgepack.tables import read_table
from edgepack.train.fit import split
from edgepack.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Again:
    """A bundle that came out the same.

    Attributes:
        version: Of the bundle.
        kind: `train` or `retrain`.
        rows: Rows that taught and measured it.
        rows_sha256: Their digest.
        model_sha256: Digest of model.onnx, then and now.
    """

    version: int
    kind: str
    rows: int
    rows_sha256: str
    model_sha256: str


def again(ws: Workspace, registry: Registry, name: str, version: int) -> Again:
    """Train a bundle again.

    Raises:
        DataError: There is no such bundle, or its rows are not those of then.
        RecipeError: The recipe was changed since, or the bundle was not trained here.
        ParityError: model.onnx is another one.
    """
    refs = references(ws, registry, name)
    known = {ref.row.version: ref for ref in refs}
    if version not in known:
        there = ", ".join(map(str, sorted(known))) or "none"
        raise DataError(f"{name} has no signed bundle {version} here", next=f"there are: {there}")
    story = known[version].json("lineage.json")
    recipe = load_recipe(ws.recipe_folder(name))
    _same_recipe(recipe, story, version)
    runtime = ws.device_class(recipe.device_class).onnxruntime
    if story["kind"] == "retrain":
        now = _retrained(ws, registry, recipe, story, refs, runtime)
    elif story["kind"] == "train":
        now = _trained(recipe, story, runtime)
    else:
        raise RecipeError(
            f"bundle {version} was not trained here: its model was given",
            next=f"compare the file with sha256 {story['recipe'].get(recipe.model or '', '?')}",
        )
    then, data = story["data"], now["data"]
    if data["sha256"] != then["sha256"]:
        raise DataError(
            f"the rows are not those that taught bundle {version}",
            why=f"{then['rows']:,} then ({then['sha256'][:12]}), {data['rows']:,} now "
            f"({data['sha256'][:12]})",
            next="put the recipe's data back as they were; what came home is kept in the archive",
        )
    if now["model_sha256"] != story["model_sha256"]:
        raise ParityError(
            f"trained again on the same {then['rows']:,} rows, model.onnx of bundle {version} is "
            "another one",
            why=_packages(story["packages"], now["packages"]),
            next="install the packages that its lineage names (edgepack inspect --lineage)",
        )
    return Again(version, story["kind"], then["rows"], then["sha256"], now["model_sha256"])


def _same_recipe(recipe: Recipe, story: Mapping[str, Any], version: int) -> None:
    now = lineages.recipe_files(recipe)
    changed = [file for file, digest in story["recipe"].items() if now.get(file) != digest]
    if changed:
        file = changed[0]
        raise RecipeError(
            f"{file} was changed since bundle {version} was trained",
            next=f"put the one with sha256 {story['recipe'][file][:12]}… back for this",
        )


def _trained(recipe: Recipe, story: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    until = story["original_until"]
    if recipe.engine == "stream":
        return made_streamed(recipe, runtime, until=until)[1]
    frame = read_table(recipe, until)
    made = train(recipe, split(recipe, frame), frame, seed=story["seed"], onnxruntime=runtime)
    return lineages.describe(
        recipe,
        frame,
        kind="train",
        seed=made.seed,
        until=until,
        parent=None,
        model=made.proven.onnx.model,
        extra=None,
    )


def _retrained(
    ws: Workspace,
    registry: Registry,
    recipe: Recipe,
    story: Mapping[str, Any],
    refs: list[Reference],
    runtime: str,
) -> dict[str, Any]:
    parent = next((ref for ref in refs if ref.row.digest == story["parent"]), None)
    if parent is None:
        raise DataError(
            f"the bundle that it was held against is not here ({story['parent'][:12]})",
            next="put it back into out/",
        )
    upto = (int(story["returned"]["serial"]), int(story["returned"]["label_files"]))
    trial = Trial.prepare(ws, registry, recipe, parent, upto=upto)
    return trial.traced(trial.rows.ship(trial.rows.measure(runtime), runtime))


def _packages(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    other = [f"{k} {v} then, {now.get(k, 'none')} now" for k, v in then.items() if now.get(k) != v]
    return "; ".join(other) or "the packages are the same; the processor may be another"
