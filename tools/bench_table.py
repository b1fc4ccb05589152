"""Write the table of all figures into docs/BENCHMARKS.md, from what `make bench` wrote."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "BENCHMARKS.md"
RESULTS = ROOT / "build" / "bench.json"
PLACE = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def line(one: dict[str, Any]) -> str:
    """Return one figure as a row of the table."""
    better, limit = one["better"], one["limit"]
    asked = "" if limit is None else f"{'≤' if better == 'lower' else '≥'} {limit:g}"
    reached = limit is None or (
        one["value"] <= limit if better == "lower" else one["value"] >= limit
    )
    value = f"{one['value']:,.4g}" if one["value"] < 1000 else f"{one['value']:,.0f}"
    return (
        f"| `{one['name']}` | {value} {one['unit']} | {asked} | {'' if reached else '**missed**'} |"
    )


def table(results: dict[str, Any]) -> str:
    """Return the machine in a sentence, then all figures."""
    on = results["machine"]
    head = (
        f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, numpy {on['numpy']}, "
        f"onnxruntime {on['onnxruntime']}.\n\n"
        "| figure | measured | asked | |\n|---|---:|---:|---|\n"
    )
    return head + "\n".join(line(one) for one in results["results"]) + "\n"


def main() -> int:
    """Put the table between its two marks."""
    body = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(PLACE.sub(lambda m: m[1] + body + m[2], text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
