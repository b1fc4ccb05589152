"""Many values at once, with numpy: cut plain CSV, parse numbers and times, tell texts apart.

Eight characters are one 64-bit word, and all words of a column are worked on together. Each
function says where it is sure; `bulk` asks `values` about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.model.rows import MAX_RECORD
from device_runtime.model.values import EXACT

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_U = np.uint64
_POWER = np.array([10.0**k for k in range(17)])
_TENS = np.array([10**k for k in range(9)])
_MONTHS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0])


def _bytes(text: bytes) -> Any:
    return _U(int.from_bytes(text, "little"))


def _masks(parts: list[bytes]) -> Any:
    return np.array([int.from_bytes(part, "little") for part in parts], "uint64")


_ONES, _HIGHS, _ZEROS, _DOTS = (_bytes(bytes([n]) * 8) for n in (1, 0x80, 0x30, 0x2E))
_OVER = _bytes(b"\x46" * 8)  # pushes everything above "9" into the high bit
_MIX = _U(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits: spreads every bit of a product
_PAIRS = _U(0x000000FF000000FF)
_MIDNIGHT, _COLONS = _bytes(b"00:00:00"), _bytes(b"\0\0:\0\0:")
_COLONS_MASK, _DASHES_MASK = _bytes(b"\0\0\xff\0\0\xff"), _bytes(b"\0\0\0\0\xff\0\0\xff")
_DASHES = _bytes(b"\0\0\0\0-\0\0-")
_KEEP = _masks([b"\xff" * n for n in range(9)])  # the first n bytes of a word
_BEFORE = _KEEP  # ... those before a point at place n
_BEHIND = _masks([bytes(n + 1) + b"\xff" * (7 - n) for n in range(8)] + [b""])
_SHIFT = np.array([56, *range(56, -1, -8)], "uint64")  # n digits move to the end of a word
_FILL = _masks([b"0" * (8 - n) for n in range(9)])


class Fields:
    """One column of a chunk of CSV: where each value begins and ends.

    Attributes:
        data: The chunk, uint8, with 16 zero bytes behind its end.
        starts: int64 per row.
        ends: int64 per row.
    """

    __slots__ = ("data", "ends", "starts")

    def __init__(self, data: npt.NDArray[np.uint8], starts: Any, ends: Any) -> None:
        self.data, self.starts, self.ends = data, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: slice) -> Fields:
        return Fields(self.data, self.starts[rows], self.ends[rows])

    @classmethod
    def of(cls, strings: Sequence[str]) -> Fields:
        """Build from strings."""
        parts = [string.encode("utf-8", "surrogatepass") for string in strings]
        ends = np.cumsum(np.fromiter(map(len, parts), "int64", len(parts)))
        starts = np.concatenate((np.zeros(1, "int64"), ends[:-1]))
        return cls(np.frombuffer(b"".join(parts) + bytes(16), "uint8"), starts, ends)

    def text(self, rows: Any = None) -> list[str]:
        """Return the strings, or those of some rows."""
        starts = self.starts if rows is None else self.starts[rows]
        ends = self.ends if rows is None else self.ends[rows]
        raw = memoryview(self.data.data)
        return [
            str(raw[a:b], "utf-8", "surrogatepass")
            for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
        ]

    def words(self, sizes: Any, skip: int = 0) -> Any:
        """Return 8 bytes of each value from byte `skip` on as uint64; bytes past its end are 0."""
        moved = np.ndarray((len(self.data) - 7,), "<u8", self.data, strides=(1,))
        places = self.starts + skip if skip else self.starts
        if skip:
            places = np.minimum(places, len(moved) - 1)
        return moved[places] & _KEEP[np.clip(sizes - skip, 0, 8)]


def split(
    data: bytes, separator: str, width: int, places: Mapping[str, int]
) -> dict[str, Fields] | None:
    """Cut a chunk of plain CSV; None if it is not plain.

    Args:
        data: Whole lines, each ended by a line feed; no quotes.
        separator: Between fields.
        width: Fields per row.
        places: Column → its place in the row.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b"\0" in data or b"\r" in data or b"\n\n" in data or data[:1] == b"\n":
        return None
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return None
    raw = np.frombuffer(data + bytes(16), "uint8")
    body = raw[: len(data)]
    lines = body == 10
    stops: Any = np.flatnonzero((body == ord(separator)) | lines)
    rows, odd = divmod(len(stops), width)
    if odd or rows != np.count_nonzero(lines):
        return None
    stops = stops.reshape(rows, width)
    if not lines[stops[:, -1]].all():
        return None
    begins = np.concatenate((np.zeros(1, "int64"), stops[:-1, -1] + 1))
    if (stops[:, -1] - begins).max() > MAX_RECORD:
        return None
    return {
        name: Fields(raw, begins if at == 0 else stops[:, at - 1] + 1, stops[:, at])
        for name, at in places.items()
    }


def numbers(fields: Fields) -> tuple[Floats, Mask]:
    """Parse plain decimal numbers of up to 16 characters, such as `-12.345`.

    The digits make a whole number below 2**53, divided by a power of ten up to 10**15: both are
    exact in a double, so the one division rounds as a correct parser does (Clinger 1990).

    Returns:
        The values, and where they are sure; an empty field is not.
    """
    sizes = fields.ends - fields.starts
    words = fields.words(sizes)
    first = words & _U(0xFF)
    minus = first == 45
    signed = minus | (first == 43)
    if signed.any():
        fields = Fields(fields.data, fields.starts + signed, fields.ends)
        sizes = sizes - signed
        words = fields.words(sizes)
    value, sure = _short(words, np.minimum(sizes, 8))
    long = np.flatnonzero(sizes > 8)
    if len(long):
        part = Fields(fields.data, fields.starts[long], fields.ends[long])
        value[long], sure[long] = _long(part, words[long], sizes[long])
    return np.where(minus, -value, value) if minus.any() else value, sure


def _short(words: Any, sizes: Any) -> tuple[Any, Mask]:
    """Parse fields of at most 8 characters."""
    digits, sure, count, point = _digits(words, sizes)
    return digits / _POWER[np.maximum(count - point, 0)], sure & (count > 0)


def _long(fields: Fields, words: Any, sizes: Any) -> tuple[Any, Mask]:
    """Parse fields of 9 to 16 characters as two words; a longer one is not sure."""
    rest = np.clip(sizes - 8, 0, 8)
    high, sure, count, point = _digits(words, np.full(len(sizes), 8))
    low, fine, more, later = _digits(fields.words(sizes, 8), rest)
    early, late = count < 8, more < rest  # which word holds a point
    scale = np.where(early, count - point + rest, np.where(late, more - later, 0))
    digits = high * _TENS[more] + low
    sure = sure & fine & ~(early & late) & (sizes <= 16) & (digits < EXACT)
    return digits / _POWER[scale], sure


def _digits(word: Any, size: Any) -> tuple[Any, Mask, Any, Any]:
    """Read up to 8 characters: digits with at most one point.

    Returns:
        The number without its point, whether it is one, how many digits it has, and how many of
        them stand before the point (8 or more: there is none).
    """
    marks = word ^ _DOTS
    marks = (marks - _ONES) & ~marks & _HIGHS  # the high bit of the first point is set
    place = np.bitwise_count((marks & (~marks + _U(1))) - _U(1)) >> 3  # bytes before it; 8: none
    place = place.astype("int64")
    count = size - (place < 8)
    # What stands behind the point moves down over it; zeros fill the front.
    joined = (word & _BEFORE[place]) | ((word & _BEHIND[place]) >> _U(8))
    value, sure = _eight((joined << _SHIFT[count]) | _FILL[count])
    return value, sure, count, np.where(place < 8, place, count)


def _eight(word: Any) -> tuple[Any, Mask]:
    """Read eight ASCII digits, the first in the lowest byte; False where one is none."""
    nibbles = word - _ZEROS
    sure = ((nibbles | (word + _OVER)) & _HIGHS) == 0
    pairs = (nibbles * _U(10)) + (nibbles >> _U(8))
    low = (pairs & _PAIRS) * _U(0x000F424000000064)
    high = ((pairs >> _U(16)) & _PAIRS) * _U(0x0000271000000001)
    return ((low + high) >> _U(32)).astype("int64"), sure


def codes(fields: Fields) -> tuple[Any, list[str]]:
    """Give each distinct text a number, in order of first appearance.

    Texts of up to 64 bytes are told apart by a hash of their words; every row is then compared
    with the first row of its hash, so that a collision only costs time.

    Returns:
        int64 codes per row, and the texts.
    """
    sizes = fields.ends - fields.starts
    words = [fields.words(sizes, at) for at in range(0, min(max(int(sizes.max()), 1), 64), 8)]
    hashed = words[0] if len(words) == 1 else sizes.astype("uint64")
    if len(words) > 1:
        for word in words:
            hashed = (hashed ^ word) * _MIX
            hashed ^= hashed >> _U(32)
    distinct = np.unique(hashed)
    found = np.searchsorted(distinct, hashed)
    first = np.empty(len(distinct), "int64")
    first[found[::-1]] = np.arange(len(found) - 1, -1, -1)  # the last to write is the first row
    alike = all((word == word[first[found]]).all() for word in words[1:])
    if sizes.max() > 64 or not alike:
        seen: dict[str, int] = {}
        slow = [seen.setdefault(text, len(seen)) for text in fields.text()]
        return np.array(slow, "int64"), list(seen)
    order = np.argsort(first)
    rank = np.empty(len(order), "int64")
    rank[order] = np.arange(len(order))
    return rank[found], fields.text(first[order])


def times(fields: Fields) -> tuple[Any, Mask]:
    """Parse times of the forms `2013-01-31 12:00:00`, with `T` for the space, and plain dates.

    Returns:
        int64 microseconds since 1970 UTC, and where they are sure.
    """
    sizes = fields.ends - fields.starts
    whole = sizes == 19
    head, tail = fields.words(sizes), fields.words(sizes, 8)  # YYYY-MM- and DD hh:mm
    clock = np.where(whole, fields.words(sizes, 11), _MIDNIGHT)  # hh:mm:ss
    date, sure = _eight(
        (head & _U(0xFFFFFFFF)) | ((head >> _U(8)) & _U(0xFFFF << 32)) | (tail << _U(48))
    )
    seconds, fine = _eight(
        (clock & _U(0xFFFF))
        | ((clock >> _U(8)) & _U(0xFFFF << 16))
        | ((clock >> _U(16)) & _U(0xFFFF << 32))
        | _U(0x3030 << 48)
    )
    gap = (tail >> _U(16)) & _U(0xFF)
    sure &= fine & (head & _DASHES_MASK == _DASHES) & (clock & _COLONS_MASK == _COLONS)
    sure &= np.where(whole, (gap == 32) | (gap == 84), sizes == 10)
    year, date = np.divmod(date, 10_000)
    month, day = np.divmod(date, 100)
    hour, seconds = np.divmod(seconds // 100, 10_000)
    minute, second = np.divmod(seconds, 100)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month = np.clip(month, 0, 13)
    length = _MONTHS[month] + (leap & (month == 2))
    sure &= (year >= 1) & (day >= 1) & (day <= length) & (hour < 24) & (minute < 60) & (second < 60)
    # Days since 1970 by counting years from March (Hinnant, chrono-compatible algorithms).
    y = year - (month <= 2)
    days = (
        365 * y + y // 4 - y // 100 + y // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    )
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000, sure
