"""Plays nature for the demo: the flights that a device will meet, and the truth a day later.

    python field.py rows  --since 2013-03-01 --until 2013-05-01 --out flights.csv
    python field.py truth --since 2013-03-01 --until 2013-05-01 --answers a.csv --out truth.csv
    python field.py truth --since 2013-05-01 --until 2013-07-01 --by-key --out truth.csv

`truth` writes `record,late` (record ids from the device's answers, which stand in the order of the
flights), or with `--by-key` `row,late`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

DATA = Path(__file__).parent / "data" / "flights.parquet"
HIDDEN = ["arr_delay", "late"]


def flights(since: str, until: str) -> pd.DataFrame:
    """Return the flights of a time span with the column `row`: their place in the whole year."""
    frame = pd.read_parquet(DATA)
    frame["row"] = range(len(frame))
    return frame[(frame["scheduled"] >= since) & (frame["scheduled"] < until)]


def main() -> None:
    """Write one CSV."""
    parser = argparse.ArgumentParser(description="flights for the demo")
    parser.add_argument("what", choices=["rows", "truth"])
    parser.add_argument("--since", required=True)
    parser.add_argument("--until", required=True)
    parser.add_argument("--answers", type=Path, help="the answers to exactly these flights")
    parser.add_argument("--by-key", action="store_true", help="label by the column `row`")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    frame = flights(asked.since, asked.until)
    if asked.what == "rows":
        frame.drop(columns=HIDDEN).to_csv(asked.out, index=False)
        return
    truth = frame[["late"]].astype(int)
    if asked.by_key:
        truth.insert(0, "row", frame["row"])
    else:
        answers = pd.read_csv(asked.answers, usecols=["record"])
        if len(answers) != len(truth):
            parser.error(f"{asked.answers} has {len(answers)} answers for {len(truth)} flights")
        truth.insert(0, "record", answers["record"].to_numpy())
    truth.to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
