"""`[training] engine = "stream"`: more rows than memory holds → the same kind of candidate.

Rows are read in the order of the files, in batches; the last share of them measures the model and
is kept (thinned out, if it is long), with a thinned-out sample of the rows that taught it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.candidate import lineage as lineages
from edgepack.candidate.folder import Candidate
from edgepack.candidate.making import write
from edgepack.candidate.measuring import Made, made_of, measured
from edgepack.convert.prove import prove
from edgepack.errors import DataError
from edgepack.fitted import Fitted, names_of
from edgepack.recipe import Recipe
from edgepack.tables import batches, inputs_of, size_of, sources
from edgepack.train.engines import check_stream, fit_stream
from edgepack.train.fit import Split, check_target, target_values
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

KEPT = 50_000  # rows of a sample ...
VALUES = 1_000_000  # ... fewer, where rows are wide


@dataclass(slots=True)
class Thinned:
    """A sample of a stream, evenly spread, of bounded size.

    Attributes:
        time: Column whose oldest and newest value are noted, or None.
        step: One row in `step` is kept; doubled whenever the sample has grown too long.
        seen: Rows that went by.
        span: Oldest and newest time that went by; empty before the first row.
        parts: Kept rows.
    """

    time: str | None = None
    step: int = 1
    seen: int = 0
    span: tuple[Any, ...] = ()
    parts: list[pd.DataFrame] = field(default_factory=list)

    def add(self, rows: pd.DataFrame) -> None:
        """Let rows go by and keep some."""
        first = -self.seen % self.step
        self.parts.append(rows.iloc[first :: self.step].copy())
        self.seen += len(rows)
        if self.time is not None and len(rows):
            ends = (rows[self.time].min(), rows[self.time].max(), *self.span)
            self.span = (min(ends), max(ends))
        most = min(KEPT, max(1, VALUES // rows.shape[1]))
        while sum(len(part) for part in self.parts) > 2 * most:
            whole = self.whole()
            self.parts = [whole.iloc[::2].copy()]
            self.step *= 2

    def whole(self) -> pd.DataFrame:
        """Return the sample."""
        import pandas as pd

        return pd.concat(self.parts, ignore_index=True)


def fit_rows(recipe: Recipe, rows: Iterable[pd.DataFrame], sample: Thinned) -> Fitted:
    """Fit over a stream of rows in constant memory; a sample of them stays.

    Raises:
        RecipeError: The recipe's model cannot learn in parts.
        DataError: No rows, or a target that cannot be learned.
    """

    def parts() -> Iterator[tuple[pd.DataFrame, Any]]:
        for frame in rows:
            if len(frame):
                sample.add(frame)
                yield frame[inputs_of(recipe, frame)], np.asarray(target_values(recipe, frame))

    estimator = fit_stream(recipe, parts(), recipe.seed)
    taught = sample.whole()
    check_target(recipe, taught)
    inputs = tuple(inputs_of(recipe, taught))
    return Fitted(recipe, estimator, inputs, names_of(recipe, estimator), recipe.seed, sample.seen)


def make_streamed(ws: Workspace, recipe: Recipe, *, until: Any = None) -> Candidate:
    """Train in constant memory and write a candidate; see `made_streamed`."""
    runtime = ws.device_class(recipe.device_class).onnxruntime
    made, story = made_streamed(recipe, runtime, until=until)
    return write(ws, recipe, made, story, kind="train")


def made_streamed(
    recipe: Recipe, onnxruntime: str, *, until: Any = None
) -> tuple[Made, dict[str, Any]]:
    """Train in constant memory; return what goes into the folder, and its lineage.

    The last rows measure the model; then (unless `[training] refit = false`) it is fitted again on
    all rows, as in memory.

    Raises:
        RecipeError: The recipe's model cannot learn in parts, or its rows come from rows().
        DataError: Too few rows, or a target that cannot be learned.
        ConversionError, ParityError: The model.
    """
    share = 1 if recipe.refit else 1 - recipe.test  # of the rows that one fit learns from
    size = size_of(recipe) if until is None else None
    if size is not None:
        check_stream(recipe, round(size[0] * share), size[1])
    total = columns = 0
    for rows in batches(recipe, recipe.batch_rows, until):
        total, columns = total + len(rows), len(inputs_of(recipe, rows))
    learn = round(total * (1 - recipe.test))
    if learn < 1 or learn == total:
        raise DataError(f"{total} rows of {recipe.name} are too few", next="give more rows")
    check_stream(recipe, round(total * share), columns)
    taught, held = Thinned(recipe.time), Thinned(recipe.time)
    fitted = fit_rows(recipe, _older(recipe, until, learn, held), taught)
    found = measured(recipe, fitted, taught.whole(), held.whole(), onnxruntime)
    proven = found.proven
    if recipe.refit:
        taught = Thinned(recipe.time)
        fitted = fit_rows(recipe, batches(recipe, recipe.batch_rows, until), taught)
        proven = prove(fitted, taught.whole(), held.whole(), onnxruntime=onnxruntime)
    parts = Split(taught.whole(), held.whole(), "by order of the files, the last ones")
    made = streamed(made_of(recipe, found, proven, parts.train, parts), taught)
    story = lineages.describe(
        recipe,
        parts.train,
        kind="train",
        seed=recipe.seed,
        until=until,
        parent=None,
        model=proven.onnx.model,
        extra={"data": data_facts(recipe, taught)},
    )
    return made, story


def streamed(made: Made, taught: Thinned) -> Made:
    """Say that `made.train` is a sample, and of how many rows."""
    first = "steps before the last, if any, were fitted on the first batch"
    note = f"streamed {taught.seen:,} rows; {first}"
    return replace(made, notes=(*made.notes, note), rows=taught.seen)


def data_facts(recipe: Recipe, taught: Thinned) -> dict[str, Any]:
    """Return `data` of lineage.json: rows and their times, and the digest of each file."""
    files = {path.name: _digest(path) for path in sources(recipe)}
    span = dict(zip(("first", "last"), map(str, taught.span), strict=False))
    return {"rows": taught.seen, "files": files, "sha256": _joint(files), **span}


def _older(recipe: Recipe, until: Any, learn: int, held: Thinned) -> Iterator[pd.DataFrame]:
    """Yield the first `learn` rows; put the others aside."""
    done = 0
    for rows in batches(recipe, recipe.batch_rows, until):
        room = max(0, learn - done)
        done += len(rows)
        if len(rows) > room:
            held.add(rows.iloc[room:])
        if room:
            yield rows.iloc[:room]


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
