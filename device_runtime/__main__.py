"""`python -m device_runtime` and the command `edgepack-device`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; every failure becomes one line and an exit code."""
    from device_runtime.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
