"""schema.json: which columns a row has, how they enter the model, and what comes out.

The schema is written at build and signed with the bundle. Check, predictor, journal and store all
read the same record, so a column means the same thing everywhere.

Numbers are little-endian. A timestamp is int64 microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from device_runtime.errors import FormatError
from device_runtime.format.canonical import expect
from device_runtime.record import dataclass, field

VERSION = 1

Role = Literal["input", "key", "time", "target"]
Keep = Literal["keep", "hash", "drop"]
Task = Literal["binary", "classes", "labels", "regression", "quantiles", "scores"]

# dtype → (array/struct typecode, bytes). `string` has no fixed width.
DTYPES: dict[str, tuple[str, int]] = {
    "bool": ("B", 1),
    "int8": ("b", 1),
    "int16": ("h", 2),
    "int32": ("i", 4),
    "int64": ("q", 8),
    "uint8": ("B", 1),
    "uint16": ("H", 2),
    "uint32": ("I", 4),
    "uint64": ("Q", 8),
    "float32": ("f", 4),
    "float64": ("d", 8),
    "timestamp": ("q", 8),
    "string": ("", 0),
}
TASKS: tuple[Task, ...] = ("binary", "classes", "labels", "regression", "quantiles", "scores")
MISSING_TIME = -(2**63)  # a timestamp that is not known


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a row.

    Attributes:
        name: As in the user's table.
        role: `input` is fed to the model; `key` and `time` are journaled only; `target` is what
            a label carries.
        dtype: A key of `DTYPES`.
        missing: Whether a row may leave it empty. Missing is NaN (floats), None (strings),
            `MISSING_TIME` (timestamps); integer and bool inputs cannot be missing.
        low: Smallest plausible value, or None; below it a row is invalid.
        high: Largest plausible value, or None.
        categories: Strings seen in training, sorted; None for other dtypes.
        closed: Whether an unseen category makes a row invalid (else it is counted and flagged).
        journal: `keep` as it is, `hash` (first 16 bytes of a keyed SHA-256), or `drop`.
        shape: () for a scalar, else the fixed shape of a tensor, such as (8, 8).
    """

    name: str
    role: Role
    dtype: str
    missing: bool = False
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] | None = None
    closed: bool = False
    journal: Keep = "keep"
    shape: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Values in one row: 1, or the product of `shape`."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def itemsize(self) -> int:
        """Bytes of one value; 0 for strings."""
        return DTYPES[self.dtype][1]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input tensor of the graph and the columns that fill it.

    Attributes:
        tensor: Name in the ONNX graph.
        dtype: Element type of the tensor: a key of `DTYPES` without `timestamp`.
        columns: Filled in this order along the second axis. One column with a shape fills
            [n, *shape] by itself.
        missing_text: For string tensors, what stands for a missing value.
    """

    tensor: str
    dtype: str
    columns: tuple[str, ...]
    missing_text: str = ""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the graph answers and how it is read.

    Attributes:
        names: Classes (`binary`, `classes`, `labels`), quantile levels (`quantiles`), or names of
            scores (`regression`, `scores`), in the order of the scores' second axis.
        scores: Tensor of shape [n, k] or [n] with probabilities, values or scores; None if the
            model gives labels only.
        label: Tensor with the predicted label; None for regression, quantiles and scores.
        label_dtype: Element type of the label tensor (`int64` or `string`).
        scores_dtype: `float32` or `float64`.
    """

    names: tuple[str, ...]
    scores: str | None
    label: str | None = None
    label_dtype: str = "int64"
    scores_dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Schema:
    """The whole of schema.json.

    Attributes:
        task: What kind of answer the model gives.
        columns: In the order in which they are journaled and shown.
        inputs: How columns become tensors.
        output: How tensors become answers.
        threshold: For `binary`: the second class is answered from this probability on.
        abstain: Abstain below this confidence (probability of the answered class); None never.
        label_delay_s: How long after `time` the truth is usually known; seconds.
    """

    task: Task
    columns: tuple[Column, ...]
    inputs: tuple[ModelInput, ...]
    output: ModelOutput
    threshold: float = 0.5
    abstain: float | None = None
    label_delay_s: int = 0
    _by_name: Mapping[str, Column] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {column.name: column for column in self.columns})

    def column(self, name: str) -> Column:
        """Return a column by name; KeyError if there is none."""
        return self._by_name[name]

    def by_role(self, role: Role) -> tuple[Column, ...]:
        """Return the columns of one role, in order."""
        return tuple(column for column in self.columns if column.role == role)

    @property
    def fed(self) -> tuple[Column, ...]:
        """The columns of role `input`."""
        return self.by_role("input")

    @property
    def given(self) -> tuple[Column, ...]:
        """The columns that a row brings along: key, time, input (not the target)."""
        return tuple(column for column in self.columns if column.role != "target")

    @property
    def journaled(self) -> tuple[Column, ...]:
        """The given columns that the journal keeps or hashes."""
        return tuple(column for column in self.given if column.journal != "drop")

    @property
    def target(self) -> Column | None:
        """What a label carries; None when the recipe names no target."""
        found = self.by_role("target")
        return found[0] if found else None

    @property
    def key(self) -> Column | None:
        """The user's own id of a row, if the recipe names one."""
        found = self.by_role("key")
        return found[0] if found else None

    @property
    def time(self) -> Column | None:
        """When a row happened, if the recipe names it."""
        found = self.by_role("time")
        return found[0] if found else None


def to_json(schema: Schema) -> dict[str, Any]:
    """Return the JSON object of a schema; `from_json` reads it back equal."""
    return {
        "format": "edgepack-schema",
        "version": VERSION,
        "task": schema.task,
        "columns": [_column_json(column) for column in schema.columns],
        "inputs": [
            {
                "tensor": item.tensor,
                "dtype": item.dtype,
                "columns": list(item.columns),
                "missing_text": item.missing_text,
            }
            for item in schema.inputs
        ],
        "output": {
            "names": list(schema.output.names),
            "scores": schema.output.scores,
            "label": schema.output.label,
            "label_dtype": schema.output.label_dtype,
            "scores_dtype": schema.output.scores_dtype,
        },
        "threshold": schema.threshold,
        "abstain": schema.abstain,
        "label_delay_s": schema.label_delay_s,
    }


def _column_json(column: Column) -> dict[str, Any]:
    result: dict[str, Any] = {"name": column.name, "role": column.role, "dtype": column.dtype}
    if column.missing:
        result["missing"] = True
    if column.low is not None:
        result["low"] = column.low
    if column.high is not None:
        result["high"] = column.high
    if column.categories is not None:
        result["categories"] = list(column.categories)
    if column.closed:
        result["closed"] = True
    if column.journal != "keep":
        result["journal"] = column.journal
    if column.shape:
        result["shape"] = list(column.shape)
    return result


def from_json(value: Any) -> Schema:
    """Read schema.json after its digest was verified.

    Raises:
        UnsupportedVersionError: Written by a newer edgepack.
        FormatError: Anything else that does not follow docs/FORMAT-bundle.md.
    """
    try:
        expect(value, "edgepack-schema", VERSION)
        output = value["output"]
        schema = Schema(
            task=value["task"],
            columns=tuple(_column(item) for item in value["columns"]),
            inputs=tuple(
                ModelInput(
                    item["tensor"], item["dtype"], tuple(item["columns"]), item["missing_text"]
                )
                for item in value["inputs"]
            ),
            output=ModelOutput(
                tuple(output["names"]),
                output["scores"],
                output["label"],
                output["label_dtype"],
                output["scores_dtype"],
            ),
            threshold=float(value["threshold"]),
            abstain=value["abstain"],
            label_delay_s=int(value["label_delay_s"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"schema.json does not follow its format: {error!r}") from None
    _check(schema)
    return schema


def _column(item: Mapping[str, Any]) -> Column:
    categories: Sequence[str] | None = item.get("categories")
    return Column(
        name=str(item["name"]),
        role=item["role"],
        dtype=item["dtype"],
        missing=bool(item.get("missing", False)),
        low=item.get("low"),
        high=item.get("high"),
        categories=None if categories is None else tuple(categories),
        closed=bool(item.get("closed", False)),
        journal=item.get("journal", "keep"),
        shape=tuple(int(size) for size in item.get("shape", ())),
    )


def _check(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    if len(set(names)) != len(names):
        raise FormatError("schema.json names a column twice")
    for column in schema.columns:
        if column.dtype not in DTYPES or column.role not in ("input", "key", "time", "target"):
            raise FormatError(f"schema.json: column {column.name} has no valid dtype or role")
        if column.journal not in ("keep", "hash", "drop") or any(s < 1 for s in column.shape):
            raise FormatError(f"schema.json: column {column.name} is not valid")
    if schema.task not in TASKS:
        raise FormatError(f"schema.json: unknown task {schema.task}")
    for tensor in schema.inputs:
        for name in tensor.columns:
            if name not in names:
                raise FormatError(f"schema.json: tensor {tensor.tensor} wants column {name}")
