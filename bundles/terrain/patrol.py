"""Plays the patrol: what it sees, what the ground cover really is, and how good the answers were.

python patrol.py rows  --out patrol.csv                   # what the device will meet
python patrol.py truth --queue queue.csv --out truth.csv  # somebody walks there and looks
python patrol.py rows  --area test --out test.csv
python patrol.py score --area test --answers a.csv        # accuracy of a device's answers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import recipe

ROUTE = 2871  # a way from block to block that meets every ground cover early, and late once more


def walked(name: str) -> pd.DataFrame:
    """Return the windows of an area in the order in which they are met: block by block."""
    frame = recipe.area(name)
    block = (frame["y"] // recipe.BLOCK * 9 + frame["x"] // recipe.BLOCK).to_numpy()
    place = np.random.default_rng(ROUTE).permutation(int(block.max()) + 1)
    return frame.iloc[np.argsort(place[block], kind="stable")].reset_index(drop=True)


def main() -> None:
    """Write one CSV, or print one line."""
    parser = argparse.ArgumentParser(description="the patrol of the terrain recipe")
    parser.add_argument("what", choices=["rows", "truth", "score"])
    parser.add_argument("--area", choices=recipe.AREAS, default="patrol")
    parser.add_argument("--queue", type=Path, help="what to label, by edgepack label queue")
    parser.add_argument("--answers", type=Path, help="what the device answered")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    frame = walked(asked.area)
    if asked.what == "rows":
        frame.drop(columns=["x", "y", "terrain"]).to_csv(asked.out, index=False)
    elif asked.what == "truth":
        truth = frame[["spot", "terrain"]]
        if asked.queue:
            truth = truth[truth["spot"].isin(pd.read_csv(asked.queue)["spot"])]
        truth.to_csv(asked.out, index=False)
    else:
        answers = pd.read_csv(asked.answers).merge(frame[["spot", "terrain"]], on="spot")
        right = answers["terrain_x"] == answers["terrain_y"]
        print(f"accuracy {right.mean():.3f} on {len(answers)} rows")  # noqa: T201


if __name__ == "__main__":
    main()
