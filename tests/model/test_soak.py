"""Sizes of another order: ten million rows, a line of a gigabyte, for `make soak`."""

import ast
import io
import resource
import subprocess
import sys

import pytest

from device_runtime.format.schema import Column, ModelOutput, Schema
from device_runtime.model import check
from device_runtime.stream import open_input

PLAN = Schema(
    "regression",
    (Column("id", "key", "int64"), Column("v", "input", "float64", missing=True)),
    (),
    ModelOutput(("y",), "y"),
)

CHILD = """
import sys
from device_runtime.format.schema import *
from device_runtime.model import check
from device_runtime.stream import open_input
plan = Schema("regression", (Column("id", "key", "int64"),
    Column("v", "input", "float64", missing=True)), (), ModelOutput(("y",), "y"))
checker, n, bad = check.Checker(plan), 0, []
for block in open_input(sys.stdin.buffer, plan, name=".csv"):
    found = checker.check(block)
    n += block.n
    bad += [(block.first_row + item.position, item.issues[0]) for item in found.invalid]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(n, bad, int(peak.split()[1]) // 1024)
"""


def feed(parts) -> tuple[int, list, int]:
    """Stream parts into a child that reads and checks them; returns (rows, issues, peak MB)."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        for part in parts:
            child.stdin.write(part)
        child.stdin.close()
        said = child.stdout.read().decode()
    assert child.returncode == 0
    n, rest = said.split(" ", 1)
    bad, peak = rest.rsplit(" ", 1)
    return int(n), ast.literal_eval(bad), int(peak)


@pytest.mark.soak
@pytest.mark.heavy
def test_ten_million_rows_in_constant_memory():
    block = b"".join(b"%d,%d.25\n" % (i, i % 1000) for i in range(100_000))
    n, bad, peak = feed([b"id,v\n", *[block] * 100])
    assert (n, bad) == (10_000_000, [])
    assert peak < 250


@pytest.mark.soak
def test_a_line_of_a_gigabyte_is_one_fault():
    huge = [b"1,2\n", b'3,"'] + [b"x" * (1 << 20)] * 1024 + [b'"\n', b"5,6\n"]
    n, bad, peak = feed([b"id,v\n", *huge])
    assert n == 3
    assert bad == [(1, "is longer than 1048576 bytes")]
    assert peak < 250


@pytest.mark.soak
def test_a_gigabyte_without_any_line_end_is_refused():
    with pytest.raises(Exception, match="header is longer"):
        open_input(Endless(), PLAN, name=".csv")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


class Endless(io.RawIOBase):
    """A gigabyte of x."""

    left = 1 << 30

    def read(self, size: int = -1, /) -> bytes:
        step = min(self.left, 1 << 20)
        self.left -= step
        return b"x" * step


@pytest.mark.soak
def test_odd_rows_far_apart_do_not_stop_ten_million_others():
    block = b"".join(b"%d,%d\n" % (i, i) for i in range(50_000))
    odd = b'x,1\n"open,2\n\xff,3\n'
    n, bad, _ = feed([b"id,v\n", *([block, odd] * 20)])
    assert n == 20 * 50_003
    assert len(bad) == 60
    assert check.SMALL == 32
