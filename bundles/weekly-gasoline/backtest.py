"""Would this have paid? Twelve years of visits, replayed through the bundle's own ONNX.

    python backtest.py

Every 13 weeks a model is trained on the weeks before, and forecasts the 13 weeks after. Beside it:
the model of the first visit, never refreshed, and the seasonal-naive forecast (as a year ago).
Nothing that a forecast sees is newer than its visit.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from edgepack.convert.export import export
from edgepack.convert.feed import official_session, run_official
from edgepack.recipe import load_recipe
from edgepack.tables import read_table
from edgepack.train.fit import fit

COLUMNS = ("naive", "frozen", "refreshed")
VISITS = pd.date_range("2005-01-03", "2017-01-02", freq="13W-MON")


def forecast(folder: Path) -> pd.DataFrame:
    """Return one row per forecast week: truth, refreshed, frozen, naive."""
    recipe = load_recipe(folder)
    known = read_table(recipe)
    parts, frozen = [], None
    for visit, following in itertools.pairwise(VISITS):
        past = known[known["week"] < visit].reset_index(drop=True)
        ahead = known[(known["week"] >= visit) & (known["week"] < following)]
        ahead = ahead.reset_index(drop=True)
        made = export(fit(recipe, past), past, numbers="float64")
        session = official_session(made.model)
        frozen = frozen or session
        answers = {
            "refreshed": run_official(session, made.schema, ahead).scores,
            "frozen": run_official(frozen, made.schema, ahead).scores,
        }
        part = pd.DataFrame({name: np.ravel(found) for name, found in answers.items()})
        part["naive"] = ahead["lag_52"]
        part["truth"] = ahead["supplied"]
        part["year"] = ahead["week"].dt.year
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    """Print mean absolute errors, by span and in all."""
    found = forecast(Path(__file__).parent)
    found["span"] = (found["year"] // 3) * 3
    print(f"{'years':<12}{'weeks':>6}{'naive':>9}{'frozen':>9}{'refreshed':>11}")  # noqa: T201
    for span, part in [*found.groupby("span"), ("all", found)]:
        errors = [float((part[name] - part["truth"]).abs().mean()) for name in COLUMNS]
        years = "all" if span == "all" else f"{span}-{span + 2}"
        text = f"{errors[0]:>9.3f}{errors[1]:>9.3f}{errors[2]:>11.3f}"
        print(f"{years:<12}{len(part):>6}{text}")  # noqa: T201


if __name__ == "__main__":
    main()
