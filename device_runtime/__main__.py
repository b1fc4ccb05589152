"""`python -m device_runtime` and the command `edgepack-device`."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

GC_THRESHOLD = 100_000  # objects: a start makes fewer, a long run is collected as usual


def main() -> NoReturn:
    """Run the command line; every failure becomes one line and an exit code.

    The interpreter is not taken down piece by piece: everything was closed in order, and unloading
    a library of 35 MB takes longer than the prediction did.
    """
    gc.set_threshold(GC_THRESHOLD)
    from device_runtime.cli import run

    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    if "coverage" in sys.modules:  # it writes what it saw at an orderly end
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    main()
