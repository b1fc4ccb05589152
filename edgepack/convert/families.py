"""One dispatch table: estimator → how it is converted, or why it is refused and the way around.

Refused by name are those that the converter answers wrongly for without saying so, and those that
have no ONNX form. Everything else goes through the parity gate like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgepack.convert.graph import FUNCTIONS, has_form
from edgepack.errors import ConversionError
from edgepack.parts import TREES, parts, thawed

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an estimator is not converted.

    Attributes:
        when: Whether this very estimator is meant; most are refused whatever they hold.
        reason: What would go wrong.
        around: What to do instead.
    """

    when: Test
    reason: str
    around: str


def _always(_estimator: Any) -> bool:
    return True


def _last_name(estimator: Any) -> str:
    """Return the class name of what gives the answer."""
    inner = unwrap(thawed(estimator))
    steps = getattr(inner, "steps", None)
    return type(steps[-1][1] if steps else inner).__name__


_NEIGHBOURS = "carries its training rows and answers from them"
_TRANSDUCED = Refusal(
    _always, _NEIGHBOURS, "fit a KNeighborsClassifier on its transduction_ and bring that"
)
_THRESHOLD = Refusal(
    _always,
    "the tuned threshold is lost in conversion",
    "fit the classifier itself and write threshold = … in bundle.toml",
)
_ACCENTS = Refusal(
    lambda one: one.strip_accents is not None,
    "stripping accents has no ONNX form",
    "leave strip_accents out",
)

# Class name → refusals, the first that applies counts.
REFUSED: dict[str, tuple[Refusal, ...]] = {
    "TunedThresholdClassifierCV": (_THRESHOLD,),
    "FixedThresholdClassifier": (_THRESHOLD,),
    "DummyClassifier": (
        Refusal(
            lambda one: one.strategy in ("uniform", "stratified"),
            "it answers by chance",
            'use strategy="prior" or "most_frequent"',
        ),
    ),
    "FunctionTransformer": (
        Refusal(
            lambda one: one.func is not None and not has_form(one.func),
            "a Python function cannot become ONNX",
            "do it in rows() and name the result as an input, or use a function of numpy: "
            + ", ".join(FUNCTIONS),
        ),
    ),
    "CalibratedClassifierCV": (
        Refusal(
            lambda one: any(
                _last_name(item.estimator) == "QuadraticDiscriminantAnalysis"
                for item in one.calibrated_classifiers_
            ),
            "the converter of QuadraticDiscriminantAnalysis gives no decision function",
            "calibrate another classifier, such as GaussianNB",
        ),
    ),
    "CountVectorizer": (_ACCENTS,),
    "TfidfVectorizer": (_ACCENTS,),
    "HashingVectorizer": (
        Refusal(_always, "its hash function has no ONNX form", "use CountVectorizer"),
    ),
    "FeatureHasher": (Refusal(_always, "its hash function has no ONNX form", "use OneHotEncoder"),),
    "RadiusNeighborsClassifier": (
        Refusal(_always, "rows without neighbours have no ONNX form", "use KNeighborsClassifier"),
    ),
    "RadiusNeighborsRegressor": (
        Refusal(_always, "rows without neighbours have no ONNX form", "use KNeighborsRegressor"),
    ),
    "LabelPropagation": (_TRANSDUCED,),
    "LabelSpreading": (_TRANSDUCED,),
    "KNNImputer": (
        Refusal(_always, _NEIGHBOURS, "use SimpleImputer, or a model that takes missing values"),
    ),
    "NearestCentroid": (
        Refusal(_always, "it has no converter", "use LinearDiscriminantAnalysis or GaussianNB"),
    ),
    "OutputCodeClassifier": (
        Refusal(_always, "it has no converter", "use OneVsRestClassifier of the same estimator"),
    ),
    "GaussianProcessClassifier": (
        Refusal(
            _always,
            "its converter knows two classes only, by an operator that onnxruntime lacks",
            "use CalibratedClassifierCV(SVC())",
        ),
    ),
    "CCA": (Refusal(_always, "it has no converter", "use PLSRegression"),),
    "PLSCanonical": (Refusal(_always, "it has no converter", "use PLSRegression"),),
    "MissingIndicator": (
        Refusal(_always, "it has no converter", "use SimpleImputer(add_indicator=True)"),
    ),
    "KernelRidge": (
        Refusal(_always, "it has no converter", "use GaussianProcessRegressor or SVR"),
    ),
}

# Steps whose arithmetic must run in double, or a tree behind them sees another side of a threshold.
ARITHMETIC = (
    "StandardScaler",
    "MinMaxScaler",
    "MaxAbsScaler",
    "RobustScaler",
    "Normalizer",
    "PowerTransformer",
    "QuantileTransformer",
    "PolynomialFeatures",
    "KBinsDiscretizer",
    "PCA",
    "TruncatedSVD",
    "IncrementalPCA",
    "FastICA",
    "KernelPCA",
    "IterativeImputer",
    "KNNImputer",
)


def unwrap(estimator: Any) -> Any:
    """Return what a fitted search or threshold-free wrapper really predicts with.

    A fitted search means its `best_estimator_`, also as the last step of a pipeline; so does a
    self-trained classifier mean the one that it trained.
    """
    best = getattr(estimator, "best_estimator_", None)
    if best is None and type(estimator).__name__ == "SelfTrainingClassifier":
        best = getattr(estimator, "estimator_", None)
    if best is not None:
        return unwrap(best)
    steps = getattr(estimator, "steps", None)
    if steps and (inner := unwrap(steps[-1][1])) is not steps[-1][1]:
        from sklearn.pipeline import Pipeline

        return Pipeline([*steps[:-1], (steps[-1][0], inner)])
    return estimator


def refuse(estimator: Any) -> None:
    """Refuse what would be silently wrong.

    Raises:
        ConversionError: Names the step, the reason and the way around.
    """
    for path, part in parts(estimator):
        for rule in REFUSED.get(type(part).__name__, ()):
            if rule.when(part):
                raise ConversionError(
                    f"{path} cannot be converted: {rule.reason}", next=rule.around
                )


def number_types(estimator: Any, dtypes: set[str]) -> tuple[str, ...]:
    """Return the element types to try for numeric inputs, the best first.

    `float32` is exact for trees over values that float32 holds (scikit-learn's own trees compare in
    float32); double is exact everywhere else, and costs a cast on the device.

    Args:
        estimator: Fitted.
        dtypes: numpy names of the numeric input columns.
    """
    names = {type(part).__name__ for _, part in parts(estimator)}
    exact = dtypes <= {"float32", "float16", "int8", "uint8", "int16", "uint16", "bool"}
    own_float32 = not names.isdisjoint(TREES)
    histogram = any(name.startswith("HistGradientBoosting") for name in names)
    arithmetic = not names.isdisjoint(ARITHMETIC)
    if (own_float32 or (histogram and exact)) and not arithmetic:
        return ("float32", "float64")
    return ("float64", "float32")
