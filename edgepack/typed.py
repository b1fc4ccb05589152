"""A column of a data frame → the dtype in which the device holds it, or why none fits."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgepack.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MANY_CODES = 20  # more different numbers than this are no codes
NO_NUMBER = ("nan", "na", "n/a", "nat", "null", "none")  # what a device reads as no number


def words_kept(frame: pd.DataFrame, words: Collection[str] = ()) -> pd.DataFrame:
    """Return a frame as read from text, with `NA` and its like as the device takes them.

    In a column of numbers (or times, or true and false) they are missing; among words they are a
    word, such as the country code of Namibia.

    Args:
        frame: Where only the empty text is missing.
        words: Columns that are text, whatever is in them.
    """
    import pandas as pd

    for name in frame.columns:
        column = frame[name]
        if name in words or pd.api.types.infer_dtype(column, skipna=True) != "string":
            continue
        gone = says_none(column).to_numpy(bool)
        if gone.any():
            frame[name] = _without(column, gone | column.isna().to_numpy(bool))
    return frame


def says_none(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return where a column of text says in words that there is no value."""
    return column.str.strip().str.lower().isin(NO_NUMBER)


def _without(column: pd.Series[Any], gone: Any) -> pd.Series[Any]:
    """Return a column of text as what the rest of it is: numbers, truth values, or words."""
    import numpy as np
    import pandas as pd

    rest = column.to_numpy(object)[~gone]
    values = np.full(len(column), np.nan, object)
    if pd.to_numeric(pd.Series(rest, dtype=object), errors="coerce").notna().all():
        values[~gone] = [float(item) for item in rest]
        return pd.Series(values.astype(float), column.index)
    if {item.lower() for item in rest} <= {"true", "false"}:
        values[~gone] = [item.lower() == "true" for item in rest]
        return pd.Series(values, column.index)
    return column


def typed(frame: pd.DataFrame, categories: Collection[str] = ()) -> pd.DataFrame:
    """Give every column the dtype in which the device holds it."""
    import pandas as pd

    done = {}
    for name in frame.columns:
        column = frame[name]
        if name in categories:
            column = _words(column)
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            column = column.astype(object)
            dtype = column.dtype
        if pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype):
            column = _text(str(name), column)
            if name not in categories:
                _refuse_bad_numbers(str(name), column)
        elif pd.api.types.is_extension_array_dtype(dtype) and not isinstance(
            dtype, pd.DatetimeTZDtype
        ):
            column = _plain(column)
        done[name] = column
    return pd.DataFrame(done).reset_index(drop=True)


def _words(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return numbers as text, as a device is given them: 7, not 7.0."""
    import numpy as np
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column.dtype) or column.dtype == bool:
        return column
    there = column.notna().to_numpy(bool)
    values = np.full(len(column), None, object)
    known = column[there]
    whole = (known == known.round()).all()
    values[there] = [str(int(item)) if whole else str(item) for item in known]
    return pd.Series(values, column.index, dtype=object)


def _text(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    values = column.to_numpy(dtype=object)
    gone = pd.isna(values) if values.ndim == 1 else np.zeros(len(values), bool)
    there = values[~gone]
    if len(there) and all(isinstance(item, (list, tuple, np.ndarray)) for item in there[:100]):
        return _tensors(name, column)
    if len(there) and all(isinstance(item, bool) for item in there):
        if gone.any():
            raise DataError(
                f"column {name} is true or false, but missing in {int(gone.sum())} rows",
                next="fill the gaps, or make 0 and 1 of it: a number may be missing",
            )
        return pd.Series(values.astype(bool), index=column.index)
    wrong = next((item for item in there if not isinstance(item, str)), None)
    if wrong is not None:
        import datetime as dt

        if isinstance(wrong, (dt.date, dt.datetime)):
            return pd.to_datetime(column)
        raise DataError(
            f"column {name} mixes text with {type(wrong).__name__}", next="give it one dtype"
        )
    bad = sum("\0" in item for item in there)
    if bad:
        raise DataError(
            f"the text of column {name} holds a NUL byte in {bad} rows: no device takes such a row",
            next="take it out of the data, or leave these rows out",
        )
    result = values.copy()
    result[gone] = None
    return pd.Series(result, index=column.index, dtype=object)


def _tensors(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    """Make one array of each nested list: Parquet gives arrays of arrays."""
    import numpy as np
    import pandas as pd

    def dense(value: Any) -> Any:
        array = value if isinstance(value, np.ndarray) else np.asarray([*value, None], object)[:-1]
        if array.dtype != object or not isinstance(array[0], (list, np.ndarray)):
            return np.asarray(value)
        return np.stack([dense(item) for item in array])

    try:
        cells = [dense(item) for item in column]
    except (ValueError, TypeError, IndexError):
        raise DataError(
            f"the tensors of column {name} are missing, empty or differ in shape",
            next="give each row an array of the same shape",
        ) from None
    return pd.Series(cells, index=column.index, dtype=object)


def _refuse_bad_numbers(name: str, column: pd.Series[Any]) -> None:
    """Say so where a few bad values made text of a column of numbers.

    Read as it stands, each number would become a category of its own. Up to 20 different numbers
    among other text are codes.

    Raises:
        DataError: Nine of ten values are numbers, and not all.
    """
    import pandas as pd

    if column.dtype != object:
        return
    there = column.dropna()
    if not len(there) or not isinstance(there.iloc[0], str):
        return
    numbers = pd.to_numeric(there, errors="coerce").notna()
    bad = int((~numbers).sum())
    if bad == 0 or bad > len(there) / 10 or there[numbers].nunique() <= MANY_CODES:
        return
    raise DataError(
        f"column {name} holds numbers, but {bad} of {len(there)} values are none: "
        f"{there[~numbers].iloc[0][:40]!r}",
        next=f'correct the data, or say that it is text: [categories] {name} = "open"',
    )


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """Nullable pandas dtypes → numpy; an integer with gaps becomes float64."""
    import pandas as pd

    if column.isna().any():
        return pd.Series(column.to_numpy(dtype="float64", na_value=float("nan")), column.index)
    return pd.Series(column.to_numpy(), column.index)
