"""Which opsets and IR each onnxruntime runs, by asking it: the table of device_runtime.model.graph.

    python tools/runtime_table.py 1.20 1.21     (without words: from 1.20 to the installed one)

Each release is unpacked into a folder of its own and loads tiny models of rising opset, ai.onnx.ml
opset and IR; the highest that it loads counts. onnxruntime refuses an opset that was not released
when it was built, which is what is asked here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime
from onnx import TensorProto, helper

from device_runtime.model.graph import RUNTIMES

CHILD = """
import json, sys
import onnxruntime as ort
ort.set_default_logger_severity(4)
found = []
for name in sys.argv[1:]:
    try:
        ort.InferenceSession(name, providers=["CPUExecutionProvider"])
    except Exception:
        break
    found.append(name)
print(json.dumps([ort.__version__, len(found)]))
"""


def model(opset: int, ml: int, ir: int) -> bytes:
    """Return a model that scales one number."""
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in "xy"]
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    graph = helper.make_graph([node], "g", tensor[:1], tensor[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", ml)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = ir
    return made.SerializeToString()


def highest(folder: Path, site: Path, models: dict[int, bytes]) -> tuple[str, int]:
    """Return (version of that onnxruntime, highest number whose model it loads)."""
    names = []
    for number, data in models.items():
        names.append(folder / f"{number}.onnx")
        names[-1].write_bytes(data)
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{CHILD}"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, names)], capture_output=True, text=True, check=True
    )
    version, count = json.loads(done.stdout)
    return version, list(models)[count - 1] if count else 0


def ask(release: str, folder: Path) -> tuple[tuple[int, int], int, int, int]:
    """Return a row of the table for one release, such as "1.20"."""
    site = folder / release
    install = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--target", site, f"onnxruntime=={release}.*"], check=True)
    version, opset = highest(folder, site, {n: model(n, 3, 8) for n in range(18, 40)})
    _, ml = highest(folder, site, {n: model(18, n, 8) for n in range(3, 10)})
    _, ir = highest(folder, site, {n: model(18, 3, n) for n in range(8, 20)})
    print(f"    # onnxruntime {version}")
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)), opset, ml, ir


def main() -> int:
    """Ask every release, print the rows that the table should have, compare."""
    newest = int(onnxruntime.__version__.split(".")[1])
    first = RUNTIMES[0][0][1]
    wanted = sys.argv[1:] or [f"1.{minor}" for minor in range(first, newest + 1)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for release in wanted:
            row = ask(release, Path(folder))
            here = [known for known in RUNTIMES if known[0] <= row[0]][-1:]
            wrong += [known[1:] for known in here] != [row[1:]]
            print(f"    {row},")
    print(f"{wrong} of {len(wanted)} differ from the table")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
