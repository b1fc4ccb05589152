from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from edgepack.errors import DataError, LeakError, RecipeError
from edgepack.recipe import load_recipe
from edgepack.units import seconds, size

GOOD = """
name = "gearbox"
task = "binary"
[columns]
target = "worn"
inputs = ["rpm", "oil"]
"""


def written(tmp_path: Path, text: str, code: str = "def model(seed): ...") -> Path:
    (tmp_path / "bundle.toml").write_text(text)
    (tmp_path / "recipe.py").write_text(code)
    return tmp_path


def test_a_good_recipe_is_read_with_its_defaults(tmp_path):
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.inputs == ("rpm", "oil")
    assert recipe.target == ("worn",)
    assert (recipe.device_class, recipe.engine, recipe.threshold) == ("field", "memory", 0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ('tusk = "x"', "unknown key tusk (meant task?)"),
        ("threshold = 3", "threshold must be a number from 0 to 1"),
        ("[abstain]\nconfidense = 0.5", "unknown key [abstain] confidense (meant confidence?)"),
        ('[labels]\ndelay = "soon"', '[labels] delay must be a duration such as "1d"'),
        ("[retrain]\ndue = { weeks = 3 }", "unknown key [retrain] due.weeks"),
        ('[training]\nengine = "dask"', "engine must be memory or stream"),
        ('[journal]\nrpm = "forget"', "[journal] rpm must be keep, hash or drop"),
        ('[journal]\nnone = "drop"', "[journal] none is no column"),
        ("[ranges]\nrpm = [9, 1]", "[ranges] rpm must be a list [low, high]"),
        ('model = "m.onnx"', "a model file needs samples"),
        ("retrain = 3", "retrain must be a table"),
    ],
)
def test_every_mistake_is_named_in_one_line(tmp_path, change, named):
    head, _, tail = GOOD.partition("[columns]")
    table = change.startswith("[")
    text = GOOD + change if table else head + change + "\n[columns]" + tail
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    assert named in caught.value.line()
    assert "\n" not in caught.value.line()
    assert caught.value.exit == 70


def test_the_name_of_runtime_updates_is_kept(tmp_path):
    with pytest.raises(RecipeError, match="is kept for updates"):
        load_recipe(written(tmp_path, GOOD.replace("gearbox", "runtime")))


def test_what_a_task_does_not_know_is_a_mistake(tmp_path):
    text = GOOD.replace('task = "binary"', 'task = "regression"\nthreshold = 0.3')
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text + "[abstain]\nconfidence = 0.6"))
    assert "threshold is for task binary or labels only" in caught.value.what
    assert "confidence is for task binary or classes only" in caught.value.what


def test_all_mistakes_are_named_at_once(tmp_path):
    text = 'name = "Bad Name"\ntask = "guess"\nclass = "-"\n[columns]\ntarget = "t"\ninputs = ["t"]'
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    for part in ("name 'Bad Name'", "task must be one of", "class '-'", "t stands in inputs"):
        assert part in caught.value.what


def test_a_forbidden_column_as_input_is_a_leak(tmp_path):
    text = GOOD + 'forbidden = ["oil"]'
    with pytest.raises(LeakError, match="oil is forbidden"):
        load_recipe(written(tmp_path, text))


def test_reserved_names_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="reserved"):
        load_recipe(written(tmp_path, GOOD.replace('"oil"', '"_flags"')))


@pytest.mark.parametrize("text", ["name = ", "name = 'x'\nname = 'y'", "\xff"])
def test_toml_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "bundle.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(tmp_path)


def test_a_folder_without_bundle_toml_says_so(tmp_path):
    with pytest.raises(RecipeError, match=r"has no bundle\.toml"):
        load_recipe(tmp_path)


def test_a_mistake_in_recipe_py_names_its_line(tmp_path):
    recipe = load_recipe(written(tmp_path, GOOD, "x = 1\ndef model(seed):\n    return 1 / 0\n"))
    with pytest.raises(RecipeError, match=r"model\(\).*line 3: ZeroDivisionError"):
        recipe.call("model", 0)
    broken = load_recipe(written(tmp_path, GOOD, "def model(:\n"))
    with pytest.raises(RecipeError, match="line 1: SyntaxError"):
        broken.call("model", 0)


def test_recipe_py_leaves_no_bytecode_behind(tmp_path):
    load_recipe(written(tmp_path, GOOD)).call("model", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.toml", "recipe.py"]


def test_sizes_and_durations():
    assert size("512 MiB") == 512 << 20
    assert size("2 GB") == 2_000_000_000
    assert seconds("1.5h") == 5400
    assert seconds("13w") == 13 * 7 * 86_400
    for wrong in ("many", "3 parsecs", ""):
        with pytest.raises(ValueError, match="is not a"):
            size(wrong)
        with pytest.raises(ValueError, match="is not a"):
            seconds(wrong)


READS = """
import pandas as pd
from pathlib import Path
def rows(until=None): return pd.read_parquet(Path(__file__).parent / "data" / "rows.parquet")
"""


@pytest.mark.parametrize("what", ["gone", "cut", "empty", "rotten", "folder"])
def test_a_data_file_that_rows_cannot_read_is_named_and_no_fault_of_the_code(tmp_path, what):
    recipe = load_recipe(written(tmp_path, GOOD, READS))
    path = tmp_path / "data" / "rows.parquet"
    path.parent.mkdir()
    pd.DataFrame({"rpm": range(10_000)}).to_parquet(path)
    whole = path.read_bytes()
    if what == "gone":
        path.unlink()
    elif what == "folder":
        path.unlink()
        path.mkdir()
        (path / "odd.parquet").write_bytes(b"PAR1 and no more")
    else:
        rotten = whole[:100] + bytes(2000) + whole[2100:]
        path.write_bytes({"cut": whole[:5000], "empty": b"", "rotten": rotten}[what])
    with pytest.raises(DataError) as caught:
        recipe.call("rows")
    assert (caught.value.code, caught.value.exit) == ("recipe.data", 70)
    assert str(path) in caught.value.what
    assert "put the file back" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_any_other_mistake_in_rows_stays_one_of_recipe_py(tmp_path):
    recipe = load_recipe(written(tmp_path, GOOD, "def rows(until=None): return {}['gone']"))
    with pytest.raises(RecipeError, match="line 1: KeyError") as caught:
        recipe.call("rows")
    assert caught.value.code == "recipe.invalid"
