"""A sample of the coverage table; `make soak` tries all of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
VERDICTS = {"exact", "within tolerance", "refused", "not supported", "cannot be fitted"}


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield import_module("coverage_table")


@pytest.fixture(scope="module")
def cases(tool):
    return import_module("coverage_cases")


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
def test_a_sample_of_the_table_holds(tool, cases, name, kind, wanted):
    make = dict(cases.estimators("classes")).get(name)
    if make is None:
        pytest.skip(f"{name} comes with an extra that is not installed")
    cell = tool.bounded(make, "classes", kind)
    assert cell.verdict in wanted, cell.note


def test_what_has_no_onnx_form_is_refused_with_a_reason(tool, cases):
    make = dict(cases.preprocessors())["FunctionTransformer(cbrt)"]
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
    written = (TOOLS.parent / "docs" / "MODELS.md").read_text().splitlines()
    known = {line.split("|")[1]: line for line in written if line.startswith("| ")}
    for line in table:
        verdicts = [cell.split("(")[0].split("[")[0].strip() for cell in line.split("|")[2:-1]]
        there = known[line.split("|")[1]]
        assert verdicts == [c.split("(")[0].split("[")[0].strip() for c in there.split("|")[2:-1]]
