"""The parity report as one small HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgepack.convert.verdict import Report

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%;margin:1rem 0}"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid #8886;text-align:right}"
    "th:first-child,td:first-child{text-align:left}.ok{color:#0a7d33}.bad{color:#c22}"
    "@media(prefers-color-scheme:dark){.ok{color:#5d8}.bad{color:#f77}}"
)


def parity_page(name: str, report: Report) -> str:
    """Return the page."""
    verdict = ("ok", "the same") if report.ok else ("bad", "differently")
    groups = [
        (kind, f"{g.rows:,}", f"{g.refused:,}", f"{g.different:,}", f"{g.ties:,}", f"{g.worst:.2g}")
        for kind, g in report.groups.items()
    ]
    head = (
        "rows",
        "compared",
        "refused by the trained one",
        "different",
        "ties",
        "largest difference",
    )
    first = (
        f"<p class={verdict[0]}><b>The ONNX model answers {verdict[1]}.</b> "
        f"{escape(report.line())}.</p>"
    )
    unit = " of the spread of each score" if report.spread else ""
    words = (
        f"<p>Tolerance: {report.rtol:g} relative, {report.atol:g}{unit} absolute. Numeric inputs "
        f"are {report.numbers}. The device's own session was compared with onnxruntime's binding "
        f"on {report.device_rows:,} rows: {report.device_different} differ in a bit. A tie is a "
        "label that hangs on less than the tolerance; it may fall either way.</p>"
    )
    parts = [first, _table(head, groups), words]
    if report.differences:
        rows = [
            (d.kind, d.column, str(d.row), d.name, str(d.expected), str(d.got))
            for d in report.differences
        ]
        against = "expected" if report.against.startswith("expected") else "trained"
        parts.append(_table(("rows", "column", "row", "answer", against, "ONNX"), rows))
        parts.append(f"<p>The first {len(rows)} differences are listed.</p>")
    if report.step:
        parts.append(f"<p>First apart in step <b>{escape(report.step)}</b>.</p>")
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    title = f"Parity of {escape(name)}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>{title}</h1>{''.join(parts)}</html>\n"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    top = "".join(f"<th scope=col>{escape(item)}</th>" for item in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
