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
from pathlib import Path
from typing import BinaryIO

from device_runtime.answer import Predicted, csv_cells, csv_lines, header
from device_runtime.disk import Disk, machine_error, sync_fd, write_durable
from device_runtime.errors import InputError, MachineError
from device_runtime.format.batch import FLAG_ABSTAINED, FLAG_INVALID, FLAG_UNLIKE, SMALL
from device_runtime.format.schema import Schema
from device_runtime.format.segment import Lane
from device_runtime.journal.writer import Journal
from device_runtime.model.rows import RawBlock, open_input
from device_runtime.predictor import MARK_ROWS, Stream
from device_runtime.record import dataclass, replace

CHUNK_ROWS = 16_384
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
        issues: The first few problems: "row 17: temp: 'warm' is not a number".
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
        issues = [
            f"row {found.first_row + at + 1}: {issue}"
            for at, lines in found.issues.items()
            if at >= start
            for issue in lines
        ]
        return replace(
            self,
            rows=self.rows + len(flags),
            ok=self.ok + flags.count(0),
            invalid=self.invalid + sum(1 for value in flags if value & FLAG_INVALID),
            abstained=self.abstained + sum(1 for value in flags if value & FLAG_ABSTAINED),
            unlike=self.unlike + sum(1 for value in flags if value & FLAG_UNLIKE),
            issues=(self.issues + tuple(issues))[:SHOWN_ISSUES],
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


def _ahead(
    blocks: Iterator[RawBlock], prepare: Callable[[RawBlock], RawBlock], source: BinaryIO
) -> Iterator[RawBlock]:
    """Yield prepared blocks; the next one is read and prepared while one is answered.

    Of a pipe nobody knows when its next bytes come, so no thread waits for them.
    """
    file = source.seekable()

    def work() -> RawBlock | None:
        block = next(blocks, None)
        return None if block is None else prepare(block)

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


def run_pipe(
    predict: Callable[[RawBlock, Stream | None], Predicted],
    prepare: Callable[[RawBlock], RawBlock],
    journal: Journal,
    schema: Schema,
    source: BinaryIO,
    target: BinaryIO,
    *,
    name: str,
    ndjson: bool,
    progress: Callable[[int], None],
) -> StreamResult:
    """Answer a whole input to a pipe; nothing can be resumed, nothing is answered undurably."""
    output = Output(target, schema, ndjson=ndjson, fresh=True, sync=None)
    reader = open_input(source, schema, name=name, chunk_rows=CHUNK_ROWS)
    result = StreamResult(ignored=reader.ignored)
    for block in _ahead(reader.blocks, prepare, source):
        found = predict(block, None)
        journal.sync()
        output.write(found, 0)
        result = result.plus(found, 0)
        progress(result.rows)
    return result


def run_file(
    predict: Callable[[RawBlock, Stream | None], Predicted],
    prepare: Callable[[RawBlock], RawBlock],
    journal: Journal,
    schema: Schema,
    source: BinaryIO,
    out: Path,
    *,
    disk: Disk,
    bundle: str,
    name: str,
    ndjson: bool,
    resume: bool,
    progress: Callable[[int], None],
) -> StreamResult:
    """Answer a whole input into a file, or go on with one.

    Args:
        predict: Answers and journals one block.
        prepare: Checks one block, in any thread.
        journal: Made durable before anything is written.
        schema: Of the bundle that answers.
        source: The input, from its beginning.
        out: The output file.
        disk: Where the note beside the output goes.
        bundle: Digest of the bundle that answers.
        name: File name of the input, for its format; empty for stdin.
        ndjson: Write NDJSON instead of CSV.
        resume: Go on after the last complete line of `out`.
        progress: Called with the rows answered so far.

    Raises:
        InputError: `--resume` with an output of another bundle or input.
        MachineError: The output cannot be written.
    """
    note = out.with_name(out.name + SUFFIX)
    done, keep = _complete_lines(out, schema, ndjson=ndjson) if resume else (0, 0)
    known = _read_note(disk, note) if resume else None
    if resume and known is None and done == 0:
        resume = False  # killed before its first block, or never begun
    run = known[0] if known else os.urandom(16)
    same = known is not None and known[1] == bundle
    if not (known and resume):
        write_durable(disk, note, f"{run.hex()} {bundle}\n".encode())
    stream = Stream(run[:8], run[8:])
    redo = _unanswered(journal, stream, done) if same and resume else None
    skip = done
    if redo is not None:
        stream, skip = replace(stream, known=redo.known), redo.row
    if resume and not same and known is not None:
        write_durable(disk, note, f"{run.hex()} {bundle}\n".encode())
    try:
        with open(out, "r+b" if resume and out.exists() else "wb") as file:
            file.truncate(keep)
            file.seek(keep)
            output = Output(
                file, schema, ndjson=ndjson, fresh=keep == 0, sync=lambda: _sync(file.fileno())
            )
            result = StreamResult(resumed_from=done)
            reader = open_input(
                source,
                schema,
                name=name,
                chunk_rows=CHUNK_ROWS,
                skip=skip,
                first_rows=redo.rows if redo else 0,  # the block that was cut off, as it was
            )
            recovered = redo.counted if redo else 0
            result = replace(result, ignored=reader.ignored, recovered=recovered)
            for block in _ahead(reader.blocks, prepare, source):
                found = predict(block, stream)
                journal.sync()
                start = max(0, done - block.first_row)
                output.write(found, start)
                result = result.plus(found, start)
                progress(result.rows)
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
