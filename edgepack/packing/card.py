"""MODEL_CARD.md for people, sbom.cdx.json (CycloneDX 1.6) for scanners; no time of day in them."""

from __future__ import annotations

import importlib.metadata
import re
import uuid
from collections.abc import Mapping
from typing import Any

from device_runtime._version import __version__
from edgepack.candidate.folder import Candidate

DEVICE = "edgepack-device"
_TASKS = {
    "binary": "one of two classes",
    "classes": "one of several classes",
    "labels": "several labels at once",
    "regression": "a value",
    "quantiles": "quantiles of a value",
    "scores": "scores",
}


def model_card(candidate: Candidate, lineage: Mapping[str, Any]) -> str:
    """Return the card: what it is for, how good, on which rows, what it must not be used for."""
    facts, schema, parity = candidate.facts, candidate.schema, candidate.json("parity.json")
    data = lineage["data"]
    lines = [f"# {candidate.name}", ""]
    if facts.get("description"):
        lines += [str(facts["description"]), ""]
    lines += [
        f"Answers with {_TASKS[schema.task]}: {', '.join(schema.output.names[:20])}.",
        f"For devices of class `{facts['device_class']}`.",
        f"Candidate {candidate.number} ({candidate.kind}), seed {facts['seed']}.",
        "",
        "## How good",
        "",
        *_metrics(candidate),
        "",
        "## Data",
        "",
        f"{data['rows']:,} rows{_span(data)}; digest `{data['sha256'][:16]}`.",
    ]
    if facts.get("license"):
        lines.append(f"Licence: {facts['license']}.")
    lines += ["", "## What ships", "", *_shipped(candidate, parity), "", "## Inputs", ""]
    lines += ["| column | dtype | may be missing | values |", "|---|---|---|---|"]
    for column in schema.given:
        lines.append(
            f"| {column.name} | {column.dtype} | {'yes' if column.missing else 'no'} | "
            f"{_values(column)} |"
        )
    lines += ["", "## Limits", "", *_limits(candidate), ""]
    notes = [f"- {note}" for note in facts.get("notes", ())]
    if notes:
        lines += ["## Notes", "", *notes, ""]
    lines += [
        f"Made by edgepack {__version__}. lineage.json names recipe, rows, seed and packages:",
        "from them the same model.onnx can be trained again.",
        "",
    ]
    return "\n".join(lines)


def _metrics(candidate: Candidate) -> list[str]:
    metrics = candidate.metrics
    figures = {
        key: value
        for key, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "rows"
    }
    if not figures:
        return ["Not measured: the samples carry no truth."]
    lines = [f"Measured on {metrics['rows']:,} rows held out {metrics['split']}:", ""]
    lines += ["| figure | value |", "|---|---|"]
    lines += [f"| {key} | {value:.4g} |" for key, value in figures.items()]
    if metrics.get("refit"):
        lines += ["", "After that it was fitted on all rows with the same recipe and seed."]
    return lines


def _span(data: Mapping[str, Any]) -> str:
    return f", {data['first']} to {data['last']}" if "first" in data else ""


def _shipped(candidate: Candidate, parity: Mapping[str, Any]) -> list[str]:
    facts = candidate.facts
    compared = (
        f"- parity: {parity['rows']:,} real and {parity['hostile_rows']:,} hostile rows against "
        f"{parity['against']}; largest difference {parity['worst']:.1g}, {parity['ties']} ties"
    )
    return [
        f"- ONNX, {facts['model_bytes']:,} bytes, IR {facts['ir_version']}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(facts["opsets"].items())),
        f"- operators: {', '.join(item.removeprefix('ai.onnx:') for item in facts['operators'])}",
        compared,
        f"- a process that runs it used {facts['peak_rss_bytes'] / (1 << 20):.0f} MiB at its peak",
    ]


def _values(column: Any) -> str:
    if column.categories is not None:
        shown = ", ".join(column.categories[:8])
        return shown + (f" … ({len(column.categories)})" if len(column.categories) > 8 else "")
    if column.low is not None or column.high is not None:
        return f"{column.low if column.low is not None else ''} to {column.high or ''}"
    return f"shape {column.shape}" if column.shape else ""


def _limits(candidate: Candidate) -> list[str]:
    schema = candidate.schema
    lines = []
    if schema.task == "binary":
        lines.append(f"- answers `{schema.output.names[-1]}` from {schema.threshold:g} on")
    if schema.abstain is not None:
        lines.append(f"- abstains below a confidence of {schema.abstain:g}")
    lines.append("- figures hold for rows like those above; drift on the device is counted, and")
    lines.append("  says that inputs changed, not that the model is wrong")
    return lines


# --- software bill of materials ------------------------------------------------------------------


def sbom(candidate: Candidate, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CycloneDX document: the device runtime's packages, and those of the training."""
    device = device_packages()
    training = {n: v for n, v in lineage["packages"].items() if n not in device}
    name = f"pkg:generic/{candidate.name}@{candidate.digest[:12]}"
    components = [_component(n, v, "required", "runs on the device") for n, v in device.items()]
    components += [_component(n, v, "excluded", "trained the model") for n, v in training.items()]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": name,
                "name": candidate.name,
                "version": candidate.digest[:12],
                "hashes": [{"alg": "SHA-256", "content": lineage["model_sha256"]}],
            },
            "tools": {
                "components": [{"type": "application", "name": "edgepack", "version": __version__}]
            },
        },
        "components": components,
        "dependencies": [
            {"ref": name, "dependsOn": [_purl(n, v) for n, v in device.items()]},
        ],
    }


def _component(name: str, version: str, scope: str, why: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "purl": _purl(name, version),
        "scope": scope,
        "description": why,
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def device_packages() -> dict[str, str]:
    """Return name → version of edgepack-device and everything that it needs, as installed here."""
    found: dict[str, str] = {}
    waiting = [DEVICE]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = package.version
        waiting += [_plain(item) for item in package.requires or () if "extra ==" not in item]
    return dict(sorted(found.items()))


def _plain(requirement: str) -> str:
    word = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", word[0]).lower() if word else ""
