"""Which models convert? Tries every estimator on every kind of data and writes docs/MODELS.md.

    python tools/coverage_table.py [--only NAME]… [--out docs/MODELS.md]

Each cell is what `edgepack train` would say: the model is fitted, converted and put through the
whole parity gate (held-out and hostile rows, both engines). Nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from coverage_cases import SKIPPED, sections
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from device_runtime.errors import EdgepackError
from edgepack.convert.prove import prove
from edgepack.errors import ConversionError, ParityError
from edgepack.fitted import Fitted, names_of
from edgepack.recipe import Recipe
from edgepack.tables import prepare

VERDICTS = ("exact", "within tolerance", "refused", "not supported", "cannot be fitted")
KINDS = ("numeric", "missing", "categorical", "strings")
ROWS, HELD = 300, 150
EXACT = 1e-6
SECONDS = 120
OUT = Path(__file__).parent.parent / "docs" / "MODELS.md"

# Takes two classes only; the others are tried with three as well.
TWO_CLASSES = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")


@dataclass(frozen=True)
class Cell:
    """One verdict.

    Attributes:
        verdict: `exact`, `within tolerance`, `refused`, `not supported`, `cannot be fitted`, `-`.
        note: Why.
    """

    verdict: str
    note: str = ""


def data(kind: str, *, seed: int = 0, rows: int = ROWS + HELD) -> pd.DataFrame:
    """Return rows of one kind, with targets `y` (class) and `value`."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{i}": rng.gamma(2.0, 1.0, rows) for i in range(4)})
    raw = frame["x0"] - 0.5 * frame["x1"] + 0.2 * frame["x2"] + rng.normal(0, 0.3, rows)
    if kind == "missing":
        for name in ("x1", "x3"):
            frame.loc[rng.random(rows) < 0.15, name] = np.nan
    if kind == "categorical":
        frame["code"] = rng.integers(0, 6, rows)
        raw = raw + (frame["code"] % 3 == 0)
    if kind == "strings":
        frame["word"] = rng.choice(["oak", "elm", "ash", "yew"], rows).astype(object)
        raw = raw + (frame["word"] == "oak")
    frame["y"] = np.digitize(raw, np.quantile(raw, [0.4, 0.75])).astype(int)
    frame["value"] = np.exp(raw / 4)
    return frame


def dressed(estimator: Any, kind: str) -> Any:
    """Return the estimator with the encoder in front that its data need."""
    if kind == "categorical":
        if "categorical_features" in estimator.get_params():
            return estimator.set_params(categorical_features=[4])
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(
            make_column_transformer((encoder, ["code"]), remainder="passthrough"), estimator
        )
    if kind == "strings":
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        return make_pipeline(
            make_column_transformer((encoder, ["word"]), remainder="passthrough"), estimator
        )
    return estimator


def try_one(make: Callable[[], Any], task: str, kind: str) -> Cell:
    """Fit, convert and compare; a classifier with three classes and with two: the worse counts."""
    if task != "classes":
        return try_task(make, task, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only_two = type(make()).__name__ in TWO_CLASSES
    two = try_task(make, "binary", kind)
    if only_two or two.verdict == "cannot be fitted":
        return two
    three = try_task(make, "classes", kind)
    if VERDICTS.index(two.verdict) <= VERDICTS.index(three.verdict):
        return three
    return Cell(two.verdict, f"two classes: {two.note}")


def try_task(make: Callable[[], Any], task: str, kind: str) -> Cell:
    """Fit, convert and compare one estimator on one kind of data."""
    frame = data(kind)
    inputs = [name for name in frame.columns if name not in ("y", "value")]
    target = "value" if task == "regression" else "y"
    if task == "binary":
        frame = frame.assign(y=frame["y"] > 0)
    recipe = Recipe(Path(), "trial", task, "field", target=(target,))  # type: ignore[arg-type]
    frame = prepare(recipe, frame, columns=list(frame.columns))
    train = frame.iloc[:ROWS].reset_index(drop=True)
    held = frame.iloc[ROWS:].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            estimator = dressed(make(), kind)
            estimator.fit(train[inputs], train[target].to_numpy())
        except Exception as error:  # noqa: BLE001 — whatever it does not like about the data
            return Cell("cannot be fitted", _first(error))
        try:
            fitted = Fitted(
                recipe, estimator, tuple(inputs), names_of(recipe, estimator), 0, len(train)
            )
            proven = prove(fitted, train, held)
        except ParityError as error:
            return Cell("refused", f"answers differ: {_first(error)}")
        except ConversionError as error:
            refused = "cannot be converted" in error.what
            reason = f"{_first(error)}; {error.next}" if refused else _first(error)
            return Cell("refused" if refused else "not supported", reason)
        except EdgepackError as error:
            return Cell("not supported", _first(error))
    report = proven.report
    worst = max(group.worst for group in report.groups.values())
    note = f"{proven.onnx.numbers}, {worst:.0e}" if worst else proven.onnx.numbers
    if report.ties:
        note += f", {report.ties} ties"
    return Cell("exact" if worst <= EXACT else "within tolerance", note)


def _first(error: Exception) -> str:
    text = getattr(error, "what", str(error))
    return " ".join(str(text).split())[:160]


def bounded(make: Callable[[], Any], task: str, kind: str) -> Cell:
    """`try_one`, given up after two minutes."""

    def stop(_signal: int, _frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return try_one(make, task, kind)
    except TimeoutError:
        return Cell("not supported", f"took longer than {SECONDS} s")
    finally:
        signal.alarm(0)


def run(only: Sequence[str] = ()) -> list[tuple[str, list[tuple[str, list[Cell]]]]]:
    """Return title → rows of cells."""
    found = []
    for title, task, table in sections():
        rows = []
        for name, make in table:
            if only and name not in only:
                continue
            rows.append((name, [bounded(make, task, kind) for kind in KINDS]))
            print(name, *[cell.verdict for cell in rows[-1][1]], sep="; ", file=sys.stderr)
        found.append((title, rows))
    return found


def page(found: list[tuple[str, list[tuple[str, list[Cell]]]]]) -> str:
    """Return docs/MODELS.md."""
    import skl2onnx
    import sklearn

    counts = Counter(cell.verdict for _, rows in found for _, cells in rows for cell in cells)
    lines = [
        "# What converts",
        "",
        "Written by `make coverage-table`; not to be edited by hand.",
        f"scikit-learn {sklearn.__version__}, skl2onnx {skl2onnx.__version__}.",
        "",
        "Each cell went through the parity gate: held-out rows and hostile ones (missing,",
        "extremes, thresholds ± 1 ulp, unseen categories, denormals), in onnxruntime's own binding",
        "and in the device's session.",
        "*exact*: no score differs by more than 1e-6 (above 1: relative).",
        "*within tolerance*: by no more than 1e-5.",
        "*refused*: `train` says no, with the reason. *not supported*: there is no converter.",
        "*cannot be fitted*: scikit-learn itself does not take such data.",
        "",
        "A classifier is tried with three classes (numbers) and with two (false, true): its cell",
        "is the worse of both.",
        "Kinds of data: *numeric* doubles; *missing* with gaps; *categorical* a column of codes",
        "(natively where the estimator knows categories, else one-hot); *strings* through",
        "OrdinalEncoder.",
        "",
        ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) + ".",
        "",
    ]
    notes: list[str] = []
    for title, rows in found:
        if not rows:
            continue
        lines += [
            f"## {title}",
            "",
            f"| estimator | {' | '.join(KINDS)} |",
            "|---|---|---|---|---|",
        ]
        for name, cells in rows:
            shown = []
            for cell in cells:
                text = cell.verdict
                if cell.verdict in ("exact", "within tolerance"):
                    text += f" ({cell.note})"
                elif cell.note:
                    if cell.note not in notes:
                        notes.append(cell.note)
                    text += f" [{notes.index(cell.note) + 1}]"
                shown.append(text)
            lines.append(f"| {name} | {' | '.join(shown)} |")
        lines.append("")
    lines += ["## Notes", ""]
    lines += [f"{index}. {_plain(note)}" for index, note in enumerate(notes, 1)]
    lines += ["", "Left out: " + "; ".join(f"{n} ({why})" for n, why in sorted(SKIPPED.items()))]
    return "\n".join(lines) + ".\n"


def _plain(note: str) -> str:
    return note.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    asked.out.write_text(page(run(asked.only)), encoding="utf-8")
    print(asked.out)


if __name__ == "__main__":
    main()
