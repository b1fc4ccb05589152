"""Work for a second thread: reading ahead, deflating columns, opening a model."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_LARGE = 4096  # rows; less is done before a second thread runs


class Later(Generic[T]):
    """Something that another thread works out from now on.

    Made of the bare thread: `threading` takes 1.6 ms of a start that wants to be short.

    Args:
        work: What it does; whatever it raises, `result` raises.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._done = allocate_lock()
        self._done.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:  # noqa: BLE001  (raised again by `result`)
            self._error = error
        finally:
            self._done.release()

    def join(self) -> None:
        """Wait until it is done."""
        with self._done:
            pass

    def result(self) -> T:
        """Wait for what came of it."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._value[0]


def every(work: Callable[[Any], T], items: Sequence[Any], weight: int) -> list[T]:
    """Return what becomes of every item; on two threads where that pays: deflating, sorting.

    Args:
        work: What is done.
        items: With what.
        weight: Rows per item.
    """
    found: list[T | None] = [None] * len(items)
    left = iter(range(len(items)))

    def take() -> None:
        for at in left:  # gives each place once, whoever asks
            found[at] = work(items[at])

    other = Later(take) if weight >= _LARGE and len(items) > 1 else None
    try:
        take()
    finally:
        if other is not None:
            other.join()
    if other is not None:
        other.result()
    return cast("list[T]", found)
