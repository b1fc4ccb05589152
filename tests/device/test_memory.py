"""However long an input is, the command that answers it takes no more memory."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

CHILD = """
import sys
from device_runtime import cli, screen
peaks = []
def count(self, rows):
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    peaks.append((rows, int(line.split()[1]) // 1024))
screen.Progress.count = count
code = cli.run(["predict", sys.argv[2], "--out", sys.argv[3], "--home", sys.argv[1], "--json"])
print(peaks)
sys.exit(code)
"""


def _peaks(lab, rows: int) -> list[tuple[int, int]]:
    """Answer so many rows with the real command; return (rows so far, peak MB)."""
    source, out = lab.folder / "rows.csv", lab.folder / "out.csv"
    part = b"".join(b"%d,,%d.25,%c\n" % (at, at % 900, b"abc"[at % 3]) for at in range(50_000))
    with source.open("wb") as file:
        file.write(b"id,at,x,c\n")
        for _ in range(rows // 50_000):
            file.write(part)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(lab.root), str(source), str(out)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks: list[tuple[int, int]] = ast.literal_eval(done.stdout.decode().splitlines()[-1])
    assert peaks[-1][0] == rows
    return peaks


def _grown(peaks: list[tuple[int, int]], before: int) -> int:
    """MB that the peak rose after so many rows."""
    return peaks[-1][1] - max(peak for rows, peak in peaks if rows <= before)


def test_memory_does_not_grow_with_the_file(make_lab):
    peaks = _peaks(make_lab(segment_bytes=1 << 20), 400_000)
    assert _grown(peaks, 150_000) < 20
    assert peaks[-1][1] < 200


@pytest.mark.soak
@pytest.mark.heavy
def test_ten_million_rows_are_answered_in_the_memory_of_one(lab):
    peaks = _peaks(lab, 10_000_000)
    assert _grown(peaks, 1_000_000) < 40
    assert peaks[-1][1] < 250
