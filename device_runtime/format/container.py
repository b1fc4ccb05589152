"""The container of bundles and kits: a strict subset of POSIX ustar.

`tar tf` lists it and `tar xf` extracts it, but there is exactly one way to write given entries:

- `metadata/NAME` entries first, then `payload/NAME`, each group sorted by name;
- an entry of 64 KiB and more has its content at a multiple of 4096. Where that takes padding, one
  entry `.pad/N` of zeros, of exactly the needed size, stands before it;
- a header is the 512 bytes that `header` writes, what fills up a block of 512 is zero, and after
  two zero blocks the file ends.

So a reader compares instead of interpreting. It reads headers only, in bounded memory, and can be
shown anything: what was not written by these rules raises `FormatError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from device_runtime.errors import FormatError, NotCanonicalError, TooLargeError, TruncatedError
from device_runtime.record import dataclass

BLOCK = 512
PAGE = 4096
ALIGN_FROM = 64 << 10
END = 2 * BLOCK
MAX_BYTES = 4_294_967_295  # FAT32 holds no larger file
MAX_ENTRIES = 4096
MAX_METADATA = 8 << 20
MAX_NAME = 91  # with its folder at most 100, the name field of a ustar header

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_FOLDERS = ("metadata", "payload")
_PAD = ".pad/"
_ZEROS = bytes(PAGE)

# Everything in a header behind the checksum: type 0, no link, ustar 00, no names, no device.
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(155 + 12)
_TAIL_SUM = sum(_TAIL) + 8 * 0x20  # the checksum itself counts as blanks
_OWNER = b"0000644\0" + b"0000000\0" * 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in a container.

    Attributes:
        name: `metadata/NAME` or `payload/NAME`.
        offset: Where its content begins in the container, bytes.
        size: Length of its content, bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Index:
    """What a container holds.

    Attributes:
        entries: By name, in the order of the file; `.pad/N` left out.
        size: Length of the container, bytes.
    """

    entries: Mapping[str, Entry]
    size: int

    def names(self, folder: str) -> tuple[str, ...]:
        """Return the names below `metadata` or `payload`, without the folder, in order."""
        start = folder + "/"
        return tuple(name[len(start) :] for name in self.entries if name.startswith(start))


def header(name: str, size: int) -> bytes:
    """Return the one header block that an entry may have: mode 0644, no owner, time 0."""
    head = name.encode("ascii").ljust(100, b"\0") + _OWNER
    head += b"%011o\x0000000000000\0" % size
    return head + b"%06o\0 " % (sum(head) + _TAIL_SUM) + _TAIL


def layout(entries: Sequence[tuple[str, int]]) -> tuple[tuple[Entry, ...], int]:
    """Place entries in their canonical order.

    Args:
        entries: (name, size) in any order.

    Returns:
        All entries in the order of the file, `.pad/N` included, and the length of the container.

    Raises:
        FormatError: A name is not allowed or stands twice.
        TooLargeError: Too many entries, too much metadata, or over 4,294,967,295 bytes.
    """
    placed: list[Entry] = []
    seen: set[str] = set()
    position = pads = metadata = 0
    for name, size in sorted(entries):
        _check_name(name, seen)
        if name.startswith("metadata/"):
            metadata += size
        pad = _pad(position, size)
        if pad is not None:
            pads += 1
            placed.append(Entry(f"{_PAD}{pads}", position + BLOCK, pad))
            position += BLOCK + pad
        placed.append(Entry(name, position + BLOCK, size))
        position += BLOCK + _round(size)
    if len(placed) > MAX_ENTRIES or metadata > MAX_METADATA:
        raise TooLargeError(f"a container holds {MAX_ENTRIES} entries and 8 MiB of metadata")
    if position + END > MAX_BYTES:
        raise TooLargeError(
            f"the container would have {position + END:,} bytes; a FAT32 stick holds {MAX_BYTES:,}"
        )
    return tuple(placed), position + END


def write(
    out: Callable[[bytes], object], entries: Sequence[tuple[str, int, Iterable[bytes]]]
) -> int:
    """Write a container, streaming.

    Args:
        out: Takes the bytes in order, such as `file.write`.
        entries: (name, size, chunks) in any order; they are written in canonical order.

    Returns:
        The length of the container, bytes.

    Raises:
        FormatError: As `layout`; or chunks do not add up to the size that was given.
        TooLargeError: As `layout`.
    """
    chunks = {name: parts for name, _, parts in entries}
    placed, total = layout([(name, size) for name, size, _ in entries])
    for entry in placed:
        out(header(entry.name, entry.size))
        written = 0
        for chunk in chunks.get(entry.name, (_ZEROS[: entry.size],)):
            out(chunk)
            written += len(chunk)
        if written != entry.size:
            raise FormatError(f"{entry.name} gave {written} bytes, not {entry.size}")
        out(_ZEROS[: _round(written) - written])
    out(_ZEROS[:END])
    return total


def index(
    read_at: Callable[[int, int], bytes],
    size: int,
    *,
    max_entries: int = MAX_ENTRIES,
    max_metadata_bytes: int = MAX_METADATA,
    max_bytes: int = MAX_BYTES,
) -> Index:
    """Read the headers of a container that anybody may have written.

    Args:
        read_at: (offset, length) → bytes, fewer at the end of the file.
        size: Length of the file, bytes.
        max_entries: Entries that are accepted, `.pad/N` included.
        max_metadata_bytes: Bytes of `metadata/` that are accepted.
        max_bytes: Largest container that is accepted.

    Raises:
        TruncatedError: The file ends inside the container.
        TooLargeError: A limit is exceeded.
        NotCanonicalError: The writer would have written it otherwise.
        FormatError: Not a container of ours.
    """
    if size > max_bytes:
        raise TooLargeError(f"the file has {size:,} bytes; at most {max_bytes:,} are accepted")
    if size < END or size % BLOCK:
        raise TruncatedError(f"the file has {size} bytes, which no container has")
    entries: dict[str, Entry] = {}
    seen: set[str] = set()
    position = fill = pads = metadata = 0
    padded: int | None = None  # size of the `.pad/N` entry that was just read
    last = ""
    while True:
        block = read_at(position - fill, fill + BLOCK)
        if len(block) < fill + BLOCK:
            raise TruncatedError("the file ends inside the container")
        if block[:fill].strip(b"\0"):
            raise NotCanonicalError(f"{last or 'an entry'} is not filled up with zeros")
        block = block[fill:]
        if not block[0]:
            break
        name, length = _parse(block)
        if position + BLOCK + _round(length) + END > size:
            raise TruncatedError(f"{name} is longer than what is left of the file")
        if name.startswith(_PAD):
            pads += 1
            if padded is not None or name != f"{_PAD}{pads}" or length >= PAGE:
                raise NotCanonicalError(f"{name} stands where no padding belongs")
            if read_at(position + BLOCK, length).strip(b"\0"):
                raise NotCanonicalError(f"{name} is not zero")
            padded = length
        else:
            if name <= last:
                raise NotCanonicalError(f"{name} is out of order")
            _check_name(name, seen)
            before = position if padded is None else position - BLOCK - padded
            if _pad(before, length) != padded:
                raise NotCanonicalError(f"{name} is not where it belongs")
            metadata += length if name.startswith("metadata/") else 0
            entries[name] = Entry(name, position + BLOCK, length)
            padded, last = None, name
        if len(entries) + pads > max_entries or metadata > max_metadata_bytes:
            raise TooLargeError(
                f"more than {max_entries} entries or {max_metadata_bytes} bytes of metadata"
            )
        position += BLOCK + _round(length)
        fill = _round(length) - length
    if padded is not None or position + END != size or read_at(position, END).strip(b"\0"):
        raise NotCanonicalError("something stands behind the end of the container")
    return Index(entries, size)


def _parse(block: bytes) -> tuple[str, int]:
    """Return name and size of a header that is exactly what `header` writes for them."""
    try:
        name = block[: block.index(b"\0")].decode("ascii")
        size = int(block[124:135], 8)
    except ValueError:
        raise FormatError("this is not an edgepack container") from None
    if len(name) > 100 or size < 0 or header(name, size) != block:
        raise NotCanonicalError(f"the header of {name[:100]!r} is not canonical")
    return name, size


def _check_name(name: str, seen: set[str]) -> None:
    folder, _, rest = name.partition("/")
    if folder not in _FOLDERS or not NAME.fullmatch(rest) or len(rest) > MAX_NAME:
        raise FormatError(f"{name[:100]!r} is not a name that an entry may have")
    folded = name.lower()  # a FAT stick and some computers know no case
    if folded in seen:
        raise FormatError(f"{name} stands twice, if case is ignored")
    seen.add(folded)


def _pad(position: int, size: int) -> int | None:
    """Return the size of the `.pad/N` that must stand before an entry, None if none may."""
    if size < ALIGN_FROM or (position + BLOCK) % PAGE == 0:
        return None
    return -(position + 2 * BLOCK) % PAGE


def _round(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
