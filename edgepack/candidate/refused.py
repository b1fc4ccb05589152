"""A model that parity refused leaves no candidate, but a page on which a person sees why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from device_runtime.disk import write_durable
from edgepack.errors import ParityError
from edgepack.workspace import Workspace

PAGE = "refused.html"


@contextmanager
def explained(ws: Workspace, name: str) -> Iterator[None]:
    """Around training: write the comparison of a refused model to `candidates/NAME/refused.html`.

    The page of an earlier refusal is removed once a model was accepted.

    Args:
        ws: Where to.
        name: Bundle name.
    """
    page = ws.candidates(name) / PAGE
    try:
        yield
    except ParityError as error:
        from edgepack.convert.page import parity_page
        from edgepack.convert.verdict import Report

        if isinstance(error.report, Report):
            ws.disk.mkdir(page.parent)
            write_durable(ws.disk, page, parity_page(name, error.report).encode(), 0o644)
            error.next += f"; every difference: {page}"
        raise
    ws.disk.unlink(page)
