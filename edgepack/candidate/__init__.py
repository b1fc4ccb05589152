"""Candidates: the folder of a trained and proven model, and how one is made.

A facade: the folder is `edgepack.candidate.folder`, the making `edgepack.candidate.making`.
"""

from __future__ import annotations

from edgepack.candidate.folder import (
    Candidate,
    accept,
    find_candidate,
    list_candidates,
    load_candidate,
    score_onnx,
    truth_of,
)
from edgepack.candidate.making import make as make_candidate

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
