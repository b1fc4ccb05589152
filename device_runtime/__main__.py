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
        import_paths()
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


def import_paths() -> None:
    """Import `pathlib` without `urllib.parse`, which takes 2 ms and serves `Path.as_uri` alone."""
    name = "urllib.parse"
    if name in sys.modules or "pathlib" in sys.modules:
        return
    sys.modules[name] = stand_in = type(sys)(name)
    stand_in.__dict__["quote_from_bytes"] = _quote
    try:
        import pathlib  # noqa: F401
    finally:
        del sys.modules[name]


def _quote(path: bytes) -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(path)


if __name__ == "__main__":
    main()
