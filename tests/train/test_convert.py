"""The converters of our own, the parity gate, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from edgepack.convert.export import export
from edgepack.convert.feed import official_session, run_official
from edgepack.convert.forest import floor32
from edgepack.convert.locate import around
from edgepack.convert.prove import prove
from edgepack.errors import ConversionError, DataError, ParityError
from edgepack.fitted import Fitted, names_of
from edgepack.recipe import Recipe
from support.proving import proven
from support.tables import table


def test_a_threshold_keeps_its_side_in_float32():
    values = np.array([0.1, 1 / 3, 1e300, -0.1, np.inf, 16_777_217.0])
    with np.errstate(over="ignore"):
        floored = floor32(values)
    assert (floored.astype(np.float64) <= values).all()
    with np.errstate(over="ignore"):
        above = np.nextafter(floored, np.float32(np.inf)).astype(np.float64)
    assert ((above > values) | np.isinf(values)).all()


@given(st.floats(allow_nan=False, width=64), st.floats(allow_nan=False, width=32))
@settings(max_examples=300)
def test_no_float32_changes_sides(threshold, x):
    with np.errstate(over="ignore"):
        floored = floor32(np.array([threshold]))[0]
    assert (np.float64(x) <= threshold) == (np.float32(x) <= floored)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(8, random_state=0),
        ExtraTreesClassifier(8, random_state=0),
        DecisionTreeClassifier(random_state=0),
        HistGradientBoostingClassifier(max_iter=15, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_trees_trained_with_gaps_answer_the_same(model):
    for target, task in (("y", "binary"), ("kind", "classes")):
        found = proven(model, target=target, task=task, inputs=("a", "gap", "n"))
        assert found.report.groups["missing"].rows
        assert found.report.worst < 1e-6


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(8, random_state=0),
        HistGradientBoostingRegressor(max_iter=15, random_state=0),
        HistGradientBoostingRegressor(max_iter=15, loss="poisson", random_state=0),
    ],
    ids=["forest", "histogram", "poisson"],
)
def test_regressions_answer_the_same(model):
    frame = table().assign(value=lambda f: np.exp(f["value"]))
    found = proven(model, target="value", task="regression", inputs=("a", "gap"), frame=frame)
    assert found.report.ok


def test_native_categories_answer_the_same():
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(
        make_column_transformer((codes, ["word"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=15, categorical_features=[0], random_state=0),
    )
    found = proven(model, inputs=("a", "gap", "word"))
    assert found.report.groups["unseen category"].rows
    numeric = HistGradientBoostingClassifier(categorical_features=[2], max_iter=15, random_state=0)
    assert proven(numeric, inputs=("a", "b", "n")).report.ok


def test_an_exact_tie_falls_as_in_training():
    frame = pd.DataFrame({"a": np.repeat([0.0, 1.0], 200), "y": np.tile([False, True], 200)})
    found = proven(DecisionTreeClassifier(max_depth=1), inputs=("a",), frame=frame)
    assert found.report.ties == 0


def test_scaler_in_front_of_trees_takes_double_inputs():
    model = make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0))
    found = proven(model, inputs=("a", "b"))
    assert found.onnx.numbers == "float64"
    assert found.report.ok


def test_words_gaps_and_unseen_categories_are_admitted_where_both_agree():
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    open_ = make_pipeline(
        make_column_transformer((codes, ["word"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=5, random_state=0),
    )
    schema = proven(open_, inputs=("a", "word")).onnx.schema
    assert schema.column("word").missing
    assert not schema.column("word").closed
    assert schema.column("word").categories == ("blue", "green", "red")
    strict = make_pipeline(
        make_column_transformer((OrdinalEncoder(), ["word"]), remainder="passthrough"),
        LogisticRegression(),
    )
    found = proven(strict, inputs=("a", "word"))
    assert found.onnx.schema.column("word").closed
    assert not found.onnx.schema.column("a").missing
    assert any("is refused" in note for note in found.report.notes)


def test_a_fitted_search_means_its_best_estimator():
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)
    assert proven(search).report.ok
    assert proven(make_pipeline(StandardScaler(), search)).report.ok


def test_a_threshold_in_the_recipe_decides_the_label():
    found = proven(LogisticRegression(), threshold=0.2)
    low = run_official(
        official_session(found.onnx.model), found.onnx.schema, table()[["a", "b", "n"]]
    )
    assert (low.label == (low.scores[:, 1] >= 0.2)).all()


@pytest.mark.parametrize(
    ("model", "named", "around"),
    [
        (FixedThresholdClassifier(LogisticRegression()), "threshold is lost", "threshold = "),
        (
            make_pipeline(FunctionTransformer(np.cbrt), LogisticRegression()),
            "a Python function",
            "rows()",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_refused_by_name(model, named, around):
    frame = table().assign(b=lambda f: f["b"].abs())
    with pytest.raises(ConversionError) as caught:
        proven(model, inputs=("b", "n"), frame=frame)
    assert named in caught.value.what
    assert around in caught.value.next


@pytest.mark.parametrize("kind", [CountVectorizer, TfidfVectorizer])
def test_accents_are_not_stripped(kind):
    words = make_column_transformer((kind(strip_accents="ascii"), "word"), remainder="passthrough")
    with pytest.raises(ConversionError, match="stripping accents has no ONNX form") as caught:
        proven(make_pipeline(words, LogisticRegression()), inputs=("a", "word"))
    assert caught.value.next == "leave strip_accents out"


def test_a_locale_that_is_not_there_is_named():
    text = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [None])
    small = onnx.helper.make_node(
        "StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="xx_XX"
    )
    said = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [None])
    graph = onnx.helper.make_graph([small], "g", [text], [said])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    with pytest.raises(ConversionError, match="by a locale that this machine lacks") as caught:
        official_session(model.SerializeToString())
    assert "lowercase=False" in caught.value.next


def test_the_gate_names_rows_step_and_way_around(monkeypatch):
    from edgepack.convert import exact

    def wrong(scope, operator, container):
        name = operator.outputs[0].full_name
        zero = scope.get_unique_variable_name("zero")
        container.add_initializer(zero, 1, [1], [0.5])
        cast = scope.get_unique_variable_name("cast")
        container.add_node("Cast", [operator.inputs[0].full_name], [cast], op_version=13, to=1)
        shifted = scope.get_unique_variable_name("shifted")
        container.add_node("Add", [cast, zero], [shifted], op_version=14)
        kind = 11 if "Double" in type(operator.outputs[0].type).__name__ else 1
        container.add_node("Cast", [shifted], [name], op_version=13, to=kind)

    found = exact.converters()
    found.convert[StandardScaler] = wrong
    monkeypatch.setattr(exact, "converters", lambda _numbers: found)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.raises(ParityError) as caught:
        proven(model)
    line = caught.value.line()
    assert "held-out rows 0, 1" in line
    assert "first apart in step standardscaler (StandardScaler)" in line
    assert "use another estimator" in line  # to leave it out is good advice for trees only
    forest = make_pipeline(StandardScaler(), RandomForestClassifier())
    assert "leave the scaler out" in around("x (StandardScaler)", "held-out", "", forest)
    assert caught.value.exit == 72
    assert "\n" not in line


def test_an_imputer_with_indicator_answers_the_same():
    model = make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression())
    assert proven(model, inputs=("a", "gap")).report.ok


def test_exported_bytes_are_the_same_every_time():
    frame = table()
    recipe = Recipe(Path(), "trial", "regression", "field", target=("value",))
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(
        frame[["a", "b"]], frame["value"]
    )
    fitted = Fitted(recipe, model, ("a", "b"), ("value",), 0, 400)
    one = export(fitted, frame, numbers="float64").model
    assert one == export(fitted, frame, numbers="float64").model
    assert b"skl2onnx" not in one


def test_too_old_an_onnxruntime_is_refused():
    frame = table()
    recipe = Recipe(Path(), "trial", "regression", "field", target=("value",))
    model = LinearRegression().fit(frame[["a", "b"]], frame["value"])
    fitted = Fitted(recipe, model, ("a", "b"), ("value",), 0, 400)
    with pytest.raises(ConversionError, match=r"onnxruntime 1\.2 is too old"):
        export(fitted, frame, numbers="float64", onnxruntime="1.2")


def strict():
    """A pipeline that refuses words which it never saw."""
    codes = make_column_transformer((OrdinalEncoder(), ["word"]), remainder="passthrough")
    return make_pipeline(codes, LogisticRegression())


def test_one_row_that_training_refuses_does_not_hide_the_others():
    frame = table()
    frame.loc[350, "word"] = "purple"
    report = proven(strict(), inputs=("word", "a"), frame=frame).report
    assert (report.rows, report.groups["held-out"].refused) == (99, 1)
    assert "1 real rows were refused by the trained model itself" in "".join(report.notes)


def test_a_proof_of_no_row_is_none():
    frame = table()
    frame.loc[300:, "word"] = "purple"
    with pytest.raises(ConversionError, match="refuses all 100 real rows, so nothing is proven"):
        proven(strict(), inputs=("word", "a"), frame=frame)


def test_a_value_of_billionths_is_held_against_its_own_spread(monkeypatch):
    from edgepack.convert import parity

    frame = table().assign(value=lambda f: f["value"] * 1e-9)
    assert proven(LinearRegression(), target="value", task="regression", frame=frame).report.ok
    ask = parity.scores_of
    monkeypatch.setattr(parity, "scores_of", lambda *a: ask(*a) * 1.001)
    for task in ("regression", "scores"):
        with pytest.raises(ParityError):
            proven(LinearRegression(), target="value", task=task, frame=frame)


def test_several_values_are_held_against_their_own_spreads(monkeypatch):
    from edgepack.convert import parity

    frame = table().assign(value=lambda f: f["value"] * 1e5, ratio=lambda f: f["a"] * 1e-3)

    def both():
        recipe = Recipe(Path(), "trial", "regression", "field", target=("value", "ratio"))
        model = LinearRegression().fit(frame[["a", "b"]], frame[["value", "ratio"]])
        fitted = Fitted(recipe, model, ("a", "b"), ("value", "ratio"), 0, 400)
        return prove(fitted, frame, frame)

    assert both().report.ok
    ask = parity.scores_of
    monkeypatch.setattr(parity, "scores_of", lambda *a: ask(*a) * [1, 1.01])
    with pytest.raises(ParityError, match="ratio"):
        both()


def test_a_threshold_or_a_confidence_without_probabilities_is_refused():
    for more, named in (({"threshold": 0.3}, "threshold"), ({"confidence": 0.7}, "confidence")):
        with pytest.raises(ConversionError, match=f"{named} needs probabilities, and a LinearSVC"):
            proven(LinearSVC(), **more)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (False, "the label odd was false in every row"),
        (True, "the label odd was true in every row"),
        (np.tile(["ja", "nein"], 200), "has the classes ja, nein: it must be true or false"),
        (np.arange(400) % 3, "has the classes 0, 1, 2: it must be true or false"),
    ],
    ids=["never", "always", "words", "three"],
)
def test_a_label_that_is_not_yes_or_no_is_refused(values, named):
    frame = table().assign(odd=values)
    recipe = Recipe(Path(), "trial", "labels", "field", target=("y", "odd"))
    model = MultiOutputClassifier(RandomForestClassifier(3))
    model.fit(frame[["a", "b"]], frame[["y", "odd"]].astype(object).to_numpy().astype(str))
    model.classes_ = [np.unique(frame[name]) for name in ("y", "odd")]
    with pytest.raises(DataError, match=named):
        names_of(recipe, model)
