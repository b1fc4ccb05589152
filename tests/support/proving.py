"""One estimator through the whole gate: fitted, converted, compared, judged."""

from __future__ import annotations

from pathlib import Path

from edgepack.convert.prove import prove
from edgepack.fitted import Fitted, estimator_rows, missing_text, names_of
from edgepack.recipe import Recipe
from edgepack.tables import prepare
from support.tables import table


def proven(estimator, *, target="y", task="binary", inputs=("a", "b", "n"), frame=None, **more):
    """Fit on 300 rows, convert, and compare with the others; `more` goes into the recipe."""
    return prove(*tried(estimator, target=target, task=task, inputs=inputs, frame=frame, **more))


def tried(estimator, *, target="y", task="binary", inputs=("a", "b", "n"), frame=None, **more):
    """Return (fitted on 300 rows, these rows, the others)."""
    recipe = Recipe(Path(), "trial", task, "field", target=(target,), **more)
    frame = prepare(recipe, table() if frame is None else frame, columns=[*inputs, target])
    train, held = frame.iloc[:300].reset_index(drop=True), frame.iloc[300:].reset_index(drop=True)
    rows = estimator_rows(train, inputs, missing_text(estimator))
    estimator.fit(rows, train[target].to_numpy())
    fitted = Fitted(recipe, estimator, tuple(inputs), names_of(recipe, estimator), 0, 300)
    return fitted, train, held
