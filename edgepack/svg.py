"""Plots as SVG text: lines with bands, bars, intervals, heat maps. No script, no font, no colour.

Colours are CSS variables (`--s1` … `--s6`, `--ink`, `--muted`, `--grid`, `--bad`), so that one plot
is right on a light page, a dark page and on paper. Every mark carries a `<title>`: its numbers on
hover and for screen readers. `standalone` adds the variables for a file of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDE, NARROW = 720, 350
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 54
SERIES = 6

LIGHT = (
    "--ink:#1c2430;--muted:#5c6675;--grid:#e3e7ee;--bad:#b3261e;--s1:#2563c9;--s2:#c2570c;"
    "--s3:#0f7b6c;--s4:#8b3fb0;--s5:#8a6d00;--s6:#b0285f"
)
DARK = (
    "--ink:#e6eaf0;--muted:#9aa6b6;--grid:#2c3542;--bad:#ff8a80;--s1:#7fb0ff;--s2:#ffa25c;"
    "--s3:#5fd6c4;--s4:#d59bf0;--s5:#e3c65a;--s6:#ff8fb8"
)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a line: its place on the x axis, y, and the band around it."""

    x: int
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One named line; `color` 1 to 6."""

    name: str
    points: Sequence[Point]
    color: int = 1


def standalone(picture: str) -> str:
    """Return a plot as a file of its own, light or dark as its reader is."""
    style = (
        f"<style>svg{{{LIGHT};background:#fff}}"
        f"@media(prefers-color-scheme:dark){{svg{{{DARK};background:#12161c}}}}</style>"
    )
    head, mark, tail = picture.partition(">")
    return f"{head}{mark}{style}{tail}\n"


def number(value: float) -> str:
    """Return a number as short as it is still exact enough to read."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


# --- plots -----------------------------------------------------------------------------------


def lines(
    series: Sequence[Line],
    labels: Sequence[str],
    *,
    title: str,
    unit: str = "",
    rule: tuple[float, str] | None = None,
    height: int = 300,
    span: tuple[float, float] | None = None,
    width: int = WIDE,
) -> str:
    """Return lines over an ordered axis, with bands where points have them.

    Args:
        series: At most six are told apart by colour.
        labels: Text of each place on the x axis.
        title: What is shown.
        unit: Of the y axis.
        rule: A level to mark, and its name.
        height: Pixels.
        span: Lowest and highest y; None: what the points need.
        width: Pixels: `WIDE` or `NARROW`.
    """
    values = [
        v
        for one in series
        for p in one.points
        for v in (p.y, p.low, p.high)
        if v is not None and math.isfinite(v)
    ]
    if rule:
        values.append(rule[0])
    low, high = span or _span(values)
    plot = _Plot(title, (width, height), low, high, unit)
    place = _places(len(labels), width)
    plot.x_labels(labels, place)
    if rule:
        plot.rule(*rule)
    for one in series:
        _draw_line(plot, one, place, labels)
    plot.legend([(one.name, one.color) for one in series])
    return plot.text()


def bars(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], int]],
    *,
    title: str,
    unit: str = "",
    stacked: bool = False,
    height: int = 260,
    width: int = WIDE,
) -> str:
    """Return bars side by side (or stacked) for each label; a series is (name, values, colour)."""
    if stacked:
        top = max((sum(v[i] for _, v, _ in series) for i in range(len(labels))), default=1.0)
    else:
        top = max((value for _, values, _ in series for value in values), default=1.0)
    plot = _Plot(title, (width, height), 0.0, top or 1.0, unit)
    step = plot.wide / max(len(labels), 1)
    room = min(step * 0.78, 72.0)
    each = room if stacked else room / max(len(series), 1)
    plot.x_labels(labels, [LEFT + step * (i + 0.5) for i in range(len(labels))])
    for i, label in enumerate(labels):
        base = 0.0
        for j, (name, values, color) in enumerate(series):
            x = LEFT + step * i + (step - room) / 2 + (0 if stacked else j * each)
            y = plot.y(base + values[i])
            tall = plot.y(base) - y
            tip = f"{label}, {name}: {number(values[i])}{unit}"
            plot.add(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(each - 1, 1):.1f}" '
                f'height="{max(tall, 0):.1f}" fill="var(--s{color})">'
                f"<title>{escape(tip)}</title></rect>"
            )
            base += values[i] if stacked else 0.0
    plot.legend([(name, color) for name, _, color in series])
    return plot.text()


def intervals(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    title: str,
    zero: bool = False,
    limits: Sequence[tuple[float, str]] = (),
    width: int = WIDE,
) -> str:
    """Return one dot with its interval per row, names on the left: (name, value, low, high)."""
    height = TOP + 26 * len(rows) + BOTTOM
    values = [v for row in rows for v in row[1:] if _real(v)]
    values += [0.0] if zero else []
    values += [value for value, _ in limits]
    low, high = _span(values)
    left = LEFT + (96 if width >= WIDE else 30)
    wide = width - left - RIGHT

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * wide

    parts = [_open(title, width, height)]
    parts += [
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}" '
        f'stroke="var(--grid)"/>' + _say(x(tick), height - BOTTOM + 18, number(tick), "middle")
        for tick in _ticks(low, high, width // 110)
    ]
    marks = [*limits, *([(0.0, "")] if zero else [])]
    near = [x(b[0]) - x(a[0]) < 60 for a, b in itertools.pairwise(limits)]
    for place, (value, said) in enumerate(marks):
        name = "" if place < len(near) and near[place] else said  # the next one stands there
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 4}" '
            f'y2="{height - BOTTOM}" stroke="var(--muted)" stroke-dasharray="4 3"/>'
            + (_say(x(value), TOP - 8, name, "middle") if name else "")
        )
    for i, (name, value, bottom, top) in enumerate(rows):
        y = TOP + 26 * i + 13
        tip = f"{name}: {number(value)} ({number(bottom)} to {number(top)})"
        parts.append(
            _say(left - 10, y + 4, _cut(name, (left - 14) // 7), "end", "var(--ink)")
            + f'<line x1="{x(bottom):.1f}" x2="{x(top):.1f}" y1="{y}" y2="{y}" stroke="var(--s1)" '
            f'stroke-width="3"/><circle cx="{x(value):.1f}" cy="{y}" r="5" fill="var(--s1)">'
            f"<title>{escape(tip)}</title></circle>"
        )
    return "".join(parts) + "</svg>"


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    title: str,
    unit: str = "",
    color: int = 1,
    width: int = WIDE,
) -> str:
    """Return a grid: the darker, the more; an empty cell is unknown."""
    tall = 18 if len(rows) <= 40 else max(6, 720 // len(rows))
    height = TOP + tall * len(rows) + BOTTOM
    left = LEFT + (56 if width >= WIDE else 16)
    step = (width - left - RIGHT) / max(len(columns), 1)
    top = max((v for row in values for v in row if v is not None), default=1.0) or 1.0
    parts = [_open(title, width, height)]
    for i, name in enumerate(rows):
        y = TOP + tall * i
        if tall >= 10:
            parts.append(
                _say(left - 8, y + tall - 5, _cut(name, (left - 10) // 7), "end", "var(--ink)")
            )
        for j, column in enumerate(columns):
            value = values[i][j]
            if value is None:
                continue
            share = 0.08 + 0.92 * math.sqrt(max(value, 0.0) / top)
            tip = f"{name}, {column}: {number(value)}{unit}"
            parts.append(
                f'<rect x="{left + step * j:.1f}" y="{y}" width="{max(step - 1, 1):.1f}" '
                f'height="{tall - 1}" fill="var(--s{color})" fill-opacity="{share:.2f}">'
                f"<title>{escape(tip)}</title></rect>"
            )
    parts.append(
        _axis(columns, [left + step * (j + 0.5) for j in range(len(columns))], width, height)
    )
    return "".join(parts) + "</svg>"


# --- parts -----------------------------------------------------------------------------------


class _Plot:
    """Axes, grid and legend of one plot."""

    def __init__(
        self, title: str, size: tuple[int, int], low: float, high: float, unit: str
    ) -> None:
        self.width, self.height = size
        self.wide = self.width - LEFT - RIGHT
        self._low, self._high = low, high if high > low else low + 1
        self._parts = [_open(title, self.width, self.height)]
        for tick in _ticks(self._low, self._high, 5):
            self._parts.append(
                f'<line x1="{LEFT}" x2="{self.width - RIGHT}" y1="{self.y(tick):.1f}" '
                f'y2="{self.y(tick):.1f}" stroke="var(--grid)"/>'
                + _say(LEFT - 8, self.y(tick) + 4, number(tick) + unit, "end")
            )

    def y(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self._low) / (self._high - self._low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def add(self, part: str) -> None:
        """Add a mark."""
        self._parts.append(part)

    def rule(self, value: float, name: str) -> None:
        """Mark a level."""
        y = self.y(value)
        self.add(
            f'<line x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="var(--bad)" stroke-dasharray="5 4"/>'
            + _say(self.width - RIGHT, y - 5, name, "end", "var(--bad)")
        )

    def x_labels(self, labels: Sequence[str], place: Sequence[float]) -> None:
        """Write under the axis, as many labels as fit."""
        self.add(_axis(labels, place, self.width, self.height))

    def legend(self, names: Sequence[tuple[str, int]]) -> None:
        """Name the colours, where there is more than one."""
        if len(names) < 2:
            return
        x = float(LEFT) if self.width >= WIDE else 4.0
        for name, color in names:
            text = _cut(name, 26 if self.width >= WIDE else 44 // len(names))
            self.add(
                f'<rect x="{x:.0f}" y="10" width="11" height="11" rx="2" fill="var(--s{color})"/>'
                + _say(x + 16, 20, text, "start", "var(--ink)")
            )
            x += 34 + 7 * len(text)

    def text(self) -> str:
        """Return the whole plot."""
        return "".join(self._parts) + "</svg>"


def _draw_line(plot: _Plot, one: Line, place: Sequence[float], labels: Sequence[str]) -> None:
    color = f"var(--s{(one.color - 1) % SERIES + 1})"
    points = [p for p in one.points if _real(p.y)]
    banded = [p for p in points if _real(p.low) and _real(p.high)]
    if len(banded) > 1:
        upper = [f"{place[p.x]:.1f},{plot.y(p.high or 0):.1f}" for p in banded]
        lower = [f"{place[p.x]:.1f},{plot.y(p.low or 0):.1f}" for p in reversed(banded)]
        plot.add(
            f'<polygon points="{" ".join(upper + lower)}" fill="{color}" fill-opacity="0.16"/>'
        )
    path = " ".join(f"{place[p.x]:.1f},{plot.y(p.y):.1f}" for p in points)
    plot.add(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
    for p in points:
        tip = f"{one.name}, {labels[p.x]}: {number(p.y)}" + (f" {p.note}" if p.note else "")
        whisker = ""
        if len(banded) == 1 and _real(p.low) and _real(p.high):
            whisker = (
                f'<line x1="{place[p.x]:.1f}" x2="{place[p.x]:.1f}" y1="{plot.y(p.low or 0):.1f}" '
                f'y2="{plot.y(p.high or 0):.1f}" stroke="{color}"/>'
            )
        plot.add(
            f'{whisker}<circle cx="{place[p.x]:.1f}" cy="{plot.y(p.y):.1f}" r="4" fill="{color}">'
            f"<title>{escape(tip)}</title></circle>"
        )


def _open(title: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}" font-family="system-ui,sans-serif" '
        f'font-size="12">'
    )


def _say(x: float, y: float, text: str, anchor: str, color: str = "var(--muted)") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
    )


def _axis(labels: Sequence[str], place: Sequence[float], width: int, height: int) -> str:
    widest = max((len(label) for label in labels), default=1)
    step = (place[1] - place[0]) if len(place) > 1 else width
    slant = len(labels) > 1 and min(widest, 14) * 7 > step
    every = max(1, math.ceil(14 / step)) if slant else 1
    parts = []
    for i in range(0, len(labels), every):
        text, x, y = _cut(labels[i], 14), place[i], height - BOTTOM + 17
        if slant:
            parts.append(
                f'<text transform="translate({x + 3:.1f} {y - 4}) rotate(-28)" text-anchor="end" '
                f'font-size="10" fill="var(--muted)">{escape(text)}</text>'
            )
        else:
            parts.append(_say(x, y, text, "middle"))
    return "".join(parts)


def _places(n: int, width: int) -> list[float]:
    wide = width - LEFT - RIGHT - 40
    if n == 1:
        return [LEFT + 20 + wide / 2]
    return [LEFT + 20 + wide * i / (n - 1) for i in range(n)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    if not math.isfinite(raw) or raw <= 0:
        return [low]
    size = 10.0 ** math.floor(math.log10(raw))
    step = size * min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(size * m / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _real(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
