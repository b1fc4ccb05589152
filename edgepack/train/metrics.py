"""Numbers that say how good a model is, by task. From labels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# The figure that two models are compared by, and whether more is better.
MAIN: dict[str, tuple[str, bool]] = {
    "binary": ("auc", True),
    "classes": ("accuracy", True),
    "labels": ("f1", True),
    "regression": ("mae", False),
    "quantiles": ("pinball", False),
    "scores": ("recall_at_10", True),
}
TOP = 10


def measure(
    task: str, names: Sequence[str], truth: Any, label: Any, scores: Any
) -> dict[str, float]:
    """Compare answers with the truth.

    Args:
        task: Of the recipe.
        names: Of the output, in the order of the scores.
        truth: Class indexes [n] (`binary`, `classes`; -1 = a class the model does not know),
            0/1 [n, k] (`labels`), values [n] or [n, k] otherwise.
        label: Answered class indexes [n].
        scores: [n, k] or None.

    Returns:
        Figure by name; only those that these rows allow.
    """
    truth = np.asarray(truth)
    if not len(truth):
        return {}
    if task in ("binary", "classes"):
        return _classed(task, truth, np.asarray(label), scores)
    if task == "labels":
        return _labels(truth, np.asarray(scores))
    values = np.asarray(scores, float)
    if task == "regression":
        return _values(truth.reshape(values.shape).astype(float), values)
    if task == "quantiles":
        return _quantiles([float(name) for name in names], truth.astype(float).ravel(), values)
    if truth.shape == values.shape and values.shape[1] > TOP and set(np.unique(truth)) <= {0, 1}:
        return {f"recall_at_{TOP}": recall_at(truth, values)}
    return {}


def recall_at(truth: Any, scores: Any, top: int = TOP) -> float:
    """Return how much of what was chosen (0/1 [n, k]) stands among the top scores of its row.

    A row where fewer than `top` were chosen can still reach 1; rows where nothing was are left out.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    hits = np.take_along_axis(truth, best, axis=1).sum(axis=1)
    chosen = np.minimum(truth.sum(axis=1), top)
    return float((hits[chosen > 0] / chosen[chosen > 0]).mean())


def _classed(task: str, truth: Any, label: Any, scores: Any) -> dict[str, float]:
    result = {"accuracy": float((truth == label).mean())}
    known = truth >= 0
    kinds = np.unique(truth)
    several = len(np.unique(truth[known])) > 1
    if task == "classes":
        hit = np.array([(truth[label == kind] == kind).sum() for kind in kinds])
        there = np.array([(truth == kind).sum() for kind in kinds])
        said = np.array([(label == kind).sum() for kind in kinds])
        result["macro_f1"] = float((2 * hit / (there + said)).mean())
        if several and known.all() and len(kinds) == len(np.union1d(truth, label)):
            result["balanced_accuracy"] = float((hit / there).mean())
    if scores is None or not known.any():
        return result
    chances = np.clip(np.asarray(scores, float)[known], 1e-15, 1)
    chances = chances / chances.sum(axis=1, keepdims=True)
    sure = chances[np.arange(len(chances)), truth[known]]
    result["log_loss"] = float(-np.log(sure).mean())
    if task == "binary":
        positive = chances[:, 1]
        result["brier"] = float(((positive - truth[known]) ** 2).mean())
        result["base_rate"] = float(truth[known].mean())
        if several:
            result["auc"] = auc(truth[known] == 1, np.asarray(scores)[known][:, 1])
    return result


def auc(positive: Any, score: Any) -> float:
    """Return the area under the ROC curve, ties counted half; both classes must be there.

    Args:
        positive: bool [n].
        score: [n], finite.
    """
    order = np.argsort(score, kind="stable")
    ranked, up = score[order], positive[order].astype(np.int64)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    ups = np.add.reduceat(up, starts)
    downs = np.add.reduceat(1 - up, starts)
    twice = (ups * (2 * np.cumsum(downs) - downs)).sum()  # whole numbers: exact
    return float(twice / (2 * int(ups.sum()) * int(downs.sum())))


def _labels(truth: Any, scores: Any) -> dict[str, float]:
    said = scores >= 0.5
    truth = truth.astype(bool)
    hit, wrong = int((truth & said).sum()), int((truth ^ said).sum())
    return {
        "f1": 2 * hit / (2 * hit + wrong) if hit or wrong else 0.0,
        "subset_accuracy": float((truth == said).all(axis=1).mean()),
    }


def _values(truth: Any, values: Any) -> dict[str, float]:
    wrong = values - truth
    spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return {
        "mae": float(np.abs(wrong).mean()),
        "rmse": float(np.sqrt((wrong**2).mean())),
        **({"r2": 1 - float((wrong**2).sum()) / spread} if spread else {}),
    }


def _quantiles(levels: list[float], truth: Any, values: Any) -> dict[str, float]:
    result, losses = {}, []
    for i, level in enumerate(levels):
        wrong = truth - values[:, i]
        losses.append(float(np.maximum(level * wrong, (level - 1) * wrong).mean()))
        result[f"below_{level:g}"] = float((truth <= values[:, i]).mean())
    return {"pinball": float(np.mean(losses)), **result}
