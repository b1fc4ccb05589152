"""Put the windows of the Landsat image back into their places: adds columns `x` and `y`.

    python place.py terrain.parquet data/terrain.parquet

Each row is a 3 x 3 window of one image, and the rows were shuffled. Neighbours share six of nine
pixels, so the image can be put together like a puzzle: the two right columns of a window are the
two left columns of its right neighbour. Windows that fit nowhere for sure are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque

import numpy as np
import pandas as pd

Array = np.ndarray
STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def windows(frame: pd.DataFrame) -> Array:
    """Return the pixels [n, row, column, band]."""
    names = [f"p{pixel}_band{band}" for pixel in range(1, 10) for band in range(1, 5)]
    return frame[names].to_numpy(np.uint8).reshape(-1, 3, 3, 4)


def edges(pixels: Array) -> dict[tuple[int, int], tuple[list[bytes], dict[bytes, list[int]]]]:
    """Return, per step, what each window shows on that side and who shows it on the other."""
    sides = {
        (1, 0): (pixels[:, :, 1:], pixels[:, :, :2]),
        (-1, 0): (pixels[:, :, :2], pixels[:, :, 1:]),
        (0, 1): (pixels[:, 1:], pixels[:, :2]),
        (0, -1): (pixels[:, :2], pixels[:, 1:]),
    }
    found = {}
    for step, (mine, theirs) in sides.items():
        shown = [item.tobytes() for item in mine]
        who = defaultdict(list)
        for row, item in enumerate(theirs):
            who[item.tobytes()].append(row)
        found[step] = (shown, dict(who))
    return found


def place(pixels: Array) -> dict[int, tuple[int, int]]:
    """Return row → (x, y), growing from the first window over steps with one possible answer."""
    sides = edges(pixels)
    best: dict[int, tuple[int, int]] = {}
    waiting = set(range(len(pixels)))
    while waiting:
        start = min(waiting)
        placed = {start: (0, 0)}
        taken = {(0, 0): start}
        queue = deque([start])
        while queue:
            row = queue.popleft()
            x, y = placed[row]
            for step in STEPS:
                shown, who = sides[step]
                spot = (x + step[0], y + step[1])
                fits = [item for item in who.get(shown[row], ()) if item not in placed]
                if spot not in taken and len(fits) == 1:
                    placed[fits[0]] = spot
                    taken[spot] = fits[0]
                    queue.append(fits[0])
        waiting -= set(placed)
        if len(placed) > len(best):
            best = placed
    return best


def main() -> None:
    """Read, place, write."""
    frame = pd.read_parquet(sys.argv[1])
    placed = place(windows(frame))
    low = np.array(list(placed.values())).min(axis=0)
    rows = sorted(placed)
    made = frame.iloc[rows].reset_index(drop=True)
    made.insert(0, "x", np.array([placed[row][0] - low[0] for row in rows], np.int16))
    made.insert(1, "y", np.array([placed[row][1] - low[1] for row in rows], np.int16))
    made = made.sort_values(["y", "x"], kind="stable").reset_index(drop=True)
    made.to_parquet(sys.argv[2], compression="zstd", index=False)
    width, height = made["x"].max() + 1, made["y"].max() + 1
    print(f"{len(made)} of {len(frame)} windows in an image of {width} x {height}")  # noqa: T201


if __name__ == "__main__":
    main()
