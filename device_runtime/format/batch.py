"""Rows in memory, column by column: what moves from the reader of input to the journal.

A numeric column is anything that gives its raw little-endian bytes through the buffer protocol
(`array.array` for a few rows, a numpy array for many): C-contiguous, n x count values of the
schema's dtype. A text column is `Text`: a vocabulary and one code per row. Both forms give the
same bytes, so the path of a small request needs no numpy.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any

from device_runtime.record import dataclass

Numbers = tuple[Any, ...]
MISSING_CODE = 0xFFFFFFFF
SMALL = 32  # rows; up to this many take the path without numpy
_ONE_TEXT = Struct("<II").pack
_NO_TEXT = bytes(4) + b"\xff"


@dataclass(frozen=True, slots=True)
class Text:
    """One text column of n rows.

    Attributes:
        codes: uint32 per row (buffer protocol), an index into `values`, or `MISSING_CODE`.
        values: The distinct strings, in order of first appearance.
    """

    codes: Any
    values: tuple[str, ...]

    @classmethod
    def of(cls, strings: Iterable[str | None]) -> Text:
        """Build from one string (or None) per row."""
        seen: dict[str, int] = {}
        codes = array("I")
        for string in strings:
            codes.append(MISSING_CODE if string is None else seen.setdefault(string, len(seen)))
        return cls(codes, tuple(seen))

    def strings(self) -> list[str | None]:
        """Return one string (or None) per row."""
        values = self.values
        return [None if code == MISSING_CODE else values[code] for code in self.codes]


def utf8(value: str) -> bytes:
    """Return UTF-8; what is no text (half a surrogate pair) becomes `?`."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="replace")


def one_text(text: Text) -> bytes:
    """Return a text column of one row as a frame has it; see `rowframe`."""
    code = text.codes[0]
    if code == MISSING_CODE:
        return _NO_TEXT
    raw = utf8(text.values[code])
    return _ONE_TEXT(1, len(raw)) + raw + b"\0"


class Form:
    """The numbers of one row of a schema, side by side, and its texts.

    Args:
        names: All columns, in order.
        codes: Type codes of `array` by column; "" for one that is no single number.
        texts: Those of them that are texts.
    """

    def __init__(self, names: Sequence[str], codes: Sequence[str], texts: Sequence[str]) -> None:
        self.names = tuple(names)
        self.texts = tuple(texts)
        pairs = [(name, code) for name, code in zip(names, codes, strict=True) if code]
        self.numbers = tuple(name for name, _ in pairs)
        self.codes = "".join(code for _, code in pairs)
        self.struct = Struct("<" + self.codes)
        self.places = {name: place for place, name in enumerate(self.numbers)}
        self._picks: dict[tuple[str, ...], Callable[[Any], tuple[Any, ...]]] = {}
        self._packs: dict[tuple[str, ...], Callable[..., bytes] | None] = {self.numbers: None}

    def pick(self, names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
        """Return what takes these columns out of a row's values; KeyError for what is no number."""
        found = self._picks.get(names)
        if found is None:
            places = [self.places[name] for name in names]
            whole = places == list(range(len(self.numbers)))
            found = tuple if whole else itemgetter(*places) if len(places) > 1 else None
            if found is None:
                found = lambda values: tuple([values[place] for place in places])  # noqa: E731
            self._picks[names] = found
        return found

    def pack(self, names: tuple[str, ...]) -> Callable[..., bytes] | None:
        """Return what packs these columns' values; None where that is the row's own piece."""
        if names not in self._packs:
            codes = "".join(self.codes[self.places[name]] for name in names)
            self._packs[names] = Struct("<" + codes).pack
        return self._packs[names]


class SingleRow(Mapping[str, Any]):
    """The columns of one row: ready bytes, and each by name where somebody asks.

    Attributes:
        form: Which numbers and texts, in which order.
        numbers: The numbers, as they are stored.
        packed: Their bytes, little-endian.
        rest: The other columns; a text is as `Text.of` makes it: missing, it has no strings.
        words: `one_text` of the texts, one behind the other.
    """

    __slots__ = ("_made", "form", "numbers", "packed", "rest", "words")

    def __init__(
        self,
        form: Form,
        numbers: tuple[Any, ...],
        packed: bytes,
        rest: dict[str, Any],
        words: bytes,
    ) -> None:
        self.form, self.numbers, self.packed = form, numbers, packed
        self.rest, self.words = rest, words
        self._made = dict(rest)

    def pick(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        """Return the numbers of some columns; KeyError where one has no single number."""
        return self.form.pick(names)(self.numbers)

    def pack(self, names: tuple[str, ...]) -> bytes:
        """Return the bytes of the numbers of some columns, one behind the other; see `pick`."""
        pack = self.form.pack(names)
        return self.packed if pack is None else pack(*self.form.pick(names)(self.numbers))

    def spell(self, names: tuple[str, ...]) -> bytes:
        """Return `one_text` of some texts, one behind the other; KeyError where one is none."""
        if names == self.form.texts:
            return self.words
        return b"".join([one_text(self.rest[name]) for name in names])

    def __getitem__(self, name: str) -> Any:
        found = self._made.get(name)
        if found is None:
            place = self.form.places[name]
            found = self._made[name] = array(self.form.codes[place], (self.numbers[place],))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.form.names)

    def __len__(self) -> int:
        return len(self.form.names)

    def __contains__(self, name: object) -> bool:
        return name in self.form.places or name in self.rest


ColumnData = Any
"""`Text` for dtype `string`, else an object with the buffer protocol."""


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows.

    Attributes:
        n: Number of rows.
        columns: Column name → `ColumnData`, n rows each.
        first_row: 0-based number of the first row in the user's input: journaled, so that a
            killed `predict` can be resumed without a row twice.
    """

    n: int
    columns: Mapping[str, ColumnData]
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model said about n rows.

    Attributes:
        n: Number of rows.
        label: int16 per row (buffer): index into the output's names, -1 where there is none.
        scores: n x k values of `scores_dtype` (buffer); None if the model gives labels only.
        k: Scores per row.
    """

    n: int
    label: Any
    scores: Any
    k: int


FLAG_UNLIKE = 1  # unlike the training data (score above the bundle's limit)
FLAG_ABSTAINED = 2  # less confident than the recipe's limit
FLAG_INVALID = 4  # does not fit the schema; never shown to the model
FLAG_UNSEEN = 8  # at least one category that training never saw
FLAG_NAMES = ((FLAG_UNLIKE, "unlike"), (FLAG_ABSTAINED, "abstained"), (FLAG_INVALID, "invalid"))


def flag_text(flags: int) -> str:
    """Return `ok`, or the names of the flags joined by `+`."""
    return "+".join(name for bit, name in FLAG_NAMES if flags & bit) or "ok"
