"""Trees of any scikit-learn ensemble as one `TreeEnsembleRegressor`, exact at every threshold.

scikit-learn compares `x <= t` with t in double. Where the graph's x is float32, the largest float32
not above t takes the same rows to the left; where x is double, t is kept as it is. A missing value
goes where training sent it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, node by node.

    Attributes:
        feature: int64 [m], column of the split; anything for a leaf.
        threshold: float64 [m]; x <= threshold goes left.
        left: int64 [m], node number; -1 for a leaf.
        right: int64 [m].
        missing_left: bool [m], whether a missing value goes left.
        value: float64 [m, k], what a leaf adds to each target.
        target: First target that it adds to.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array
    target: int = 0


def floor32(values: Array) -> Array:
    """Return the largest float32 that is not above each double."""
    rounded = values.astype(np.float32)
    down = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded.astype(np.float64) > values, down, rounded)


def attributes(
    trees: Sequence[Tree], targets: int, base: Sequence[float], *, double: bool
) -> dict[str, Any]:
    """Return the attributes of a `TreeEnsembleRegressor` node that sums the trees.

    Args:
        trees: All of them.
        targets: Width of the answer.
        base: Added to each target; empty for none.
        double: Whether the node's input is double.
    """
    from onnx import TensorProto, helper

    sizes = [len(tree.feature) for tree in trees]
    ids = np.concatenate([np.arange(size) for size in sizes])
    numbers = np.repeat(np.arange(len(trees)), sizes)
    left = np.concatenate([tree.left for tree in trees])
    leaf = left < 0
    threshold = np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees]))
    weights = [_weights(tree) for tree in trees]
    counts = [len(item[0]) for item in weights]
    values = np.concatenate([item[2] for item in weights])
    result: dict[str, Any] = {
        "n_targets": targets,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": numbers.tolist(),
        "nodes_nodeids": ids.tolist(),
        "nodes_featureids": _zeroed(leaf, np.concatenate([t.feature for t in trees])),
        "nodes_modes": ["LEAF" if item else "BRANCH_LEQ" for item in leaf.tolist()],
        "nodes_truenodeids": _zeroed(leaf, left),
        "nodes_falsenodeids": _zeroed(leaf, np.concatenate([t.right for t in trees])),
        "nodes_missing_value_tracks_true": _zeroed(
            leaf, np.concatenate([t.missing_left for t in trees])
        ),
        "target_treeids": np.repeat(np.arange(len(trees)), counts).tolist(),
        "target_nodeids": np.concatenate([item[0] for item in weights]).tolist(),
        "target_ids": np.concatenate([item[1] for item in weights]).tolist(),
    }
    if not np.any(result["nodes_missing_value_tracks_true"]):
        del result["nodes_missing_value_tracks_true"]
    if double:
        pairs = (("nodes_values", threshold), ("target_weights", values))
        for name, array in (*pairs, *([("base_values", np.asarray(base))] if len(base) else [])):
            tensor = helper.make_tensor(
                name, TensorProto.DOUBLE, array.shape, array.tobytes(), raw=True
            )
            result[f"{name}_as_tensor"] = tensor
    else:
        result["nodes_values"] = floor32(threshold).tolist()
        result["target_weights"] = values.astype(np.float32).tolist()
        if len(base):
            result["base_values"] = [float(np.float32(item)) for item in base]
    return result


def _zeroed(leaf: Array, values: Array) -> list[int]:
    found: list[int] = np.where(leaf, 0, values).astype(np.int64).tolist()
    return found


def _weights(tree: Tree) -> tuple[Array, Array, Array]:
    """Return (node, target, weight) of everything that leaves add; zeros are left out.

    A leaf whose values are all zero keeps one, because the runtime wants to see every leaf.
    """
    leaves = np.flatnonzero(tree.left < 0)
    value = tree.value[leaves]
    there = value != 0
    there[~there.any(axis=1), 0] = True
    rows, columns = np.nonzero(there)
    return leaves[rows], columns + tree.target, value[rows, columns]


def sklearn_tree(tree: Any, value: Array, target: int = 0) -> Tree:
    """Return a `Tree` of a fitted `sklearn.tree._tree.Tree`.

    Args:
        tree: `estimator.tree_`.
        value: What each node would answer, float64 [m, k].
        target: First target.
    """
    missing = getattr(tree, "missing_go_to_left", None)
    gone = np.zeros(tree.node_count, bool) if missing is None else np.asarray(missing).astype(bool)
    return Tree(
        feature=tree.feature.astype(np.int64),
        threshold=tree.threshold.astype(np.float64),
        left=np.where(tree.children_left == tree.children_right, -1, tree.children_left),
        right=tree.children_right.astype(np.int64),
        missing_left=gone,
        value=value.astype(np.float64),
        target=target,
    )


def histogram_tree(nodes: Array, target: int, feature: Array | None = None) -> Tree:
    """Return a `Tree` of the nodes of one HistGradientBoosting predictor.

    Args:
        nodes: `TreePredictor.nodes`.
        target: Which target it adds to.
        feature: Column per node, where it is not the predictor's own (categorical splits).
    """
    leaf = nodes["is_leaf"].astype(bool)
    threshold = nodes["num_threshold"].astype(np.float64)
    if feature is not None:
        threshold = np.where(nodes["is_categorical"].astype(bool), 0.5, threshold)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64) if feature is None else feature,
        threshold=threshold,
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=nodes["right"].astype(np.int64),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=nodes["value"].astype(np.float64).reshape(-1, 1),
        target=target,
    )
