"""What the server answers: Open Inference Protocol v2, as JSON objects.

Each input column is one input tensor of shape [n] (or [n, *shape]); outputs are `record`, the
answer, `scores` where the model gives any, and `flag`. Values that are missing are `null`.
https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from device_runtime._version import __version__
from device_runtime.answer import Predicted, score_columns, target_name
from device_runtime.device import Device
from device_runtime.errors import InputError, RequestError
from device_runtime.format.batch import FLAG_INVALID, flag_text
from device_runtime.format.schema import Column, Schema
from device_runtime.model.rows import RawBlock, from_columns
from device_runtime.record import dataclass

MAX_DEPTH = 16
MAX_ISSUES = 20
MAX_LISTS = 1 << 20
DATATYPE = {
    "bool": "BOOL",
    "string": "BYTES",
    "timestamp": "INT64",
    "float32": "FP32",
    "float64": "FP64",
}


@dataclass(frozen=True, slots=True)
class Route:
    """What a path stands for.

    Attributes:
        method: The method that it takes.
        answer: Request (empty for GET) → JSON object.
    """

    method: str
    answer: Callable[[Mapping[str, Any]], Any]


def route(parts: list[str], device: Device) -> Route | None:
    """Return what stands at a path, None if there is nothing."""
    match parts:
        case ["v2"]:
            return Route("GET", lambda _: _server())
        case ["v2", "health", "live"]:
            return Route("GET", lambda _: {"live": True})
        case ["v2", "health", "ready"]:
            return Route("GET", lambda _: {"ready": bool(device.load())})
        case ["v2", "models", name, *rest]:
            slot = device.load()
            match rest:
                case ["versions", version, *rest] if version == str(slot.version):
                    pass
                case ["versions", *_]:
                    return None
            if name != slot.name:
                return None
            match rest:
                case []:
                    return Route("GET", lambda _: _model(device))
                case ["ready"]:
                    return Route("GET", lambda _: {"name": slot.name, "ready": True})
                case ["infer"]:
                    return Route("POST", lambda request: infer(device, request))
    return None


def decode(body: bytes | bytearray) -> Mapping[str, Any]:
    """Read a request's body.

    Raises:
        RequestError: It is not a JSON object, is nested too deep, or into too many lists.
    """
    if body.count(b"[") + body.count(b"{") > MAX_LISTS:  # each takes 30 times its bytes in memory
        raise RequestError(f"the body has more than {MAX_LISTS} lists: send `data` flat")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object")
    return value


def infer(device: Device, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer rows.

    Raises:
        RequestError: The tensors do not have the protocol's form.
        InputError: No row fits the schema.
    """
    slot = device.load()
    block = _block(request, slot.schema, device.generation.policy.max_rows_per_request)
    wanted = _wanted(request, slot.schema)  # before anything is journaled
    found = device.predict_block(block)
    if found.n and all(flags & FLAG_INVALID for flags in found.flags):
        raise InputError("no row fits the schema", _issues(found))
    answer: dict[str, Any] = {
        "model_name": slot.name,
        "model_version": str(slot.version),
        "outputs": [item for item in _outputs(found) if item["name"] in wanted],
        "parameters": {"durable": device.generation.policy.durability == "each"},
    }
    if isinstance(request.get("id"), str):
        answer["id"] = request["id"]
    if found.issues:
        answer["parameters"]["issues"] = "; ".join(_issues(found))
    return answer


def _block(request: Mapping[str, Any], schema: Schema, max_rows: int) -> RawBlock:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("the request has no list `inputs`")
    known = {column.name: column for column in schema.given}
    columns: dict[str, list[Any]] = {}
    rows = -1
    for item in inputs:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise RequestError("an input has no name")
        column = known.get(item["name"])
        if column is None:
            raise RequestError(f"the model has no input {item['name'][:80]!r}")
        if column.name in columns:
            raise RequestError(f"input {column.name} stands twice")
        n, values = _values(item, column)
        if rows not in (-1, n):
            raise RequestError(f"input {column.name} has {n} rows, others have {rows}")
        if n > max_rows:
            raise RequestError(f"{n} rows in one request; {max_rows} are allowed")
        rows = n
        columns[column.name] = values
    if rows < 1:
        raise RequestError("the request has no rows")
    return from_columns(columns, rows, first_row=-1)


def _values(item: Mapping[str, Any], column: Column) -> tuple[int, list[Any]]:
    """Return the rows of one tensor: one value each, or one list for a column with a shape."""
    shape, data = item.get("shape"), item.get("data")
    name = column.name
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 0 for n in shape):
        raise RequestError(f"input {name} has no shape")
    wanted = column.shape
    if tuple(shape[1:]) != wanted and not (not wanted and shape[1:] == [1]):
        raise RequestError(f"input {name} has shape {shape}; it must be {['n', *wanted]}")
    if not isinstance(data, list):
        raise RequestError(f"input {name} has no list `data`")
    kind = _datatype(column.dtype)
    said = str(item.get("datatype", kind))  # any width: the values are checked one by one
    if _kind(said) != _kind(kind) and not (said == "BYTES" and column.dtype == "timestamp"):
        raise RequestError(f"input {name} is {kind}, not {said[:80]!r}")
    flat = data if not any(isinstance(value, list) for value in data) else _flatten(data, name)
    if len(flat) != shape[0] * column.count:
        raise RequestError(f"input {name} has {len(flat)} values for shape {shape}")
    if column.dtype == "bool":
        flat = [bool(value) if value in (0, 1) else value for value in flat]
    if not wanted:
        return shape[0], flat
    count = column.count
    return shape[0], [flat[at : at + count] for at in range(0, len(flat), count)]


def _flatten(data: list[Any], name: str) -> list[Any]:
    for _ in range(MAX_DEPTH):
        if not any(isinstance(value, list) for value in data):
            return data
        data = [one for value in data for one in (value if isinstance(value, list) else [value])]
    raise RequestError(f"input {name} is nested too deep")


def _wanted(request: Mapping[str, Any], schema: Schema) -> set[str]:
    outputs = request.get("outputs")
    names = {"record", target_name(schema), "flag"}
    if schema.output.scores is not None:
        names.add("scores")
    if not outputs:
        return names
    if not isinstance(outputs, list):
        raise RequestError("`outputs` is not a list")
    wanted = {str(item.get("name") if isinstance(item, dict) else item) for item in outputs}
    if strange := wanted - names:
        raise RequestError(f"the model has no output {min(strange)[:80]!r}")
    return wanted


def _outputs(found: Predicted) -> list[dict[str, Any]]:
    n, schema = found.n, found.schema
    outputs = [
        {"name": "record", "datatype": "BYTES", "shape": [n], "data": found.records},
        {"name": target_name(schema), "datatype": "BYTES", "shape": [n], "data": found.answers},
    ]
    k = len(schema.output.names)
    if schema.output.scores is not None:
        blank = [None] * k
        rows: list[Any] = [blank if row is None else row for row in found.scores]
        data = [None if v is None or not math.isfinite(v) else v for row in rows for v in row]
        kind = DATATYPE[schema.output.scores_dtype]
        outputs.append({"name": "scores", "datatype": kind, "shape": [n, k], "data": data})
    flags = [flag_text(value) for value in found.flags]
    outputs.append({"name": "flag", "datatype": "BYTES", "shape": [n], "data": flags})
    return outputs


def _issues(found: Predicted) -> list[str]:
    lines: list[str] = []
    for at, issues in found.issues.items():
        if len(lines) < MAX_ISSUES:  # a row says all that is wrong with it
            lines += (f"row {at}: {issue}" for issue in issues)
    return lines


def _server() -> dict[str, Any]:
    return {"name": "edgepack-device", "version": __version__, "extensions": []}


def _model(device: Device) -> dict[str, Any]:
    slot = device.load()
    schema = slot.schema
    outputs = [
        {"name": "record", "datatype": "BYTES", "shape": [-1]},
        {"name": target_name(schema), "datatype": "BYTES", "shape": [-1]},
        {"name": "flag", "datatype": "BYTES", "shape": [-1]},
    ]
    if schema.output.scores is not None:
        kind = DATATYPE[schema.output.scores_dtype]
        shape = [-1, len(schema.output.names)]
        outputs.insert(2, {"name": "scores", "datatype": kind, "shape": shape})
    return {
        "name": slot.name,
        "versions": [str(slot.version)],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": c.name, "datatype": _datatype(c.dtype), "shape": [-1, *c.shape]}
            for c in schema.given
        ],
        "outputs": outputs,
        "parameters": {
            "classes": json.dumps(list(schema.output.names)),
            "score_columns": json.dumps(list(score_columns(schema))),
        },
    }


def _kind(datatype: str) -> str:
    return datatype.strip("U0123456789")


def _datatype(dtype: str) -> str:
    return DATATYPE.get(dtype) or dtype.upper()
