"""How often does the sentinel call out where nothing changed? Asked of real rows.

    python tools/false_alarms.py [ROUNDS]

The rows of two shipped recipes are put in random order: whatever comes is then drawn from
what came before, and every alarm is a false one. Some of them make the profile, the rest pass the
model and the sentinel as on a device, 512 rows a block. The flights, all after the training, also
come day by day: in a random order of the days, so that no season changes, and as they came.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from device_runtime import health
from device_runtime.format.batch import FLAG_ABSTAINED, Answers, Batch
from device_runtime.format.binner import confidence
from device_runtime.format.schema import Schema
from device_runtime.format.sketch import Profile
from device_runtime.model.sentinel import BUCKET, MIN_ROWS, Sentinel
from device_runtime.model.session import Session, open_session
from device_runtime.policy import Policy
from device_runtime.record import replace
from edgepack.candidate.folder import list_candidates
from edgepack.candidate.reference import build_profile, rhythm
from edgepack.convert.feed import batch_of
from edgepack.workspace import Workspace

RECIPES = Path(__file__).parent.parent / "bundles"
LIMITS = (Policy("any").psi_cooling, Policy("any").psi_cold)
TAUGHT = "2013-03-01"
DAYS = 60  # that make the profile
CASES = (  # recipe, words of train, rows that make the profile, rows of one stream
    ("flight-delays", ("--until", TAUGHT), 20_000, 100_000),
    ("terrain", (), 2_000, 4_000),
)
Look = tuple[int, int, bool]


def prepared(
    ws: Workspace, name: str, words: tuple[str, ...]
) -> tuple[Schema, bytes, pd.DataFrame]:
    """Train a recipe; return its schema, its model, and rows to draw from."""
    command = [str(Path(sys.executable).parent / "edgepack"), "train", name, *words, "--json"]
    subprocess.run(command, cwd=ws.root, check=True, stdout=subprocess.DEVNULL)
    made = list_candidates(ws, name)[-1]
    (data,) = (RECIPES / name / "data").glob("*.parquet")
    frame = pd.read_parquet(data)
    if words:
        frame = frame[frame["scheduled"] >= TAUGHT].copy()
    for column in made.schema.by_role("key"):
        numbers: Any = np.arange(len(frame))
        frame[column.name] = numbers.astype(str if column.dtype == "string" else column.dtype)
    return made.schema, made.model, frame.reset_index(drop=True)


def asked(
    schema: Schema, session: Session, frame: pd.DataFrame
) -> tuple[Batch, Answers, np.ndarray[Any, Any]]:
    """Return rows, what the model says of them, and their flags."""
    batch = batch_of(schema, frame)
    answers = session.run(batch)
    flags = np.zeros(batch.n, np.uint16)
    if schema.abstain is not None:
        flags[np.asarray(confidence(schema, answers)) < schema.abstain] = FLAG_ABSTAINED
    return batch, answers, flags


def profiled(schema: Schema, session: Session, frame: pd.DataFrame, *, timed: bool) -> Profile:
    """Return the profile of reference rows; with their rhythm if they are in the order of time."""
    batch, answers, flags = asked(schema, session, frame)
    rates = {"abstained": float((flags != 0).mean())}
    profile = build_profile(schema, batch, answers, rates=rates)
    if timed:
        beat = rhythm(
            schema,
            profile,
            lambda start, stop: asked(schema, session, frame.iloc[start:stop])[:2],
            len(frame),
        )
        profile = replace(profile, rhythm=beat)
    return profile


def looks(
    schema: Schema, session: Session, profile: Profile, stream: pd.DataFrame
) -> Iterator[Look]:
    """Yield for each look (histograms compared, alarms raised, whether the device is fresh)."""
    sentinel = Sentinel(profile, schema, LIMITS)
    watched = len(profile.all())
    for start in range(0, len(stream) - BUCKET + 1, BUCKET):
        found = sentinel.add(*asked(schema, session, stream.iloc[start : start + BUCKET]))
        state = sentinel.state()
        if state["rows"] >= MIN_ROWS:
            fresh = not sentinel.levels() and not health.share_reasons(state)
            yield watched, sum(alarm.level != "ok" for alarm in found), fresh


def told(what: str, found: list[Look], streams: int) -> None:
    """Print one line of the table."""
    rows, compared = len(found) * BUCKET, sum(watched for watched, _, _ in found)
    alarms, warm = sum(raised for _, raised, _ in found), sum(not fresh for _, _, fresh in found)
    print(
        f"| {what} | {streams} | {rows:,} | {len(found):,} | {compared:,} | {alarms} "
        f"| {warm} ({warm / len(found):.1%}) |",
        flush=True,
    )


def main() -> None:
    """Print a table for docs/BENCHMARKS.md."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    os.environ.setdefault("EDGEPACK_PASSPHRASE", "measure")
    print("| rows | streams | rows seen | looks | histograms compared | alarms | looks not fresh |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "edgepack"), "init", folder, "--json"]
        subprocess.run([*command, "--from", CASES[0][0]], check=True, stdout=subprocess.DEVNULL)
        ws = Workspace.find(Path(folder))
        for name, *_ in CASES[1:]:
            shutil.copytree(RECIPES / name, ws.recipes / name)
        for name, words, of_profile, most in CASES:
            schema, model, frame = prepared(ws, name, words)
            session = open_session(model, schema)
            found: list[Look] = []
            for seed in range(rounds):
                mixed = frame.sample(frac=1, random_state=seed)
                profile = profiled(schema, session, mixed.iloc[:of_profile], timed=False)
                stream = mixed.iloc[of_profile : of_profile + most]
                found += looks(schema, session, profile, stream)
            told(f"{name}, in random order", found, rounds)
            if words:
                in_time(name, schema, session, frame, rounds)


def in_time(name: str, schema: Schema, session: Session, frame: pd.DataFrame, rounds: int) -> None:
    """The same rows day by day: in a random order of days, and as they came."""
    days = [day for _, day in frame.groupby(frame["scheduled"].dt.date)]
    for timed in (False, True):
        found: list[Look] = []
        for seed in range(rounds):
            order = np.random.default_rng(seed).permutation(len(days))
            mixed = [days[at] for at in order]
            first, rest = pd.concat(mixed[:DAYS]), pd.concat(mixed[DAYS : 3 * DAYS])
            profile = profiled(schema, session, first, timed=timed)
            found += looks(schema, session, profile, rest)
        told(f"{name}, days in random order, rhythm {'' if timed else 'not '}known", found, rounds)
    first, rest = pd.concat(days[:DAYS]), pd.concat(days[DAYS:])
    profile = profiled(schema, session, first, timed=True)
    told(f"{name}, as they came", list(looks(schema, session, profile, rest)), 1)


if __name__ == "__main__":
    main()
