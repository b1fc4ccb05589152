"""What all tests share: where helpers lie, how long soak tests may run, reproducible Hypothesis."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # `import support.…`
# Two threads of scikit-learn that wait for each other spin for seconds on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak-seconds",
        type=int,
        default=0,
        help="time for all soak tests together; 0 = their full counts, `heavy` ones included",
    )

    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a test that is skipped fails, but for those marked `elsewhere`: nothing is hidden",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under `--no-skips` a promise that this machine cannot test counts as broken."""
    report = yield
    allowed = item.get_closest_marker("elsewhere") or not item.config.getoption("--no-skips")
    if report.skipped and not allowed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"not tested here, which --no-skips forbids: {call.excinfo and call.excinfo.value}"
        )
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order and choice of tests.

    The whole story takes longest, so it starts first: a second worker has the rest to do meanwhile.
    Under a time bound the `heavy` soak tests (fixed, minutes long) are left to the full run.
    """
    items.sort(key=lambda item: item.path.name != "test_story.py")
    if not config.getoption("--soak-seconds"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    config.hook.pytest_deselected(items=heavy)
    items[:] = [item for item in items if item not in heavy]


@dataclass
class SoakBudget:
    """How long one soak test may loop.

    Attributes:
        seconds: Its share of the bound; None = until its full count.
    """

    seconds: float | None
    started: float

    def more(self, done: int, full: int) -> bool:
        """Whether a loop that has `done` of `full` rounds goes on."""
        if done >= full:
            return False
        return self.seconds is None or time.monotonic() - self.started < self.seconds or done == 0


@pytest.fixture
def soak_budget(request: pytest.FixtureRequest) -> SoakBudget:
    """The share of this soak test: `while budget.more(done, 10_000): …`, then print `done`."""
    total = request.config.getoption("--soak-seconds")
    tests = max(1, sum(1 for i in request.session.items if i.get_closest_marker("soak")))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return SoakBudget(workers * total / tests if total else None, time.monotonic())
