"""A fitted estimator → ONNX bytes that are the same every time, and the schema they need."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.format.schema import Column, ModelInput, ModelOutput, Schema
from edgepack.convert.families import refuse, unwrap
from edgepack.convert.normal import join_labels, normalise, retype, unflatten, unzip
from edgepack.convert.words import MISSING_TEXT
from edgepack.errors import ConversionError, DataError
from edgepack.fitted import CLASSED, Fitted, class_text
from edgepack.parts import parts
from edgepack.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

# onnxruntime → (opset, ai.onnx.ml opset, IR) that it runs; the first row that is not newer counts.
RUNTIMES = (
    ((1, 14), (18, 3, 8)),
    ((1, 12), (17, 3, 8)),
    ((1, 10), (15, 2, 8)),
)
MAX_CATEGORIES = 4096


@dataclass(frozen=True, slots=True)
class Onnx:
    """An exported model.

    Attributes:
        model: Deterministic bytes.
        schema: What the device must know to feed and read it.
        numbers: Element type of its numeric inputs.
        notes: What was decided on the way, for the card.
    """

    model: bytes
    schema: Schema
    numbers: str
    notes: tuple[str, ...] = ()


def opsets_for(onnxruntime: str) -> tuple[int, int, int]:
    """Return (opset, ai.onnx.ml opset, IR) for the oldest onnxruntime that must run the model.

    Raises:
        ConversionError: That one is too old.
    """
    version = tuple(int(part) for part in onnxruntime.split(".")[:2])
    for oldest, found in RUNTIMES:
        if version >= oldest:
            return found
    raise ConversionError(
        f"onnxruntime {onnxruntime} is too old", next="use 1.10 or newer on the devices"
    )


def columns_of(recipe: Recipe, frame: pd.DataFrame, inputs: Sequence[str]) -> tuple[Column, ...]:
    """Return the schema's columns by looking at a frame: key, time, inputs, target.

    Raises:
        DataError: A column has a dtype that no device takes.
    """
    roles: list[tuple[str, Any]] = []
    if recipe.key:
        roles.append((recipe.key, "key"))
    if recipe.time:
        roles.append((recipe.time, "time"))
    roles += [(name, "input") for name in inputs]
    roles += [(name, "target") for name in recipe.target if name in frame.columns]
    return tuple(_column(recipe, frame[name], name, role) for name, role in roles)


def _column(recipe: Recipe, values: pd.Series[Any], name: str, role: Any) -> Column:
    dtype, shape = dtype_of(values, name)
    low, high = recipe.ranges.get(name, (None, None))
    categories = None
    if dtype == "string" and role in ("input", "target"):
        found = sorted({str(item) for item in values.dropna().unique()})
        categories = tuple(found) if len(found) <= MAX_CATEGORIES else None
    journal: Any = recipe.journal.get(name, "keep")
    may_miss = dtype in ("float32", "float64", "string", "timestamp") and not shape
    return Column(
        name=name,
        role=role,
        dtype=dtype,
        missing=bool(may_miss and values.isna().any()),
        low=low,
        high=high,
        categories=categories,
        closed=recipe.categories.get(name) == "closed",
        journal=journal,
        shape=shape,
    )


def dtype_of(values: pd.Series[Any], name: str) -> tuple[str, tuple[int, ...]]:
    """Return (dtype of the schema, shape of one value) of a column.

    Raises:
        DataError: No device takes it.
    """
    import pandas as pd

    dtype: Any = values.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "timestamp", ()
    if pd.api.types.is_object_dtype(dtype):
        first = next((item for item in values if item is not None), None)
        if isinstance(first, (list, tuple, np.ndarray)):
            array = np.asarray(first)
            return _plain(array.dtype, name), array.shape
        return "string", ()
    if pd.api.types.is_string_dtype(dtype):
        return "string", ()
    return _plain(np.dtype(dtype), name), ()


def _plain(dtype: np.dtype[Any], name: str) -> str:
    known = {"b": "bool", "i": "int", "u": "uint", "f": "float"}
    if dtype.kind not in known or dtype.itemsize > 8:
        raise DataError(f"column {name} is {dtype}, which no device takes")
    if dtype.kind == "b":
        return "bool"
    bits = max(dtype.itemsize * 8, 32) if dtype.kind == "f" else dtype.itemsize * 8
    return f"{known[dtype.kind]}{bits}"


def export(fitted: Fitted, frame: pd.DataFrame, *, numbers: str, onnxruntime: str = "1.20") -> Onnx:
    """Convert a fitted estimator.

    Args:
        fitted: From `train.fit`.
        frame: Rows it was trained on: dtypes, missing values, categories are read off them.
        numbers: Element type of numeric tensors, `float32` or `float64`.
        onnxruntime: The oldest that must run it.

    Raises:
        ConversionError: It cannot be converted, or not without being silently wrong.
    """
    recipe = fitted.recipe
    estimator = unwrap(fitted.estimator)
    refuse(estimator)
    columns = columns_of(recipe, frame, fitted.inputs)
    fed = [column for column in columns if column.role == "input"]
    tensors = input_tensors(estimator, fed, numbers)
    proto = tensors_to_proto(estimator, tensors, fed, onnxruntime, numbers)
    if len(fed) == 1 and len(fed[0].shape) > 1:
        unflatten(proto, fed[0].shape)
    if recipe.task == "labels" and len(proto.graph.output) > 1:
        join_labels(proto, proto.graph.output[1].name)
    output = _output(recipe, fitted, estimator, proto)
    check_scores(recipe, output.scores, f"a {type(estimator).__name__}")
    model = normalise(proto, opsets_for(onnxruntime), keep=_kept(output), classes=_classes(fitted))
    schema = Schema(
        task=recipe.task,
        columns=columns,
        inputs=tensors,
        output=output,
        threshold=recipe.threshold,
        abstain=recipe.confidence,
        label_delay_s=recipe.label_delay_s,
    )
    return Onnx(model, schema, numbers)


def check_scores(recipe: Recipe, scores: str | None, what: str) -> None:
    """Refuse what the recipe asks of probabilities where there are none.

    Raises:
        ConversionError: A threshold or a confidence would be ignored without a word.
    """
    if recipe.task not in CLASSED or scores is not None:
        return
    for name, given in (
        ("threshold", recipe.threshold != 0.5),
        ("[abstain] confidence", recipe.confidence is not None),
    ):
        if given:
            raise ConversionError(
                f"{name} needs probabilities, and {what} gives labels only",
                next="use a model with predict_proba, such as CalibratedClassifierCV around it",
            )


def input_tensors(estimator: Any, fed: Sequence[Column], numbers: str) -> tuple[ModelInput, ...]:
    """Decide the graph's inputs: one matrix where all is numeric, else one tensor per column."""
    for column in fed:
        if column.dtype == "timestamp":
            raise ConversionError(
                f"column {column.name} is a time and cannot be fed to a model",
                next="make numbers of it in rows(): hour, weekday, …",
            )
    names = tuple(column.name for column in fed)
    if any(column.shape for column in fed) or _by_name(estimator) or _has_text(fed):
        return tuple(
            ModelInput(column.name, "string", (column.name,), MISSING_TEXT)
            if column.dtype == "string"
            else ModelInput(column.name, numbers, (column.name,))
            for column in fed
        )
    return (ModelInput("X", numbers, names),)


def _has_text(fed: Sequence[Column]) -> bool:
    return any(column.dtype == "string" for column in fed)


def _by_name(estimator: Any) -> bool:
    first = estimator.steps[0][1] if getattr(estimator, "steps", None) else estimator
    return type(first).__name__ in ("ColumnTransformer", "FeatureUnion")


def tensors_to_proto(
    estimator: Any,
    tensors: Sequence[ModelInput],
    fed: Sequence[Column],
    onnxruntime: str,
    numbers: str,
) -> Any:
    """Convert an estimator over the given tensors; return the converter's `ModelProto`.

    Raises:
        ConversionError: It has no converter, or the converter failed.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types, exceptions

    from edgepack.convert.exact import converters
    from edgepack.convert.models import LABELLED

    kinds = {
        "string": data_types.StringTensorType,
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
    }
    by_name = {column.name: column for column in fed}
    initial = []
    for tensor in tensors:
        shape: list[int | None] = [None, len(tensor.columns)]
        if len(tensor.columns) == 1:
            shape = [None, by_name[tensor.columns[0]].count]
        initial.append((tensor.tensor, kinds[tensor.dtype](shape)))
    opset, ml, _ = opsets_for(onnxruntime)
    own = converters(numbers)
    last = estimator.steps[-1][1] if getattr(estimator, "steps", None) else estimator
    options: dict[int, dict[str, bool]] | None = None
    if type(last).__name__ in LABELLED:
        options = {id(last): {}}  # skl2onnx would ask for a ZipMap option that they lack
    elif type(last).__name__.endswith("GaussianMixture"):
        options = {id(last): {"score_samples": True}}
    elif hasattr(last, "predict_proba") and type(last) not in own.parse:
        # Not where our parser stands: options make it look at every attribute of every tree.
        options = {id(last): {"zipmap": False}}
    elif any(type(part).__name__ == "CalibratedClassifierCV" for _, part in parts(estimator)):
        options = {}  # parsers add to it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proto = convert_sklearn(
                estimator,
                initial_types=initial,
                target_opset={"": opset, "ai.onnx.ml": ml},
                options=options,
                custom_conversion_functions=own.convert,
                custom_shape_calculators=own.shape,
                custom_parsers=own.parse,
            )
            unzip(proto.graph)
            if any(tensor.dtype != "float32" for tensor in tensors):
                retype(proto)
            return proto
    except exceptions.MissingShapeCalculator as error:
        raise ConversionError(
            f"{_missing(error)} has no converter to ONNX",
            next="use another estimator (docs/MODELS.md), or bring an ONNX file",
        ) from error
    except ConversionError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:240]
        raise ConversionError(
            f"{type(last).__name__} was not converted: {type(error).__name__}: {text}"
        ) from error


def _missing(error: Exception) -> str:
    import re

    found = re.search(r"type '<class '([^']+)'>'", str(error))
    return found[1].rsplit(".", 1)[-1] if found else type(error).__name__


def _output(recipe: Recipe, fitted: Fitted, estimator: Any, proto: Any) -> ModelOutput:
    import onnx

    kinds = {output.name: output.type.tensor_type.elem_type for output in proto.graph.output}
    names = list(kinds)
    double = onnx.TensorProto.DOUBLE

    def dtype(name: str) -> str:
        return "float64" if kinds[name] == double else "float32"

    if recipe.task in ("binary", "classes", "labels"):
        label = names[0]
        scores = names[1] if len(names) > 1 and hasattr(estimator, "predict_proba") else None
        return ModelOutput(
            fitted.names,
            scores,
            None if recipe.task == "labels" else label,
            "string" if kinds[label] == onnx.TensorProto.STRING or _is_bool(fitted) else "int64",
            dtype(scores) if scores else "float32",
        )
    wanted = next((n for n in names if n in ("scores", "score_samples")), names[0])
    return ModelOutput(fitted.names, wanted, None, "int64", dtype(wanted))


def _kept(output: ModelOutput) -> tuple[str, ...]:
    return tuple(name for name in (output.label, output.scores) if name)


def _is_bool(fitted: Fitted) -> bool:
    classes = getattr(unwrap(fitted.estimator), "classes_", None)
    return isinstance(classes, np.ndarray) and classes.dtype == bool


def _classes(fitted: Fitted) -> Mapping[int, str] | None:
    """Return what an int64 label of a bool target means; None where the label says it itself."""
    if fitted.recipe.task not in ("binary", "classes") or not _is_bool(fitted):
        return None
    return {0: class_text(value=False), 1: class_text(value=True)}
