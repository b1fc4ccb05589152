"""Print the lines of code of the device runtime and of its audit core; fail above the limits.

Lines of code: neither blank, nor comment, nor docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "device_runtime"
CORE = ("errors.py", "disk.py", "crypt.py", "generation.py", "home.py", "policy.py")
CORE_FOLDERS = ("format", "trust", "slots", "journal")
LIMIT_CORE, LIMIT_ALL = 7554, 14790  # docs/adr/0003: they may only go down


def code_lines(path: Path) -> int:
    """Return the number of lines that hold code."""
    source = path.read_text(encoding="utf-8")
    skip: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            skip.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    lines: set[int] = set()
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - skip)


def main() -> int:
    """Count, print, judge."""
    counts = {path.relative_to(ROOT): code_lines(path) for path in sorted(ROOT.rglob("*.py"))}
    core = sum(n for p, n in counts.items() if str(p) in CORE or p.parts[0] in CORE_FOLDERS)
    total = sum(counts.values())
    print(
        f"lines of code: audit core {core} of {LIMIT_CORE}, device runtime {total} of {LIMIT_ALL}"
    )
    return int(core > LIMIT_CORE or total > LIMIT_ALL)


if __name__ == "__main__":
    sys.exit(main())
