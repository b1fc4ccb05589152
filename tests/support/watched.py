"""Progress that a test looks at."""

from __future__ import annotations

from edgepack.progress import Progress


class Watched(Progress):
    """Keeps every part of the work: what was said of it, and how far it came."""

    def __init__(self) -> None:
        self.parts: list[list] = []
        super().__init__()

    def begin(self, what: str, total: int, unit: str = "bytes") -> None:
        self.parts.append([what, unit, total, 0])
        super().begin(what, total, unit)

    def reach(self, done: int) -> None:
        assert done >= self.done or done == 0, "it never goes back"
        super().reach(done)
        self.parts[-1][3] = done

    def whole(self) -> dict[str, str]:
        """Return what -> unit of the parts, each of which came to its end and not beyond."""
        for what, unit, total, done in self.parts:
            assert done == total, (what, unit, total, done)
        return {what: unit for what, unit, total, _ in self.parts if total}
