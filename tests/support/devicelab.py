"""Devices with a bundle that has everything: key, time, text, profile, unlike, abstention.

The model is sigmoid(slope * x + c), where c is +1 for "b", -1 for "c", else 0. It is made with the
onnx package; everything around it is the real thing: keys, signatures, homes, journals.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from device_runtime.clock import SystemClock
from device_runtime.disk import RealDisk
from device_runtime.format import canonical, sketch
from device_runtime.format import manifest as manifests
from device_runtime.format import schema as schemas
from device_runtime.format.batch import Answers, Batch, Text
from device_runtime.format.columns import encode_columns
from device_runtime.format.manifest import Manifest
from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from device_runtime.home import Home, create_home, open_home
from device_runtime.journal.reader import open_segment
from device_runtime.model.graph import inspect_graph
from device_runtime.model.session import open_session
from edgepack.candidate.reference import build_profile, build_unlike
from edgepack.keys.roles import class_policy
from edgepack.sim.clock import FixedClock
from support import realbundle, trustsim

SCHEMA = Schema(
    task="binary",
    columns=(
        Column("id", "key", "int64"),
        Column("at", "time", "timestamp", missing=True),
        Column("x", "input", "float32", low=-1000, high=1000),
        Column("c", "input", "string", missing=True, categories=("a", "b", "c")),
        Column("y", "target", "string"),
    ),
    inputs=(ModelInput("X", "float32", ("x",)), ModelInput("C", "string", ("c",))),
    output=ModelOutput(("no", "yes"), "probabilities", "label"),
    abstain=0.6,
)


@functools.cache
def model(slope: float = 1.0) -> bytes:
    """Return the ONNX bytes."""
    from onnx import TensorProto, helper

    make = helper.make_node
    nodes = [
        make(
            "LabelEncoder",
            ["C"],
            ["c"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b", "c"],
            values_floats=[0.0, 1.0, -1.0],
            default_float=0.0,
        ),
        make("Mul", ["X", "slope"], ["sx"]),
        make("Add", ["sx", "c"], ["z"]),
        make("Sigmoid", ["z"], ["p"]),
        make("Sub", ["one", "p"], ["q"]),
        make("Concat", ["q", "p"], ["probabilities"], axis=1),
        make("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("C", TensorProto.STRING, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        ],
        [
            helper.make_tensor("slope", TensorProto.FLOAT, [1], [slope]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(made.SerializeToString())


def rows(n: int, seed: int = 0, shift: float = 0.0) -> Batch:
    """Return n made-up rows like those of training, moved by `shift`."""
    import numpy as np

    generator = np.random.default_rng(seed)
    x = (generator.normal(0, 3, n) + shift).astype(np.float32)
    c = Text.of("abc"[i] for i in generator.integers(0, 3, n))
    ids = np.arange(n, dtype=np.int64)
    return Batch(n, {"id": ids, "at": ids * 1_000_000, "x": x, "c": c})


def columns(n: int, seed: int = 0, shift: float = 0.0) -> dict[str, Any]:
    """Return the same rows as a dict of lists."""
    made = rows(n, seed, shift)
    return {
        name: data.strings() if isinstance(data, Text) else data.tolist()
        for name, data in made.columns.items()
        if name != "at"
    }


def csv_of(batch: Batch, path: Path) -> Path:
    """Write rows as the CSV that `predict` takes."""
    c = batch.columns["c"].strings()
    lines = [f"{i},,{x:.9g},{c[i] or ''}\n" for i, x in enumerate(batch.columns["x"].tolist())]
    path.write_text("id,at,x,c\n" + "".join(lines))
    return path


@functools.cache
def payload(slope: float = 1.0) -> dict[str, bytes]:
    """Return the payload of a bundle."""
    raw = model(slope)
    session = open_session(raw, SCHEMA)

    def ask(batch: Batch) -> Answers:
        return session.run(batch)

    train, held = rows(2000, 1), rows(1000, 2)
    profile = build_profile(SCHEMA, held, ask(held), rates={"abstained": 0.1, "unlike": 0.05})
    unlike, _ = build_unlike(SCHEMA, train, ask(train), held, ask(held), seed=0, rows=200)
    few = rows(50, 3)
    answers = ask(few)
    test = encode_columns(
        few.n,
        [
            ("id", "int64", (), few.columns["id"]),
            ("at", "timestamp", (), few.columns["at"]),
            ("x", "float32", (), few.columns["x"]),
            ("c", "string", (), few.columns["c"]),
            ("expected:label", "int16", (), answers.label),
            ("expected:scores", "float32", (answers.k,), answers.scores),
        ],
    )
    facts = inspect_graph(raw)
    manifest = Manifest(
        name=trustsim.NAME,
        device_class="field",
        min_runtime="0.1",
        min_onnxruntime="1.20",
        model="model.onnx",
        model_bytes=len(raw),
        model_sha256=hashlib.sha256(raw).hexdigest(),
        ir_version=facts.ir_version,
        opsets=facts.opsets,
        operators=facts.operators,
        peak_rss_bytes=realbundle.PEAK,
        selftest_seconds=0.1,
        rtol=1e-5,
        atol=1e-6,
        lineage="00",
    )
    return {
        "manifest.json": canonical.encode(manifests.to_json(manifest)),
        "schema.json": canonical.encode(schemas.to_json(SCHEMA)),
        "profile.json": canonical.encode(sketch.to_json(profile)),
        "unlike.bin": unlike,
        "model.onnx": raw,
        "selftest.cols": test,
    }


def bundle(base: trustsim.Base, slope: float = 1.0) -> Path:
    """Sign the next version of the bundle."""
    return realbundle.publish(base, payload(slope))


def new_home(base: trustsim.Base, folder: Path, **policy: Any) -> Home:
    """Initialise a device whose journal the base can read."""
    from dataclasses import replace

    trusted = base.trusted()
    kit = SimpleNamespace(
        kit_id="00" * 8,
        device_name="buoy-1",
        device_class="field",
        bundle_name=trustsim.NAME,
        floor=trusted.floor,
        roots={1: trusted.root},
        policy=replace(class_policy(base.ws, "field"), **policy),
    )
    return create_home(folder, kit, disk=RealDisk(), clock=SystemClock())


def records(base: trustsim.Base, root: Path) -> Iterator[Any]:
    """Yield every record of the sealed segments of a home, decrypted, with its header."""
    home = open_home(root, disk=RealDisk(), clock=FixedClock())
    secrets = base.ring.journal_secrets()
    for path in sorted(home.journal.glob("*.seg")):
        reader = open_segment(path.read_bytes(), secrets=secrets, device=home.card.public)
        for record in reader.records():
            yield reader.header, record


def journaled_rows(base: trustsim.Base, root: Path) -> dict[str, dict[str, Any]]:
    """Return record id → what was journaled of each row."""
    found: dict[str, dict[str, Any]] = {}
    for header, record in records(base, root):
        columns = getattr(record, "columns", None)
        if columns is None:
            continue
        numbers = columns["_sequence"].tolist()
        for at, sequence in enumerate(numbers):
            name = f"{header.prefix}{sequence}"
            assert name not in found
            found[name] = {
                key: value.strings()[at] if isinstance(value, Text) else value[at].tolist()
                for key, value in columns.items()
            } | {"lane": header.lane.name}
    return found


def events(base: trustsim.Base, root: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (kind, data) of every event of the sealed segments."""
    return [
        (record.kind, dict(record.data))
        for _, record in records(base, root)
        if hasattr(record, "kind")
    ]


def one(x: float = 1.0, c: str = "a") -> dict[str, Any]:
    """Return one row."""
    return {"id": 7, "at": 0, "x": x, "c": c}


def small(n: int = 1) -> Batch:
    """Return a batch that needs no numpy."""
    return Batch(n, {"x": array("f", [1.0] * n), "c": Text.of(["a"] * n)})


def command(root: Path, *arguments: object, cwd: Path | None = None) -> list[str]:
    """Return the command line of the real command."""
    return [
        str(Path(sys.executable).parent / "edgepack-device"),
        *map(str, arguments),
        "--home",
        str(root),
    ]


def run(
    root: Path, *arguments: object, stdin: bytes | None = None, wrap: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run the real command to its end."""
    environment = {**os.environ, "EDGEPACK_DEBUG": ""}
    return subprocess.run(
        [*wrap, *command(root, *arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env=environment,
        timeout=120,
    )
