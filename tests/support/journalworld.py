"""A small journal for tests: real crypto, any disk, rows that know what they are."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path

from device_runtime.crypt import Identity, RecipientKey, _recipient_public
from device_runtime.format.batch import Answers, Batch, Form, SingleRow, Text, one_text
from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from device_runtime.format.segment import RAW, Epoch, Lane, Rows
from device_runtime.journal.hot import short_way
from device_runtime.journal.reader import (
    EventRecord,
    HoleRecord,
    LabelRecord,
    RowBlock,
    open_segment,
)
from device_runtime.journal.writer import Journal
from device_runtime.policy import Policy
from edgepack.sim.clock import FixedClock
from edgepack.sim.disk import SimDisk

FOLDER = Path("/home/journal")


@cache
def keys():
    """One device and two recipients, the same in every process."""
    pairs = [(bytes([n]) * 96, RecipientKey(_recipient_public(bytes([n]) * 96))) for n in (1, 2)]
    return Identity.from_bytes(b"\7" * 64), *pairs


SCHEMA = Schema(
    task="binary",
    columns=(
        Column("id", "key", "int64"),
        Column("when", "time", "timestamp", missing=True),
        Column("a", "input", "float32", missing=True),
        Column("b", "input", "int16"),
        Column("c", "input", "string", missing=True),
        Column("secret", "input", "string", journal="hash"),
        Column("gone", "input", "float64", journal="drop"),
        Column("t", "input", "uint8", shape=(2, 2)),
        Column("truth", "target", "bool"),
    ),
    inputs=(ModelInput("x", "float32", ("a", "b")),),
    output=ModelOutput(("no", "yes"), "p", "l"),
)


def rows(start, n=1, *, first_row=None, numpy=False):
    """Rows whose every value follows from their number."""
    numbers = range(start, start + n)
    columns = {
        "id": array("q", numbers),
        "when": array("q", [1_700_000_000_000_000 + 60_000_000 * i for i in numbers]),
        "a": array("f", [float("nan") if i % 7 == 0 else i / 4 for i in numbers]),
        "b": array("h", [i % 1000 for i in numbers]),
        "c": Text.of([None if i % 5 == 0 else f"c{i % 3}" for i in numbers]),
        "secret": Text.of([f"s{i % 4}" for i in numbers]),
        "gone": array("d", [0.0] * n),
        "t": array("B", [(i + j) % 256 for i in numbers for j in range(4)]),
    }
    labels = array("h", [i % 2 for i in numbers])
    scores = array("f", [x for i in numbers for x in (1 - (i % 8) / 8, (i % 8) / 8)])
    flags = array("H", [0] * n)
    unlike = array("f", [0.5] * n)
    if numpy:
        import numpy as np

        columns = {
            name: Text(np.array(data.codes, np.uint32), data.values)
            if isinstance(data, Text)
            else np.frombuffer(data, data.typecode)
            for name, data in columns.items()
        }
        labels, scores = np.array(labels), np.array(scores)
        flags, unlike = np.array(flags), np.array(unlike)
    batch = Batch(n, columns, start if first_row is None else first_row)
    return Rows(batch, Answers(n, labels, scores, 2), flags, unlike, 7)


PLAIN = replace(SCHEMA, columns=SCHEMA.columns[:5])


@cache
def plain_form():
    """The form of `PLAIN`: one for all rows, as a checker has it."""
    columns = rows(0).batch.columns
    names = [column.name for column in PLAIN.columns]
    codes = ["" if isinstance(columns[n], Text) else columns[n].typecode for n in names]
    return Form(names, codes, [name for name in names if isinstance(columns[name], Text)])


def single(start):
    """One row of `PLAIN` as the checker of a small request hands it on."""
    given, form = rows(start), plain_form()
    columns = given.batch.columns
    texts = {name: columns[name] for name in form.texts}
    numbers = tuple(columns[name][0] for name in form.numbers)
    words = b"".join(map(one_text, texts.values()))
    row = SingleRow(form, numbers, form.struct.pack(*numbers), texts, words)
    return given._replace(batch=Batch(1, row, start))


SIZES = [1, 3, 300]  # rows: one, a block in a small frame, one in a frame that is made in place


def block(index, n):
    """The index-th of blocks of n rows."""
    return single(index) if n == 1 else rows(index * n, n)


def plain(world):
    """A journal whose rows may take the short way: no column is hashed."""
    journal = world.open()
    journal.use("flights", PLAIN, 4, "ee" * 32)
    return journal


def renew_short_way(journal, lane):
    """Make the short way into an open segment anew: a test has changed the segment under it."""
    late, long = partial(journal._late, lane), partial(journal._append_rows, lane)
    journal._hot[lane] = short_way(
        journal._active[lane], journal._encoder, journal._clock, late, long
    )


def invalid(start, text="{bad}"):
    """An invalid row: only its key is known."""
    batch = Batch(1, {"id": array("q", [start]), RAW: Text.of([text])}, start)
    return Rows(batch, None, array("H", [4]))


def policy(**changes):
    _, first, second = keys()
    base = Policy(
        "test",
        recipients=(first[1].raw.hex(), second[1].raw.hex()),
        durability="os",
        quota_bytes=1 << 30,
        reserve_bytes=0,
    )
    return replace(base, **changes)


def secrets():
    _, first, _ = keys()
    return {first[1].id: first[0]}


def read_back(data):
    """Decode one segment fully; return (header, {sequence: what it is})."""
    identity, _, _ = keys()
    reader = open_segment(data, secrets=secrets(), device=identity.public)
    found = {}
    for record in reader.records():
        if isinstance(record, RowBlock):
            given = record.columns["id"]
            for index, sequence in enumerate(record.columns["_sequence"].tolist()):
                assert sequence not in found
                found[sequence] = ("row", int(given[index]))
        else:
            assert record.sequence not in found
            if isinstance(record, HoleRecord):
                found[record.sequence] = ("hole", record.holes)
            elif isinstance(record, EventRecord):
                found[record.sequence] = ("event", record.data.get("n"))
            elif isinstance(record, LabelRecord):
                found[record.sequence] = ("label", record.value)
            else:
                found[record.sequence] = ("sketch", record.sketch)
    return reader.header, found


@lru_cache(maxsize=256)
def _read_once(data):
    """Read a segment back; the same bytes say the same."""
    return read_back(data)


@dataclass
class World:
    """A journal on a simulated disk that can be opened again and again."""

    disk: object = field(default_factory=SimDisk)
    folder: Path = FOLDER
    policy: Policy = field(default_factory=policy)
    clock: FixedClock = field(default_factory=FixedClock)
    epoch: Epoch = field(default_factory=lambda: Epoch("ab" * 8))
    journal: Journal | None = None
    schema: Schema = SCHEMA

    def __post_init__(self) -> None:
        if isinstance(self.disk, SimDisk) and not self.disk.exists(self.folder.parent):
            self.disk.mkdir(self.folder.parent)
            self.disk.flush()

    def open(self) -> Journal:
        identity, _, _ = keys()
        self.journal = Journal.open(
            self.folder,
            disk=self.disk,
            clock=self.clock,
            identity=identity,
            policy=self.policy,
            epoch=self.epoch,
        )
        self.journal.use("flights", self.schema, 3, "cd" * 32)
        return self.journal

    def segments(self):
        """(info, header, {sequence: what}) of everything sealed on the disk, verified."""
        result = []
        for info in self.journal.sealed():
            data = self.journal.read(info)
            assert data is not None, info
            header, found = _read_once(data)
            assert len(data) == info.bytes
            assert len(found) == header.records == info.header.records
            assert (header.first, header.last) == (info.first, info.last)
            result.append((info, header, found))
        return result

    def everything(self):
        """{(epoch, lane, uid, sequence): what} of everything sealed."""
        return {
            (info.epoch, Lane(info.lane), info.uid, sequence): what
            for info, _, found in self.segments()
            for sequence, what in found.items()
        }
