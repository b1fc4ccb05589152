"""Play a README's console blocks in an empty folder; write the real output, or check it.

    python tools/readme.py [FILE…]            rewrite the files with what the commands print now
    python tools/readme.py --check [FILE…]    fail where a command fails or prints something else

Without FILE it is README.md; `recipes` stands for the README of every recipe.

A line that starts with `$ ` is typed into one shell, in order. Where a command asks for the words
of a kit, it gets those that were printed last. Numbers, digests and words of a kit may differ.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
WORDS = re.compile(r"^ *((?:[a-z]{4} ){7}[a-z]{4})$", re.MULTILINE)
END = "__end_of_command__"


class Shell:
    """One bash in an empty folder; environment and folder carry over from line to line."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        keep = {k: v for k, v in os.environ.items() if not k.startswith("EDGEPACK_")}
        self.folder = folder
        self.state = folder / ".state"
        self.state.touch()
        self.environment = {**keep, "PATH": path, "COLUMNS": "100"}
        self.words = ""

    def type(self, line: str) -> str:
        """Run one line; return what it prints (both streams), with paths made short."""
        script = (
            f'. "{self.state}"; {line}\nstatus=$?; '
            f'{{ export -p | grep EDGEPACK_; echo "cd \\"$PWD\\""; }} > "{self.state}"; '
            f'exit "$status"'
        )
        command = ["bash", "-c", script]
        if "-device init" in line:  # asks for the words: it wants a terminal, so it gets one
            command = ["script", "-qec", shlex.join(command), "/dev/null"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=self.words + "\n",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        out = (
            done.stdout.replace("\r", "")
            .replace(f"{self.folder}/", "")
            .replace(str(self.folder), ".")
        )
        if "-device init" in line:  # the terminal's echo of what was typed came before the question
            typed, _, rest = out.partition("\n")
            out = rest.replace(": ", f": {typed}\n", 1)
        if found := WORDS.findall(out):
            self.words = found[-1]
        if done.returncode and "# refused" not in line:
            sys.exit(f"`{line}` ended with {done.returncode}:\n{out}")
        if "# refused" in line:
            if not done.returncode:
                sys.exit(f"`{line}` was to be refused:\n{out}")
            out += f"exit {done.returncode}\n"
        return out


def replay(text: str, folder: Path) -> str:
    """Return the README with the output that its commands print now."""
    shell = Shell(folder)

    def play(block: re.Match[str]) -> str:
        lines = []
        for line in block.group(1).splitlines():
            if line.startswith("$ "):
                lines.append(line)
                lines += [part.rstrip() for part in shell.type(line[2:]).splitlines()]
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(play, text)


def blurred(text: str) -> str:
    """Return the text without what differs from run to run."""
    text = re.sub(r"(?:\b[a-z]{4} ){7}[a-z]{4}\b", "WORDS", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "HEX", text)
    text = re.sub(r"\d(?:[\d,.:]*\d)?(?:e-?\d+)?", "N", text)  # 0 here is 2e-16 elsewhere
    return re.sub(r"[ -]+", " ", text)


def main() -> int:
    """Rewrite or check."""
    asked = [word for word in sys.argv[1:] if word != "--check"] or ["README.md"]
    if asked == ["recipes"]:
        files = sorted((ROOT / "bundles").glob("*/README.md"))
    else:
        files = [Path(word) if Path(word).is_file() else ROOT / word for word in asked]
    return max(one(path, check="--check" in sys.argv) for path in files)


def one(path: Path, *, check: bool) -> int:
    """Rewrite or check one file."""
    text = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="edgepack-readme-") as name:
        now = replay(text, Path(name).resolve())
    where = path.resolve().relative_to(ROOT)
    if not check:
        path.write_text(now, encoding="utf-8")
        return 0
    for said, done in zip(blurred(text).splitlines(), blurred(now).splitlines(), strict=False):
        if said != done:
            print(f"{where} says:  {said}\nthe command says: {done}")
            return 1
    print(f"{where}: every command prints what stands there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
