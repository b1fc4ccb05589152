"""Input of every kind, from memory or through a pipe that gives a few bytes at a time."""

from __future__ import annotations

import io
from functools import partial

from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.stream import open_input

PLAN = Schema(
    "regression",
    (Column("id", "key", "string", missing=True), Column("v", "input", "float64", missing=True)),
    (),
    ModelOutput(("y",), "y"),
)


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = data, step

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        size = self.step if size < 0 else min(size, self.step)
        part, self.data = self.data[:size], self.data[size:]
        return part

    read1 = read


read_csv = partial(open_input, name=".csv")
read_ndjson = partial(open_input, name=".ndjson")
read_npy = partial(open_input, name=".npy")


def table(blocks):
    """All rows as (id, v) and all faults by row number."""
    found, faults = [], {}
    for block in blocks:
        ids, values = block.columns["id"], block.columns["v"]
        if hasattr(ids, "text"):
            ids, values = ids.text(), values.text()
        assert block.first_row == len(found)
        faults |= {block.first_row + at: why.reason for at, why in block.faults.items()}
        found += zip(ids, values, strict=True)
    return found, faults


FILL = b"".join(b"r%d,%d\n" % (i, i) for i in range(100))  # enough for the path of numpy
