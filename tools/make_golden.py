"""Write signed samples of the current format versions to bundles/golden/, never over an old one.

Their keys are drawn for the purpose and thrown away. Tests read every sample of every version.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AREAS = ("bundles", "devices", "segments", "sticks")


def main() -> int:
    """Write what is not there yet."""
    sys.path.insert(0, str(ROOT / "tests"))
    for area in AREAS:
        writer = importlib.import_module(f"support.golden_{area}")
        folder = ROOT / "bundles" / "golden" / area
        if (folder / f"expected-{writer.VERSION}.json").exists():
            print(f"{area}: version {writer.VERSION} is there")
            continue
        writer.write(folder)
        print(f"{area}: version {writer.VERSION} written; add it to git and never change it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
