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
        return _classed(task, len(names), truth, np.asarray(label), scores)
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


def _classed(task: str, k: int, truth: Any, label: Any, scores: Any) -> dict[str, float]:
    from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

    result = {"accuracy": float((truth == label).mean())}
    known = truth >= 0
    several = len(np.unique(truth[known])) > 1
    if task == "classes":
        kinds = np.unique(truth)
        result["macro_f1"] = float(
            f1_score(truth, label, labels=kinds, average="macro", zero_division=0)
        )
        if several and known.all() and len(np.unique(truth)) == len(np.union1d(truth, label)):
            result["balanced_accuracy"] = float(balanced_accuracy_score(truth, label))
    if scores is None or not known.any():
        return result
    chances = np.clip(np.asarray(scores, float)[known], 1e-15, 1)
    chances = chances / chances.sum(axis=1, keepdims=True)
    result["log_loss"] = float(log_loss(truth[known], chances, labels=list(range(k))))
    if task == "binary":
        positive = chances[:, 1]
        result["brier"] = float(((positive - truth[known]) ** 2).mean())
        result["base_rate"] = float(truth[known].mean())
        if several:
            result["auc"] = float(roc_auc_score(truth[known], np.asarray(scores)[known][:, 1]))
    return result


def _labels(truth: Any, scores: Any) -> dict[str, float]:
    from sklearn.metrics import f1_score

    said = scores >= 0.5
    truth = truth.astype(bool)
    return {
        "f1": float(f1_score(truth, said, average="micro", zero_division=0)),
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
