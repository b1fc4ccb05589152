"""Rows from a file, answers to a file; killed at any point, it goes on without a row twice.

The order for each block is: journal → make the journal durable → write the answers → make the
answers durable. So at most the last block is journaled but not answered. Beside the output lies
`OUT.resume` while a run is unfinished: it names the run. The journal keeps, readable without a
key, the newest mark of a run in each lane: which block and how many rows of it were appended. On
`--resume` that block is computed again (the same model gives the same answers) and answered with
the record ids that it already has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from device_runtime.answer import Predicted, csv_cells, csv_lines, header
from device_runtime.disk import Disk, machine_error, sync_fd, write_durable
from device_runtime.errors import InputError, MachineError
from device_runtime.format.batch import FLAG_ABSTAINED, FLAG_INVALID, FLAG_UNLIKE, SMALL
from device_runtime.format.schema import Schema
from device_runtime.format.segment import Lane
from device_runtime.journal.writer import Journal
from device_runtime.model.rows import ByteStream, Cutter, RawBlock, Rest, read_some
from device_runtime.predictor import MARK_ROWS, Stream
from device_runtime.record import dataclass, replace

SUFFIX = ".resume"
SHOWN_ISSUES = 5


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What became of a run.

    Attributes:
        rows: Rows answered by this call.
        ok: Rows without a flag.
        invalid: Rows that do not fit the schema.
        abstained: Rows that the model is not sure of.
        unlike: Rows unlike the training data.
        resumed_from: Rows that were answered before this call.
        recovered: Rows that were journaled before and answered now, without a new record.
        ignored: Input columns that the bundle does not know.
        issues: All problems of the first few bad rows: "row 17: temp: 'warm' is not a number".
    """

    rows: int = 0
    ok: int = 0
    invalid: int = 0
    abstained: int = 0
    unlike: int = 0
    resumed_from: int = 0
    recovered: int = 0
    ignored: tuple[str, ...] = ()
    issues: tuple[str, ...] = ()

    def plus(self, found: Predicted, start: int) -> StreamResult:
        """Return the sum with the rows of a block from position `start` on."""
        flags = found.flags[start:]
        issues = list(self.issues)
        for at, lines in found.issues.items():
            if at >= start and len(issues) < SHOWN_ISSUES:  # of a row all that is wrong with it
                issues += (f"row {found.first_row + at + 1}: {issue}" for issue in lines)
        return replace(
            self,
            rows=self.rows + len(flags),
            ok=self.ok + flags.count(0),
            invalid=self.invalid + sum(1 for value in flags if value & FLAG_INVALID),
            abstained=self.abstained + sum(1 for value in flags if value & FLAG_ABSTAINED),
            unlike=self.unlike + sum(1 for value in flags if value & FLAG_UNLIKE),
            issues=tuple(issues),
        )


class Output:
    """Where answers go: a file that can be resumed, or a pipe.

    Args:
        raw: Opened for bytes, positioned at the end of what is kept.
        schema: Names the columns.
        ndjson: One JSON object a line instead of CSV.
        fresh: Whether the header is still to be written.
        sync: Makes the answers durable; None for pipes.
    """

    def __init__(
        self,
        raw: BinaryIO,
        schema: Schema,
        *,
        ndjson: bool,
        fresh: bool,
        sync: Callable[[], None] | None,
    ) -> None:
        self._raw = raw
        self._ndjson = ndjson
        self._sync = sync
        if fresh and not ndjson:
            self._put(_header_line(schema))

    def write(self, found: Predicted, start: int) -> None:
        """Write the answers of a block from position `start` on, and make them durable."""
        if self._ndjson:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.dicts()[start:])
            self._put("".join(lines).encode())
        else:
            self._put(found.lines(start))

    def _put(self, data: bytes) -> None:
        self._raw.write(data)
        self._raw.flush()
        if self._sync is not None:
            self._sync()


def _header_line(schema: Schema) -> bytes:
    return csv_lines([csv_cells([name]) for name in header(schema)])


@dataclass(frozen=True, slots=True)
class Run:
    """What is answered by whom.

    Attributes:
        predict: Answers and journals one block.
        prepare: Checks one block, in any thread.
        journal: Made durable before anything is written.
        schema: Of the bundle that answers.
        source: The input, from its beginning.
        name: File name of the input, for its format; empty for stdin.
        ndjson: Write NDJSON instead of CSV.
        progress: Called with the rows answered so far.
    """

    predict: Callable[[RawBlock, Stream | None], Predicted]
    prepare: Callable[[RawBlock], RawBlock]
    journal: Journal
    schema: Schema
    source: BinaryIO
    name: str
    ndjson: bool
    progress: Callable[[int], None]

    def reader(self, skip: int = 0, first_rows: int = 0) -> Reader:
        """Read the input's head; raises InputError where it does not fit."""
        return open_input(
            self.source,
            self.schema,
            name=self.name,
            chunk_rows=self.journal.block_rows,
            skip=skip,
            first_rows=first_rows,
        )

    def answer(
        self,
        reader: Reader,
        output: Output,
        result: StreamResult,
        stream: Stream | None = None,
        done: int = 0,
    ) -> StreamResult:
        """Answer all blocks; rows before number `done` are in the output already."""
        result = replace(result, ignored=reader.ignored)
        for block in self._ahead(reader.blocks):
            found = self.predict(block, stream)
            self.journal.sync()
            start = max(0, done - block.first_row)
            output.write(found, start)
            result = result.plus(found, start)
            self.progress(result.rows)
        return result

    def _ahead(self, blocks: Iterator[RawBlock]) -> Iterator[RawBlock]:
        """Yield prepared blocks; the next one is read and prepared while one is answered.

        Of a pipe nobody knows when its next bytes come, so no thread waits for them.
        """
        file = self.source.seekable()

        def work() -> RawBlock | None:
            block = next(blocks, None)
            return None if block is None else self.prepare(block)

        block = work()
        while block is not None:
            later = None
            if file and block.n > SMALL:
                from device_runtime.later import Later

                later = Later(work)
            try:
                yield block
            finally:
                if later is not None:
                    later.join()
            block = later.result() if later is not None else work()


def to_pipe(run: Run, target: BinaryIO) -> StreamResult:
    """Answer a whole input to a pipe; nothing can be resumed, nothing is answered undurably."""
    reader = run.reader()
    output = Output(target, run.schema, ndjson=run.ndjson, fresh=True, sync=None)
    return run.answer(reader, output, StreamResult())


def to_file(run: Run, out: Path, *, disk: Disk, bundle: str, resume: bool) -> StreamResult:
    """Answer a whole input into a file, or go on with one.

    Args:
        run: What is answered.
        out: The output file.
        disk: Where the note beside the output goes.
        bundle: Digest of the bundle that answers.
        resume: Go on after the last complete line of `out`.

    Raises:
        InputError: `--resume` with an output of another bundle or input.
        MachineError: The output cannot be written.
    """
    note = out.with_name(out.name + SUFFIX)
    done, keep = _complete_lines(out, run.schema, ndjson=run.ndjson) if resume else (0, 0)
    known = _read_note(disk, note) if resume else None  # None: never begun, or not by us
    same = known is not None and known[1] == bundle
    key = known[0] if known else os.urandom(16)
    stream = Stream(key[:8], key[8:])
    redo = _unanswered(run.journal, stream, done) if same else None
    result = StreamResult(resumed_from=done)
    # A block that was cut off is answered as it was; an input that does not fit spoils no output.
    reader = run.reader(redo.row if redo else done, redo.rows if redo else 0)
    if redo is not None:
        stream = replace(stream, known=redo.known)
        result = replace(result, recovered=redo.counted)
    try:
        with open(out, "ab") as file:
            if not same:
                write_durable(disk, note, f"{key.hex()} {bundle}\n".encode())
            file.truncate(keep)
            sync = partial(_sync, file.fileno())
            output = Output(file, run.schema, ndjson=run.ndjson, fresh=keep == 0, sync=sync)
            result = run.answer(reader, output, result, stream, done)
    except OSError as error:
        raise machine_error(error, f"writing {out}") from None
    disk.unlink(note)
    return result


def _sync(fd: int) -> None:
    with suppress(OSError):  # a pipe or a special file cannot be synced
        sync_fd(fd)


@dataclass(frozen=True, slots=True)
class _Redo:
    row: int
    rows: int
    counted: int
    known: dict[tuple[Lane, bytes, int], tuple[str, int, int]]


def _unanswered(journal: Journal, stream: Stream, done: int) -> _Redo | None:
    """Return the block that is journaled (in part) but not answered in full, if there is one."""
    found = [
        (mark, which) for which in (stream.good, stream.invalid) for mark in journal.marks(which)
    ]
    if not found:
        return None
    newest = max(mark.row for mark, _ in found)
    row, rows = divmod(newest, MARK_ROWS)
    if row + rows <= done:
        return None
    known: dict[tuple[Lane, bytes, int], tuple[str, int, int]] = {}
    counted = 0
    for mark, which in found:
        if mark.row == newest:
            known[mark.lane, which, newest] = (mark.prefix, mark.first_sequence, mark.count)
            counted += mark.count
    return _Redo(row, rows, counted, known)


def _complete_lines(out: Path, schema: Schema, *, ndjson: bool) -> tuple[int, int]:
    """Return (rows that are answered in `out`, bytes that they and the header take).

    Raises:
        InputError: `out` was not written for this bundle.
    """
    try:
        with open(out, "rb") as file:
            return _count_lines(file, out, schema, ndjson=ndjson)
    except FileNotFoundError:
        return 0, 0
    except OSError as error:
        raise machine_error(error, f"reading {out}") from None


def _count_lines(file: BinaryIO, out: Path, schema: Schema, *, ndjson: bool) -> tuple[int, int]:
    rows = keep = 0
    if not ndjson:
        wanted = _header_line(schema)
        start = file.read(len(wanted))
        if len(start) < len(wanted) and wanted.startswith(start):
            return 0, 0
        if start != wanted:
            raise InputError(
                f"{out} has other columns than this bundle answers: it cannot be resumed",
                next="give another --out",
            )
        keep = len(wanted)
    row = quotes = 0  # bytes and quotes of the row at hand: a quoted key may hold line ends
    for line in file:
        if not line.endswith(b"\n"):
            break
        row += len(line)
        quotes += line.count(b'"')
        if ndjson or quotes % 2 == 0:
            rows += 1
            keep += row
            row = quotes = 0
    return rows, keep


def _read_note(disk: Disk, note: Path) -> tuple[bytes, str] | None:
    try:
        run, bundle = disk.read(note, 300).decode().split()
        raw = bytes.fromhex(run)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MachineError(
            f"{note} cannot be read: {error}", next="remove it and give another --out"
        ) from None
    return (raw, bundle) if len(raw) == 16 else None


@dataclass(frozen=True, slots=True)
class Reader:
    """An input whose header was read; iterate over it once to get its blocks.

    Attributes:
        blocks: The blocks, read as they are asked for.
        ignored: Columns of the input that the schema does not know, in order.
    """

    blocks: Iterator[RawBlock]
    ignored: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[RawBlock]:
        return self.blocks


def open_input(
    stream: ByteStream,
    schema: Schema,
    *,
    name: str = "",
    chunk_rows: int = 65_536,
    skip: int = 0,
    first_rows: int = 0,
) -> Reader:
    """Read CSV, NDJSON or `.npy`: told by the suffix of `name`, or (stdin) by the first bytes.

    Args:
        stream: Opened for bytes; need not be seekable.
        schema: Names the columns; others are ignored and named once.
        name: File name, or only its suffix.
        chunk_rows: Rows per block at most.
        skip: Rows to pass over, for `--resume`: the first block begins right behind them.
        first_rows: Size of the first block at most; 0 = as the others.

    Raises:
        InputError: The input's head does not fit the schema.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in ("csv", "tsv", "ndjson", "jsonl", "npy"):
        head = read_some(stream)
        stream = Rest(head, stream)
        kind = "npy" if head[:6] == b"\x93NUMPY" else "csv"
        if head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] == b"{":
            kind = "ndjson"
    cutter = Cutter(chunk_rows, skip, first_rows)
    if kind == "npy":
        from device_runtime.model.npy import npy_blocks

        return Reader(*npy_blocks(stream, schema, cutter))
    if kind in ("ndjson", "jsonl"):
        from device_runtime.model.ndjson import ndjson_blocks

        return Reader(ndjson_blocks(stream, schema, cutter))
    from device_runtime.model.csvs import CsvSource

    source = CsvSource(stream, schema)
    return Reader(source.blocks(cutter), source.ignored)
