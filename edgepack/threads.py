"""How many threads numeric libraries take, and how they wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 8_000_000  # values (rows times columns) from which on threads inside one tree or product pay


def calm() -> None:
    """Let OpenMP threads sleep while they wait; must be called before the library is loaded.

    By default they spin. On a machine where something else runs as well, that made one training
    nine times slower (167 s against 18 s) without computing anything.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def fitting(values: int) -> Iterator[None]:
    """Give a fit over so many values the threads that it can use.

    Below `MANY`, threads that share one tree or one product mostly wait for each other: boosting
    over 50,000 x 18 values took 1.1 s on one thread and 4.1 s on two. Whole trees of a forest and
    folds are worth a thread at any size, unless the estimator says `n_jobs` itself. Trees come out
    the same on any number of threads.
    """
    from joblib import parallel_config  # noqa: TID251 (for its threads, not its pickles)
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1 if values < MANY else None),
        parallel_config(backend="threading", n_jobs=len(os.sched_getaffinity(0))),
    ):
        yield
