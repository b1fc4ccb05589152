"""`[training] engine = "stream"`: more rows than memory holds → the same kind of candidate.

Rows are read in the order of the files, in batches; the last share of them measures the model and
is kept (thinned out, if it is long), with a thinned-out sample of the rows that taught it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.candidate import lineage as lineages
from edgepack.candidate.folder import Candidate
from edgepack.candidate.making import Made, metrics_of, write
from edgepack.convert.feed import official_session, run_official
from edgepack.convert.prove import prove
from edgepack.errors import DataError
from edgepack.fitted import Fitted, names_of
from edgepack.recipe import Recipe
from edgepack.tables import batches, inputs_of, sources
from edgepack.train.engines import fit_stream
from edgepack.train.fit import check_target, target_values
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

KEPT = 50_000


@dataclass(slots=True)
class Thinned:
    """A sample of a stream, evenly spread, of bounded size.

    Attributes:
        step: One row in `step` is kept; doubled whenever the sample has grown too long.
        seen: Rows that went by.
        parts: Kept rows.
    """

    step: int = 1
    seen: int = 0
    parts: list[pd.DataFrame] = field(default_factory=list)

    def add(self, rows: pd.DataFrame) -> None:
        """Let rows go by and keep some."""
        first = -self.seen % self.step
        self.parts.append(rows.iloc[first :: self.step].copy())
        self.seen += len(rows)
        if sum(len(part) for part in self.parts) > 2 * KEPT:
            whole = self.whole()
            self.parts = [whole.iloc[::2].copy()]
            self.step *= 2

    def whole(self) -> pd.DataFrame:
        """Return the sample."""
        import pandas as pd

        return pd.concat(self.parts, ignore_index=True)


@dataclass(slots=True)
class _Parted:
    """A stream that was cut into rows to learn and rows to measure by."""

    recipe: Recipe
    until: Any
    learn: int
    taught: Thinned = field(default_factory=Thinned)
    held: Thinned = field(default_factory=Thinned)

    def learning(self) -> Iterator[tuple[pd.DataFrame, Any]]:
        """Yield (inputs, target) of the rows to learn; keep the held-out ones aside."""
        done = 0
        for rows in batches(self.recipe, self.recipe.batch_rows, self.until):
            room = max(0, self.learn - done)
            done += len(rows)
            old, new = rows.iloc[:room], rows.iloc[room:]
            if len(new):
                self.held.add(new)
            if len(old):
                self.taught.add(old)
                inputs = inputs_of(self.recipe, old)
                yield old[inputs], np.asarray(target_values(self.recipe, old))


def make_streamed(ws: Workspace, recipe: Recipe, *, until: Any = None) -> Candidate:
    """Train in constant memory and write a candidate.

    Raises:
        RecipeError: The recipe's model cannot learn in parts, or its rows come from rows().
        DataError: Too few rows, or a target that cannot be learned.
        ConversionError, ParityError: The model.
    """
    total = sum(len(rows) for rows in batches(recipe, recipe.batch_rows, until))
    learn = round(total * (1 - recipe.test))
    if learn < 1 or learn == total:
        raise DataError(f"{total} rows of {recipe.name} are too few", next="give more rows")
    parted = _Parted(recipe, until, learn)
    estimator = fit_stream(recipe, parted.learning(), recipe.seed)
    taught, held = parted.taught.whole(), parted.held.whole()
    check_target(recipe, taught)
    inputs = tuple(inputs_of(recipe, taught))
    fitted = Fitted(recipe, estimator, inputs, names_of(recipe, estimator), recipe.seed, learn)
    runtime = ws.device_class(recipe.device_class).onnxruntime
    proven = prove(fitted, taught, held, onnxruntime=runtime)
    schema = proven.onnx.schema
    answers = run_official(official_session(proven.onnx.model), schema, held)
    metrics = metrics_of(schema, held, answers)
    how = "by order of the files, the last ones"
    notes = (f"streamed {learn:,} rows; steps before the last were fitted on the first batch",)
    made = Made(proven, metrics, taught, held, answers, recipe.seed, how, notes, refit=False)
    files = {path.name: _digest(path) for path in sources(recipe)}
    story = lineages.describe(
        recipe,
        taught,
        kind="train",
        seed=recipe.seed,
        until=until,
        parent=None,
        model=proven.onnx.model,
        extra={"data": {"rows": learn, "files": files, "sha256": _joint(files)}},
    )
    return write(ws, recipe, made, story, kind="train")


def _digest(path: Any) -> str:
    if path.is_file():
        return lineages.file_digest(path)
    return _joint(
        {item.name: lineages.file_digest(item) for item in sorted(path.rglob("*.parquet"))}
    )


def _joint(files: dict[str, str]) -> str:
    import hashlib

    return hashlib.sha256(
        "\n".join(f"{n} {d}" for n, d in sorted(files.items())).encode()
    ).hexdigest()
