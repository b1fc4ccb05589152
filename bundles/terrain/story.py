"""Each ground cover once as the one that training never saw: what 100 labels bring.

    python story.py

For each of the six: train at home without it, let the patrol meet it, choose 100 of its rows to
label, train again, and measure both models on the same pixels of a third area. The labels are
chosen as `edgepack label queue` does it (with and without copying a label of a new class to its
cluster), and at random. Every model is asked through its ONNX.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
import recipe as terrain

from edgepack.convert.export import Onnx, export
from edgepack.convert.feed import official_session, run_official
from edgepack.learn.cluster import kmeans, points
from edgepack.recipe import load_recipe
from edgepack.tables import prepare
from edgepack.train.fit import fit

RECIPE = load_recipe(Path(__file__).parent)
BUDGET = 100


@dataclass(frozen=True)
class Told:
    """One class as the unseen one: accuracies on the test area, shares of abstained rows."""

    unseen: str
    before: float
    random: float
    queue: float
    copied: float
    everything: float
    abstained_known: float
    abstained_unseen: float


def trained(rows: pd.DataFrame) -> Onnx:
    """Return the ONNX of a model trained on these rows."""
    return export(fit(RECIPE, rows), rows, numbers="float32")


def accuracy(made: Onnx, rows: pd.DataFrame) -> float:
    """Return the share of right answers."""
    said = run_official(official_session(made.model), made.schema, rows).label
    names = np.array(made.schema.output.names, dtype=object)
    return float((names[said] == rows["terrain"].to_numpy(object)).mean())


def chosen(made: Onnx, patrol: pd.DataFrame, sure: np.ndarray, seed: int) -> np.ndarray:
    """Choose rows to label: half over everything, half among the least sure, some at random."""
    table = points(pa.Table.from_pandas(patrol, preserve_index=False), made.schema)
    chance = BUDGET // 10
    half = (BUDGET - chance) // 2
    picked = set(np.random.default_rng(seed).choice(len(patrol), chance, replace=False).tolist())
    doubtful = np.argsort(sure, kind="stable")[: 4 * half]
    picked |= set(doubtful[kmeans(table[doubtful], half, seed)[1]].tolist())
    picked |= set(kmeans(table, BUDGET - chance - half, seed)[1].tolist())
    return np.array(sorted(picked))


def copied(made: Onnx, patrol: pd.DataFrame, labelled: np.ndarray, seed: int) -> pd.DataFrame:
    """Return unlabelled rows in clusters whose only label is of one class new to the model."""
    table = points(pa.Table.from_pandas(patrol, preserve_index=False), made.schema)
    cluster, _ = kmeans(table, len(labelled), seed)
    given: dict[int, set[str]] = {}
    for row in labelled:
        given.setdefault(int(cluster[row]), set()).add(str(patrol["terrain"][row]))
    known = set(made.schema.output.names)
    new = {number: min(words) for number, words in given.items() if len(words) == 1}
    new = {number: word for number, word in new.items() if word not in known}
    words = np.array([new.get(int(number)) for number in cluster], dtype=object)
    words[labelled] = None
    mask = words != np.array(None)
    return patrol[mask].assign(terrain=words[mask])


def tell(unseen: str, seed: int = 0) -> Told:
    """Play one class through."""
    home = prepare(RECIPE, terrain.area("home"))
    home = home[home["terrain"] != unseen].reset_index(drop=True)
    patrol, test = (prepare(RECIPE, terrain.area(name)) for name in ("patrol", "test"))
    first = trained(home)
    scores = run_official(official_session(first.model), first.schema, patrol).scores
    assert scores is not None
    sure = scores.max(axis=1)
    foreign = (patrol["terrain"] == unseen).to_numpy()
    abstained = sure < RECIPE.confidence

    def after(*parts: pd.DataFrame) -> float:
        return accuracy(trained(pd.concat([home, *parts], ignore_index=True)), test)

    chance = np.random.default_rng(seed).choice(len(patrol), BUDGET, replace=False)
    queue = chosen(first, patrol, sure, seed)
    return Told(
        unseen,
        accuracy(first, test),
        after(patrol.iloc[chance]),
        after(patrol.iloc[queue]),
        after(patrol.iloc[queue], copied(first, patrol, queue, seed)),
        after(patrol),
        float(abstained[~foreign].mean()),
        float(abstained[foreign].mean()),
    )


def main() -> None:
    """Print one line per class, and the mean."""
    found = [tell(name) for name in sorted(terrain.area("test")["terrain"].unique())]
    heads = ("unseen class", "before", "random", "queue", "+copied", "all rows", "abstained")
    print("{:<22}{:>8}{:>8}{:>8}{:>9}{:>10}{:>18}".format(*heads))  # noqa: T201
    for one in found:
        figures = (one.before, one.random, one.queue, one.copied, one.everything)
        text = "{:>8.3f}{:>8.3f}{:>8.3f}{:>9.3f}{:>10.3f}".format(*figures)
        share = f"{one.abstained_known:.0%} / {one.abstained_unseen:.0%}"
        print(f"{one.unseen:<22}{text}{share:>18}")  # noqa: T201
    means = [float(np.mean([getattr(one, name) for one in found])) for name in FIGURES]
    print("{:<22}{:>8.3f}{:>8.3f}{:>8.3f}{:>9.3f}{:>10.3f}".format("mean", *means))  # noqa: T201


FIGURES = ("before", "random", "queue", "copied", "everything")

if __name__ == "__main__":
    main()
