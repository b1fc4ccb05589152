"""Does it help to bring what was watched home? Every half year a new bundle, or none.

    python backtest.py

Each passenger is asked about with the bundle that was on the box when they left: from the first
half of what they watched, how much of the second half stands among the ten best titles (recall@10,
titles already watched are not offered)? Beside it: the first bundle for ever, and simply the most
popular titles of the same past.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import recipe as box

from edgepack.convert.export import export
from edgepack.convert.feed import official_session, run_official
from edgepack.recipe import load_recipe
from edgepack.tables import prepare
from edgepack.train.fit import fit

RECIPE = load_recipe(Path(__file__).parent)
VISITS = pd.date_range("2009-01-01", "2016-12-31", freq="6MS")


def history(passengers: pd.DataFrame) -> pd.DataFrame:
    """Return training rows: all that past passengers watched."""
    whole = passengers["first"] + passengers["second"]
    frame = passengers[["passenger", "seen"]].assign(watched=whole, chosen=whole)
    return prepare(RECIPE, frame)


def main() -> None:
    """Print recall@10 by year and in all."""
    everybody = box.passengers()
    first, parts = None, []
    for visit, following in itertools.pairwise(VISITS):
        past = everybody[everybody["seen"] < visit]
        now = everybody[(everybody["seen"] >= visit) & (everybody["seen"] < following)]
        if not len(now):
            continue
        known = history(past)
        made = export(fit(RECIPE, known), known, numbers="float64")
        session = official_session(made.model)
        first = first or session
        watched, then = np.stack(now["first"]), np.stack(now["second"])
        rows = now.assign(watched=now["first"])
        popular = np.tile((np.stack(past["first"]) + np.stack(past["second"])).sum(axis=0), 1)
        for row in range(len(now)):
            here, truth = watched[row : row + 1], then[row : row + 1]
            answers = [
                popular[None, :].astype(float),
                run_official(first, made.schema, rows.iloc[row : row + 1]).scores,
                run_official(session, made.schema, rows.iloc[row : row + 1]).scores,
            ]
            recalls = [box.recall(here, truth, np.asarray(a)) for a in answers]
            parts.append((visit.year, *recalls))
    found = pd.DataFrame(parts, columns=["year", *COLUMNS])
    print(f"{'years':<12}{'passengers':>11}{'popular':>9}{'frozen':>9}{'refreshed':>11}")  # noqa: T201
    spans = (found["year"] - 2009) // 2 * 2 + 2009
    for span, part in [*found.groupby(spans), ("all", found)]:
        means = [float(part[name].mean()) for name in COLUMNS]
        years = "all" if span == "all" else f"{span}-{span + 1}"
        text = f"{means[0]:>9.3f}{means[1]:>9.3f}{means[2]:>11.3f}"
        print(f"{years:<12}{len(part):>11}{text}")  # noqa: T201


COLUMNS = ("popular", "frozen", "refreshed")

if __name__ == "__main__":
    main()
