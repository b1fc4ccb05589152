"""An ONNX file from elsewhere: what it wants and answers, brought into the one normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.errors import EdgepackError
from device_runtime.format.schema import ModelInput, ModelOutput, Schema
from device_runtime.model.graph import GraphFacts, TensorFacts, inspect_graph
from edgepack.convert.export import check_scores, columns_of
from edgepack.convert.normal import tidy
from edgepack.errors import ConversionError, DataError
from edgepack.fitted import CLASSED
from edgepack.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
HINT = "name tensors and columns in [model_io] and [columns] of bundle.toml"


@dataclass(frozen=True, slots=True)
class Guess:
    """How a graph seems to be meant.

    Attributes:
        inputs: Tensors and the columns that fill them.
        label: Output with the label, if any.
        scores: Output with probabilities or values, if any.
        width: Scores per row; -1 if the graph does not say.
        label_dtype: `int64` or `string`.
        scores_dtype: `float32` or `float64`.
    """

    inputs: tuple[ModelInput, ...]
    label: str | None
    scores: str | None
    width: int
    label_dtype: str = "int64"
    scores_dtype: str = "float32"


def read_onnx(data: bytes) -> tuple[bytes, GraphFacts]:
    """Return (the file in normal form, what it holds).

    A ZipMap at an output is taken off, metadata is stripped, duplicate opset imports are merged.

    Raises:
        ConversionError: It is not a valid ONNX model, or not one that may be signed.
    """
    import onnx

    try:
        proto = onnx.load_from_string(data)
        plain = tidy(proto)
        return plain, inspect_graph(plain)
    except EdgepackError as error:
        raise ConversionError(f"the ONNX file is refused: {error.what}", next=error.next) from None
    except Exception as error:  # noqa: BLE001 — the checker has errors of many kinds
        text = " ".join(str(error).split())[:200]
        raise ConversionError(
            f"the file is not a valid ONNX model: {text}", next="export it again"
        ) from None


def look(facts: GraphFacts, columns: Sequence[str], io: Mapping[str, Any]) -> Guess:
    """Guess which columns fill which tensor and what comes out; `[model_io]` decides first.

    Raises:
        ConversionError: The columns do not fit the graph, or an output that was named is not there.
    """
    inputs = _inputs(facts.inputs, columns, io)
    outputs = {item.name: item for item in facts.outputs}
    for key in ("label", "probabilities", "scores"):
        if key in io and io[key] not in outputs:
            raise ConversionError(
                f"[model_io] {key}: the graph has no output {io[key]}",
                next=f"it has: {', '.join(outputs)}",
            )
    label = io.get("label")
    scores = io.get("probabilities") or io.get("scores")
    for name, item in outputs.items():
        flat = item.shape is None or len(item.shape) <= 1
        if label is None and name != scores and item.dtype in ("int64", "string") and flat:
            label = name
        elif scores is None and name != label and item.dtype in ("float32", "float64"):
            scores = name
    if label is None and scores is None:
        raise ConversionError("no output of the graph is a label or a score", next=HINT)
    shape = outputs[scores].shape if scores else None
    width = -1
    if shape is not None:
        width = int(shape[1]) if len(shape) > 1 else 1
    return Guess(
        inputs,
        label,
        scores,
        width,
        outputs[label].dtype if label else "int64",
        outputs[scores].dtype if scores else "float32",
    )


def _inputs(
    tensors: Sequence[TensorFacts], columns: Sequence[str], io: Mapping[str, Any]
) -> tuple[ModelInput, ...]:
    named: Mapping[str, Any] = io.get("inputs", {})
    found = []
    left = list(columns)
    for tensor in tensors:
        if tensor.dtype not in (*NUMBERS, "string"):
            raise ConversionError(f"tensor {tensor.name} has an element type that is not fed")
        if tensor.name in named:
            given = named[tensor.name]
            wanted = [given] if isinstance(given, str) else list(given)
        elif len(tensors) == 1:
            wanted = left
        else:
            width = tensor.shape[1] if tensor.shape and len(tensor.shape) > 1 else 1
            wanted = [tensor.name] if tensor.name in left else left[: max(1, width)]
        unknown = [name for name in wanted if name not in columns]
        if unknown or not wanted:
            raise ConversionError(
                f"tensor {tensor.name} wants a column that is not there: {', '.join(unknown)}",
                next=HINT,
            )
        _check_width(tensor, wanted)
        left = [name for name in left if name not in wanted]
        found.append(ModelInput(tensor.name, tensor.dtype, tuple(wanted)))
    if left:
        raise ConversionError(
            f"no tensor takes the columns {', '.join(left[:5])}",
            next="take them out of `inputs`, or " + HINT,
        )
    return tuple(found)


def _check_width(tensor: TensorFacts, wanted: Sequence[str]) -> None:
    shape = tensor.shape
    if shape and shape[0] > 0:
        raise ConversionError(
            f"tensor {tensor.name} takes exactly {shape[0]} rows at a time",
            next="export the model with a free first dimension (torch: dynamic_axes)",
        )
    if shape is None or len(shape) < 2:
        if shape is not None and len(shape) == 1:
            raise ConversionError(
                f"tensor {tensor.name} is one-dimensional; rows are fed as [n, columns]",
                next="export the model with two-dimensional inputs",
            )
        return
    if len(shape) == 2 and shape[1] not in (-1, 0, len(wanted)):
        raise ConversionError(
            f"tensor {tensor.name} takes {shape[1]} columns, {len(wanted)} are given: "
            f"{', '.join(wanted[:8])}",
            next=HINT,
        )


def schema_of(recipe: Recipe, guess: Guess, samples: pd.DataFrame, names: Sequence[str]) -> Schema:
    """Return the schema of a foreign graph.

    Args:
        recipe: Roles, task, threshold.
        guess: From `look`.
        samples: Real rows.
        names: Of classes or scores.

    Raises:
        ConversionError: Columns and tensors do not go together.
        DataError: The samples do not fit the columns.
    """
    fed = [name for tensor in guess.inputs for name in tensor.columns]
    missing = [name for name in fed if name not in samples.columns]
    if missing:
        raise DataError(f"the samples have no column {', '.join(missing)}")
    columns = columns_of(recipe, samples, fed)
    by_name = {column.name: column for column in columns}
    for tensor in guess.inputs:
        for name in tensor.columns:
            if by_name[name].dtype == "timestamp":
                raise ConversionError(
                    f"column {name} is a time and cannot be fed to a model",
                    next="name it as time in [columns], or make numbers of it in the samples",
                )
            text = by_name[name].dtype == "string"
            if text != (tensor.dtype == "string"):
                raise ConversionError(
                    f"tensor {tensor.tensor} holds {tensor.dtype}, but column {name} is "
                    f"{by_name[name].dtype}",
                    next=HINT,
                )
    label = guess.label if recipe.task in CLASSED else None
    check_scores(recipe, guess.scores, "the graph")
    output = ModelOutput(tuple(names), guess.scores, label, guess.label_dtype, guess.scores_dtype)
    return Schema(
        task=recipe.task,
        columns=columns,
        inputs=guess.inputs,
        output=output,
        threshold=recipe.threshold,
        abstain=recipe.confidence,
        label_delay_s=recipe.label_delay_s,
    )


def names_for(recipe: Recipe, guess: Guess, model: bytes, samples: pd.DataFrame) -> list[str]:
    """Return the names of classes or scores: as `[model_io] classes` or `[output]` says, or seen.

    Raises:
        ConversionError: The graph gives another number of scores than names.
    """
    names = [str(item) for item in recipe.model_io.get("classes", recipe.names)]
    if not names and guess.scores is None:
        raise ConversionError(
            "the graph gives a label only, and nobody says which there are",
            next='name them: classes = ["…", "…"] in [model_io] of bundle.toml',
        )
    if recipe.task == "quantiles":
        names = [f"{level:g}" for level in recipe.quantiles]
    width = _measured_width(guess, model, samples)
    if not names and recipe.task in CLASSED:
        names = [str(index) for index in range(width)]
    elif not names:
        names = list(recipe.target) if len(recipe.target) == width else []
        names = names or [f"score_{i}" for i in range(width)]
    if guess.scores is not None and recipe.task == "binary" and width == 1:
        raise ConversionError(
            "a binary model must give two probabilities a row, this one gives 1",
            next='export both, or write task = "scores"',
        )
    if guess.scores is not None and width != len(names):
        raise ConversionError(
            f"the graph gives {width} scores a row for {len(names)} names: {', '.join(names[:6])}",
            next="correct classes in [model_io] of bundle.toml",
        )
    return names


def _measured_width(guess: Guess, model: bytes, samples: pd.DataFrame) -> int:
    if guess.scores is None:
        return 0
    if guess.width > 0:
        return guess.width
    from edgepack.convert.feed import official_session

    session = official_session(model)
    feeds = {
        tensor.tensor: np.stack(
            [samples[name].iloc[:2].to_numpy() for name in tensor.columns], axis=1
        ).astype(object if tensor.dtype == "string" else tensor.dtype)
        for tensor in guess.inputs
    }
    return int(np.asarray(session.run([guess.scores], feeds)[0]).reshape(2, -1).shape[1])
