"""Is this row unlike the training data? Confidence and distance, combined after Fisher.

unlike.bin (optional payload) carries up to 1,000 reference rows as bytes, so it is training data:
off for confidential data. See docs/MODELS.md for what it can and cannot find.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device_runtime.format.batch import Answers, Batch
from device_runtime.format.schema import Schema

FILE = "unlike.bin"


class Unlike:
    """Scores rows: above 1 is unlike the training data."""

    @classmethod
    def from_bytes(cls, data: bytes, schema: Schema) -> Unlike:
        """Read unlike.bin after its digest was verified. Raises FormatError."""
        raise NotImplementedError

    def score(self, batch: Batch, answers: Answers) -> Any:
        """Return float32 per row (`array('f')` up to 32 rows, numpy above)."""
        raise NotImplementedError


def build_unlike(
    schema: Schema,
    reference: Batch,
    reference_answers: Answers,
    calibration: Batch,
    calibration_answers: Answers,
    *,
    seed: int,
    rows: int = 1000,
    alarm: float = 0.05,
    groups: Any = None,
) -> tuple[bytes, Mapping[str, Any]]:
    """Return (bytes of unlike.bin, facts for the card) of a new bundle.

    Args:
        schema: Of the candidate.
        reference: Training rows to draw reference rows from (numpy columns and `Text`).
        reference_answers: What the ONNX model says about them.
        calibration: Rows that the model was not trained on: they set the limit.
        calibration_answers: What the ONNX model says about them.
        seed: Which rows are drawn.
        rows: Most reference rows.
        alarm: Share of calibration rows that may be called unlike.
        groups: One place or day per calibration row; the limit then is the median over groups.
    """
    raise NotImplementedError
