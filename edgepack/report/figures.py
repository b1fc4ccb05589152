"""Figures of the report: each a plot in two widths, and the numbers behind it as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgepack import svg
from edgepack.fleet.overview import Fleet
from edgepack.learn.drift import CHANGED, CHANGED_MUCH, Change, Drift, moved
from edgepack.learn.quality import Quality
from edgepack.learn.same_rows import SameRows
from edgepack.learn.survey import Survey

TOP_COLUMNS = 6  # lines that one plot can still tell apart
MOST_BARS = 14
BEYOND = "PSI beyond chance and rhythm"
MOST_DEVICES = 30  # those that moved most
MOST_MONTHS = 36  # those with the most rows: a lying clock may name any number of others


MEANING = {  # of each main figure, for somebody who meets it for the first time
    "auc": "AUC is the chance that the model ranks a row of the second class above one of the "
    "first: 0.5 is guessing, 1 is never wrong.",
    "accuracy": "Accuracy is the share of right answers.",
    "f1": "F1 weighs labels that were missed against labels that were wrongly given: 1 is perfect.",
    "mae": "MAE is the mean absolute error, in the unit of what is predicted: less is better.",
    "pinball": "Pinball loss measures how well the predicted quantiles hold: less is better.",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers for people who cannot see the plot, or want to copy them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        title: What is shown.
        words: What to see in it, one or two sentences.
        plots: The plot for wide and for narrow pages, SVG.
        table: The numbers behind it.
    """

    title: str
    words: str
    plots: tuple[str, str]
    table: Table


def word(figure: str) -> str:
    """Return the name of a figure as people write it."""
    return figure.upper() if figure in ("auc", "mae", "rmse", "f1", "r2") else figure


def _both(draw: Callable[[int], str]) -> tuple[str, str]:
    return draw(svg.WIDE), draw(svg.NARROW)


# --- fleet -----------------------------------------------------------------------------------


def fleet_timeline(found: Survey, names: dict[str, str]) -> Figure:
    """Rows that came home, by device and month."""
    rows = Counter({month: n for month, (n, _) in found.months.items()})
    months = sorted(month for month, _ in rows.most_common(MOST_MONTHS))
    devices = sorted({device for device, _ in found.grid}, key=lambda d: names.get(d, d))
    values = [[found.grid.get((d, m)) for m in months] for d in devices]
    words = [names.get(d, d[:8]) for d in devices]
    return Figure(
        "What came home, and when it happened",
        "Rows by device and month of the row's own time. A gap is a month without rows: off, out "
        "of reach, or its stick is not home yet.",
        _both(lambda w: svg.heat(words, months, values, title="Rows by device and month", width=w)),
        Table(
            ["device", *months],
            [
                [n, *["" if v is None else f"{v:,}" for v in row]]
                for n, row in zip(words, values, strict=True)
            ],
        ),
    )


def accounting(fleet: Fleet) -> Figure:
    """Rows home, still out and lost, by device."""
    devices = sorted(fleet.devices, key=lambda d: -(d.records.home + (d.records.out or 0)))
    shown = devices[:40]
    names = [item.name for item in shown]
    home = [float(item.records.home) for item in shown]
    out = [float(item.records.out or 0) for item in shown]
    lost = [float(item.records.lost) for item in shown]
    more = f" The {len(shown)} largest of {len(devices)}." if len(devices) > len(shown) else ""
    return Figure(
        "Where the records are",
        "Home: in the table. Out: journaled on the device, not home yet. Lost: the device declared "
        f"a hole.{more}",
        _both(
            lambda w: svg.bars(
                names, [("home", home, 3), ("out", out, 2), ("lost", lost, 6)],
                title="Records by device", stacked=True, width=w,
            )
        ),
        Table(
            ["device", "produced", "home", "out", "lost"],
            [
                [d.name, _n(d.records.produced), _n(d.records.home), _n(d.records.out),
                 _n(d.records.lost)]
                for d in devices
            ],
        ),
    )  # fmt: skip


def temperature(fleet: Fleet, fresh: int | None, cold: int | None) -> Figure | None:
    """Age of the running model of each device, and the strictest limits of their classes."""
    aged = sorted(
        (item for item in fleet.devices if item.age_days is not None),
        key=lambda item: -(item.age_days or 0),
    )
    if not aged:
        return None
    rows = [(d.name, d.age_days or 0.0, d.age_days or 0.0, d.age_days or 0.0) for d in aged[:40]]
    named = ((fresh, "cooling"), (cold, "cold"))
    limits = [(float(days), text) for days, text in named if days is not None]
    return Figure(
        "How old the running models are",
        "Days since the running bundle was signed, by the base's clock. Oldest first.",
        _both(
            lambda w: svg.intervals(rows, title="Age in days", zero=True, limits=limits, width=w)
        ),
        Table(
            ["device", "bundle", "age (days)", "temperature", "why"],
            [
                [d.name, d.bundle_version or "-", d.age_days, d.temperature, "; ".join(d.reasons)]
                for d in aged
            ],
        ),
    )


# --- quality ---------------------------------------------------------------------------------


def over_time(found: Quality, limit: float | None = None) -> Figure | None:
    """The main figure by month, a line for each bundle version."""
    rows_of = Counter[str]()
    for (_, month), one in found.months.items():
        rows_of[month] += one.n
    months = sorted(month for month, _ in rows_of.most_common(MOST_MONTHS))
    versions = sorted({version for version, _ in found.months})
    lines, rows = [], []
    for place, version in enumerate(versions[-svg.SERIES :]):
        points = []
        for x, month in enumerate(months):
            score = found.months.get((version, month))
            if score is None or score.value is None:
                continue
            points.append(svg.Point(x, score.value, score.low, score.high, f"({score.n:,} rows)"))
            rows.append([version, month, f"{score.n:,}", f"{score.value:.4f}"])
        if points:
            lines.append(svg.Line(f"bundle {version}", points, place % svg.SERIES + 1))
    if not lines:
        return None
    rule = (limit, "at training") if limit is not None else None
    return Figure(
        f"{word(found.main)} over time, by bundle version",
        "From labels only: what was answered against what turned out to be true, by month of the "
        "row. Rows without a label say nothing here.",
        _both(lambda w: svg.lines(lines, months, title=word(found.main), rule=rule, width=w)),
        Table(["bundle", "month", "labelled rows", word(found.main)], rows),
    )


def by_version(found: Quality) -> Figure | None:
    """The main figure of each version with its interval."""
    rows = [
        (f"bundle {v}", s.value, s.low if s.low is not None else s.value, s.high or s.value)
        for v, s in sorted(found.versions.items())
        if s.value is not None
    ]
    if not rows:
        return None
    names = sorted({key for s in found.versions.values() for key in s.metrics})
    return Figure(
        f"{word(found.main)} by bundle version",
        "Each on the rows that it answered itself, with the 95 % bootstrap interval. Different "
        "rows: compare versions by the figure on the same rows.",
        _both(lambda w: svg.intervals(rows, title=word(found.main), width=w)),
        Table(
            ["bundle", "labelled", "of rows", *names],
            [
                [v, f"{s.n:,}", f"{found.rows_of(v)[1]:,}",
                 *[f"{s.metrics[key]:.4f}" if key in s.metrics else "-" for key in names]]
                for v, s in sorted(found.versions.items())
            ],
        ),
    )  # fmt: skip


def on_same_rows(found: SameRows) -> Figure:
    """Every bundle on the same unseen rows, with its interval."""
    values = sorted(found.scores.items())
    rows = [(f"bundle {v}", value, *found.bands.get(v, (value, value))) for v, value in values]
    more = ""
    if found.gain is not None:
        gain, low, high = found.gain
        more = (
            f" The newest gains {gain:+.4f} over the one before (95 %: {low:+.4f} to {high:+.4f})."
        )
    return Figure(
        f"{word(found.main)} of every bundle on the same rows",
        f"{found.rows:,} labelled rows from {found.since} to {found.until} that none of these "
        f"bundles was trained on, each scored through its own ONNX.{more}",
        _both(lambda w: svg.intervals(rows, title=word(found.main), width=w)),
        Table(
            ["bundle", word(found.main), "95 % from", "to"],
            [[name, f"{v:.4f}", f"{low:.4f}", f"{high:.4f}"] for name, v, low, high in rows],
        ),
    )


def calibration(found: Quality) -> Figure | None:
    """Said against came true."""
    if not found.calibration:
        return None
    labels = [f"{10 * i} to {10 * i + 10} %" for i in range(10)]
    ideal = svg.Line("perfect", [svg.Point(i, (i + 0.5) / 10) for i in range(10)], 5)
    lines, rows = [ideal], []
    for place, (version, item) in enumerate(sorted(found.calibration.items())[-4:]):
        points = []
        for said, came, n in zip(item.said, item.came, item.n, strict=True):
            points.append(svg.Point(min(int(said * 10), 9), came, note=f"({n:,} rows)"))
            rows.append([version, f"{said:.3f}", f"{came:.3f}", f"{n:,}"])
        lines.append(svg.Line(f"bundle {version}", points, place + 1))
    return Figure(
        "Do probabilities mean what they say?",
        "Rows by the probability that the model gave, and how often it came true. On the line "
        "“perfect”, 70 % means 70 %.",
        _both(
            lambda w: svg.lines(lines, labels, title="Share that came true", span=(0, 1), width=w)
        ),
        Table(["bundle", "said", "came true", "rows"], rows),
    )


# --- drift -----------------------------------------------------------------------------------


def drift_by_column(found: Drift) -> Figure:
    """PSI of every input with its interval."""
    changes = sorted((*found.columns, *found.answers), key=moved)
    rows = [(_dot(c.name, c), *c.beyond) for c in changes[:40]]
    limits = [(CHANGED, "changed"), (CHANGED_MUCH, "much")]
    return Figure(
        f"How far inputs moved from the training of {found.bundle}",
        "Population stability index (PSI) with its 95 % interval, less what chance alone and the "
        "rhythm that days of training have by themselves would give: below 0.1 as in training, "
        "from 0.25 changed much (“?”: too few rows to tell). The table has the whole, too. It says "
        "that inputs changed, never that the model is wrong: only labels can say that.",
        _both(lambda w: svg.intervals(rows, title=BEYOND, zero=True, limits=limits, width=w)),
        Table(
            ["column", "PSI", "95 %", "chance alone", "rhythm", "beyond", "KS",
             "missing then", "now", "unseen", "rows", "reads"],
            [
                [c.name, f"{c.psi:.4f}", f"{c.low:.3f} to {c.high:.3f}", f"{c.noise:.4f}",
                 f"{c.rhythm:.4f}", f"{c.excess:.4f}", f"{c.ks:.4f}",
                 f"{c.missing[0]:.1%}", f"{c.missing[1]:.1%}", f"{c.unseen:.1%}",
                 f"{c.n:,}", c.words]
                for c in changes
            ],
        ),
    )  # fmt: skip


def drift_by_device(devices: Sequence[tuple[str, Drift]]) -> Figure | None:
    """PSI of the input that moved most, of each device."""
    found = [(name, item.n, item.worst) for name, item in devices if item.worst]
    if len(found) < 2:
        return None
    found.sort(key=lambda item: (not item[2].sure, -item[2].excess))
    rows = [(_dot(f"{name}: {c.name}", c), *c.beyond) for name, _, c in found[:MOST_DEVICES]]
    limits = [(CHANGED, "changed"), (CHANGED_MUCH, "much")]
    return Figure(
        "Drift by device",
        "Of each device the input that moved most since training. One device that stands out looks "
        "at something else than the others, or has a sensor that fails. PSI beyond chance and "
        "rhythm; “?”: too few rows to tell.",
        _both(lambda w: svg.intervals(rows, title=BEYOND, zero=True, limits=limits, width=w)),
        Table(
            ["device", "input", "PSI", "95 %", "beyond", "KS", "rows", "reads"],
            [
                [name, c.name, f"{c.psi:.4f}", f"{c.low:.3f} to {c.high:.3f}", f"{c.excess:.4f}",
                 f"{c.ks:.4f}", f"{n:,}", c.words]
                for name, n, c in found
            ],
        ),
    )  # fmt: skip


def drift_over_time(months: Sequence[tuple[str, Drift]]) -> Figure | None:
    """PSI by month of the inputs that moved most."""
    kept = sorted(months, key=lambda item: -item[1].n)[:MOST_MONTHS]
    months = sorted(kept, key=lambda item: item[0])
    if len(months) < 2:
        return None
    most: dict[str, float] = {}
    for _, item in months:
        for c in item.columns:
            most[c.name] = max(most.get(c.name, 0.0), c.excess)
    names = sorted(most, key=lambda n: -most[n])[:TOP_COLUMNS]
    labels = [month for month, _ in months]
    lines = []
    for place, name in enumerate(names):
        points = [
            svg.Point(x, c.excess, note=f"({c.n:,} rows)")
            for x, (_, item) in enumerate(months)
            for c in item.columns
            if c.name == name
        ]
        lines.append(svg.Line(name, points, place + 1))
    every = sorted({c.name for _, item in months for c in item.columns})
    cells = {(c.name, m): f"{c.excess:.3f}" for m, item in months for c in item.columns}
    return Figure(
        "Drift by month",
        f"PSI beyond chance and rhythm of the {len(names)} inputs that moved most, each month "
        "against training; the table has all inputs.",
        _both(
            lambda w: svg.lines(lines, labels, title=BEYOND, rule=(CHANGED_MUCH, "much"), width=w)
        ),
        Table(["column", *labels], [[n, *[cells.get((n, m), "") for m in labels]] for n in every]),
    )


def _dot(name: str, item: Change) -> str:
    return name if item.sure else f"? {name}"


def distribution(item: Change) -> Figure:
    """One column, at training and now."""
    labels, before, now = _shares(item)
    return Figure(
        item.name,
        f"PSI {item.psi:.3f} ({item.low:.3f} to {item.high:.3f}), {item.excess:.3f} of it beyond "
        f"chance{' and rhythm' if item.rhythm else ''}, KS {item.ks:.3f}"
        f"{'' if item.exact else ' or more'}: {item.words}.",
        _both(
            lambda w: svg.bars(
                labels, [("at training", before, 1), ("now", now, 2)],
                title=f"{item.name}, share of rows", unit=" %", height=220, width=w,
            )
        ),
        Table(
            ["bin", "at training", "now"],
            [
                [name, f"{a:,}", f"{b:,}"]
                for name, a, b in zip(item.labels, item.before, item.now, strict=True)
            ],
        ),
    )  # fmt: skip


def _shares(item: Change) -> tuple[list[str], list[float], list[float]]:
    """Return percent by bin; many categories end in one `(others)`."""
    rows = [
        (name, a, b)
        for name, a, b in zip(item.labels, item.before, item.now, strict=True)
        if a or b
    ]
    if len(rows) > MOST_BARS:
        first, rest = rows[: MOST_BARS - 1], rows[MOST_BARS - 1 :]
        rows = [*first, ("the rest", sum(a for _, a, _ in rest), sum(b for _, _, b in rest))]
    whole, total = sum(item.before) or 1, sum(item.now) or 1
    return (
        [name for name, _, _ in rows],
        [100 * a / whole for _, a, _ in rows],
        [100 * b / total for _, _, b in rows],
    )


def _n(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
