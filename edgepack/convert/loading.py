"""Model files from elsewhere → a fitted estimator, or ONNX bytes. Nothing unpickles unasked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgepack.errors import ConversionError
from edgepack.recipe_fields import BOOST

PICKLES = (".pkl", ".pickle", ".joblib", ".p", ".sav")
RISK = "unpickling runs whatever code its author put into the file; only load files you made"


def kind_of(path: Path) -> str:
    """Return `onnx`, `skops`, `pickle`, `xgboost`, `lightgbm` or `mlflow`.

    Raises:
        ConversionError: There is no such file, or it is of none of these kinds.
    """
    if path.is_dir():
        if (path / "MLmodel").is_file():
            return "mlflow"
        raise ConversionError(
            f"{path} is a folder without an MLmodel file", next="give a model file"
        )
    if not path.is_file():
        raise ConversionError(f"there is no file {path}", next="correct its name")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        return "pickle"
    known = {".onnx": "onnx", ".skops": "skops", ".ubj": "xgboost", ".json": "xgboost"}
    known |= {".txt": "lightgbm", ".lgb": "lightgbm"}
    if suffix not in known:
        raise ConversionError(
            f"{path.name} is of a kind that is not known",
            next="give .onnx, .skops, .ubj or .json (XGBoost), .txt (LightGBM), an MLflow folder",
        )
    return known[suffix]


def onnx_file(path: Path) -> Path:
    """Return the ONNX file of a model: itself, or what an MLflow folder's ONNX flavour names.

    Raises:
        ConversionError: The folder has no ONNX flavour.
    """
    if not path.is_dir():
        return path
    text = (path / "MLmodel").read_text(encoding="utf-8")
    flavour = re.search(r"^  onnx:\s*\n((?:    .*\n?)+)", text, re.MULTILINE)
    data = (
        re.search(r"^    data:\s*['\"]?([^'\"\n]+?)['\"]?\s*$", flavour[1], re.MULTILINE)
        if flavour
        else None
    )
    if data is None:
        raise ConversionError(
            f"{path} has no ONNX flavour", next="log the model with mlflow.onnx.log_model"
        )
    name = Path(data[1])
    if name.is_absolute() or ".." in name.parts or not (path / name).is_file():
        raise ConversionError(f"{path / 'MLmodel'} names {name}, which is not there")
    return path / name


def load_estimator(path: Path, *, allow_pickle: bool = False) -> Any:
    """Load a fitted estimator.

    Args:
        path: skops, pickle, XGBoost or LightGBM file.
        allow_pickle: Whether the person said that it may be unpickled.

    Raises:
        ConversionError: It may not be loaded, cannot be, or is not fitted.
    """
    kind = kind_of(path)
    if kind == "pickle" and not allow_pickle:
        raise ConversionError(
            f"{path.name} is a pickle, and none is allowed here",
            why=RISK,
            next="save it with skops, or say --allow-pickle to init",
        )
    loaders = {
        "pickle": _unpickle,
        "skops": _skops,
        "xgboost": _xgboost,
        "lightgbm": _lightgbm,
    }
    try:
        estimator = loaders[kind](path)
    except ConversionError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ConversionError(
            f"{path.name} cannot be loaded: {type(error).__name__}: {text}",
            next="save it again with the package versions that are installed here",
        ) from error
    check_fitted(estimator, path.name)
    return estimator


def check_fitted(estimator: Any, what: str) -> None:
    """Refuse what cannot predict.

    Raises:
        ConversionError: Not an estimator, or not fitted.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not hasattr(estimator, "predict") and not hasattr(estimator, "score_samples"):
        raise ConversionError(
            f"{what} holds a {type(estimator).__name__}, which is no model",
            next="give a fitted scikit-learn estimator",
        )
    if type(estimator).__module__.startswith("sklearn."):
        try:
            check_is_fitted(estimator)
        except NotFittedError:
            raise ConversionError(f"the model in {what} is not fitted", next="fit it") from None


def _unpickle(path: Path) -> Any:
    # Asked for by --allow-pickle; joblib reads plain pickles as well.
    import joblib  # noqa: TID251

    return joblib.load(path)


def _skops(path: Path) -> Any:
    from skops import io

    unknown = io.get_untrusted_types(file=path)
    if unknown:
        raise ConversionError(
            f"{path.name} holds types that are not trusted: {', '.join(sorted(unknown)[:5])}",
            next="use scikit-learn's own estimators only, or bring an ONNX file",
        )
    return io.load(path, trusted=[])


def _xgboost(path: Path) -> Any:
    xgboost = _boost("xgboost")
    booster = xgboost.Booster(model_file=str(path))
    kind = str(booster.attr("scikit_learn") or "")
    import json

    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    classified = objective.startswith(("binary:", "multi:")) or "Classifier" in kind
    model = xgboost.XGBClassifier() if classified else xgboost.XGBRegressor()
    model.load_model(str(path))
    return model


def _lightgbm(path: Path) -> Any:
    from edgepack.convert.lightgbm import wrap

    return wrap(_boost("lightgbm").Booster(model_file=str(path)))


def _boost(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConversionError(f"{name} is not installed here", next=BOOST) from None
