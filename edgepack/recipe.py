"""A recipe: `bundle.toml` says what the bundle shall be, `recipe.py` or a model file how.

Every mistake is named, all of them in one error, so that one look at the file is enough.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_runtime.format.manifest import NAME
from device_runtime.format.schema import TASKS, Task
from edgepack import recipe_code
from edgepack.errors import LeakError, RecipeError
from edgepack.recipe_fields import wrong_fields
from edgepack.units import seconds, size

FILE = "bundle.toml"
CODE = "recipe.py"


@dataclass(frozen=True, slots=True)
class Due:
    """When a retraining is due; None: never for that reason.

    Attributes:
        days: Age of the newest bundle's training data.
        labels: New labels at home.
        psi: Largest PSI of an input.
        quality: Fall of the main metric below the candidate's, absolute.
    """

    days: int | None = None
    labels: int | None = None
    psi: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole of bundle.toml, checked, with its folder.

    Attributes:
        folder: Absolute folder of the recipe.
        name: Bundle name.
        task: Kind of answer.
        device_class: Kind of device.
        inputs: Columns fed to the model, in order; empty: every column without another role.
        target: Columns of the truth: none, one, or several (`labels`, several regressions).
        key: The user's own id, journaled.
        time: When a row happened, journaled; cuts and windows go by it.
        forbidden: Known leaks.
        data: File, glob or Delta folder, relative to `folder`; None: `rows()` or a model file.
        model: Model file for "bring your own"; None: `model(seed)` in recipe.py.
        samples: Real rows that come with a model file.
        model_io: What only the bringer of a model knows.
        label_delay_s: The truth is known this long after `time`; seconds.
        confidence: Abstain below it; None never.
        unlike_rows: Reference rows carried for the "unlike training" score; 0 = none.
        threshold: `binary`: answer the second class from this probability on.
        window_s: Newest labelled span on which a challenger is judged; seconds.
        due: When a retraining is due.
        copy_new_classes: Whether labels of new classes spread within their cluster.
        device_share: Largest share of one device in the training rows.
        min_labels: Fewest labelled rows that count as evidence.
        engine: `memory` or `stream`.
        seed: Of every random choice.
        test: Share of the newest rows that measure the model.
        refit: Whether the shipped model is fitted on all rows after it was measured.
        memory_bytes: What the in-memory engine may use; None: what the machine has free.
        batch_rows: Rows a step of the stream engine.
        quantiles: Levels, for task `quantiles`.
        names: Names of scores, for `regression` and `scores`.
        journal: Column → keep | hash | drop.
        ranges: Column → (low, high), outside which a row is invalid.
        categories: Text column → open | closed; closed: an unseen category makes a row invalid.
        rtol: Relative tolerance of parity.
        atol: Absolute tolerance of parity.
        expires_s: How long the signed bundle may be installed; seconds; None: the signer's.
        description: A sentence for the model card.
        license: Licence of the data and model, for the card.
    """

    folder: Path
    name: str
    task: Task
    device_class: str
    inputs: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    key: str | None = None
    time: str | None = None
    forbidden: tuple[str, ...] = ()
    data: str | None = None
    model: str | None = None
    samples: str | None = None
    model_io: Mapping[str, Any] = field(default_factory=dict)
    label_delay_s: int = 0
    confidence: float | None = None
    unlike_rows: int = 0
    threshold: float = 0.5
    window_s: int | None = None
    due: Due = field(default_factory=Due)
    copy_new_classes: bool = False
    device_share: float = 0.5
    min_labels: int = 200
    engine: str = "memory"
    seed: int = 0
    test: float = 0.2
    refit: bool = True
    memory_bytes: int | None = None
    batch_rows: int = 65_536
    quantiles: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    journal: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    rtol: float | None = None
    atol: float | None = None
    expires_s: int | None = None
    description: str = ""
    license: str = ""

    @property
    def code(self) -> Path | None:
        """Return recipe.py, if the recipe has one."""
        path = self.folder / CODE
        return path if path.is_file() else None

    def function(self, name: str) -> Callable[..., Any] | None:
        """Return a function of recipe.py (`model`, `rows`, `split`), or None.

        Raises:
            RecipeError: recipe.py does not run; its own line is named.
        """
        if self.code is None:
            return None
        found = getattr(recipe_code.run(self.code), name, None)
        if found is not None and not callable(found):
            raise RecipeError(f"{self.code}: {name} is not a function")
        return found

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of recipe.py; what it raises becomes one line that names its place.

        Raises:
            RecipeError: There is no such function, or it failed.
            DataError: `rows` found a file of data missing or damaged.
        """
        function = self.function(name)
        if function is None:
            raise RecipeError(
                f"{self.folder / CODE} has no {name}()", next=f"add {name}() to recipe.py"
            )
        try:
            return function(*arguments)
        except (KeyboardInterrupt, MemoryError, RecipeError):
            raise
        except Exception as error:
            raise recipe_code.failed(name, self.folder / CODE, error) from error


def load_recipe(folder: Path | str) -> Recipe:
    """Read and check `folder/bundle.toml`.

    Raises:
        RecipeError: There is none, or it has mistakes; all of them are named.
        LeakError: A forbidden column is an input.
    """
    folder = Path(folder).absolute()
    path = folder / FILE
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{folder} has no {FILE}", next="see: edgepack recipes") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    mistakes = wrong_fields(value)
    if mistakes:
        raise RecipeError(f"{path}: {'; '.join(mistakes)}")
    recipe = _recipe(folder, value)
    check_values(recipe, f"{path}: ")
    return recipe


def check_values(recipe: Recipe, where: str = "") -> None:
    """Check what single fields cannot show: names, choices, and what contradicts what.

    Raises:
        LeakError: A forbidden column is an input.
        RecipeError: Any other mistake; all of them are named.
    """
    leaks = [name for name in recipe.inputs if name in recipe.forbidden]
    if leaks:
        raise LeakError(f"{where}{', '.join(leaks)} is forbidden and stands in `inputs`")
    mistakes = _wrong_values(recipe)
    if mistakes:
        raise RecipeError(f"{where}{'; '.join(mistakes)}")


# --- checks ------------------------------------------------------------------------------------


def _recipe(folder: Path, value: Mapping[str, Any]) -> Recipe:
    def table(name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = value.get(name, {})
        return found

    columns, training, retrain = table("columns"), table("training"), table("retrain")
    target = columns.get("target", [])
    return Recipe(
        folder=folder,
        name=value["name"],
        task=value["task"],
        device_class=value.get("class", "field"),
        inputs=tuple(columns.get("inputs", ())),
        target=(target,) if isinstance(target, str) else tuple(target),
        key=columns.get("key"),
        time=columns.get("time"),
        forbidden=tuple(columns.get("forbidden", ())),
        data=value.get("data"),
        model=value.get("model"),
        samples=value.get("samples"),
        model_io=table("model_io"),
        label_delay_s=seconds(table("labels").get("delay", "0s")),
        confidence=table("abstain").get("confidence"),
        unlike_rows=table("abstain").get("unlike_rows", 0),
        threshold=float(value.get("threshold", 0.5)),
        window_s=seconds(retrain["window"]) if "window" in retrain else None,
        due=Due(**retrain.get("due", {})),
        copy_new_classes=retrain.get("copy_new_classes", False),
        device_share=retrain.get("device_share", 0.5),
        min_labels=retrain.get("min_labels", 200),
        engine=training.get("engine", "memory"),
        seed=training.get("seed", 0),
        test=training.get("test", 0.2),
        refit=training.get("refit", True),
        memory_bytes=size(training["memory"]) if "memory" in training else None,
        batch_rows=training.get("batch_rows", 65_536),
        quantiles=tuple(table("output").get("quantiles", ())),
        names=tuple(table("output").get("names", ())),
        journal=table("journal"),
        ranges={key: (low, high) for key, (low, high) in table("ranges").items()},
        categories=table("categories"),
        rtol=table("parity").get("rtol"),
        atol=table("parity").get("atol"),
        expires_s=seconds(value["expires"]) if "expires" in value else None,
        description=value.get("description", ""),
        license=value.get("license", ""),
    )


def _wrong_values(recipe: Recipe) -> list[str]:
    mistakes = []
    if not NAME.fullmatch(recipe.name):
        mistakes.append(f"name {recipe.name!r} must be lower case letters, digits, inner hyphens")
    if recipe.task not in TASKS:
        mistakes.append(f"task must be one of {', '.join(TASKS)}")
    if recipe.name == "runtime":
        mistakes.append("name: `runtime` is kept for updates of edgepack-device")
    if not NAME.fullmatch(recipe.device_class):
        mistakes.append(f"class {recipe.device_class!r} is not a name")
    if recipe.engine not in ("memory", "stream"):
        mistakes.append("[training] engine must be memory or stream")
    if recipe.model is not None and recipe.samples is None:
        mistakes.append("a model file needs samples = FILE with real rows")
    if recipe.model is None and recipe.code is None:
        mistakes.append("there is neither a recipe.py with model(seed) nor model = FILE")
    if recipe.model is None and not recipe.target:
        mistakes.append("[columns] target is missing")
    mistakes += _wrong_for_task(recipe)
    mistakes += _wrong_roles(recipe)
    for column, keep in recipe.journal.items():
        if keep not in ("keep", "hash", "drop"):
            mistakes.append(f"[journal] {column} must be keep, hash or drop")
    for column, word in recipe.categories.items():
        if word not in ("open", "closed"):
            mistakes.append(f"[categories] {column} must be open or closed")
    if not 0 < recipe.test < 1:
        mistakes.append("[training] test must be above 0 and below 1")
    return mistakes


def _wrong_for_task(recipe: Recipe) -> list[str]:
    mistakes = []
    if recipe.task == "quantiles" and not recipe.quantiles:
        mistakes.append("[output] quantiles is missing")
    if recipe.threshold != 0.5 and recipe.task not in ("binary", "labels"):
        mistakes.append("threshold is for task binary or labels only")
    if recipe.confidence is not None and recipe.task not in ("binary", "classes"):
        mistakes.append("[abstain] confidence is for task binary or classes only")
    return mistakes


def _wrong_roles(recipe: Recipe) -> list[str]:
    roles: dict[str, str] = {}
    mistakes = []
    named = (
        ("inputs", recipe.inputs),
        ("target", recipe.target),
        ("key", (recipe.key,) if recipe.key else ()),
        ("time", (recipe.time,) if recipe.time else ()),
        ("forbidden", recipe.forbidden),
    )
    for role, names in named:
        for name in names:
            if name in roles:
                mistakes.append(f"[columns] {name} stands in {roles[name]} and in {role}")
            roles[name] = role
            if name.startswith(("_", "expected:")):
                mistakes.append(f"[columns] {name}: such names are reserved")
    for where, names in (("journal", tuple(recipe.journal)), ("ranges", tuple(recipe.ranges))):
        mistakes += [
            f"[{where}] {name} is no column of this recipe"
            for name in names
            if recipe.inputs and roles.get(name) not in ("inputs", "key", "time")
        ]
    return mistakes
