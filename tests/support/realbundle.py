"""Real signed bundles with real small models, and real device homes to install them into.

The models are logistic regressions of one column, made with the onnx package: a version answers
with its own slope, so that a test sees which one runs.
"""

from __future__ import annotations

import functools
import hashlib
import math
from array import array
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from device_runtime.disk import RealDisk
from device_runtime.format import canonical
from device_runtime.format import manifest as manifests
from device_runtime.format import schema as schemas
from device_runtime.format.batch import Batch
from device_runtime.format.columns import encode_columns
from device_runtime.format.manifest import Manifest
from device_runtime.home import Home, create_home
from device_runtime.model.session import open_session
from device_runtime.policy import Policy
from edgepack.keys import ceremony, sign
from edgepack.sim.clock import FixedClock
from support import trustsim

ROWS = array("f", [i / 10 - 10 for i in range(200)])
PEAK = 220 << 20  # more than any machine takes for it
SCHEMA = trustsim.SCHEMA


@functools.cache
def model(slope: float = 1.0, *, extra: str = "") -> bytes:
    """Return the ONNX bytes of `sigmoid(slope * x)`; `extra` changes it for the worse."""
    import onnx
    from onnx import TensorProto, helper

    make = helper.make_node
    nodes = [
        make("Mul", ["X", "slope"], ["z"]),
        make("Sigmoid", ["z"], ["p"]),
        make("Sub", ["one", "p"], ["q"]),
        make("Concat", ["q", "p"], ["probabilities"], axis=1),
        make("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    constants = [
        helper.make_tensor("slope", TensorProto.FLOAT, [1], [slope]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
    ]
    if extra == "memory":  # 8 GiB for a moment
        constants.append(helper.make_tensor("big", TensorProto.INT64, [2], [1 << 16, 1 << 15]))
        nodes[1:1] = [
            make("ConstantOfShape", ["big"], ["huge"]),
            make("ReduceSum", ["huge"], ["nought"], keepdims=0),
            make("Add", ["z", "nought"], ["zz"]),
        ]
        nodes[4] = make("Sigmoid", ["zz"], ["p"])
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        ],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@functools.cache
def selftest(raw: bytes, shift: float = 0.0) -> bytes:
    """Return selftest.cols: the rows and what the model answers, off by `shift`."""
    session = open_session(raw, SCHEMA)
    answers = session.run(Batch(len(ROWS), {"x": ROWS}))
    scores = array("f", memoryview(answers.scores).cast("B").cast("f"))
    shifted = array("f", [score + shift for score in scores])
    return encode_columns(
        len(ROWS),
        [
            ("x", "float32", (), ROWS),
            ("expected:label", "int16", (), answers.label),
            ("expected:scores", "float32", (answers.k,), shifted),
        ],
    )


OPERATORS = tuple(f"ai.onnx:{name}" for name in ("ArgMax", "Concat", "Mul", "Sigmoid", "Sub"))


def files(raw: bytes, *, shift: float = 0.0, test: bytes | None = None, **changes: Any):
    """Return the payload of a bundle; `changes` go into the manifest."""
    manifest = Manifest(
        name=trustsim.NAME,
        device_class="field",
        min_runtime="0.1",
        min_onnxruntime="1.20",
        model="model.onnx",
        model_bytes=len(raw),
        model_sha256=hashlib.sha256(raw).hexdigest(),
        ir_version=9,
        opsets={"ai.onnx": 17},
        operators=OPERATORS,
        peak_rss_bytes=PEAK,
        selftest_seconds=0.1,
        rtol=1e-5,
        atol=1e-6,
        lineage="00",
    )
    return {
        "manifest.json": canonical.encode(manifests.to_json(replace(manifest, **changes))),
        "schema.json": canonical.encode(schemas.to_json(SCHEMA)),
        "model.onnx": raw,
        "selftest.cols": selftest(raw, shift) if test is None else test,
    }


def publish(base: trustsim.Base, payload: dict[str, bytes]) -> Path:
    """Sign a payload; returns NAME-VERSION.edgepack."""
    base.clock.advance(3600)
    said = {
        "format": "edgepack-unsigned",
        "version": 1,
        "name": trustsim.NAME,
        "device_class": "field",
        "min_runtime": "0.1",
        "expiry_days": 400,
        "raw": {},
        "candidate": "1",
    }
    entries = {f"payload/{name}": data for name, data in payload.items()}
    entries["metadata/unsigned.json"] = canonical.encode(said)
    unsigned = base.ws.out / "made.unsigned"
    unsigned.parent.mkdir(exist_ok=True)
    unsigned.write_bytes(trustsim.pack(entries))
    return sign.sign_file(base.ws, base.ring, unsigned, clock=base.clock).path


def sound(base: trustsim.Base, slope: float = 1.0) -> Path:
    """Sign a bundle whose model is fine."""
    return publish(base, files(model(slope)))


def new_home(base: trustsim.Base, folder: Path, **policy: Any) -> Home:
    """Initialise a device on the real disk."""
    trusted = base.trusted()
    kit = SimpleNamespace(
        kit_id="00" * 8,
        device_name="buoy-1",
        device_class="field",
        bundle_name=trustsim.NAME,
        floor=trusted.floor,
        roots={1: trusted.root},
        policy=Policy("field", **policy),
    )
    return create_home(folder, kit, disk=RealDisk(), clock=FixedClock())


def ask(slot: Any, x: float = 1.0) -> float:
    """Open the slot's model and return its slope, from the probability of the second class."""
    session = open_session(slot.model, slot.schema)
    answers = session.run(Batch(1, {"x": array("f", [x])}))
    p = memoryview(answers.scores).cast("B").cast("f")[1]
    session.close()
    return round(math.log(p / (1 - p)) / x, 3)


def token(base: trustsim.Base, version: int) -> bytes:
    """Sign the order to go back from the newest bundle to `version`."""
    base.clock.advance(3600)
    made = ceremony.downgrade(base.ws, base.ring, trustsim.NAME, version, clock=base.clock)
    return made.path.read_bytes()


def revoke(base: trustsim.Base, what: str, *, stop: bool = False) -> None:
    """Revoke a bundle or key in a new root, which travels in every later bundle."""
    base.clock.advance(3600)
    ceremony.revoke(base.ws, base.ring, what, clock=base.clock, stop=stop)
