from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from edgepack.candidate import (
    accept,
    find_candidate,
    list_candidates,
    load_candidate,
    make_candidate,
    score_onnx,
    truth_of,
)
from edgepack.errors import ConversionError, RecipeError
from edgepack.recipe import load_recipe
from edgepack.tables import read_table
from support.tables import table

FOREST = """
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

def model(seed):
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(
        make_column_transformer((words, ["word"]), remainder="passthrough"),
        RandomForestClassifier(10, random_state=seed, min_samples_leaf=3),
    )
"""


@pytest.fixture
def made(ws, recipe_folder):
    folder = recipe_folder(
        FOREST,
        task="classes",
        target="kind",
        inputs=("a", "n", "word"),
        extra="[abstain]\nconfidence = 0.5\nunlike_rows = 50\n",
    )
    recipe = load_recipe(folder)
    frame = read_table(recipe)
    return ws, recipe, frame, make_candidate(ws, recipe, frame)


def test_a_candidate_holds_all_that_a_bundle_needs(made):
    _, _, _, candidate = made
    names = {path.name for path in candidate.folder.iterdir()}
    assert names == {
        "model.onnx",
        "schema.json",
        "profile.json",
        "unlike.bin",
        "selftest.cols",
        "metrics.json",
        "parity.json",
        "parity.html",
        "lineage.json",
        "candidate.json",
        "accepted",
    }
    assert candidate.accepted
    assert candidate.facts["peak_rss_bytes"] > 10 << 20
    assert "ai.onnx.ml:TreeEnsembleRegressor" in candidate.facts["operators"]
    assert candidate.json("parity.json")["ok"]
    assert candidate.metrics["accuracy"] > 0.5


def test_the_onnx_of_a_candidate_scores_rows(made):
    _, _, frame, candidate = made
    label, scores = score_onnx(candidate, candidate.schema, frame)
    assert label.dtype == np.int64
    assert scores.shape == (len(frame), 3)
    assert (label == truth_of(candidate.schema, frame)).mean() > 0.7


def test_the_same_recipe_data_and_seed_give_the_same_model(made):
    ws, recipe, frame, candidate = made
    again = make_candidate(ws, recipe, frame)
    assert again.number == 2
    assert again.read("model.onnx") == candidate.read("model.onnx")
    assert again.read("lineage.json") == candidate.read("lineage.json")
    other = make_candidate(ws, recipe, frame, seed=1)
    assert other.read("model.onnx") != candidate.read("model.onnx")


def test_a_retrained_candidate_waits_until_a_person_accepts_it(made):
    ws, recipe, frame, first = made
    second = make_candidate(
        ws, recipe, frame, kind="retrain", parent="ab" * 32, lineage={"devices": 3}
    )
    assert not second.accepted
    assert find_candidate(ws, "thing").number == first.number
    assert second.json("lineage.json")["parent"] == "ab" * 32
    assert second.json("lineage.json")["devices"] == 3
    assert accept(ws, "thing", second.number).accepted
    assert find_candidate(ws, "thing").number == second.number


def test_lineage_names_what_made_the_model(made):
    _, recipe, frame, candidate = made
    story = candidate.json("lineage.json")
    assert story["model_sha256"] == hashlib.sha256(candidate.model).hexdigest()
    assert story["data"]["rows"] == len(frame)
    assert set(story["recipe"]) == {"bundle.toml", "recipe.py"}
    assert story["trained_until"] == str(frame["time"].max())
    assert story["packages"]["scikit-learn"]
    assert candidate.digest == hashlib.sha256(candidate.read("lineage.json")).hexdigest()
    del recipe


def test_a_damaged_candidate_is_refused(made):
    ws, _, _, candidate = made
    (candidate.folder / "lineage.json").write_bytes(b"{}")
    with pytest.raises(RecipeError, match=r"lineage\.json was changed"):
        load_candidate(candidate.folder)
    (candidate.folder / "model.onnx").unlink()
    with pytest.raises(RecipeError, match=r"model\.onnx is missing"):
        list_candidates(ws, "thing")
    with pytest.raises(RecipeError, match="no candidate 9"):
        find_candidate(ws, "thing", 9)


def test_a_failed_training_leaves_nothing_behind(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic))
    (ws.root / "edgepack.toml").write_text(
        'format = 1\n[class.field]\noperators = ["ai.onnx:MatMul"]\n'
    )
    from edgepack.workspace import Workspace

    small = Workspace.find(ws.root)
    with pytest.raises(ConversionError, match="class field refuses this model") as caught:
        make_candidate(small, recipe, read_table(recipe))
    assert caught.value.exit == 71
    assert list(ws.candidates("thing").iterdir()) == []


def test_a_model_too_large_for_the_class_is_refused(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic))
    (ws.root / "edgepack.toml").write_text('format = 1\n[class.field]\nram_bytes = "8 MiB"\n')
    from edgepack.workspace import Workspace

    with pytest.raises(ConversionError, match=r"needs \d+ MiB at its peak, class field has 8 MiB"):
        make_candidate(Workspace.find(ws.root), recipe, read_table(recipe))


FOREIGNERS = """
from sklearn.ensemble import IsolationForest
def model(seed):
    return IsolationForest(n_estimators=10, random_state=seed)
"""


def test_candidates_of_every_task_are_made(ws, recipe_folder):
    head = "from sklearn.linear_model import LinearRegression\n"
    cases = {
        "regression": (head + "def model(seed):\n    return LinearRegression()\n", "value", ""),
        "scores": (
            FOREIGNERS,
            "value",
            '[output]\nnames = ["normal"]\n',
        ),
    }
    for task, (code, target, extra) in cases.items():
        folder = recipe_folder(code, task=task, target=target, extra=extra, name=task)
        recipe = load_recipe(folder)
        candidate = make_candidate(ws, recipe, read_table(recipe))
        assert candidate.schema.task == task
        _, scores = score_onnx(candidate, candidate.schema, read_table(recipe))
        assert np.isfinite(scores).all()


def test_several_labels_a_row(ws, recipe_folder):
    code = (
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.multioutput import MultiOutputClassifier\n"
        "def model(seed):\n    return MultiOutputClassifier(LogisticRegression())\n"
    )
    frame = table().assign(big=lambda f: f["b"] > 10, odd=lambda f: f["n"] % 2 == 1)
    folder = recipe_folder(code, task="labels", target="big", frame=frame)
    text = (folder / "bundle.toml").read_text().replace('"big"', '["big", "odd"]')
    (folder / "bundle.toml").write_text(text)
    recipe = load_recipe(folder)
    candidate = make_candidate(ws, recipe, read_table(recipe))
    assert candidate.schema.output.names == ("big", "odd")
    assert candidate.metrics["f1"] > 0.5


def test_quantiles(ws, recipe_folder):
    code = (
        "from sklearn.linear_model import LinearRegression\n"
        "from sklearn.multioutput import MultiOutputRegressor\n"
        "import numpy as np\n"
        "class Bands(LinearRegression):\n    pass\n"
        "def model(seed):\n    return LinearRegression()\n"
        "def rows(until=None):\n"
        "    import pandas as pd\n"
        "    from pathlib import Path\n"
        "    return pd.read_parquet(Path(__file__).parent / 'data.parquet')\n"
    )
    folder = recipe_folder(
        code, task="quantiles", target="value", extra="[output]\nquantiles = [0.5]\n"
    )
    recipe = load_recipe(folder)
    candidate = make_candidate(ws, recipe, read_table(recipe))
    assert candidate.schema.output.names == ("0.5",)
    assert candidate.metrics["pinball"] > 0


def test_small_images(ws, recipe_folder):
    from sklearn.datasets import load_digits

    digits = load_digits()
    import pandas as pd

    frame = pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=400, freq="h"),
            "image": [item.astype(np.uint8).tolist() for item in digits.images[:400]],
            "digit": digits.target[:400],
        }
    )
    code = (
        "import numpy as np, pandas as pd\nfrom pathlib import Path\n"
        "from sklearn.ensemble import ExtraTreesClassifier\n"
        "def rows(until=None):\n"
        "    frame = pd.read_parquet(Path(__file__).parent / 'data.parquet')\n"
        "    frame['image'] = [np.stack(item).astype(np.uint8) for item in frame['image']]\n"
        "    return frame\n"
        "def model(seed):\n    return ExtraTreesClassifier(20, random_state=seed)\n"
    )
    folder = recipe_folder(code, task="classes", target="digit", inputs=("image",), frame=frame)
    recipe = load_recipe(folder)
    candidate = make_candidate(ws, recipe, read_table(recipe))
    assert candidate.schema.column("image").shape == (8, 8)
    assert candidate.metrics["accuracy"] > 0.8
    assert json.loads(candidate.read("schema.json"))["inputs"][0]["tensor"] == "image"


def test_a_model_is_fitted_on_the_missing_text_that_it_looks_for(ws, recipe_folder):
    frame = table().assign(word=lambda f: f["word"].where(f["n"] > 2, None))
    code = (
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from sklearn.preprocessing import OneHotEncoder\n"
        "def model(seed):\n"
        "    filled = SimpleImputer(missing_values=None, strategy='most_frequent')\n"
        "    words = make_pipeline(filled, OneHotEncoder(handle_unknown='ignore'))\n"
        "    front = make_column_transformer((words, ['word']), remainder='passthrough')\n"
        "    return make_pipeline(front, LogisticRegression())\n"
    )
    recipe = load_recipe(recipe_folder(code, inputs=("word", "n"), frame=frame))
    candidate = make_candidate(ws, recipe, read_table(recipe))
    assert candidate.schema.column("word").missing
    assert candidate.json("parity.json")["groups"]["held-out"]["refused"] == 0
