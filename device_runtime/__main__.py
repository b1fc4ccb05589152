"""`python -m device_runtime` and the command `edgepack-device`."""

from __future__ import annotations

import gc
import os
import sys  # no module that takes time: Ctrl-C is caught from here on

SWITCH_S = 0.0005  # a thread that loads onnxruntime must not wait 5 ms for its turn
GC_THRESHOLD = 100_000  # objects: a start makes fewer, a long run is collected as usual


def main() -> None:
    """Run the command line; every failure, Ctrl-C too, becomes one line and an exit code.

    The interpreter is not taken down piece by piece: everything was closed in order, and unloading
    a library of 35 MB takes longer than the prediction did.
    """
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_S)
    code = -1
    try:
        from device_runtime.cli import run

        code = run(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as pressed:  # noqa: BLE001 (Ctrl-C while modules load, or when all is said)
        if code < 0:
            from device_runtime.cli import report

            code = report(pressed, as_json="--json" in sys.argv)
    if "coverage" in sys.modules:  # it writes what it saw at an orderly end
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    main()
