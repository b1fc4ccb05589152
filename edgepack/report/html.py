"""Small pieces of HTML; everything that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from edgepack.report.figures import Figure, Table


def e(value: object) -> str:
    """Escape a value; what cannot be printed (also what turns the direction) is shown as such."""
    text = "-" if value is None else str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(text, quote=True)


def table(data: Table, *, text: Sequence[int] = (), label: str = "") -> str:
    """Return a table in a box that scrolls on narrow pages.

    Args:
        data: Columns and rows; cells are escaped unless they are `Raw`.
        text: Columns that hold words: left-aligned, wrapped.
        label: Its caption, for screen readers: what stands above says the same.
    """
    head = "".join(
        f'<th scope="col"{_text(i, text)}>{e(name)}</th>' for i, name in enumerate(data.columns)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{_text(i, text)}>{_cell(v)}</td>" for i, v in enumerate(row))
        + "</tr>"
        for row in data.rows
    )
    name = f"<caption>{e(label)}</caption>" if label else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{name}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


class Raw(str):
    """HTML that was made here and is not escaped again."""

    __slots__ = ()


def _cell(value: object) -> str:
    return value if isinstance(value, Raw) else e(value)


def _text(place: int, text: Sequence[int]) -> str:
    return ' class="text"' if place in text else ""


def figure(item: Figure | None, *, small: bool = False) -> str:
    """Return a figure: caption, plot, and the numbers behind it on demand."""
    if item is None:
        return ""
    wide, narrow = item.plots
    plots = narrow if small else f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
    return (
        f"<figure><figcaption><h3>{e(item.title)}</h3><p>{e(item.words)}</p></figcaption>{plots}"
        f"<details><summary>The numbers</summary>{table(item.table, label=item.title)}</details>"
        "</figure>"
    )


def badge(state: str) -> Raw:
    """Return a coloured word."""
    kind = state if state in ("fresh", "cooling", "cold") else "muted"
    return Raw(f'<span class="badge {kind}">{e(state)}</span>')


def bullets(lines: Sequence[str], kind: str = "plain") -> str:
    """Return a list of lines; nothing for none."""
    if not lines:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{e(line)}</li>" for line in lines) + "</ul>"


def count(value: int | None) -> str:
    """Return a number with its thousands apart."""
    return "-" if value is None else f"{value:,}"


def when(ns: int) -> str:
    """Return a time; a device's clock may say anything at all."""
    try:
        return pd.Timestamp(ns, unit="ns").strftime("%Y-%m-%d %H:%M") if ns else "-"
    except (ValueError, OverflowError):
        return "?"


def span(seconds: float) -> str:
    """Return a duration in a unit that suits it."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
