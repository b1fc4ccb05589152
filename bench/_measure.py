"""Run one command; print its wall seconds, peak RSS in bytes and exit code.

    python -I -S _measure.py COMMAND WORDS...

A process of its own, and a small one: on Linux a child inherits the peak RSS of whoever forked it.
"""

import os
import sys
import time

null = os.open(os.devnull, os.O_WRONLY)
begin = time.perf_counter()
child = os.posix_spawn(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)]
)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - begin
print(seconds, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))
