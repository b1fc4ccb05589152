"""`python -m edgepack` and the command `edgepack`."""

from __future__ import annotations

import os
import sys  # no module that takes time: Ctrl-C is caught from here on


def main() -> None:
    """Run the command line; Ctrl-C ends it in one line, from the first import to the last word.

    The interpreter is not taken down piece by piece: everything was closed in order, and unloading
    the numeric libraries takes longer than most commands.
    """
    try:
        import signal

        from edgepack.threads import calm

        calm()  # before anything loads a numeric library
        from edgepack.cli.app import run

        code = run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was said is done, and stays so
    except BaseException as pressed:  # noqa: BLE001 (Ctrl-C while modules load)
        from edgepack.cli.screen import report_failure

        code = report_failure(pressed, as_json="--json" in sys.argv)
    _leave(code)


def _leave(code: int) -> None:
    import atexit

    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `edgepack … | head` has read enough
        os._exit(code)
    if "coverage" in sys.modules:  # it writes what it saw at an orderly end
        sys.exit(code)
    atexit._run_exitfuncs()  # noqa: SLF001
    os._exit(code)


if __name__ == "__main__":
    main()
