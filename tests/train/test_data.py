from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgepack.candidate import make_candidate
from edgepack.errors import ConversionError, DataError, LeakError, RecipeError
from edgepack.recipe import load_recipe
from edgepack.setup.starts import write_from_data
from edgepack.tables import batches, read_files, read_table
from edgepack.train.fit import split, suspects
from edgepack.typed import typed
from support.tables import table


def test_rows_are_cut_by_time_and_sorted(recipe_folder, logistic):
    shuffled = table().sample(frac=1, random_state=1)
    recipe = load_recipe(recipe_folder(logistic, frame=shuffled))
    frame = read_table(recipe, until="2024-01-08", since="2024-01-02")
    assert frame["time"].is_monotonic_increasing
    assert frame["time"].min() == pd.Timestamp("2024-01-02")
    assert frame["time"].max() < pd.Timestamp("2024-01-08")
    assert list(frame.columns) == ["time", "a", "b", "n", "y"]


def test_no_rows_before_until_is_one_line(recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic))
    with pytest.raises(DataError, match="no rows before 1999"):
        read_table(recipe, until="1999-01-01")
    with pytest.raises(DataError, match="is not a time"):
        read_table(recipe, until="yesterdayish")


def test_missing_columns_are_named(recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, inputs=("a", "colour")))
    with pytest.raises(DataError, match="no column colour"):
        read_table(recipe)


def test_files_of_each_kind_give_the_same_rows(recipe_folder, logistic):
    folder = recipe_folder(logistic)
    frame = table()
    wanted = read_table(load_recipe(folder))
    text = (folder / "bundle.toml").read_text()
    frame.to_csv(folder / "data.csv", index=False)
    frame.iloc[:200].to_parquet(folder / "part-1.parquet")
    frame.iloc[200:].to_parquet(folder / "part-2.parquet")
    from deltalake import write_deltalake

    write_deltalake(str(folder / "delta"), frame)
    for data in ("data.csv", "part-*.parquet", "delta"):
        (folder / "bundle.toml").write_text(text.replace("data.parquet", data))
        found = read_table(load_recipe(folder))
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found["b"], wanted["b"])
        assert (found["y"] == wanted["y"]).all()


@pytest.mark.parametrize(
    ("data", "named"),
    [("none.parquet", "there are no data"), ("none-*.csv", "there are no data")],
)
def test_data_that_are_not_there_are_one_line(recipe_folder, logistic, data, named):
    folder = recipe_folder(logistic)
    text = (folder / "bundle.toml").read_text().replace("data.parquet", data)
    (folder / "bundle.toml").write_text(text)
    with pytest.raises(DataError, match=named):
        read_table(load_recipe(folder))


def test_a_broken_file_is_one_line(recipe_folder, logistic):
    folder = recipe_folder(logistic)
    (folder / "data.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(load_recipe(folder))


def test_a_column_of_mixed_types_is_named(recipe_folder):
    code = (
        "import pandas as pd\n"
        "def rows(until=None):\n"
        "    return pd.DataFrame({'time': pd.to_datetime(['2024-01-01'] * 3),\n"
        "                         'a': pd.Series(['x', 1, 2], dtype=object), 'y': [0, 1, 0]})\n"
        "def model(seed): ...\n"
    )
    with pytest.raises(DataError, match="column a mixes text with int"):
        read_table(load_recipe(recipe_folder(code, inputs=("a",))))


def test_rows_that_are_no_frame_are_refused(recipe_folder):
    code = "def rows(until=None):\n    return 3\ndef model(seed): ...\n"
    with pytest.raises(DataError, match="gave a int"):
        read_table(load_recipe(recipe_folder(code)))


def test_batches_stream_every_row_once(recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic))
    parts = list(batches(recipe, 64))
    assert [len(part) for part in parts] == [64] * 6 + [16]
    assert sum(len(part) for part in batches(recipe, 64, until="2024-01-02")) == 24


def test_the_split_goes_by_time(recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic))
    parts = split(recipe, read_table(recipe))
    assert parts.train["time"].max() < parts.test["time"].min()
    assert "by time" in parts.how
    assert len(parts.test) == 80


def test_a_recipe_may_split_by_itself_and_leave_rows_out(recipe_folder, logistic):
    code = logistic + (
        "\nimport numpy as np\ndef split(frame):\n    return np.arange(len(frame)) % 3 - 1\n"
    )
    recipe = load_recipe(recipe_folder(code))
    parts = split(recipe, read_table(recipe))
    assert len(parts.train) + len(parts.test) < 400
    broken = load_recipe(recipe_folder(logistic + "\ndef split(frame):\n    return [1, 2]\n"))
    with pytest.raises(RecipeError, match=r"split\(\) must give"):
        split(broken, read_table(broken))


def test_one_class_only_is_refused(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, frame=table().assign(y=True)))
    with pytest.raises(DataError, match="one class only: true"):
        make_candidate(ws, recipe, read_table(recipe))
    assert not list(ws.candidates("thing").glob("*"))


def test_three_classes_for_a_binary_task_are_refused(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, target="kind"))
    with pytest.raises(DataError, match="3 classes, not 2"):
        make_candidate(ws, recipe, read_table(recipe))


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_a_model_of_values_for_a_task_of_classes_is_one_line(ws, recipe_folder, logistic, task):
    ridge = logistic.replace("LogisticRegression", "Ridge")
    target = "n" if task == "classes" else "y"
    recipe = load_recipe(recipe_folder(ridge, target=target, task=task, inputs=("a", "b")))
    with pytest.raises(DataError, match=f"gives values, not classes, but the task is {task}"):
        make_candidate(ws, recipe, read_table(recipe))


def test_a_text_with_a_nul_byte_is_refused_as_a_device_would():
    for words in (["red", "b\0c", None, "\0"], [*map(str, range(40)), "1\0", "2\0"]):
        with pytest.raises(DataError, match="text of column word holds a NUL byte in 2 rows"):
            typed(pd.DataFrame({"word": words}))


def test_a_target_with_gaps_is_refused(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, target="gap", task="regression"))
    with pytest.raises(DataError, match="target gap is missing in"):
        make_candidate(ws, recipe, read_table(recipe))


def test_words_as_a_regression_target_are_refused(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, target="kind", task="regression"))
    with pytest.raises(DataError, match="kind is not a number"):
        make_candidate(ws, recipe, read_table(recipe))


def test_a_dtype_that_the_model_does_not_take_is_one_line(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, inputs=("a", "word")))
    with pytest.raises(DataError, match="cannot be fitted: could not convert string"):
        make_candidate(ws, recipe, read_table(recipe))


def test_a_column_without_any_value_is_named_and_never_guessed_as_an_input(
    ws, recipe_folder, logistic, tmp_path
):
    frame = table().assign(gone=np.float32("nan"), still=np.float32(3))
    recipe = load_recipe(recipe_folder(logistic, inputs=("a", "still", "gone"), frame=frame))
    with pytest.raises(DataError) as caught:
        make_candidate(ws, recipe, read_table(recipe))
    assert caught.value.why == "without any value: gone"
    frame.to_parquet(tmp_path / "pumps.parquet")
    write_from_data(tmp_path / "pumps.parquet", "y", tmp_path / "guessed")
    assert {"still"} == {"still", "gone"} & set(load_recipe(tmp_path / "guessed").inputs)


def test_a_time_as_input_is_refused(ws, recipe_folder):
    frame = table().assign(when=lambda f: f["time"])
    recipe = load_recipe(recipe_folder(DUMMY, inputs=("when",), frame=frame))
    with pytest.raises(ConversionError, match="column when is a time and cannot be fed"):
        make_candidate(ws, recipe, read_table(recipe))


DUMMY = """
from sklearn.dummy import DummyClassifier
def model(seed):
    return DummyClassifier()
"""


def test_a_column_that_alone_tells_the_answer_is_suspected(recipe_folder, logistic):
    frame = table()
    frame["leak"] = frame["y"] * 2.0
    recipe = load_recipe(recipe_folder(logistic, frame=frame, inputs=("a", "leak")))
    found = suspects(recipe, read_table(recipe))
    assert found == ["leak alone tells y (AUC 1.000)"]


def test_a_forbidden_column_never_reaches_the_frame(recipe_folder, logistic):
    folder = recipe_folder(logistic)
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text + 'forbidden = ["value"]\n')
    assert "value" not in read_table(load_recipe(folder)).columns
    (folder / "bundle.toml").write_text(
        text.replace('"a", ', '"a", "value", ') + 'forbidden = ["value"]'
    )
    with pytest.raises(LeakError):
        load_recipe(folder)


def test_training_that_would_not_fit_is_refused_before_it_starts(ws, recipe_folder, logistic):
    recipe = load_recipe(recipe_folder(logistic, extra='[training]\nmemory = "10 MiB"\n'))
    with pytest.raises(DataError, match=r"needs about \d+ MiB, there are 10 MiB") as caught:
        make_candidate(ws, recipe, read_table(recipe))
    assert 'engine = "stream"' in caught.value.next


def test_text_files_are_read_as_a_device_reads_them(tmp_path):
    (tmp_path / "data.csv").write_text(
        "land,code,x,yes\nNA,007,0.30000000000000004,true\nnull,008,NA,false\n"
        ",009, nan,true\nDE,010,1,true\n"
    )
    frame = read_files([tmp_path / "data.csv"], ["code"])
    assert frame["land"].fillna("").tolist() == ["NA", "null", "", "DE"]
    assert frame["code"].tolist() == ["007", "008", "009", "010"]
    assert frame["x"].iloc[0] == 0.1 + 0.2
    assert frame["x"].isna().tolist() == [False, True, True, False]
    assert frame["yes"].tolist() == [True, False, True, True]
    (tmp_path / "data.ndjson").write_text(
        '{"land": "NA", "code": "007", "date": "2024-01-01", "big": 9007199254740993}\n'
    )
    (row,) = read_files([tmp_path / "data.ndjson"]).to_dict("records")
    assert row == {"land": "NA", "code": "007", "date": "2024-01-01", "big": 2**53 + 1}


def test_a_column_of_categories_is_text_whatever_it_looks_like(recipe_folder, logistic):
    frame = table().assign(n=lambda f: f["n"].where(f["n"] > 0))
    folder = recipe_folder(logistic, frame=frame, inputs=("n",), extra='[categories]\nn = "open"\n')
    words = read_table(load_recipe(folder))["n"]
    assert sorted(words.dropna().unique()) == list("12345678")
    assert words.isna().any()
    frame.to_csv(folder / "data.csv", index=False)
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace("data.parquet", "data.csv"))
    found = load_recipe(folder)
    assert {type(item) for item in read_table(found)["n"].dropna()} == {str}
    streamed = pd.concat(list(batches(found, rows=64)))["n"]
    assert streamed.tolist() == read_table(found)["n"].tolist()


def test_a_time_that_is_none_is_missing(recipe_folder, logistic):
    folder = recipe_folder(logistic)
    frame = table().assign(time=lambda f: f["time"].astype(str))
    frame.loc[5, "time"] = "NA"
    frame.to_csv(folder / "data.csv", index=False)
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace("data.parquet", "data.csv"))
    assert read_table(load_recipe(folder))["time"].isna().sum() == 1


def test_a_time_may_be_dates_of_python_and_truth_may_have_gaps(recipe_folder, logistic, tmp_path):
    code = logistic + (
        "def rows(until=None):\n"
        "    import pandas as pd\n"
        "    from pathlib import Path\n"
        "    frame = pd.read_parquet(Path(__file__).parent / 'data.parquet')\n"
        "    return frame.assign(time=frame['time'].dt.date)\n"
    )
    frame = read_table(load_recipe(recipe_folder(code)))
    assert frame["time"].max() == pd.Timestamp("2024-01-17")
    (tmp_path / "gaps.csv").write_text("yes,x\ntrue,1\n,2\nfalse,3\n")
    with pytest.raises(DataError, match="yes is true or false, but missing in 1 rows"):
        typed(read_files([tmp_path / "gaps.csv"]))
