"""A sample of the coverage table; `make soak` tries all of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "coverage_table.py"
VERDICTS = {"exact", "within tolerance", "refused", "not supported", "cannot be fitted"}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("coverage_table", TOOL)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["coverage_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("RandomForestClassifier", "missing", {"exact"}),
        ("HistGradientBoostingClassifier", "categorical", {"exact"}),
        ("LogisticRegression", "strings", {"exact"}),
        ("LogisticRegression", "missing", {"cannot be fitted"}),
        ("LGBMClassifier", "missing", {"exact", "within tolerance"}),
        ("XGBClassifier", "numeric", {"exact", "within tolerance"}),
    ],
)
def test_a_sample_of_the_table_holds(tool, name, kind, wanted):
    make = dict(tool.estimators("classes")).get(name)
    if make is None:
        pytest.skip(f"{name} comes with an extra that is not installed")
    cell = tool.bounded(make, "classes", kind)
    assert cell.verdict in wanted, cell.note


def test_what_has_no_onnx_form_is_refused_with_a_reason(tool):
    make = dict(tool.preprocessors())["FunctionTransformer(cbrt)"]
    cell = tool.bounded(make, "classes", "numeric")
    assert cell.verdict == "refused"
    assert "a Python function cannot become ONNX" in cell.note


@pytest.mark.soak
@pytest.mark.heavy
def test_the_whole_table_is_as_documented(tool):
    found = tool.run()
    page = tool.page(found)
    assert {cell.verdict for _, rows in found for _, cells in rows for cell in cells} <= VERDICTS
    table = [line for line in page.splitlines() if line.startswith("| ")]
    written = (TOOL.parents[1] / "docs" / "MODELS.md").read_text().splitlines()
    known = {line.split("|")[1]: line for line in written if line.startswith("| ")}
    for line in table:
        verdicts = [cell.split("(")[0].split("[")[0].strip() for cell in line.split("|")[2:-1]]
        there = known[line.split("|")[1]]
        assert verdicts == [c.split("(")[0].split("[")[0].strip() for c in there.split("|")[2:-1]]
