"""One model, ready to answer: `Batch` in, `Answers` out, by either of two engines.

`capi` calls onnxruntime's C library by ctypes and needs neither numpy nor the onnxruntime package
for small batches. `python` is the official binding: the fallback, and the oracle in tests.
"""

from __future__ import annotations

from typing import Literal, Protocol

from device_runtime.format.batch import Answers, Batch
from device_runtime.format.schema import Schema

Engine = Literal["capi", "python"]


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
        ...

    def close(self) -> None:
        """Free the model; the session cannot be used again."""
        ...


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
    raise NotImplementedError


def answer_text(schema: Schema, answers: Answers) -> list[str]:
    """Return the answer of each row as text: the class, the labels joined by `|`, or the value.

    Empty where there is no answer. For quantiles and scores with several names: the first value
    of `quantiles`' middle level, or the name of the highest score.
    """
    raise NotImplementedError
