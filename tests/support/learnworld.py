"""A base with a small recipe, and devices that journal with the real journal."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from device_runtime.crypt import Identity
from device_runtime.disk import RealDisk
from device_runtime.format.batch import FLAG_INVALID, Answers, Batch
from device_runtime.format.segment import RAW, Epoch, Lane, Rows
from device_runtime.journal.writer import Journal
from device_runtime.policy import Policy
from edgepack.candidate import score_onnx
from edgepack.candidate.training import train_recipe
from edgepack.convert.feed import batch_of
from edgepack.courier.parse import parse
from edgepack.courier.registrar import Registrar
from edgepack.courier.tally import Tally
from edgepack.keys import ceremony, sign
from edgepack.learn.reference import Reference, references
from edgepack.packing.build import build
from edgepack.recipe import load_recipe
from edgepack.records import DeviceRow
from edgepack.registry import Registry
from edgepack.sim.clock import FixedClock
from edgepack.store.archive import Archive
from edgepack.store.table import bring_up_to_date
from edgepack.store.view import View
from edgepack.workspace import Workspace

START = pd.Timestamp("2024-01-01")
TOML = """\
name = "pump"
task = "{task}"
class = "field"
data = "pump.parquet"

[columns]
target = "worn"
time = "taken"
key = "serial"
inputs = ["temp", "load", "site", "still"]

[labels]
delay = "1d"

[retrain]
window = "10d"
min_labels = 100
due = {{ days = 60, labels = 500, psi = 0.25 }}
{more}
"""
CODE = """\
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder


def model(seed):
    text = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(
        make_column_transformer((text, ["site"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=25, early_stopping=False, random_state=seed),
    )
"""


def nature(
    days: float, n: int, seed: int, *, first: float = 0.0, new: bool = False
) -> pd.DataFrame:
    """n pumps measured evenly over `days` from day `first`; what wears them turns with time."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.uniform(first, first + days, n))
    temp = rng.normal(60 + 0.15 * day, 8, n).astype(np.float32)
    load = rng.uniform(0, 1, n).astype(np.float32)
    site = rng.choice(["north", "south", "east"], n)
    turn = np.clip(day / 60, 0, 1)
    wear = (1 - turn) * (temp - 60) / 8 + turn * 5 * (load - 0.5) + 0.8 * (site == "east")
    worn = rng.uniform(size=n) < 1 / (1 + np.exp(-2 * wear))
    temp[rng.uniform(size=n) < 0.03] = np.nan
    frame = pd.DataFrame(
        {
            "serial": np.arange(n, dtype=np.int64) + seed * 1_000_000,
            "taken": START + pd.to_timedelta((day * 86_400e6).astype("int64"), unit="us"),
            "temp": temp,
            "load": load,
            "site": site.astype(object),
            "still": np.float32(1.5),
            "worn": worn,
        }
    )
    if new:
        frame["worn"] = np.where(load > 0.85, "broken", np.where(worn, "worn", "fine"))
    frame["taken"] = frame["taken"].astype("datetime64[us]")
    return frame


@dataclass
class Field:
    """One device: its own keys, a real journal, rows scored by the bundle's ONNX."""

    world: World
    name: str
    identity: Identity = field(default_factory=Identity.generate)
    journal: Any = None

    def open(self) -> Journal:
        if self.journal is None:
            policy = Policy("field", recipients=self.world.recipients, segment_seconds=10**9)
            self.journal = Journal.open(
                self.world.folder / self.name / "journal",
                disk=RealDisk(),
                clock=self.world.clock,
                identity=self.identity,
                policy=policy,
                epoch=Epoch(f"{len(self.name):016x}"),
            )
        return self.journal

    def predict(
        self,
        frame: pd.DataFrame,
        ref: Reference | None = None,
        *,
        block: int = 4096,
        doubtful: Any = None,
    ) -> list[str]:
        """Journal rows as the device would (the doubtful ones first); return their record ids."""
        ref = ref or self.world.refs()[0]
        journal = self.open()
        journal.use(ref.row.name, ref.schema, ref.row.version, ref.row.digest)
        label, scores = score_onnx(ref.model, ref.schema, frame)
        kind = np.dtype(ref.schema.output.scores_dtype)
        ids: list[str] = []
        for start in range(0, len(frame), block):
            part = frame.iloc[start : start + block]
            urgent = np.zeros(len(part), bool) if doubtful is None else doubtful[start:][:block]
            named = [""] * len(part)
            for lane, places in (
                (Lane.PRIORITY, np.flatnonzero(urgent)),
                (Lane.BULK, np.flatnonzero(~urgent)),
            ):
                if not len(places):
                    continue
                n, at = len(places), start + places
                flat = np.ascontiguousarray(scores[at], kind).reshape(-1)
                said = np.ascontiguousarray(label[at], np.int16)
                rows = Rows(
                    batch_of(ref.schema, part.iloc[places], start),
                    Answers(n, said, flat, scores.shape[1]),
                    np.zeros(n, np.uint16),
                    rows=at.astype(np.int64),
                )
                self.world.clock.monotonic += 1000
                first, prefix = journal.append_rows(rows, lane)
                for i, place in enumerate(places.tolist()):
                    named[place] = f"{prefix}{first + i}"
            ids += named
        return ids

    def invalid(self, raw: str) -> None:
        """Journal one row that did not fit."""
        from device_runtime.format.batch import Text

        ref = self.world.refs()[0]
        journal = self.open()
        journal.use(ref.row.name, ref.schema, ref.row.version, ref.row.digest)
        batch = Batch(1, {RAW: Text.of([raw])}, 7)
        journal.append_rows(Rows(batch, None, np.array([FLAG_INVALID], np.uint16)), Lane.PRIORITY)

    def label(self, refs: list[Any], values: list[Any], by: str = "record") -> None:
        journal = self.open()
        for ref, value in zip(refs, values, strict=True):
            journal.append_label(
                str(ref), value, by=by, source="inspector",
                observed_wall_ns=self.world.clock.wall_ns(),
            )  # fmt: skip

    @property
    def row(self) -> DeviceRow:
        public = self.identity.public
        return DeviceRow(
            public.id, self.name, "field", "pump", "kit", "accepted", public.ed25519,
            public.mldsa65, "words", 0, 0,
        )  # fmt: skip

    def come_home(self) -> None:
        """Seal, carry, import: registry and archive have it; the view follows by `catch_up`."""
        self.open().seal("sync")
        registry, ring = self.world.registry, self.world.ring
        if registry.find_device(self.name) is None:
            registry.put_device(self.row)
        device = registry.device(self.name)
        secrets, clock = ring.journal_secrets(), self.world.clock
        found = []
        for info in self.open().sealed():
            if registry.segment(info.hash) is None:
                data = info.path.read_bytes()
                found.append((parse(data, secrets, device.public), data))
        Registrar(self.world.ws, registry, secrets, clock, Tally()).keep(device, found)


class World:
    """A workspace with one recipe."""

    def __init__(
        self,
        folder: Path,
        *,
        task: str = "binary",
        more: str = "",
        frame: Any = None,
        toml: str = TOML,
        code: str = CODE,
    ) -> None:
        self.folder = folder
        self.clock = FixedClock()
        self.ws = Workspace.create(folder / "ws")
        self.ring = ceremony.found(self.ws, "secret", self.clock)
        recipe = self.ws.recipes / "pump"
        recipe.mkdir()
        (recipe / "bundle.toml").write_text(textwrap.dedent(toml.format(task=task, more=more)))
        (recipe / "recipe.py").write_text(code)
        rows = nature(30, 3000, 1) if frame is None else frame
        rows.to_parquet(recipe / "pump.parquet")
        self.registry = Registry.open(self.ws.registry)
        self.recipients = tuple(key.raw.hex() for key in self.ring.public().recipients)
        self.devices: dict[str, Field] = {}

    def copy(self, folder: Path) -> World:
        """Another world that starts where this one stands; the same keys, other devices."""
        shutil.copytree(self.ws.root, folder / "ws")
        twin = object.__new__(World)
        twin.folder, twin.clock, twin.ring = folder, FixedClock(), self.ring
        twin.ws = Workspace.find(folder / "ws")
        twin.registry = Registry.open(twin.ws.registry)
        twin.recipients, twin.devices = self.recipients, {}
        return twin

    def train(self) -> Any:
        candidate, _ = train_recipe(self.ws, "pump")
        return self.ship(candidate)

    def ship(self, candidate: Any) -> Any:
        unsigned = build(self.ws, candidate)
        path = getattr(unsigned, "path", unsigned)
        return sign.sign_file(self.ws, self.ring, path, clock=self.clock)

    def recipe(self) -> Any:
        return load_recipe(self.ws.recipe_folder("pump"))

    def refs(self) -> list[Reference]:
        return references(self.ws, self.registry, "pump")

    def device(self, name: str = "press-1") -> Field:
        return self.devices.setdefault(name, Field(self, name))

    @property
    def archive(self) -> Archive:
        return Archive(self.ws.archive, self.ws.disk)

    @property
    def view(self) -> View:
        return View(self.ws, self.registry, "pump")

    def catch_up(self) -> Any:
        return bring_up_to_date(self.ws, self.registry, self.archive, self.ring)
