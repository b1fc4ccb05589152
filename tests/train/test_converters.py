"""Converters of our own, each against scikit-learn's answers through the whole gate."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from edgepack.convert.feed import official_session, run_official
from edgepack.convert.prove import prove
from edgepack.errors import ConversionError
from edgepack.fitted import Fitted
from edgepack.recipe import Recipe
from support.proving import proven
from support.tables import table

EXACT = 1e-12
Voters = [("a", LogisticRegression()), ("b", DecisionTreeClassifier(random_state=0))]


@pytest.mark.parametrize(
    "step",
    [
        Binarizer(threshold=0.3),
        FunctionTransformer(np.abs),
        KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"),
        KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
        SplineTransformer(),
        SplineTransformer(4, degree=2, extrapolation="linear", include_bias=False),
        SplineTransformer(extrapolation="continue"),
        SplineTransformer(extrapolation="periodic", knots="quantile"),
    ],
    ids=lambda step: str(step)[:40],
)
def test_a_step_in_double_answers_the_same(step):
    found = proven(make_pipeline(step, LogisticRegression()))
    assert found.onnx.numbers == "float64"
    assert found.report.worst < EXACT


@pytest.mark.parametrize("target", ["y", "kind"])
@pytest.mark.parametrize(
    "model",
    [
        LinearSVC(),
        make_pipeline(StandardScaler(), LinearSVC()),
        make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)),
        DummyClassifier(),
        DummyClassifier(strategy="most_frequent"),
        VotingClassifier(Voters),
        VotingClassifier(Voters, voting="soft", weights=[2, 1]),
        VotingClassifier([("s", make_pipeline(StandardScaler(), LinearSVC())), *Voters]),
    ],
    ids=lambda model: str(model)[:40].replace("\n", ""),
)
def test_a_classifier_answers_the_same_whatever_its_classes_are(model, target):
    found = proven(model, target=target, task="binary" if target == "y" else "classes")
    assert found.report.ok
    assert found.report.worst < 1e-6


def test_text_beside_doubles_stays_double():
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    front = make_column_transformer((codes, ["word"]), remainder="passthrough")
    found = proven(make_pipeline(front, LogisticRegression()), inputs=("word", "a", "b"))
    assert found.onnx.schema.output.scores_dtype == "float64"
    assert found.report.worst < EXACT


def test_a_self_trained_classifier_is_the_one_that_it_trained():
    frame = table()
    frame["y"] = np.where(np.arange(len(frame)) % 7 == 0, -1, frame["y"].astype(int))
    found = proven(SelfTrainingClassifier(LogisticRegression()), frame=frame)
    assert found.report.worst < EXACT


def test_a_code_that_training_never_saw_gets_no_answer():
    frame = table()[["n", "y"]]
    found = proven(CategoricalNB(), inputs=("n",), frame=frame)
    assert found.report.worst < EXACT
    session = official_session(found.onnx.model)
    strange = run_official(session, found.onnx.schema, frame.head(3).assign(n=np.int16(77)))
    assert np.isnan(strange.scores).all()
    assert (strange.label == -1).all()


@pytest.mark.parametrize(
    "model",
    [
        DummyRegressor(strategy="median"),
        TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1),
        TransformedTargetRegressor(
            make_pipeline(StandardScaler(), Ridge()), func=np.log, inverse_func=np.exp
        ),
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
    ],
    ids=["median", "log1p", "log", "scaled"],
)
def test_a_regression_answers_the_same(model):
    frame = table().assign(value=lambda f: np.exp(f["value"] / 4))
    found = proven(model, target="value", task="regression", frame=frame)
    assert found.report.worst < EXACT


def test_what_has_no_inverse_in_onnx_is_refused():
    model = TransformedTargetRegressor(
        LinearRegression(), func=np.cbrt, inverse_func=lambda x: x**3, check_inverse=False
    )
    with pytest.raises(ConversionError, match="has no ONNX form") as caught:
        proven(model, target="value", task="regression")
    assert "expm1" in caught.value.next
    with pytest.raises(ConversionError, match="answers by chance"):
        proven(DummyClassifier(strategy="uniform"))


@pytest.mark.parametrize("seed", [0, 7, 13, 20])
def test_lightgbm_parts_zero_where_it_was_trained_to(seed):
    lightgbm = pytest.importorskip("lightgbm")
    frame = table(seed=seed).assign(b=lambda f: f["b"] - 10)
    found = proven(lightgbm.LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1), frame=frame)
    assert found.report.worst < 1e-6
    value = lightgbm.LGBMRegressor(n_estimators=8, n_jobs=1, verbose=-1)
    assert proven(value, target="value", task="regression", frame=frame).report.ok


def test_boosted_trees_behind_a_scaler_answer_the_same():
    xgboost = pytest.importorskip("xgboost")
    lightgbm = pytest.importorskip("lightgbm")
    for model in (
        xgboost.XGBClassifier(n_estimators=8, n_jobs=1),
        lightgbm.LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1),
    ):
        found = proven(make_pipeline(StandardScaler(), model), inputs=("b", "gap", "n"))
        assert found.onnx.numbers == "float64"
        assert found.report.worst < 1e-6
    value = make_pipeline(StandardScaler(), xgboost.XGBRegressor(n_estimators=8, n_jobs=1))
    assert proven(value, target="value", task="regression").report.ok


def gappy():
    """Rows with two columns of words, one of them with gaps and a rare word, and codes."""
    rng = np.random.default_rng(3)
    frame = table()
    word = frame["word"].where(rng.random(400) > 0.03, "violet")
    frame["word"] = word.where(rng.random(400) > 0.15, None)
    frame["other"] = rng.choice(["x", "y ", "é", "e\u0301"], 400).astype(object)
    frame["code"] = frame["n"].where(frame["n"] > 1) * 0.1
    return frame


ENCODERS = [
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="ignore", drop="first"),
    OneHotEncoder(drop="if_binary"),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20),
    OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3),
    OrdinalEncoder(),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, min_frequency=20),
    TargetEncoder(cv=StratifiedKFold(3)),
]


@pytest.mark.parametrize("columns", [["word", "other"], ["code", "n"]], ids=["words", "numbers"])
@pytest.mark.parametrize("gone", [np.nan, None], ids=["nan", "none"])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda one: str(one)[:50].replace("\n", ""))
def test_an_encoder_is_asked_what_it_makes_of_each_category(encoder, gone, columns):
    step = clone(encoder)
    if gone is None:
        missing = None if columns[0] == "word" else np.nan
        step = make_pipeline(SimpleImputer(missing_values=missing, strategy="most_frequent"), step)
    front = make_column_transformer((step, columns), remainder="passthrough", sparse_threshold=0)
    model = make_pipeline(front, HistGradientBoostingClassifier(max_iter=5, random_state=0))
    found = proven(model, inputs=(*columns, "b"), frame=gappy())
    assert found.report.groups["held-out"].refused == 0
    assert found.report.groups["missing"].rows
    assert found.report.worst < 1e-6
    column = found.onnx.schema.column(columns[0])
    assert column.missing
    if columns[0] == "word":
        strict = "handle_unknown" not in str(encoder) and not isinstance(encoder, TargetEncoder)
        assert column.closed == strict


def test_a_target_encoder_of_several_classes_answers_the_same():
    front = make_column_transformer((TargetEncoder(cv=StratifiedKFold(3)), ["word", "other"]))
    model = make_pipeline(front, LogisticRegression())
    found = proven(model, target="kind", task="classes", inputs=("word", "other"), frame=gappy())
    assert found.report.worst < EXACT


def test_one_encoder_over_words_and_numbers_is_refused():
    front = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["word", "n"]))
    with pytest.raises(ConversionError, match="encodes numbers and words") as caught:
        proven(make_pipeline(front, LogisticRegression()), inputs=("word", "n"))
    assert "an encoder of their own" in caught.value.next


def test_an_imputer_of_a_number_that_stands_for_none():
    frame = table().assign(gap=lambda f: f["gap"].fillna(-999))
    model = make_pipeline(
        SimpleImputer(missing_values=-999, add_indicator=True), LinearRegression()
    )
    found = proven(model, target="value", task="regression", inputs=("gap", "b"), frame=frame)
    assert found.report.worst < 1e-6


@pytest.mark.parametrize("target", ["y", "kind"])
@pytest.mark.parametrize(
    "model",
    [
        StackingClassifier(Voters, cv=2),
        StackingClassifier([*Voters, ("h", HistGradientBoostingClassifier(max_iter=4))], cv=2),
        VotingClassifier(
            [*Voters, ("g", GradientBoostingClassifier(n_estimators=4))], voting="soft"
        ),
    ],
    ids=lambda model: str(model)[:60].replace("\n", "").replace(" ", ""),
)
def test_a_classifier_around_others_answers_the_same(model, target):
    found = proven(model, target=target, task="binary" if target == "y" else "classes")
    assert found.report.worst < 1e-6


def test_boosting_that_begins_with_another_model_is_refused():
    with pytest.raises(ConversionError, match="begins with another model") as caught:
        proven(GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()))
    assert "leave init out" in caught.value.next


@pytest.mark.parametrize(
    "model",
    [
        LinearDiscriminantAnalysis(),
        RidgeClassifier(),
        RidgeClassifierCV(),
        AdaBoostClassifier(n_estimators=5, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_two_classes_answer_the_same_as_several(model):
    for target, task in (("y", "binary"), ("kind", "classes")):
        found = proven(clone(model), target=target, task=task)
        assert found.report.worst < 1e-6


def test_a_gaussian_process_of_classes_is_refused_by_name():
    for model in (GaussianProcessClassifier(), OneVsRestClassifier(GaussianProcessClassifier())):
        with pytest.raises(ConversionError, match="an operator that onnxruntime lacks"):
            proven(model, target="kind", task="classes", inputs=("a", "b"))


@pytest.mark.parametrize(
    "model", [GaussianMixture(2, random_state=0), IsolationForest(n_estimators=10, random_state=0)]
)
def test_scores_of_what_is_unusual_answer_the_same(model):
    frame = table()[["a", "b", "n"]]
    recipe = Recipe(Path(), "trial", "scores", "field")
    fitted = Fitted(recipe, model.fit(frame), ("a", "b", "n"), ("score",), 0, 400)
    assert prove(fitted, frame, frame).report.ok


def test_a_model_of_several_labels_in_one_is_refused_with_the_way_around():
    frame = table().assign(more=lambda f: f["a"] > 0)
    recipe = Recipe(Path(), "trial", "labels", "field", target=("y", "more"))
    for model in (KNeighborsClassifier(3), MLPClassifier((3,), max_iter=5, random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(frame[["a", "b"]], frame[["y", "more"]])
        fitted = Fitted(recipe, model, ("a", "b"), ("y", "more"), 0, 400)
        with pytest.raises(ConversionError) as caught:
            prove(fitted, frame, frame)
        assert caught.value.next == "wrap it: MultiOutputClassifier"
