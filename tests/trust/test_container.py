"""The container: one way to write it, everything else refused at once and cheaply."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.errors import FormatError, NotCanonicalError, TooLargeError, TruncatedError
from device_runtime.format import container
from device_runtime.format.container import ALIGN_FROM, BLOCK, END, MAX_BYTES, PAGE
from support import hostile
from support.trustsim import pack, unpack

BIG = bytes(range(256)) * 300  # 76,800 bytes: aligned
SAMPLE = {
    "metadata/1.root.json": b"r" * 700,
    "metadata/targets.json": b"t" * 513,
    "payload/a.json": b"",
    "payload/b.bin": b"x" * 512,
    "payload/model.onnx": BIG,
    "payload/z.bin": BIG + b"1",
}


def index(data: bytes, **limits: int) -> container.Index:
    return container.index(lambda offset, size: data[offset : offset + size], len(data), **limits)


names = st.from_regex(r"(metadata|payload)/[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
sizes = st.one_of(st.integers(0, 1500), st.sampled_from([ALIGN_FROM - 1, ALIGN_FROM, 70_001]))


@given(st.dictionaries(names, sizes, max_size=12))
def test_what_is_written_is_read_back(entries: dict[str, int]) -> None:
    if len({name.lower() for name in entries}) < len(entries):
        return
    content = {name: bytes([i % 251]) * size for i, (name, size) in enumerate(entries.items())}
    data = pack(content)
    found = index(data)
    assert {e.name: data[e.offset : e.offset + e.size] for e in found.entries.values()} == content
    assert list(found.entries) == sorted(entries)
    for entry in found.entries.values():
        assert entry.size < ALIGN_FROM or entry.offset % PAGE == 0


@given(st.permutations(list(SAMPLE.items())))
def test_the_same_entries_give_the_same_bytes(entries: list[tuple[str, bytes]]) -> None:
    assert pack(dict(entries)) == pack(SAMPLE)


def test_gnu_tar_lists_and_extracts_it(tmp_path: Path) -> None:
    file = tmp_path / "x.edgepack"
    file.write_bytes(pack(SAMPLE))
    listed = subprocess.run(
        ["tar", "tvf", file], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    )
    assert listed.stderr == ""
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert [name for name in names if not name.startswith(".pad/")] == list(SAMPLE)
    subprocess.run(["tar", "xf", file, "-C", tmp_path], check=True)
    assert {name: (tmp_path / name).read_bytes() for name in SAMPLE} == SAMPLE


def test_python_tarfile_reads_it_too() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(SAMPLE))) as tar:
        assert set(SAMPLE) < set(tar.getnames())


@given(st.binary(max_size=4096))
def test_no_bytes_raise_anything_but_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        index(data + b"x")


@given(st.data())
def test_damaged_containers_raise_format_errors_or_keep_their_index(data: st.DataObject) -> None:
    raw = bytearray(pack(SAMPLE))
    good = index(bytes(raw))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = index(bytes(raw))
    except FormatError:
        return
    assert found == good  # only content changed, which digests are for


def test_every_bit_outside_of_content_matters() -> None:
    raw = pack({name: SAMPLE[name] for name in ("metadata/1.root.json", "payload/model.onnx")})
    content = {
        position
        for entry in index(raw).entries.values()
        for position in range(entry.offset, entry.offset + entry.size)
    }
    for position in set(range(len(raw))) - content:
        bad = bytearray(raw)
        bad[position] ^= 0x20
        with pytest.raises(FormatError):
            index(bytes(bad))


@pytest.mark.parametrize("cut", [1, 511, 512, 1023, 1024, 1536, 5000])
def test_truncated_files_are_refused(cut: int) -> None:
    with pytest.raises(FormatError):
        index(pack(SAMPLE)[:-cut])


def test_something_behind_the_end_is_refused() -> None:
    with pytest.raises(NotCanonicalError):
        index(pack(SAMPLE) + bytes(512))


@pytest.mark.parametrize(
    "name",
    ["metadata/../x", "payload/..", "payload/.hidden", "payload/a/b", "etc/passwd", "/payload/a",
     "payload/", "payload/" + "x" * 92, "payload/a b", "payload/ä", "x", ".pad/1", ""],
)  # fmt: skip
def test_names_that_no_entry_may_have(name: str) -> None:
    with pytest.raises(FormatError):
        container.layout([(name, 1)])
    if name.isascii() and len(name) <= 100:
        raw = container.header(name, 0) + bytes(END)
        with pytest.raises(FormatError):
            index(raw)


def test_names_that_differ_by_case_only_are_refused() -> None:
    with pytest.raises(FormatError):
        container.layout([("payload/Model.onnx", 1), ("payload/model.onnx", 1)])


def test_padding_in_a_wrong_place_is_refused() -> None:
    small = container.header(".pad/1", 0) + container.header("payload/a", 0) + bytes(END)
    twice = container.header(".pad/1", 0) * 2 + container.header("payload/a", 0) + bytes(END)
    last = container.header("payload/a", 0) + container.header(".pad/1", 0) + bytes(END)
    for raw in (small, twice, last):
        with pytest.raises(NotCanonicalError):
            index(raw)


def test_more_than_a_fat32_stick_holds_is_refused() -> None:
    with pytest.raises(TooLargeError):
        container.layout([("payload/model.onnx", MAX_BYTES - 2048)])
    with pytest.raises(TooLargeError):
        container.index(lambda _o, _n: b"", MAX_BYTES + 1)


def test_limits_of_entries_and_metadata() -> None:
    many = {f"payload/{i:05}": b"" for i in range(20)}
    with pytest.raises(TooLargeError):
        index(pack(many), max_entries=19)
    with pytest.raises(TooLargeError):
        index(pack({"metadata/a": bytes(5000)}), max_metadata_bytes=4999)
    with pytest.raises(TooLargeError):
        container.layout([(f"payload/{i:05}", 0) for i in range(4097)])


def test_an_announced_size_must_be_kept() -> None:
    with pytest.raises(FormatError):
        container.write(lambda _data: None, [("payload/a", 5, [b"four"])])


@pytest.mark.parametrize("name", hostile.CONTAINERS)
def test_hostile_containers_cost_next_to_nothing(name: str) -> None:
    """One look at the first header is enough. What that costs in time is measured by the bench."""
    data = hostile.CONTAINERS[name]
    read: list[int] = []

    def read_at(offset: int, size: int) -> bytes:
        read.append(size)
        return data[offset : offset + size]

    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            container.index(read_at, len(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(read) <= 2
    assert sum(read) <= BLOCK + END
    assert peak < 1 << 20  # bytes


def test_a_file_that_shrinks_while_it_is_read() -> None:
    raw = pack(SAMPLE)
    with pytest.raises(TruncatedError):
        container.index(lambda offset, size: raw[:900][offset : offset + size], len(raw))


def test_unpack_is_the_inverse() -> None:
    assert unpack(pack(SAMPLE)) == SAMPLE
