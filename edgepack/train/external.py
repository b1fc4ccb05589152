"""XGBoost from external memory: quantised batches on disk, trees in constant memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from device_runtime.disk import CHUNK
from edgepack.errors import DataError

# Measured peaks of XGBoost 3.2: the values lie on disk, but gradients, margins and places of rows
# stay in memory, and while the bins are sought a sketch of each column, the larger the more bins.
FLOOR = 480_000_000  # the proof of any model after its fit
BASE = 440_000_000
PER_ROW = 48
PER_BIN = 16_000  # of one column, with a million rows ...
PER_VALUE = 10  # ... but with few rows no more than this for each of its values
BINS = 256


def fit_external(estimator: Any, parts: Iterator[tuple[Any, Any]], have: int) -> Any:
    """Fit an unfitted XGBClassifier or XGBRegressor over batches of rows.

    XGBoost reads its batches several times, so they are first laid down as raw float32 in a
    temporary folder: 4 bytes a value.

    Args:
        estimator: Unfitted, with its parameters.
        parts: (inputs, target) per batch; all inputs numeric.
        have: Bytes of memory that it may use.

    Raises:
        DataError: There are no rows, more than memory holds, or a column is text.
    """
    import xgboost

    with tempfile.TemporaryDirectory(prefix="edgepack-") as folder:
        files, classes = _lay_down(folder, parts)
        check_room(estimator, sum(size[0] for size in files), files[0][1], have)
        classified = hasattr(estimator, "predict_proba")
        if classified and classes.tolist() != list(range(len(classes))):
            raise DataError(
                "XGBoost in a stream wants class numbers 0, 1, … as its target",
                next="write the target as whole numbers into the data",
            )
        source = _iterator(xgboost, folder, files, classes if classified else None)
        matrix = xgboost.ExtMemQuantileDMatrix(source, max_bin=estimator.max_bin or BINS)
        settings = estimator.get_xgb_params()
        if classified:
            binary = len(classes) == 2
            settings["objective"] = "binary:logistic" if binary else "multi:softprob"
            if not binary:
                settings["num_class"] = len(classes)
        rounds = estimator.get_num_boosting_rounds()
        booster = xgboost.train(settings, matrix, num_boost_round=rounds)
        del matrix, source
        path = f"{folder}/model.ubj"
        booster.save_model(path)
        made = type(estimator)()
        made.load_model(path)
    return made


def check_room(estimator: Any, rows: int, columns: int, have: int) -> None:
    """Refuse more rows than memory holds.

    Args:
        estimator: Unfitted.
        rows: That will be learned from.
        columns: Inputs.
        have: Bytes of memory that may be used.

    Raises:
        DataError: They are too many.
    """
    sketch = min(PER_BIN * (estimator.max_bin or BINS), PER_VALUE * rows)
    need = max(FLOOR, BASE + PER_ROW * rows + sketch * columns)
    if need > have:
        raise DataError(
            f"XGBoost over {rows:,} rows x {columns} columns from external memory needs about "
            f"{need // CHUNK:,} MiB, there are {have // CHUNK:,} MiB",
            why=f"it keeps about {PER_ROW} bytes of each row, and a sketch of each column",
            next="give more memory, fewer rows or inputs, a smaller max_bin, or a model with "
            "partial_fit (SGDClassifier …)",
        )


def _lay_down(folder: str, parts: Iterator[tuple[Any, Any]]) -> tuple[list[tuple[int, int]], Any]:
    """Write the batches; return ([(rows, columns)], the classes or values seen)."""
    sizes: list[tuple[int, int]] = []
    seen: set[Any] = set()
    for rows, target in parts:
        try:
            values = np.ascontiguousarray(rows.to_numpy(), np.float32)
        except (TypeError, ValueError):
            raise DataError(
                "a text column cannot be streamed into XGBoost", next="make codes of it in rows()"
            ) from None
        values.tofile(f"{folder}/{len(sizes)}.x")
        truth = np.asarray(target)
        np.save(f"{folder}/{len(sizes)}.y.npy", truth)
        if len(seen) < 10_000:
            seen.update(np.unique(truth).tolist() if truth.dtype.kind in "iuf" else ["text"])
        sizes.append((values.shape[0], values.shape[1]))
    if not sizes:
        raise DataError("there are no rows to train on")
    return sizes, np.array(sorted(seen))


def _iterator(xgboost: Any, folder: str, sizes: list[tuple[int, int]], classes: Any) -> Any:
    class Batches(xgboost.DataIter):  # type: ignore[misc]
        """XGBoost's protocol: hands out one batch a call."""

        def __init__(self) -> None:
            self._at = 0
            super().__init__(cache_prefix=f"{folder}/cache")

        def next(self, input_data: Any) -> bool:
            if self._at == len(sizes):
                return False
            rows = np.fromfile(f"{folder}/{self._at}.x", np.float32).reshape(sizes[self._at])
            truth = np.load(f"{folder}/{self._at}.y.npy")
            if classes is not None:
                truth = np.searchsorted(classes, truth)
            input_data(data=rows, label=truth)
            self._at += 1
            return True

        def reset(self) -> None:
            self._at = 0

    return Batches()
