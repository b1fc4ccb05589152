"""Candidates: the folder of a trained and proven model, and how one is made.

A facade: the folder is `edgepack.candidates`, the making `edgepack.making`.
"""

from __future__ import annotations

from edgepack.candidates import (
    Candidate,
    accept,
    find_candidate,
    list_candidates,
    load_candidate,
    score_onnx,
    truth_of,
)
from edgepack.making import make as make_candidate

__all__ = [
    "Candidate",
    "accept",
    "find_candidate",
    "list_candidates",
    "load_candidate",
    "make_candidate",
    "score_onnx",
    "truth_of",
]
