"""One model, ready to answer: `Batch` in, `Answers` out, by either of two engines.

`capi` calls onnxruntime's C library by ctypes and needs neither numpy nor the onnxruntime package
for small batches. `python` is the official binding: the fallback, and the oracle in tests.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Literal

from device_runtime.errors import ModelLoadError, RunError
from device_runtime.format.batch import SMALL, Answers, Batch, SingleRow
from device_runtime.format.schema import DTYPES, Column, ModelInput, Schema
from device_runtime.model import answers as reading
from device_runtime.model import feeds
from device_runtime.model.capi import Model, Port, Strings
from device_runtime.model.ortlib import no_telemetry
from device_runtime.record import Protocol

Engine = Literal["capi", "python"]

# How the official binding names element types.
_BINDING = {"float": "float32", "double": "float64"}


class Session(Protocol):
    """A loaded model."""

    def run(self, batch: Batch) -> Answers:
        """Answer every row of a batch of good rows.

        Labels: `binary` answers the second class from `schema.threshold` on (at 0.5 the model's
        own label tensor decides where there is one, so that ties fall as they did in training);
        `classes` takes the label tensor, else the first largest score; the other tasks have -1.
        A row with NaN among its scores has label -1. For `labels` (several labels a row) scores
        hold one probability per label, and those from `schema.threshold` on are answered.

        Raises:
            RunError: The model failed on this batch, or answered in another shape.
        """

    def close(self) -> None:
        """Free the model; the session cannot be used again."""


def open_session(
    model: bytes | memoryview, schema: Schema, *, engine: Engine = "capi", threads: int = 1
) -> Session:
    """Load verified bytes as a model and check that it fits its schema.

    Args:
        model: Raw ONNX; may be a read-only mapping. Only needed during this call.
        schema: Names the tensors and how they are read.
        engine: Which binding.
        threads: Threads within one operator.

    Raises:
        ModelLoadError: onnxruntime is not there, does not take the model, or the model's inputs
            and outputs are not those of the schema.
    """
    if engine == "python":
        return _PythonSession(model, schema, threads)
    return _CapiSession(model, schema, threads)


def answer_text(schema: Schema, answers: Answers) -> list[str]:
    """Return the answer of each row as text; see `answers.text`."""
    return reading.text(schema, answers)


class _Plan:
    """How columns become tensors and tensors answers; checked against what the model declares."""

    def __init__(self, schema: Schema, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self.schema = schema
        self.items: list[tuple[ModelInput, tuple[Column, ...], int]] = []
        self.plain = True  # one row can be fed the short way
        ports = {port.name: port for port in inputs}
        for item in schema.inputs:
            columns = tuple(schema.column(name) for name in item.columns)
            port = ports.pop(item.tensor, None)
            if port is None:
                raise ModelLoadError(f"the model has no input {item.tensor}, but its schema does")
            _check_input(item, columns, port)
            self.items.append((item, columns, len(port.shape)))
            self.plain = self.plain and feeds.is_plain(item, columns)
        self.shapes = [feeds.shape_of(columns, 1, rank) for _, columns, rank in self.items]
        if ports:
            raise ModelLoadError(f"the model wants inputs that no column fills: {', '.join(ports)}")
        self.scores, self.label = schema.output.scores, schema.output.label
        self.labels = reading.label_index(schema)
        self.wanted = [name for name in (self.scores, self.label) if name is not None]
        _check_outputs(schema, {port.name: port for port in outputs})


def _check_input(item: ModelInput, columns: Sequence[Column], port: Port) -> None:
    if port.dtype != item.dtype:
        raise ModelLoadError(
            f"input {item.tensor} is {port.dtype or 'no tensor'} in the model and {item.dtype} in "
            "its schema"
        )
    for column in columns:
        if not feeds.fits(column.dtype, item.dtype):
            raise ModelLoadError(
                f"column {column.name} ({column.dtype}) cannot fill input {item.tensor} "
                f"({item.dtype})"
            )
        if column.shape and len(columns) > 1:
            raise ModelLoadError(f"column {column.name} has a shape and must fill a tensor alone")
    shape = feeds.shape_of(columns, -1, len(port.shape))
    if len(port.shape) != len(shape) or any(
        have not in (-1, want) for have, want in zip(port.shape, shape, strict=True)
    ):
        raise ModelLoadError(
            f"input {item.tensor} has shape {_shape(port.shape)} in the model; its columns make "
            f"{_shape(shape)}",
            why="the first size must be open, so that any number of rows fits",
        )


def _check_outputs(schema: Schema, ports: dict[str, Port]) -> None:
    output = schema.output
    wanted = {output.scores: output.scores_dtype, output.label: output.label_dtype}
    for name, dtype in wanted.items():
        if name is None:
            continue
        if name not in ports:
            raise ModelLoadError(f"the model has no output {name}, but its schema does")
        if ports[name].dtype != dtype:
            raise ModelLoadError(
                f"output {name} is {ports[name].dtype or 'no tensor'} in the model and {dtype} in "
                "its schema",
                why="a ZipMap, or another sequence or map, cannot be read"
                if not ports[name].dtype
                else "",
            )
    if schema.task in ("binary", "classes") and output.scores is None and output.label is None:
        raise ModelLoadError("the schema names neither scores nor a label")
    if schema.task not in ("binary", "classes", "labels") and output.scores is None:
        raise ModelLoadError(f"a model for {schema.task} must name its scores")


def _shape(sizes: Sequence[int]) -> str:
    return f"[{', '.join('n' if size < 0 else str(size) for size in sizes)}]"


def _empty(schema: Schema) -> Answers:
    k = reading.width(schema)
    scores = array(DTYPES[schema.output.scores_dtype][0]) if k else None
    return Answers(0, array("h"), scores, k)


class _CapiSession:
    """onnxruntime's C API."""

    def __init__(self, model: bytes | memoryview, schema: Schema, threads: int) -> None:
        self._model = Model(model, threads=threads)
        try:
            self._plan = _Plan(schema, self._model.inputs, self._model.outputs)
        except BaseException:
            self._model.close()
            raise

    def run(self, batch: Batch) -> Answers:
        plan = self._plan
        if batch.n == 0:
            return _empty(plan.schema)
        row = batch.columns
        if plan.plain and type(row) is SingleRow:
            tensors = {
                item.tensor: feeds.one(item, row, shape)
                for (item, _, _), shape in zip(plan.items, plan.shapes, strict=True)
            }
        else:
            build = feeds.small if batch.n <= SMALL else feeds.bulk
            tensors = {
                item.tensor: build(item, columns, batch, rank) for item, columns, rank in plan.items
            }
        found = dict(zip(plan.wanted, self._model.run(tensors, plan.wanted), strict=True))
        scores = found[plan.scores] if plan.scores is not None else None
        label = found[plan.label] if plan.label is not None else None
        return self._answers(batch.n, scores, label)

    def _answers(self, n: int, scores: Any, label: Any) -> Answers:
        schema = self._plan.schema
        output = schema.output
        if n <= SMALL:
            if scores is not None:
                scores = array(DTYPES[output.scores_dtype][0], scores)
            if label is not None:
                text = isinstance(label, Strings)
                label = label.tolist() if text else array(DTYPES[output.label_dtype][0], label)
            return reading.small(schema, n, scores, label, self._plan.labels)
        import numpy as np

        if scores is not None:
            scores = np.frombuffer(scores, output.scores_dtype)
        if isinstance(label, bytes):
            label = np.frombuffer(label, output.label_dtype)
        return reading.bulk(schema, n, scores, label, self._plan.labels)

    def close(self) -> None:
        self._model.close()


class _PythonSession:
    """The official binding."""

    def __init__(self, model: bytes | memoryview, schema: Schema, threads: int) -> None:
        no_telemetry()
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise ModelLoadError(f"onnxruntime cannot be imported: {error}") from None
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(
                bytes(model), options, providers=["CPUExecutionProvider"]
            )
            ports = [
                [Port(p.name, _dtype(p.type), _sizes(p.shape)) for p in side]
                for side in (self._session.get_inputs(), self._session.get_outputs())
            ]
        except Exception as error:  # noqa: BLE001  (the binding raises RuntimeError and many more)
            raise ModelLoadError(" ".join(str(error).split())[:400]) from None
        self._plan = _Plan(schema, *ports)

    def run(self, batch: Batch) -> Answers:
        plan = self._plan
        if batch.n == 0:
            return _empty(plan.schema)
        tensors = {
            item.tensor: feeds.objects(item, columns, batch, rank)
            for item, columns, rank in plan.items
        }
        try:
            found = dict(zip(plan.wanted, self._session.run(plan.wanted, tensors), strict=True))
        except Exception as error:  # noqa: BLE001  (see above)
            raise RunError(" ".join(str(error).split())[:400]) from None
        scores = found[plan.scores] if plan.scores is not None else None
        label = found[plan.label] if plan.label is not None else None
        return reading.bulk(plan.schema, batch.n, scores, label)

    def close(self) -> None:
        self._session = None


def _dtype(text: str) -> str:
    """Return our dtype for the binding's `tensor(float)`; "" for what is no tensor of ours."""
    if not text.startswith("tensor("):
        return ""
    name = _BINDING.get(text[7:-1], text[7:-1])
    return name if name in DTYPES else ""


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)
