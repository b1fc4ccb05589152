"""The self-test: does this model answer here as it did at build?

A child process loads the model from its folder, answers the bundled real rows and compares. What
goes wrong in it (an illegal instruction, no memory, a hang, a wrong answer) stays in it. The same
child, without limits, measures at build how much memory and time the model takes.

    python -m device_runtime.slots.selftest FOLDER < request.json > result.json
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from device_runtime.errors import EdgepackError, MachineError, SelfTestError
from device_runtime.format.manifest import Manifest
from device_runtime.policy import Policy
from device_runtime.record import dataclass

MEMORY_FACTOR = 1.5
MEMORY_SLACK = 512 << 20  # address space that libraries and thread stacks reserve but do not use
MAX_ROWS = 10_000
MAX_BYTES = 64 << 20
_GRACE_S = 2.0  # the child's own limits come first: they know the reason
_TAIL = 300


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What a self-test measured.

    Attributes:
        seconds: Wall time to load the model and answer all rows.
        peak_rss: Peak resident memory of the process, bytes.
        rows: Rows that were answered.
    """

    seconds: float
    peak_rss: int
    rows: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use.

    Attributes:
        memory_bytes: Address space.
        seconds: Wall time; also CPU time for each thread.
    """

    memory_bytes: int
    seconds: float


def limits(manifest: Manifest, policy: Policy) -> Limits:
    """Return the limits for a bundle: 1.5 x its signed peak + 512 MiB, max(10 s, 10 x build)."""
    return Limits(
        int(MEMORY_FACTOR * manifest.peak_rss_bytes) + MEMORY_SLACK,
        max(policy.selftest_floor_seconds, policy.selftest_factor * manifest.selftest_seconds),
    )


def run_selftest(
    folder: Path,
    manifest: Manifest,
    policy: Policy,
    *,
    engine: str = "capi",
    python: str = sys.executable,
) -> SelfTestResult:
    """Test the model in a slot folder before it may run.

    Args:
        folder: Holds `model.onnx`, `schema.json`, `selftest.cols`, digests already checked.
        manifest: Tolerances, and what the model used at build.
        policy: Threads and limits of this device.
        engine: `capi` or `python`.
        python: Interpreter of the child.

    Raises:
        SelfTestError: It crashed, hung, ran out of memory or answered differently.
        MachineError: No process could be started.
    """
    return _run(
        folder,
        limits(manifest, policy),
        {"rtol": manifest.rtol, "atol": manifest.atol, "threads": policy.threads, "engine": engine},
        python,
    )


def measure(
    folder: Path,
    *,
    rtol: float,
    atol: float,
    threads: int = 1,
    engine: str = "capi",
    python: str = sys.executable,
    timeout_s: float = 3600.0,
) -> SelfTestResult:
    """Run the same test without limits, to learn what to sign into the manifest.

    Raises:
        SelfTestError: The model does not pass its own test.
    """
    request = {"rtol": rtol, "atol": atol, "threads": threads, "engine": engine}
    return _run(folder, Limits(0, timeout_s), request, python)


# --- parent ----------------------------------------------------------------------------------


def _run(folder: Path, bound: Limits, request: dict[str, Any], python: str) -> SelfTestResult:
    request = {**request, "memory_bytes": bound.memory_bytes, "seconds": bound.seconds}
    # -P: the folder where somebody stands (a stick, perhaps) must not be searched for modules.
    command = [python, "-P", "-m", "device_runtime.slots.selftest", str(folder)]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise MachineError(f"the self-test could not be started: {error}") from None
    try:
        out, err = child.communicate(json.dumps(request).encode(), timeout=bound.seconds + _GRACE_S)
    except subprocess.TimeoutExpired:
        raise SelfTestError(f"the model did not answer within {bound.seconds:.0f} s") from None
    finally:
        if child.poll() is None:
            _kill(child)
    return _judge(child.returncode, out, err.decode(errors="replace"), bound)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _judge(code: int, out: bytes, err: str, bound: Limits) -> SelfTestResult:
    if code < 0:
        raise SelfTestError(_died(-code, bound), why=err.strip()[-_TAIL:])
    try:
        answer = json.loads(out)
        if answer["ok"]:
            return SelfTestResult(answer["seconds"], answer["peak_rss"], answer["rows"])
        raise SelfTestError(str(answer["what"])[:_TAIL])
    except (ValueError, KeyError, TypeError):
        tail = err.strip().splitlines()[-1:] or ["it said nothing"]
        raise SelfTestError(
            f"the self-test ended with status {code}", why=tail[0][-_TAIL:]
        ) from None


def _died(number: int, bound: Limits) -> str:
    if number == signal.SIGILL:
        return "the model uses an instruction that this processor does not have (SIGILL)"
    if number == signal.SIGXCPU:
        return f"the model computed for more than {bound.seconds:.0f} s"
    if number == signal.SIGKILL:
        return "the model was killed: most likely this machine ran out of memory"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the model crashed ({name})"


# --- child -----------------------------------------------------------------------------------


def main() -> int:
    """Answer one request; the process ends with it."""
    request = json.loads(sys.stdin.buffer.read())
    # numpy's BLAS reserves 40 MiB of address space for each core, and nothing here needs it.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    confine(request["memory_bytes"], request["seconds"], request["threads"])
    try:
        answer = _test(Path(sys.argv[1]), request)
    except MemoryError:
        answer = {"ok": False, "what": _no_memory(request)}
    except OSError as error:
        answer = {"ok": False, "what": f"the self-test lacks a file: {error}"}
    except EdgepackError as error:
        memory = "bad_alloc" in error.what or "Failed to allocate" in error.what
        what = f"{_no_memory(request)}: {error.what}" if memory else error.what
        answer = {"ok": False, "what": what}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a library that crashes while it is unloaded must not spoil the answer


def _no_memory(request: dict[str, Any]) -> str:
    return f"the model needs more memory than {request['memory_bytes'] >> 20} MiB"


def confine(memory_bytes: int, seconds: float, threads: int) -> None:
    """Limit this process: no core dump, address space, CPU time, and it dies with its parent."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        cpu = math.ceil(seconds) * max(1, threads)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def _test(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    import time

    from device_runtime.format import schema as schemas
    from device_runtime.format.batch import Batch
    from device_runtime.format.columns import decode_columns
    from device_runtime.model.session import open_session

    schema = schemas.from_json(json.loads((folder / "schema.json").read_bytes()))
    n, columns, _ = decode_columns(
        (folder / "selftest.cols").read_bytes(), max_rows=MAX_ROWS, max_bytes=MAX_BYTES
    )
    label, scores = columns.pop("expected:label", None), columns.pop("expected:scores", None)
    if n == 0:
        return {"ok": False, "what": "the bundle brings no rows to test itself with"}
    model = (folder / "model.onnx").read_bytes()
    begin = time.perf_counter()
    session = open_session(model, schema, engine=request["engine"], threads=request["threads"])
    answers = session.run(Batch(n, columns))
    seconds = time.perf_counter() - begin
    what = compare(schema, answers, label, scores, request["rtol"], request["atol"])
    if what:
        return {"ok": False, "what": what}
    return {"ok": True, "seconds": seconds, "peak_rss": peak_rss(), "rows": n}


def compare(schema: Any, answers: Any, label: Any, scores: Any, rtol: float, atol: float) -> str:
    """Return what differs between answers and expectation, one line; empty when they agree.

    A label may differ where the scores say that it was a tie within the tolerance: the last bit
    of a float is the processor's own.
    """
    import numpy as np

    n, slack = answers.n, 0.0
    wrong = np.zeros(n, bool)
    close = None
    if scores is not None:
        want = np.asarray(scores, np.float64).reshape(n, -1)
        if answers.scores is None or want.shape[1] != answers.k:
            return f"the model gives {answers.k} scores a row, {want.shape[1]} were expected"
        kind = np.dtype(schema.output.scores_dtype)
        close = np.frombuffer(answers.scores, kind).astype(np.float64).reshape(n, -1)
        good = np.isclose(close, want, rtol=rtol, atol=atol, equal_nan=True)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            bad = int((~good).any(axis=1).sum())
            return (
                f"{bad} of {n} rows are answered differently than at build: row {row}, "
                f"{schema.output.names[column] if column < len(schema.output.names) else column}: "
                f"{close[row, column]!r} instead of {want[row, column]!r}"
            )
        slack = atol + rtol
    if label is not None:
        want_label = np.frombuffer(np.ascontiguousarray(label), np.int16)
        got_label = np.frombuffer(answers.label, np.int16)
        wrong = got_label != want_label
        for row in np.flatnonzero(wrong).tolist():
            if close is None or not _tie(schema, close[row], int(want_label[row]), slack):
                return (
                    f"{int(wrong.sum())} of {n} rows get another label than at build: row {row}: "
                    f"{int(got_label[row])} instead of {int(want_label[row])}"
                )
    return ""


def _tie(schema: Any, row: Any, want: int, slack: float) -> bool:
    if schema.task == "binary":
        return bool(abs(float(row[-1]) - schema.threshold) <= slack)
    return 0 <= want < len(row) and bool(row[want] >= row.max() - 2 * slack)


def peak_rss() -> int:
    """Return the peak resident memory of this process in bytes.

    From VmHWM, which begins anew at `exec`; `getrusage` would also count the parent that this
    process was forked from.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
