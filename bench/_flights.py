"""Real flights, as the journal of a device gets them, and a journal for them."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from device_runtime.clock import SystemClock
from device_runtime.crypt import Identity, generate_recipient
from device_runtime.disk import RealDisk
from device_runtime.format.batch import Answers, Batch, Form, SingleRow, Text, one_text
from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.format.segment import Epoch, Rows
from device_runtime.journal.writer import Journal
from device_runtime.policy import Policy

FLIGHTS = Path(__file__).parent.parent / "bundles" / "flight-delays" / "data" / "flights.parquet"
OUTPUTS = ("late", "arr_delay")
ROWS = 131_072
_DTYPES = {"float": "float32", "timestamp[us]": "timestamp", "large_string": "string"}


class Flights:
    """Real rows with a real model's scores, in the form in which a device has them."""

    def __init__(self, rows: int = ROWS) -> None:
        table = pq.read_table(FLIGHTS).slice(0, rows)
        truth = table["late"].to_numpy(zero_copy_only=False)
        self.table = table.drop_columns(list(OUTPUTS))
        self.n = rows
        self.columns: dict[str, Any] = {}
        specs = []
        for field in self.table.schema:
            dtype = _DTYPES.get(str(field.type), str(field.type))
            values = self.table[field.name].combine_chunks()
            if dtype == "string":
                coded = values.dictionary_encode()
                codes = coded.indices.to_numpy().astype(np.uint32)
                self.columns[field.name] = Text(codes, tuple(coded.dictionary.to_pylist()))
            else:
                raw = values.to_numpy(zero_copy_only=False)
                raw = (
                    raw.astype("datetime64[us]").astype(np.int64) if raw.dtype.kind == "M" else raw
                )
                self.columns[field.name] = np.ascontiguousarray(raw)
            role: Any = "time" if dtype == "timestamp" else "input"
            specs.append(Column(field.name, role, dtype, missing=True))
        self.schema = Schema("binary", tuple(specs), (), ModelOutput(("on time", "late"), "p"))
        self.scores = self._scores(truth)
        self.labels = (self.scores[:, 1] >= 0.5).astype(np.int16)
        kinds = {"float32": "f", "int64": "q", "int16": "h", "int8": "b"}
        codes = [
            "" if isinstance(data, Text) else kinds[data.dtype.name]
            for data in self.columns.values()
        ]
        texts = [name for name, data in self.columns.items() if isinstance(data, Text)]
        self.form = Form(list(self.columns), codes, texts)

    def features(self) -> Any:
        parts = [
            data.codes.astype(np.float32) if isinstance(data, Text) else data.astype(np.float32)
            for name, data in self.columns.items()
            if name != "scheduled"
        ]
        return np.stack(parts, axis=1)

    def _scores(self, truth: Any) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=0)
        features = self.features()
        model.fit(features[: self.n // 2], truth[: self.n // 2])
        second = model.predict_proba(features)[:, 1].astype(np.float32)
        return np.stack([np.float32(1) - second, second], axis=1)

    def rows(self, start: int, n: int, latency_us: int = 900) -> Rows:
        """Rows as numpy slices, as the reader of a large request gives them."""
        part = slice(start, start + n)
        columns = {
            name: Text(data.codes[part], data.values) if isinstance(data, Text) else data[part]
            for name, data in self.columns.items()
        }
        answers = Answers(n, self.labels[part], self.scores[part], 2)
        flags = np.zeros(n, np.uint16)
        return Rows(Batch(n, columns, start), answers, flags, None, latency_us)

    def small(self, start: int) -> Rows:
        """One row as the check of a small request gives it: numbers and texts as ready bytes."""
        form = self.form
        numbers = tuple(self.columns[name][start].item() for name in form.numbers)
        texts = {
            name: Text.of([data.values[data.codes[start]]])
            for name, data in self.columns.items()
            if isinstance(data, Text)
        }
        words = b"".join(map(one_text, texts.values()))
        row = SingleRow(form, numbers, form.struct.pack(*numbers), texts, words)
        scores = array("f", self.scores[start].tobytes())
        answers = Answers(1, array("h", [int(self.labels[start])]), scores, 2)
        return Rows(Batch(1, row, start), answers, array("H", [0]), None, 30)


SECRET, RECIPIENT = generate_recipient()
_, RECOVERY = generate_recipient()
IDENTITY = Identity.generate()


def new_journal(folder: Path, flights: Flights, **changes: Any) -> Journal:
    """A journal with two recipients, as a kit makes it."""
    settings: dict[str, Any] = {"recipients": (RECIPIENT.raw.hex(), RECOVERY.raw.hex())}
    journal = Journal.open(
        folder,
        disk=RealDisk(),
        clock=SystemClock(),
        identity=IDENTITY,
        policy=Policy("bench", **(settings | changes)),
        epoch=Epoch("ab" * 8),
    )
    journal.use("flight-delays", flights.schema, 1, "cd" * 32)
    return journal
