"""Converters of our own, each against scikit-learn's answers through the whole gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import CategoricalNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    OrdinalEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from edgepack.convert.feed import official_session, run_official
from edgepack.convert.prove import prove
from edgepack.errors import ConversionError
from edgepack.fitted import Fitted, names_of
from edgepack.recipe import Recipe
from edgepack.tables import prepare
from support.tables import table

EXACT = 1e-12
Voters = [("a", LogisticRegression()), ("b", DecisionTreeClassifier(random_state=0))]


def proven(estimator, *, target="y", task="binary", inputs=("a", "b", "n"), frame=None):
    recipe = Recipe(Path(), "trial", task, "field", target=(target,))
    frame = prepare(recipe, table() if frame is None else frame, columns=[*inputs, target])
    train, held = frame.iloc[:300].reset_index(drop=True), frame.iloc[300:].reset_index(drop=True)
    estimator.fit(train[list(inputs)], train[target].to_numpy())
    fitted = Fitted(recipe, estimator, tuple(inputs), names_of(recipe, estimator), 0, 300)
    return prove(fitted, train, held)


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
