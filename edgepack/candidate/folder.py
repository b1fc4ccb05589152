"""A candidate: a folder with a trained and proven model, not yet packed.

From here on ONNX is the only form of the model; no estimator is ever stored.

    candidates/NAME/3/   model.onnx schema.json profile.json [unlike.bin] selftest.cols
                         metrics.json parity.json parity.html lineage.json candidate.json [accepted]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.disk import write_durable
from device_runtime.errors import FormatError
from device_runtime.format import canonical
from device_runtime.format.schema import Schema, from_json
from edgepack.errors import RecipeError
from edgepack.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ACCEPTED = "accepted"
FACTS = "candidate.json"
PAYLOAD = ("model.onnx", "schema.json", "profile.json", "selftest.cols", "lineage.json")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished candidate on disk.

    Attributes:
        folder: Where it lies.
        name: Bundle name.
        number: 1, 2, 3 … within the name.
        digest: Hex SHA-256 of lineage.json: names it in the manifest.
        accepted: Whether `build` may take it.
        schema: Of its model.
        facts: candidate.json: kind, rows, seed, opsets, operators, peak memory, tolerances, …
        metrics: metrics.json.
    """

    folder: Path
    name: str
    number: int
    digest: str
    accepted: bool
    schema: Schema
    facts: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`train`, `retrain` or `given`."""
        return str(self.facts["kind"])

    def read(self, name: str) -> bytes:
        """Return one of its files."""
        return (self.folder / name).read_bytes()

    def json(self, name: str) -> Any:
        """Return one of its JSON files."""
        return canonical.decode(self.read(name), name, limit=64 << 20)

    @property
    def model(self) -> bytes:
        """The ONNX model."""
        return self.read("model.onnx")


def load_candidate(folder: Path | str) -> Candidate:
    """Read a candidate's folder.

    Raises:
        RecipeError: It is none, or files of it are missing or damaged.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        schema = from_json(json.loads((folder / "schema.json").read_bytes()))
        metrics = json.loads((folder / "metrics.json").read_bytes())
        digest = hashlib.sha256((folder / "lineage.json").read_bytes()).hexdigest()
        missing = [name for name in PAYLOAD if not (folder / name).is_file()]
    except FileNotFoundError as error:
        raise RecipeError(f"{folder} is no candidate: {error.filename} is missing") from None
    except (ValueError, FormatError) as error:
        raise RecipeError(f"{folder} is damaged: {error}", next="train again") from None
    if missing or digest != facts.get("lineage"):
        what = f"{', '.join(missing)} is missing" if missing else "lineage.json was changed"
        raise RecipeError(f"{folder} is damaged: {what}", next="train again")
    return Candidate(
        folder=folder,
        name=facts["name"],
        number=facts["number"],
        digest=digest,
        accepted=(folder / ACCEPTED).exists(),
        schema=schema,
        facts=facts,
        metrics=metrics,
    )


def list_candidates(ws: Workspace, name: str) -> list[Candidate]:
    """Return the finished candidates of a name, oldest first."""
    folder = ws.candidates(name)
    numbers = sorted(int(item) for item in ws.disk.list(folder) if item.isdigit())
    return [load_candidate(folder / str(number)) for number in numbers]


def find_candidate(ws: Workspace, name: str, number: int | None = None) -> Candidate:
    """Return candidate `number`, or the newest accepted one.

    Raises:
        RecipeError: There is none.
    """
    if number is not None:
        folder = ws.candidates(name) / str(number)
        if not folder.is_dir():
            there = [item for item in ws.disk.list(ws.candidates(name)) if item.isdigit()]
            raise RecipeError(
                f"{name} has no candidate {number}",
                next=f"there are: {', '.join(there) or 'none'}; make one with: edgepack train",
            )
        return load_candidate(folder)
    for candidate in reversed(list_candidates(ws, name)):
        if candidate.accepted:
            return candidate
    raise RecipeError(f"{name} has no accepted candidate", next=f"run: edgepack train {name}")


def accept(ws: Workspace, name: str, number: int) -> Candidate:
    """Make a candidate the one that `build` takes (if it is the newest accepted one)."""
    candidate = find_candidate(ws, name, number)
    write_durable(ws.disk, candidate.folder / ACCEPTED, b"", 0o644)
    return load_candidate(candidate.folder)


def score_onnx(
    model: Candidate | bytes, schema: Schema, frame: pd.DataFrame
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Score rows by a model's ONNX, as the device would.

    Args:
        model: A candidate, or ONNX bytes.
        schema: Of that model.
        frame: Rows with at least the input columns, as `tables.read_table` gives them.

    Returns:
        (label int64 [n]: index into the output's names, -1 for none; scores float64 [n, k], None
        where the model gives labels only).
    """
    import numpy as np

    from edgepack.convert.feed import official_session, run_official

    data = model if isinstance(model, bytes) else model.model
    found = run_official(official_session(data), schema, frame)
    scores = None if found.scores is None else found.scores.astype(np.float64)
    return found.label.astype(np.int64), scores


def truth_of(schema: Schema, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return the truth in the form that `train.metrics.measure` takes.

    Class indexes (int16 [n], -1 for a class that the model does not know) for `binary` and
    `classes`, else the values of the target columns [n] or [n, k].
    """
    import numpy as np

    from edgepack.fitted import class_text, flat, is_tensor

    targets = [column.name for column in schema.by_role("target")]
    if schema.task in ("binary", "classes"):
        index = {name: i for i, name in enumerate(schema.output.names)}
        values = frame[targets[0]]
        known = {value: index.get(class_text(value), -1) for value in values.unique()}
        return values.map(known).to_numpy(np.int16)
    if len(targets) == 1 and is_tensor(frame[targets[0]]):
        return flat(frame[targets[0]])
    values_many = frame[targets].to_numpy()
    return np.asarray(values_many[:, 0] if len(targets) == 1 else values_many)
