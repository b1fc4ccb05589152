"""A recipe's data: `rows(until)`, a file, a glob of files, or a Delta folder → one data frame.

Here the columns get the form in which the device will hold them, so that what is trained on and
what is predicted on are the same values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.errors import DataError
from edgepack.recipe import Recipe
from edgepack.typed import says_none, typed, words_kept

if TYPE_CHECKING:
    import pandas as pd

BATCH = 65_536


def read_table(
    recipe: Recipe, until: Any = None, since: Any = None, *, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read the recipe's rows, oldest first where it names a time.

    Args:
        recipe: What to read.
        until: Only rows before this time (anything pandas reads as a timestamp).
        since: Only rows from this time on.
        columns: Names to keep; default: every column that has a role.

    Returns:
        One row per row, a fresh index, text columns as `object` with None for missing.

    Raises:
        DataError: A file or column is missing, or no row is left.
        LeakError: A forbidden column is used as an input.
    """
    if recipe.function("rows") is not None:
        frame = _from_hook(recipe, until)
    else:
        frame = read_files(sources(recipe), recipe.categories)
    return prepare(recipe, frame, until, since, columns=columns)


def prepare(
    recipe: Recipe,
    frame: pd.DataFrame,
    until: Any = None,
    since: Any = None,
    *,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Check and cut a frame that somebody else made; see `read_table`."""
    names = list(columns) if columns is not None else wanted(recipe, list(frame.columns))
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError(
            f"the data of {recipe.name} have no column {', '.join(missing)}",
            next=f"they have: {', '.join(map(str, frame.columns))}",
        )
    frame = _cut(recipe, frame, until, since)
    if not len(frame):
        span = f" before {until}" if until is not None else ""
        then = "give real rows" if until is None else "give a later time"
        raise DataError(f"the data of {recipe.name} have no rows{span}", next=then)
    return typed(frame[names], recipe.categories)


def wanted(recipe: Recipe, there: Sequence[str]) -> list[str]:
    """Return the columns with a role, in journal order: key, time, inputs, target.

    Without `inputs` in the recipe every column without another role is an input.
    """
    others = {*recipe.target, recipe.key, recipe.time, *recipe.forbidden}
    inputs = recipe.inputs or tuple(name for name in there if name not in others)
    front = [name for name in (recipe.key, recipe.time) if name]
    return [*front, *inputs, *recipe.target]


def inputs_of(recipe: Recipe, frame: pd.DataFrame) -> list[str]:
    """Return the names of the input columns of a frame that `read_table` gave."""
    others = {*recipe.target, recipe.key, recipe.time, *recipe.forbidden}
    return [str(name) for name in recipe.inputs or frame.columns if name not in others]


def ignored(recipe: Recipe, there: Sequence[str]) -> list[str]:
    """Return the columns in no role: named once, never journaled."""
    roles = {*wanted(recipe, there), *recipe.forbidden}
    return [name for name in there if name not in roles]


def sources(recipe: Recipe) -> list[Path]:
    """Return the files (or the Delta folder) that `data` names.

    Raises:
        DataError: Nothing is there.
    """
    if recipe.data is None:
        raise DataError(
            f"recipe {recipe.name} names no data", next="add data = FILE, or rows() to recipe.py"
        )
    given = Path(recipe.data)
    base = given if given.is_absolute() else recipe.folder / given
    if base.is_dir():
        return (
            [base]
            if (base / "_delta_log").is_dir()
            else _some(base, sorted(base.rglob("*.parquet")))
        )
    if base.is_file():
        return [base]
    if any(letter in recipe.data for letter in "*?["):
        root = Path(given.anchor) if given.is_absolute() else recipe.folder
        pattern = str(given.relative_to(given.anchor)) if given.is_absolute() else recipe.data
        return _some(base, sorted(root.glob(pattern)))
    return _some(base, [])


def _some(base: Path, found: list[Path]) -> list[Path]:
    if not found:
        raise DataError(f"there are no data at {base}", next="correct `data` in bundle.toml")
    return found


def read_files(paths: Sequence[Path], words: Collection[str] = ()) -> pd.DataFrame:
    """Read Parquet, CSV, NDJSON or Delta files into one frame.

    Args:
        paths: The files.
        words: Columns that are text even if all their values look like numbers.

    Raises:
        DataError: A file cannot be read or is of another kind.
    """
    import pandas as pd

    frames = []
    for path in paths:
        try:
            frames.append(_read(path, words))
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 — every reader has its own errors
            text = " ".join(str(error).split())[:200]
            raise DataError(f"{path} cannot be read: {text}", next="give another file") from None
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read(path: Path, words: Collection[str]) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        raise DataError(f"there is no file {path}", next="correct its name")
    if path.is_dir():
        from deltalake import DeltaTable

        frame: pd.DataFrame = DeltaTable(str(path)).to_pandas()
        return frame
    if path.suffix in (".parquet", ".pq"):
        return pd.read_parquet(path)
    if path.name.endswith((".csv", ".csv.gz", ".csv.xz", ".tsv")):
        return words_kept(pd.read_csv(path, **_csv(path, words)), words)
    if path.suffix in (".jsonl", ".ndjson"):
        # Text stays text, and no column becomes a time by its name.
        plain: Any = {"dtype": False, "precise_float": True}
        return pd.DataFrame(pd.read_json(path, lines=True, **plain))
    raise DataError(
        f"{path.name} is of a kind that is not read",
        next="give .parquet, .csv, .ndjson or a Delta folder",
    )


def _csv(path: Path, words: Collection[str]) -> dict[str, Any]:
    """Return how a CSV file is read: of texts only "" is a missing one."""
    return {
        "sep": "\t" if path.name.endswith(".tsv") else ",",
        "dtype": dict.fromkeys(words, str),
        "keep_default_na": False,
        "na_values": [""],
    }


def batches(recipe: Recipe, rows: int = BATCH, until: Any = None) -> Iterator[pd.DataFrame]:
    """Yield the recipe's rows in order of the files, never more than `rows` at a time.

    Only Parquet and Delta are streamed; CSV goes through `pandas.read_csv(chunksize=…)`.

    Raises:
        DataError: As `read_table`, but an empty batch is left out.
    """
    for path in sources(recipe):
        for frame in _chunks(path, rows, recipe.categories):
            kept = _cut(recipe, frame, until, None, sort=False)
            if len(kept):
                yield prepare(recipe, kept)


def delta_dataset(path: Path) -> Any:
    """Return a Delta folder as a dataset of pyarrow, over Arrow's own file system.

    That of deltalake calls Python from Arrow's threads: now and then it killed a process that ended
    while one of them still closed a file.
    """
    from deltalake import DeltaTable
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    local = SubTreeFileSystem(str(path), LocalFileSystem())
    return DeltaTable(str(path)).to_pyarrow_dataset(filesystem=local)


def _chunks(path: Path, rows: int, words: Collection[str]) -> Iterator[pd.DataFrame]:
    import pandas as pd
    import pyarrow.parquet as pq

    if path.is_dir():
        table = delta_dataset(path)
        for part in table.get_fragments():
            for group in part.split_by_row_group():
                for batch in group.to_batches(schema=table.schema, batch_size=rows):
                    yield batch.to_pandas()
    elif path.suffix in (".parquet", ".pq"):
        with pq.ParquetFile(path, memory_map=False) as file:
            for group in range(file.num_row_groups):  # one call over all of them keeps their pages
                for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
                    yield batch.to_pandas()
    else:
        for frame in pd.read_csv(path, chunksize=rows, **_csv(path, words)):
            yield words_kept(frame, words)


def size_of(recipe: Recipe) -> tuple[int, int] | None:
    """Return about how many (rows, inputs) the files hold, without reading them.

    Parquet and Delta tell; lines of text are counted by their length in the first megabyte. None
    where `rows()` of recipe.py makes the rows.
    """
    if recipe.function("rows") is not None:
        return None
    rows = 0
    names: list[str] = []
    for path in sources(recipe):
        try:
            some, names = _size(path)
        except Exception:  # noqa: BLE001 — reading it will say what is wrong
            return None
        rows += some
    others = {*recipe.target, recipe.key, recipe.time, *recipe.forbidden}
    return rows, len(recipe.inputs or [name for name in names if name not in others])


def _size(path: Path) -> tuple[int, list[str]]:
    import pyarrow.parquet as pq

    if path.is_dir():
        found = delta_dataset(path)
        return found.count_rows(), found.schema.names
    if path.suffix in (".parquet", ".pq"):
        facts = pq.read_metadata(path)
        return facts.num_rows, facts.schema.to_arrow_schema().names
    if path.suffix in (".gz", ".xz"):
        raise ValueError(path.name)
    with path.open("rb") as file:
        head = file.read(1 << 20)
    lines = max(head.count(b"\n"), 1)
    names = head.split(b"\n", 1)[0].decode(errors="replace").replace("\t", ",").split(",")
    return path.stat().st_size * lines // max(len(head), 1), names


def _from_hook(recipe: Recipe, until: Any) -> pd.DataFrame:
    import pandas as pd

    frame = recipe.call("rows", until)
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"rows() of {recipe.name} gave a {type(frame).__name__}, not a DataFrame")
    return frame


def _cut(
    recipe: Recipe, frame: pd.DataFrame, until: Any, since: Any, *, sort: bool = True
) -> pd.DataFrame:
    import pandas as pd

    if recipe.time is None or recipe.time not in frame.columns:
        if recipe.time is not None:
            raise DataError(f"the data of {recipe.name} have no column {recipe.time}")
        if until is not None or since is not None:
            raise DataError(
                f"{recipe.name} has no time to cut by", next="name one: [columns] time = …"
            )
        return frame
    times = frame[recipe.time]
    if not pd.api.types.is_datetime64_any_dtype(times):
        times = _as_time(recipe, times)
        frame = frame.assign(**{recipe.time: times})
    keep = pd.Series(data=True, index=frame.index)
    if until is not None:
        keep &= times < moment(until, times)
    if since is not None:
        keep &= times >= moment(since, times)
    frame = frame if keep.all() else frame[keep]
    if sort and not frame[recipe.time].is_monotonic_increasing:
        frame = frame.sort_values(recipe.time, kind="stable")
    return frame


def _as_time(recipe: Recipe, values: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        values = values.mask(says_none(values))
    try:
        return pd.to_datetime(values)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:160]
        raise DataError(f"column {recipe.time} is not a time: {text}") from None


def moment(text: Any, like: pd.Series[Any] | None = None) -> pd.Timestamp:
    """Read a time; with `like`, in its time zone.

    Raises:
        DataError: It is no time.
    """
    import pandas as pd

    try:
        result = pd.Timestamp(text)
    except (ValueError, TypeError):
        raise DataError(f"{text!r} is not a time", next="write it like 2013-03-01") from None
    if pd.isna(result):
        raise DataError(f"{text!r} is not a time", next="write it like 2013-03-01")
    zone = getattr(like.dt, "tz", None) if like is not None else None
    if zone is not None and result.tz is None:
        return result.tz_localize(zone)
    return result.tz_localize(None) if zone is None and result.tz is not None else result
