"""Bring your own: the answers that the samples expect."""

from __future__ import annotations

import numpy as np
import pytest

from edgepack.candidate.training import train_recipe
from edgepack.errors import ConversionError, DataError, ParityError
from support.given import INPUTS, begun, linear_onnx
from support.tables import table

pytestmark = pytest.mark.usefixtures("passphrase")


def test_expected_columns_are_held_against_the_model(tmp_path):
    frame = table()[INPUTS].astype(np.float32)
    raw = frame.to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = raw.argmax(axis=1)
    frame.to_parquet(tmp_path / "good.parquet")
    model = linear_onnx(tmp_path / "m.onnx")
    candidate, _ = train_recipe(begun(tmp_path, model, tmp_path / "good.parquet"))
    assert candidate.json("parity.json")["against"] == "expected columns of the samples"
    frame["expected_label"] = 1 - frame["expected_label"]
    frame.to_parquet(tmp_path / "bad.parquet")
    refusing = begun(tmp_path / "2", model, tmp_path / "bad.parquet")
    with pytest.raises(ParityError, match="400 rows otherwise than the samples expect") as caught:
        train_recipe(refusing)
    page = refusing.candidates("m") / "refused.html"
    assert str(page) in caught.value.next
    assert "answers different" in page.read_text()
    assert "first 20 differences" in page.read_text()
    samples = refusing.recipe_folder(None) / "bad.parquet"
    samples.write_bytes((tmp_path / "good.parquet").read_bytes())
    train_recipe(refusing)
    assert not page.exists()


def test_int_labels_may_have_names(tmp_path):
    frame = (table()[INPUTS] - table()[INPUTS].mean()).astype(np.float32)
    raw = frame.to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = np.where(raw.argmax(axis=1), "yes", "no")
    frame.to_parquet(tmp_path / "s.parquet")
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), tmp_path / "s.parquet")
    candidate, _ = train_recipe(ws)
    assert candidate.schema.output.names == ("no", "yes")
    path = ws.recipe_folder() / "bundle.toml"
    text = path.read_text()
    for classes, error, named in (
        ('["a", "b"]', DataError, "the samples expect no, yes, but the classes are a, b"),
        ('["7", "8"]', ConversionError, "is none of the classes 7, 8"),
    ):
        path.write_text(text.replace('["no", "yes"]', classes))
        with pytest.raises(error, match=named):
            train_recipe(ws)


def test_expected_columns_keep_to_their_rows_when_time_sorts_them(tmp_path):
    frame = table()[[*INPUTS, "time"]].astype(dict.fromkeys(INPUTS, np.float32))
    frame[INPUTS] -= frame[INPUTS].mean()
    raw = frame[INPUTS].to_numpy() @ (np.arange(6).reshape(3, 2) / 10).astype(np.float32)
    frame["expected_label"] = raw.argmax(axis=1)
    frame.iloc[::-1].to_parquet(tmp_path / "s.parquet")
    ws = begun(tmp_path, linear_onnx(tmp_path / "m.onnx"), tmp_path / "s.parquet")
    path = ws.recipe_folder() / "bundle.toml"
    path.write_text(path.read_text().replace('# time = "…"', 'time = "time" #'))
    assert train_recipe(ws)[0].json("parity.json")["ok"]
