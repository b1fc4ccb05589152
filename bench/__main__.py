"""Run the benchmarks and write build/bench.json.

Each module of this folder defines `run(record)`. Figures are ratios to a plain tool, interleaved in
one run, medians; see docs/BENCHMARKS.md.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OUT = FOLDER.parent / "build" / "bench.json"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import numpy as np
    import onnxruntime

    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> int:
    """Run all modules, or those whose name or results start with an argument."""
    only = sys.argv[1:]
    names = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
    results: list[dict[str, Any]] = []

    def record(
        name: str,
        value: float,
        unit: str,
        *,
        ours: float | None = None,
        baseline: float | None = None,
        limit: float | None = None,
        better: str = "lower",
        n: int | None = None,
    ) -> None:
        reached = limit is None or (value <= limit if better == "lower" else value >= limit)
        mark = "" if limit is None else f"  limit {limit:g} {'reached' if reached else 'MISSED'}"
        print(f"{name:28} {value:10.4g} {unit:8}{mark}", flush=True)
        results.append(
            {
                "name": name,
                "value": value,
                "unit": unit,
                "ours": ours,
                "baseline": baseline,
                "limit": limit,
                "better": better,
                "n": n,
            }
        )

    for name in names:
        if only and not any(name.startswith(part.split(".")[0]) for part in only):
            continue
        print(f"-- {name}", flush=True)
        os.sync()  # what one part left in the cache must not be written out during the next
        importlib.import_module(f"bench.{name}").run(record)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    print(f"written: {OUT.relative_to(FOLDER.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
