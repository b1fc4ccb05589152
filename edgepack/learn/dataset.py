"""The rows of the next model: the recipe's own, and what came home with its truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from device_runtime.format.schema import Schema
from edgepack.errors import EvidenceError
from edgepack.fitted import CLASSED, class_text
from edgepack.learn.bootstrap import Array
from edgepack.learn.survey import Survey, order_of
from edgepack.recipe import Recipe
from edgepack.tables import inputs_of, read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled rows from both sources, in the recipe's form.

    Attributes:
        original: The recipe's own rows, up to where the first model was trained.
        returned: Rows that came home with a truth, oldest first.
        device: Device id of each returned row.
        order: What returned rows are cut by: own time in µs, or their place by arrival.
        serial: Import serial of each returned row.
        repeated: Returned rows left out because the same row is there already.
    """

    original: pd.DataFrame
    returned: pd.DataFrame
    device: Array
    order: Array
    serial: Array
    repeated: int

    def rows(self, mask: Array) -> pd.DataFrame:
        """Return the original rows and those returned rows that the mask names."""
        import pandas as pd

        return pd.concat([self.original, self.returned[mask]], ignore_index=True)


def assemble(recipe: Recipe, found: Survey, original_until: Any) -> Dataset:
    """Bring both sources together, deduplicated.

    Args:
        recipe: Says which columns there are.
        found: Labelled rows, with the input columns.
        original_until: The recipe's own rows end here: later truth comes from the field alone.

    Raises:
        EvidenceError: An input is not journaled, so returned rows cannot be trained on.
    """
    original = read_table(recipe, original_until)
    order = order_of(found.labelled, found.schema, found.arrivals)
    place = (np.asarray(found.labelled.column(n).to_numpy()) for n in ("_sequence", "_serial"))
    sort = np.lexsort((*place, order))  # whatever the order of the table's files
    table = found.labelled.take(pa.array(sort))
    returned = as_frame(recipe, found.schema, table, original)
    fresh = ~repeated(recipe, original, returned)
    return Dataset(
        original=original,
        returned=returned[fresh].reset_index(drop=True),
        device=np.array(table.column("_device").to_pylist(), dtype=object)[fresh],
        order=order[sort][fresh],
        serial=np.asarray(table.column("_serial").to_numpy())[fresh],
        repeated=int((~fresh).sum()),
    )


def as_frame(
    recipe: Recipe, schema: Schema, table: pa.Table, original: pd.DataFrame
) -> pd.DataFrame:
    """Return returned rows in the form of the recipe's own: same columns, same dtypes."""
    import pandas as pd

    names = [name for name in original.columns if name not in recipe.target]
    gone = [name for name in inputs_of(recipe, original) if not _kept(schema, table, name)]
    if gone:
        raise EvidenceError(
            f"returned rows cannot be trained on: {', '.join(gone)} is not journaled as it is",
            why="[journal] says drop or hash, or no row came home",
            next="journal it, or train on other data",
        )
    columns: dict[str, Any] = {}
    for name in names:
        if name in table.column_names:
            columns[name] = _like(table.column(name), original[name])
        else:
            columns[name] = pd.Series([None] * table.num_rows, dtype=object)
    columns |= _targets(recipe, table, original)
    return pd.DataFrame(columns)[list(original.columns)]


def _kept(schema: Schema, table: pa.Table, name: str) -> bool:
    kept = {column.name for column in schema.columns if column.journal == "keep"}
    return name in table.column_names and name in kept


def _like(column: pa.ChunkedArray, like: pd.Series[Any]) -> Any:
    """Return a stored column with the dtype of the recipe's own."""
    import pandas as pd

    dtype: Any = like.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        times = pd.Series(column.to_pandas())
        zone = getattr(like.dt, "tz", None)
        return times.dt.tz_convert(zone) if zone is not None else times.dt.tz_localize(None)
    if pa.types.is_list(column.type):
        return pd.Series(column.to_pylist(), dtype=object)
    if dtype.kind == "O":
        words = np.array(column.to_pylist(), dtype=object)
        return pd.Series(words, dtype=object)
    values = column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
    if np.issubdtype(dtype, np.floating):
        return pd.Series(np.asarray(values.to_numpy(), dtype))
    if values.null_count:
        return pd.Series(values.cast(pa.float64()).to_numpy())
    return pd.Series(np.asarray(values.to_numpy()).astype(dtype))


def _targets(recipe: Recipe, table: pa.Table, original: pd.DataFrame) -> dict[str, Any]:
    import pandas as pd

    truth = table.column("_truth").to_pylist()
    if recipe.task in CLASSED:
        name = recipe.target[0]
        known = {class_text(value): value for value in original[name].unique()}
        values = [known.get(text, text) for text in truth]
        dtype = original[name].dtype if all(text in known for text in truth) else object
        return {name: pd.Series(values, dtype=dtype)}
    if recipe.task == "labels":
        said = [set((text or "").replace("|", "+").split("+")) for text in truth]
        return {
            name: pd.Series([name in words for words in said]).astype(original[name].dtype)
            for name in recipe.target
        }
    if len(recipe.target) != 1:
        raise EvidenceError(
            f"{recipe.name} has {len(recipe.target)} targets, a label carries one value",
            next="make one bundle for each target",
        )
    return {recipe.target[0]: pd.Series(np.asarray(truth, dtype=np.float64))}


def repeated(recipe: Recipe, original: pd.DataFrame, returned: pd.DataFrame) -> Array:
    """Return which returned rows stand in the original rows, or came home twice."""
    import pandas as pd

    columns = told_apart_by(recipe, original)
    if not columns or not len(returned):
        return np.zeros(len(returned), bool)
    first, second = row_digests(original[columns]), row_digests(returned[columns])
    again = pd.Series(second).duplicated(keep="last").to_numpy()
    return np.asarray(np.isin(second, first) | again)


def told_apart_by(recipe: Recipe, frame: pd.DataFrame) -> list[str]:
    """Return the columns by which two rows are one and the same.

    Key and time where the recipe names them, else time and all inputs. Without key and time equal
    rows may well be different observations: none is left out.
    """
    columns = [name for name in (recipe.key, recipe.time) if name]
    if columns and recipe.key is None:
        columns += inputs_of(recipe, frame)
    return columns


def row_digests(frame: pd.DataFrame) -> Array:
    """Return a digest of each row, uint64; the same for equal values of other dtypes."""
    import pandas as pd

    return np.asarray(pd.util.hash_pandas_object(_plain(frame), index=False).to_numpy())


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Give both sides one form for hashing: float64, int64 microseconds, text."""
    import pandas as pd

    done: dict[str, Any] = {}
    for name in frame.columns:
        column: Any = frame[name]
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            whole = column if column.dt.tz is None else column.dt.tz_convert(None)
            done[name] = whole.astype("datetime64[us]").astype("int64")
        elif column.dtype.kind == "O":
            done[name] = column.map(str)
        else:
            done[name] = column.astype(np.float64)
    return pd.DataFrame(done)


# --- one device's share ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capped:
    """Which rows stay after the cap on one device's share.

    Attributes:
        keep: Mask over the rows.
        dropped: Device → rows left out.
    """

    keep: Array
    dropped: dict[str, int] = field(default_factory=dict)


def cap(device: Array, mask: Array, share: float, seed: int) -> Capped:
    """Let no device give more than `share` of the returned rows; a lone device gives all.

    Args:
        device: Device of each row.
        mask: Rows that are in question.
        share: Largest share; never below one over the number of devices.
        seed: Which rows are left out.
    """
    names, codes = np.unique(device[mask].astype(str), return_inverse=True)
    rows = np.bincount(codes, minlength=len(names))
    if len(names) < 2:
        return Capped(mask.copy())
    limit = _limit(rows, max(share, 1 / len(names)))
    rng = np.random.default_rng(seed)
    keep, dropped = mask.copy(), {}
    places = np.flatnonzero(mask)
    for code, name in enumerate(names):
        if rows[code] > limit:
            mine = places[codes == code]
            gone = rng.permutation(mine)[limit:]
            keep[gone] = False
            dropped[str(name)] = len(gone)
    return Capped(keep, dropped)


def _limit(rows: Array, share: float) -> int:
    """Return the most rows of one device: the largest c with c <= share * sum(min(rows, c))."""
    low, high = 0, int(rows.max())
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * np.minimum(rows, middle).sum() + 1e-9:
            low = middle
        else:
            high = middle - 1
    return max(low, 1)
