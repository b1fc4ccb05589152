"""Golden segments of version 1: sealed, salvaged, open, and a container of columns.

Written once with keys drawn for it; a new version of a format gets new files beside the old ones,
which are read for ever. The recipient's secret stands in `expected-1.json`: these are test keys.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import numpy as np

from device_runtime.crypt import Identity, generate_recipient
from device_runtime.format.batch import Text
from device_runtime.format.columns import encode_columns
from device_runtime.format.segment import RAW, Epoch, Hole, Lane, Parent
from device_runtime.journal.reader import (
    EventRecord,
    HoleRecord,
    LabelRecord,
    RowBlock,
    open_segment,
)
from device_runtime.journal.writer import Journal
from support import journalworld as jw

VERSION = 1
SEGMENTS = ("sealed-bulk-1.seg", "sealed-priority-1.seg", "salvage-bulk-1.seg")
FILES = (*SEGMENTS, "open-bulk-1.open", "columns-1.cols", "expected-1.json")


def write(folder: Path) -> None:
    """Write one journal's segments and what they must decode to."""
    folder.mkdir(parents=True, exist_ok=True)
    identity, (secret, recipient) = Identity.generate(), generate_recipient()
    epoch = Epoch(
        "0123456789abcdef", Parent("fedcba9876543210", {Lane.BULK: (4, "ab" * 32)}, "disk")
    )
    world = jw.World(policy=jw.policy(recipients=(recipient.raw.hex(),)), epoch=epoch)

    def reopen() -> Journal:
        journal = Journal.open(
            world.folder,
            disk=world.disk,
            clock=world.clock,
            identity=identity,
            policy=world.policy,
            epoch=epoch,
        )
        journal.use("flights", jw.SCHEMA, 3, "cd" * 32)
        return journal

    journal = reopen()
    journal.append_rows(jw.rows(0, 300, numpy=True)._replace(mark=(b"golden-1", 0)), Lane.BULK)
    world.clock.advance(1.5)
    for number in range(300, 330):
        journal.append_rows(jw.rows(number), Lane.BULK)
    journal.append_rows(jw.invalid(330, '{"b": "ä"}'), Lane.BULK)
    _, prefix = journal.append_rows(jw.rows(331, 2)._replace(rows=array("q", [9, 4])), Lane.BULK)
    journal.append_label(f"{prefix}331", True, by="record", source="op", observed_wall_ns=7)
    journal.append_event("install", {"version": 3, "text": "ü"})
    journal.append_sketch(b"\0sketch", 0, 332)
    journal._declare([Hole("evicted", epoch.id, Lane.BULK, 9, "aa" * 8, "bb" * 32, 5, 6, 2)])
    journal.seal("sync")
    for number in range(333, 340):
        journal.append_rows(jw.rows(number), Lane.BULK)
    (open_file,) = [name for name in world.disk.list(world.folder) if name.endswith(".open")]
    (folder / FILES[3]).write_bytes(world.disk.read(world.folder / open_file))
    world.disk.kill()
    journal = reopen()
    found = {(info.lane, info.number): journal.read(info) for info in journal.sealed()}
    blobs = [found[Lane.BULK, 1], found[Lane.PRIORITY, 1], found[Lane.BULK, 2]]
    for name, data in zip(SEGMENTS, blobs, strict=True):
        (folder / name).write_bytes(data)
    (folder / FILES[4]).write_bytes(columns())
    expected = {
        "device": [identity.public.ed25519.hex(), identity.public.mldsa65.hex()],
        "secret": [recipient.id, secret.hex()],
        "segments": {
            name: content(data, recipient.id, secret, identity)
            for name, data in zip(SEGMENTS, blobs, strict=True)
        },
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (folder / FILES[5]).write_text(text + "\n", encoding="utf-8")


def columns() -> bytes:
    """One column of each kind and codec."""
    n = 600
    step = np.arange(n)
    tenth = (step % 90 / np.float32(10)).astype(np.float32)
    tenth[::50] = np.nan
    odd = np.full(n, 0x7FC00123, np.uint32).view(np.float32).copy()
    odd[::2] = step[::2]
    hour = step // 7 % 12
    return encode_columns(
        n,
        [
            ("constant", "int16", (), np.full(n, -3, np.int16)),
            ("steps", "int64", (), step * 1000 - 5),
            ("bits", "bool", (), (step % 3 == 0).astype(np.uint8)),
            ("decimal", "float32", (), tenth),
            ("payload", "float32", (), odd),
            ("wide", "float64", (), np.sin(step)),
            ("pair", "float32", (2,), np.stack([1 - tenth, tenth], 1)),
            ("tensor", "uint8", (2, 2), (step[:, None] + np.arange(4)).astype(np.uint8)),
            ("text", "string", (), Text.of([f"t{h}" if h else None for h in hour])),
            ("u", "uint32", (), (hour * 77777).astype(np.uint32)),
            ("v", "float64", (), np.cos(hour)),
        ],
    )


def content(data: bytes, recipient: str, secret: bytes, identity: Identity) -> dict:
    """What a segment holds, as JSON that loses nothing: numbers by their bytes."""
    reader = open_segment(data, secrets={recipient: secret}, device=identity.public)
    return decoded(reader)


def decoded(reader) -> dict:
    records = []
    for record in reader.records():
        if isinstance(record, RowBlock):
            columns = {
                name: data.strings()
                if isinstance(data, Text)
                else [data.dtype.str, list(data.shape), data.tobytes().hex()]
                for name, data in record.columns.items()
            }
            records.append(["rows", record.sequence0, record.n, columns])
        elif isinstance(record, LabelRecord):
            records.append(["label", record.sequence, record.ref, record.by, record.value])
        elif isinstance(record, EventRecord):
            records.append(["event", record.sequence, record.kind, dict(record.data)])
        elif isinstance(record, HoleRecord):
            records.append(["holes", record.sequence, [hole.to_json() for hole in record.holes]])
        else:
            records.append(["sketch", record.sequence, record.sketch.hex()])
    header = reader.header
    return {
        "hash": reader.hash,
        "kind": header.kind,
        "number": header.number,
        "range": [header.first, header.last, header.records, header.rows],
        "previous": header.previous,
        "marks": [[m.stream, m.row, m.first, m.count] for m in header.marks],
        "reason": header.reason,
        "raw": RAW,
        "records": records,
    }
