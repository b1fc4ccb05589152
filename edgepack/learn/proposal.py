"""A proposal for people: one page of Markdown and its plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepack import svg
from edgepack.learn.drift import CHANGED, CHANGED_MUCH

MOST = 40  # inputs that are listed: those that moved most


def pages(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return file name → text of `proposals/NAME/N/`."""
    plots = {"gain.svg": gain_plot(facts)}
    if facts["changed"]:
        plots["changed.svg"] = changed_plot(facts)
    return {"proposal.md": _words(facts), **plots}


def gain_plot(facts: Mapping[str, Any]) -> str:
    """Return the gain with its interval, over all rows and by device, as SVG."""
    main = facts["main"]
    low, high = facts["interval"]
    rows = [("all rows", facts["gain"], low, high)]
    sign = 1 if main not in ("mae", "pinball") else -1
    for item in facts["devices"]:
        if item["champion"] is not None and item["challenger"] is not None:
            gain = sign * (item["challenger"] - item["champion"])
            rows.append((_name(facts, item["device"]), gain, gain, gain))
    return svg.standalone(
        svg.intervals(rows, title=f"Gain in {main}, challenger over champion", zero=True)
    )


def changed_plot(facts: Mapping[str, Any]) -> str:
    """Return how far each input moved since the champion was trained, as SVG."""
    whole = ("psi", "low", "high")  # of a proposal that was made before `beyond`
    rows = [
        (c["name"], *c.get("beyond", [c[key] for key in whole])) for c in facts["changed"][:MOST]
    ]
    limits = [(CHANGED, "changed"), (CHANGED_MUCH, "much")]
    return svg.standalone(
        svg.intervals(
            rows, title="PSI by input, beyond chance and rhythm", zero=True, limits=limits
        )
    )


def _name(facts: Mapping[str, Any], device: str) -> str:
    return str(facts["names"].get(device, device[:8]))


def _words(facts: Mapping[str, Any]) -> str:
    rows, window = facts["rows"], facts["window"]
    champion, challenger = facts["champion"], facts["challenger"]
    figures = [key for key in challenger if key in champion and key != "version"]
    judged = (
        f"- Judged on {window['rows']:,} labelled rows of the field, {window['begin']} to "
        f"{window['end']}; neither model had seen them."
    )
    taught = (
        f"- Taught by {rows['original']:,} rows of the recipe and {rows['returned']:,} that came "
        f"home; {rows['repeated']:,} repeated rows left out."
    )
    title = f"# Proposal {facts['number']} for {facts['name']}"
    lines = [title, "", f"{facts['text']}.", "", judged, taught]
    if rows["above_share"]:
        left = ", ".join(f"{n:,} of {_name(facts, d)}" for d, n in rows["above_share"].items())
        lines.append(f"- Above one device's share, left out: {left}.")
    if rows["spread"]:
        lines.append(f"- {rows['spread']:,} unlabelled rows took a new class from their cluster.")
    if window["set_aside"]:
        late = f"{window['set_aside']:,} rows are dated after the window, or in the future"
        lines.append(f"- {late}: set aside.")
    lines += [
        "- What ships is fitted again on all of these rows, with the same recipe and seed.",
        "",
        f"| figure | champion (bundle {champion['version']}) | challenger |",
        "|---|---|---|",
        *(f"| {key} | {champion[key]:.4g} | {challenger[key]:.4g} |" for key in figures),
    ]
    if len(facts["devices"]) > 1:
        lines += [
            "",
            f"| device | rows taught | rows judged | champion {facts['main']} | challenger |",
            "|---|---|---|---|---|",
            *(
                f"| {_name(facts, item['device'])} | {item['taught']:,} | {item['judged']:,} | "
                f"{_cell(item['champion'])} | {_cell(item['challenger'])} |"
                for item in facts["devices"]
            ),
        ]
    if facts["without"]:
        lines += [
            "",
            f"Without one device at a time, {facts['main']} on the same rows:",
            "",
            *(
                f"- without {_name(facts, item['device'])} and its {item['rows']:,} rows: "
                f"{_cell(item.get(facts['main']))}"
                for item in facts["without"]
            ),
        ]
    lines += _changes(facts)
    lines += ["", f"Accept it with: `edgepack retrain {facts['name']} --accept`", ""]
    return "\n".join(lines)


def _changes(facts: Mapping[str, Any]) -> list[str]:
    """Return what changed in the data: the rows that the champion answered, and its own."""
    if not facts["changed"]:
        return []
    lead = (
        f"What changed in the data: the {facts['changed'][0]['n']:,} rows that bundle "
        f"{facts['champion']['version']} answered, against those that taught it. Changed inputs do "
        "not mean wrong answers."
    )
    return [
        "",
        lead,
        "",
        "| input | PSI | 95 % | beyond chance and rhythm | missing | unseen | reads |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {c['name']} | {c['psi']:.3f} | {c['low']:.3f} to {c['high']:.3f} | "
            f"{c['excess']:.3f} | {c['missing']:.1%} | {c['unseen']:.1%} | {c['words']} |"
            for c in facts["changed"][:MOST]
        ),
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
