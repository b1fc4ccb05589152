"""Calibrated classifiers, whatever is calibrated and how, answer as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from edgepack.convert.export import export
from edgepack.convert.feed import official_session, run_official
from edgepack.errors import ConversionError
from support.proving import proven, tried
from support.tables import table

SMALL = 1e-5
ALL = ("sigmoid", "isotonic", "temperature")


@pytest.mark.parametrize(
    ("inner", "methods", "limit"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), ALL, 1e-12),
        (make_pipeline(StandardScaler(), LinearSVC()), ALL[1:2], 1e-12),
        (make_pipeline(StandardScaler(), SVC()), ALL[:1], SMALL),
        (GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2), ALL[2:], 1e-12),
        (SGDClassifier(random_state=0), ALL[:1], 1e-12),
        (LinearDiscriminantAnalysis(), ALL[:2], 1e-12),
        (GaussianNB(), ALL[1:], 1e-12),
        (DecisionTreeClassifier(max_depth=3), ALL[:1], 1e-6),
        (RandomForestClassifier(10, random_state=0), ALL[1:], 1e-6),
        (HistGradientBoostingClassifier(max_iter=5), ALL, SMALL),
        (AdaBoostClassifier(n_estimators=5, random_state=0), ALL[:1], SMALL),
    ],
    ids=lambda item: str(item)[:44],
)
def test_a_calibrated_classifier_answers_the_same(inner, methods, limit):
    for target, task in (("y", "binary"), ("kind", "classes")):
        for method in methods:
            model = CalibratedClassifierCV(clone(inner), method=method, cv=2)
            assert proven(model, target=target, task=task).report.worst < limit


def test_one_that_is_calibrated_without_folds_answers_the_same():
    model = CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=5), ensemble=False, cv=2)
    assert proven(make_pipeline(StandardScaler(), model)).report.worst < 1e-6


def test_a_frozen_classifier_is_calibrated_as_it_is():
    frame = table().iloc[:200]
    for target, task in (("y", "binary"), ("kind", "classes")):
        inner = make_pipeline(StandardScaler(), LogisticRegression())
        inner.fit(frame[["a", "b", "n"]], frame[target])
        model = CalibratedClassifierCV(FrozenEstimator(inner), method="isotonic")
        assert proven(model, target=target, task=task).report.worst < 1e-12


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_calibrated_boosters_answer_the_same(method):
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    light = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1)
    for inner, targets in (
        (light, ("y", "kind")),
        (make_pipeline(StandardScaler(), light), ("y", "kind")),
        (xgboost.XGBClassifier(n_estimators=3, n_jobs=1), ("y",)),
    ):
        for target in targets:
            model = CalibratedClassifierCV(clone(inner), method=method, cv=2)
            task = "binary" if target == "y" else "classes"
            assert proven(model, target=target, task=task).report.worst < SMALL


def test_a_curve_of_one_step_and_rows_that_no_class_wants_answer_the_same():
    """Where each class says 0, all are alike; a curve of one point is the same everywhere."""
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    model = CalibratedClassifierCV(inner, method="isotonic", cv=2)
    fitted, train, held = tried(model, target="kind", task="classes")
    for one in model.calibrated_classifiers_:
        for curve in one.calibrators:
            curve.fit([0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    model.calibrated_classifiers_[0].calibrators[0].fit([0.5], [0.25])
    onnx = export(fitted, train, numbers="float64")
    mine = run_official(official_session(onnx.model), onnx.schema, held).scores
    theirs = model.predict_proba(held[["a", "b", "n"]])
    assert theirs[0] == pytest.approx([(1 + 1 / 3) / 2, 1 / 6, 1 / 6])
    np.testing.assert_allclose(mine, theirs, atol=1e-15)


def test_a_classifier_without_a_decision_function_in_onnx_is_refused_by_name():
    model = CalibratedClassifierCV(QuadraticDiscriminantAnalysis(), cv=2)
    with pytest.raises(ConversionError, match="gives no decision function") as caught:
        proven(model)
    assert "GaussianNB" in caught.value.next
