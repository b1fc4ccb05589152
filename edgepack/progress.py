"""How far a long piece of work is: the work says it, and does not know whether anybody looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Progress:
    """Counts the units of work that are done. This one shows them to nobody.

    Attributes:
        done: Units of the present part that are done.
    """

    def __init__(self) -> None:
        self.done = 0

    def begin(self, what: str, total: int, unit: str = "bytes") -> None:
        """Begin a part of the work; the part before it is over.

        Args:
            what: What is being done.
            total: Units in all; 0 where nobody can know.
            unit: What is counted.
        """
        del what, total, unit
        self.reach(0)

    def reach(self, done: int) -> None:
        """Say how many units of this part are done."""
        self.done = done

    def add(self, units: int) -> None:
        """Say that so many more are done."""
        self.reach(self.done + units)

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Hand the pieces on, and count their bytes as they are taken."""
        for piece in pieces:
            yield piece
            self.add(len(piece))


UNSEEN = Progress()
