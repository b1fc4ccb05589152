"""Write docs/ERRORS.md: every stable code and its exit status, from the classes themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import device_runtime.errors
import edgepack.errors
from device_runtime.errors import EdgepackError

OUT = Path(__file__).resolve().parent.parent / "docs" / "ERRORS.md"
HEAD = """# Errors

Written by `make errors`; do not edit. A failed command prints one line on stderr:
`error [CODE]: what (why); what to do next`. With `--json` it prints
`{"ok": false, "error": {"code", "what", "why", "next", "exit"}}`. Codes and statuses are stable.

| exit | code | when | what to do |
|---:|---|---|---|
"""


def table() -> str:
    """Return the document."""
    found: set[type[EdgepackError]] = set()
    todo: list[type[EdgepackError]] = [EdgepackError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__ in (device_runtime.errors.__name__, edgepack.errors.__name__):
            found.add(kind)
    lines = [
        f"| {kind.exit} | `{kind.code}` | {(kind.__doc__ or '').splitlines()[0]} | {kind.advice} |"
        for kind in sorted(found, key=lambda kind: (kind.exit, kind.code))
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    """Write the file, or with `--check` say whether it is true."""
    text = table()
    if "--check" in sys.argv:
        if OUT.read_text(encoding="utf-8") != text:
            print("docs/ERRORS.md is not what the classes say: make errors")
            return 1
        return 0
    OUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
