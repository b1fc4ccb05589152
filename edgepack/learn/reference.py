"""What a bundle was trained on, as histograms: from the bundle itself, or from a plain file."""

from __future__ import annotations

import datetime as dt
import lzma
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from device_runtime.format import canonical, container
from device_runtime.format.schema import Schema
from device_runtime.format.schema import from_json as schema_from_json
from device_runtime.format.sketch import Histogram, Profile
from device_runtime.format.sketch import from_json as profile_from_json
from edgepack.errors import StoreError
from edgepack.registry import BundleRow, Registry
from edgepack.workspace import Workspace

BINS = 10
MAX_VALUES = 256


@dataclass(frozen=True, slots=True)
class Reference:
    """A signed bundle as the base learns from it.

    Attributes:
        row: Its line in the registry.
        path: The signed file.
        schema: Its schema.json.
        profile: Its profile.json.
    """

    row: BundleRow
    path: Path
    schema: Schema
    profile: Profile

    @property
    def model(self) -> bytes:
        """The raw ONNX."""
        return payload(self.path, "model.onnx")

    @property
    def rows_per_day(self) -> float | None:
        """How densely the rows of training stand; None where they have no time."""
        data = self.json("lineage.json").get("data", {})
        try:
            first, last = (dt.datetime.fromisoformat(data[name]) for name in ("first", "last"))
            return float(data["rows"]) / ((last.date() - first.date()).days + 1)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    def json(self, name: str) -> Any:
        """Return a JSON file of the payload, such as `lineage.json`."""
        return canonical.decode(payload(self.path, name), name)


def references(ws: Workspace, registry: Registry, name: str) -> list[Reference]:
    """Return the signed bundles of a name whose file is there, newest version first."""
    result = []
    for row in registry.bundles(name):
        path = _file(ws, row)
        if path is None:
            continue
        schema = schema_from_json(canonical.decode(payload(path, "schema.json"), "schema.json"))
        profile = profile_from_json(canonical.decode(payload(path, "profile.json"), "profile.json"))
        result.append(Reference(row, path, schema, profile))
    return result


def _file(ws: Workspace, row: BundleRow) -> Path | None:
    given = ws.root / row.path
    usual = ws.out / f"{row.name}-{row.version}.edgepack"
    return next((path for path in (given, usual) if path.is_file()), None)


@lru_cache(maxsize=64)
def payload(path: Path, name: str) -> bytes:
    """Return one payload file of a bundle in this workspace; `.xz` is expanded.

    Raises:
        StoreError: The bundle has no such file, or cannot be read.
    """
    with path.open("rb") as file:

        def read_at(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        entries = container.index(read_at, path.stat().st_size).entries
        plain, packed = entries.get(f"payload/{name}"), entries.get(f"payload/{name}.xz")
        if plain is not None:
            return read_at(plain.offset, plain.size)
        if packed is not None:
            return lzma.decompress(read_at(packed.offset, packed.size))
    raise StoreError(f"{path.name} has no {name}", next="build and sign it again")


# --- a profile of plain rows -----------------------------------------------------------------


def profile_of(table: pa.Table, columns: Sequence[str] | None = None, bins: int = BINS) -> Profile:
    """Return empty histograms that fit a plain table: its own rows are the reference.

    Numbers get bins of about equal size, text one bin per frequent value; other types are left
    out. `learn.counting.Counting` fills them.
    """
    histograms = []
    for name in table.column_names if columns is None else columns:
        values = table.column(name)
        if pa.types.is_dictionary(values.type) or pa.types.is_string(values.type):
            histograms.append(_text(name, values))
        elif pa.types.is_large_string(values.type):
            histograms.append(_text(name, values.cast(pa.string())))
        elif _numeric(values.type):
            histograms.append(_edges(name, values, bins))
    return Profile(table.num_rows, tuple(histograms), None, None, {})


def _numeric(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _text(name: str, values: pa.ChunkedArray) -> Histogram:
    found: Counter[str] = Counter()
    for item in pc.value_counts(pc.drop_null(values)).to_pylist():
        found[str(item["values"])] += item["counts"]
    kept = tuple(value for value, _ in found.most_common(MAX_VALUES))
    return Histogram(name, "text", (), kept, (0,) * (len(kept) + 3))


def _edges(name: str, values: pa.ChunkedArray, bins: int) -> Histogram:
    numbers = np.asarray(values.drop_null().cast(pa.float64()))
    numbers = numbers[np.isfinite(numbers)]
    distinct = np.unique(numbers)
    if len(distinct) <= bins:
        cuts = (distinct[1:] + distinct[:-1]) / 2
    else:
        cuts = np.unique(np.quantile(numbers, np.arange(1, bins) / bins))
        cuts = cuts[cuts > distinct[0]]
    return Histogram(name, "number", tuple(cuts.tolist()), (), (0,) * (len(cuts) + 3))
