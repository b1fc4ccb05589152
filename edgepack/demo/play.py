"""Runs real commands for the demo, and tells each step in one line.

Imports nothing of edgepack: base and device are processes, as they are for a user.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class StepFailedError(Exception):
    """A command of the story did not end as the story says.

    Attributes:
        error: As `--json` prints it: {code, what, why, next, exit}.
    """

    def __init__(
        self,
        what: str,
        code: str = "internal",
        status: int = 1,
        next: str = "report this with the command that you typed",
    ) -> None:
        super().__init__(what)
        self.error = {"code": code, "what": what, "why": "", "next": next, "exit": status}


def failure(command: list[str], status: int, out: str, error: str = "") -> StepFailedError:
    """Return the failure of a step: the command's own error, if it printed one."""
    words = " ".join(command)
    try:
        said = json.loads(out)["error"]
    except (ValueError, LookupError):
        return StepFailedError(f"{words} ended with {status}: {(out + error).strip()}")
    failed = StepFailedError(f"{words}: {said['what']}")
    failed.error = {**said, "what": f"{words}: {said['what']}"}
    return failed


def program(name: str, module: str) -> list[str]:
    """Return how to start a command: the one beside this Python, else the module."""
    beside = Path(sys.executable).parent / name
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


def without_network() -> list[str]:
    """Return the prefix that takes the network away, or nothing where the system refuses."""
    for prefix in (["unshare", "-n", "--"], ["unshare", "-r", "-n", "--"]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        except OSError:
            break
    return []


class Play:
    """One performance in one folder.

    Attributes:
        folder: Everything lies here: base, device, stick.
        refused: What was refused on the way: {what, code, exit}.
        steps: What was told: {step, seconds, text}.
    """

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.folder = folder
        self.quiet = quiet
        self.base = folder / "base"
        self.stick = folder / "stick"
        self.home = folder / "device"
        self.no_network = without_network()
        self.refused: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self._edgepack = program("edgepack", "edgepack")
        self._device = program("edgepack-device", "device_runtime")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("EDGEPACK_")},
            "EDGEPACK_PASSPHRASE": os.environ.get("EDGEPACK_PASSPHRASE", "demo passphrase"),
        }

    def tell(self, text: str = "") -> None:
        """Print one line of the story."""
        if not self.quiet:
            print(text, flush=True)  # noqa: T201

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Run a block and tell it in one line: number, what, seconds, and the facts it appends.

        On a terminal the line stands there, without seconds, while the block runs.
        """
        facts: list[str] = []
        number = len(self.steps) + 1
        if sys.stdout.isatty() and not self.quiet:
            print(f"{number:3}  {what} …", end="\r", flush=True)  # noqa: T201
        started = time.monotonic()
        yield facts
        seconds = time.monotonic() - started
        self.steps.append({"step": what, "seconds": round(seconds, 3), "facts": facts})
        self.tell(f"{number:3}  {what:<44} {seconds:6.2f} s  {' · '.join(facts)}")

    def on_base(self, *words: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        """Type `edgepack …` in the workspace and return its JSON."""
        command = [*self._edgepack, *map(str, words), "--json"]
        return self._json(command, cwd or self.base)

    def on_device(self, *words: str | Path) -> dict[str, Any]:
        """Type `edgepack-device …` on the device, without a network, and return its JSON."""
        return self._json(self.device_command(*words, "--json"), self.folder)

    def device_command(self, *words: str | Path) -> list[str]:
        """Return the full command line for the device."""
        verb, *rest = map(str, words)
        return [*self.no_network, *self._device, verb, "--home", str(self.home), *rest]

    def expect_refusal(self, what: str, *words: str | Path) -> str:
        """Type a device command that must be refused; remember code and exit status."""
        command = self.device_command(*words, "--json")
        done = self._run(command, self.folder)
        answer = json.loads(done.stdout or "{}")
        if done.returncode == 0 or answer.get("ok", True):
            raise StepFailedError(f"{' '.join(command)}: it was accepted, and must not be")
        error = answer["error"]
        self.refused.append({"what": what, "code": error["code"], "exit": done.returncode})
        return f"{error['code']} (exit {done.returncode})"

    def nature(self, *words: str | Path) -> None:
        """Let the recipe's `field.py` write what the world brings."""
        script = self.base / "bundles" / "flight-delays" / "field.py"
        command = [sys.executable, str(script), *map(str, words)]
        done = self._run(command, self.folder)
        if done.returncode:
            raise failure(command, done.returncode, done.stdout, done.stderr)

    def kill_in_the_middle(self, rows: Path, answers: Path) -> int:
        """Predict from a pipe, `kill -9` once a part is answered; return the lines answered."""
        command = self.device_command("predict", "-", "--out", answers, "--json")
        lines = rows.read_bytes().splitlines(keepends=True)
        half = b"".join(lines[: len(lines) // 2])
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it ended early: it says why
                process.stdin.write(half)
                process.stdin.flush()
            deadline = time.monotonic() + 30
            while count_lines(answers) < 1000:
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    raise failure(command, process.wait(), process.stdout.read().decode())
                time.sleep(0.01)
            process.kill()
        return count_lines(answers)

    def _json(self, command: list[str], cwd: Path) -> dict[str, Any]:
        done = self._run(command, cwd)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise failure(command, done.returncode, done.stdout, done.stderr) from None
        if done.returncode:
            raise failure(command, done.returncode, done.stdout, done.stderr)
        return answer

    def _run(self, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def count_lines(path: Path) -> int:
    """Return the complete lines of a file; 0 if it is not there."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def digest(path: Path) -> str:
    """Return size and short digest of a file, for the story."""
    return (
        f"{size(path.stat().st_size)} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    )


def size(count: int) -> str:
    """Return a size that a person reads."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count //= 1 if unit == "MB" else 1000
    return f"{count} MB"
