"""Reads a plain file of a person: CSV, NDJSON or Parquet, types as they are found."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from edgepack.errors import DataError


def read_plain(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    import pyarrow.parquet as pq
    from pyarrow import csv, json

    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".ndjson", ".jsonl", ".json"):
            return json.read_json(path)
        return csv.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", next="check the name") from None
    except (pa.ArrowException, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} cannot be read: {words}", next="give CSV, NDJSON or Parquet"
        ) from None
