"""`--no-skips`, by which CI runs: a promise that cannot be tested counts as broken."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = "pytester"
CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.fixture
def medium():
    pytest.skip("no medium here")

@pytest.mark.{marker}
@pytest.mark.skipif(True, reason="not here")
def test_marked(): ...

def test_from_a_fixture(medium): ...

def test_inside():
    pytest.skip("no tool here")

@pytest.mark.xfail
def test_known(): assert False

def test_done(): ...
"""


@pytest.mark.parametrize("marker", ["system", "elsewhere"])
def test_a_skip_fails_where_none_is_allowed(pytester: pytest.Pytester, marker: str) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(TESTS.format(marker=marker))
    pytester.makeini("[pytest]\nmarkers =\n  soak\n  heavy\n  system\n  elsewhere\n")
    quiet = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    quiet.assert_outcomes(passed=1, skipped=3, xfailed=1)
    strict = pytester.runpytest_subprocess("--no-skips", "-p", "no:cacheprovider")
    left = int(marker == "elsewhere")
    strict.assert_outcomes(passed=1, skipped=left, xfailed=1, errors=2 - left, failed=1)
    strict.stdout.fnmatch_lines(["*not tested here, which --no-skips forbids*no tool here*"])
