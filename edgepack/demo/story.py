"""The story of the demo: a model goes cold on a device without network; a stick refreshes it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgepack.demo.play import Play, StepFailedError, count_lines, digest, size

NAME = "flight-delays"
DEVICE = "patrol-1"
UNFINISHED = ".unfinished"


def play(directory: str, *, as_json: bool) -> int:
    """Play the whole story; return the exit status.

    Args:
        directory: Where to play: empty, not there, or left by a demo that did not end. "" = a
            temporary folder, kept.
        as_json: Print the content of demo.json and nothing else.
    """
    folder = Path(directory).resolve() if directory else Path(tempfile.mkdtemp(prefix="edgepack-"))
    started = time.monotonic()
    try:
        _clear(folder)
        result = _tell(Play(folder, quiet=as_json), started)
    except StepFailedError as failed:
        return _fail(failed.error, as_json=as_json)
    except KeyboardInterrupt:
        if not directory:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / UNFINISHED).unlink()
    if as_json:
        print(json.dumps({"ok": True, **result}))  # noqa: T201
    return 0


def _clear(folder: Path) -> None:
    """Make the folder, with the mark of a demo that has not ended: such a one is played again."""
    mark = folder / UNFINISHED
    found = list(folder.iterdir()) if folder.exists() else []
    if found and mark not in found:
        raise StepFailedError(f"{folder} is not empty", "usage", 2, "give --dir an empty folder")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _fail(error: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"ok": False, "error": error}))  # noqa: T201
    else:
        why = f" ({error['why']})" if error["why"] else ""
        line = f"error [{error['code']}]: {error['what']}{why}; {error['next']}"
        print(line, file=sys.stderr)  # noqa: T201
    return int(error["exit"])


def _tell(stage: Play, started: float) -> dict[str, Any]:
    stage.tell(f"edgepack demo in {stage.folder}")
    stage.tell(
        "the device runs in processes of its own "
        + ("without a network (" + " ".join(stage.no_network[:-1]) + ")" if stage.no_network
           else "(this system refuses unshare -n: the network is there, and not used)")
    )  # fmt: skip
    first = _ship_the_first(stage)
    spring = _march_and_april(stage)
    second = _learn(stage)
    summer = _may_and_june(stage, first)
    return _end(stage, started, first, spring, second, summer)


def _ship_the_first(stage: Play) -> dict[str, Any]:
    """January and February at the base: train, prove, pack, sign, enrol, carry, install."""
    stage.stick.mkdir()
    with stage.step("a workspace with the recipe and new keys") as facts:
        stage.on_base("init", stage.base, "--from", NAME, cwd=stage.folder)
        _prune_at_once(stage.base / "edgepack.toml")
        facts.append(NAME)
    with stage.step("train on January and February; ONNX = model?") as facts:
        trained = stage.on_base("train", NAME, "--until", "2013-03-01")
        facts += [
            f"{trained['rows']:,} flights",
            f"AUC {trained['metrics']['auc']:.3f}",
            "parity holds",
        ]
    with stage.step("build and sign bundle 1") as facts:
        built = stage.on_base("build", NAME)
        signed = stage.on_base("sign", built["file"])
        facts.append(digest(Path(signed["file"])))
    with stage.step("a kit for a new device") as facts:
        stage.on_base("device", "new", DEVICE, "--class", "field", "--bundle", NAME)
        kit = stage.on_base("device", "kit", DEVICE, stage.folder / f"{DEVICE}.kit")
        facts.append(f"its words: {kit['words']}")
    with stage.step("device: initialised from the kit, words typed"):
        stage.on_device("init", kit["kit"], "--fingerprint", kit["words"])
    with stage.step("base → stick") as facts:
        out = stage.on_base("sync", stage.stick)
        facts.append(f"bundle {', '.join(map(str, out['bundles']))}")
    with stage.step("device ← stick: verified, self-tested, active") as facts:
        inside = stage.on_device("sync", stage.stick)
        facts.append(f"{inside['installed']['name']} {inside['installed']['version']}")
    with stage.step("a tampered copy is refused") as facts:
        forged = stage.folder / "tampered.edgepack"
        _flip_a_byte(Path(signed["file"]), forged)
        facts.append(stage.expect_refusal("tampered bundle", "install", forged))
        forged.unlink()
    return dict(signed)


def _march_and_april(stage: Play) -> dict[str, Any]:
    """The field: every flight predicted and journaled, a kill in the middle, truth a day later."""
    rows, answers = stage.folder / "spring.csv", stage.folder / "spring-answers.csv"
    span = ("--since", "2013-03-01", "--until", "2013-05-01")
    stage.nature("rows", *span, "--out", rows)
    with stage.step("device: predicts March and April; kill -9") as facts:
        answered = stage.kill_in_the_middle(rows, answers)
        torn = _tear_the_journal(stage.home / "journal")
        facts += [f"{max(answered - 1, 0):,} answered", f"{torn} torn bytes in the journal"]
    with stage.step("device: predict --resume") as facts:
        done = stage.on_device("predict", rows, "--out", answers, "--resume")
        expected = count_lines(rows)
        if count_lines(answers) != expected or _twice(answers):
            raise StepFailedError("predict --resume: a row is missing or stands twice")
        facts += [f"{expected - 1:,} flights answered once", f"{done['seconds']:.1f} s"]
    with stage.step("device: the truth arrives, by record id") as facts:
        truth = stage.folder / "spring-truth.csv"
        stage.nature("truth", *span, "--answers", answers, "--out", truth)
        labels = stage.on_device("label", "--file", truth)
        facts.append(f"{labels['labels']:,} labels")
    with stage.step("device → stick: journal sealed and left") as facts:
        left = stage.on_device("sync", stage.stick)
        facts += [f"{left['exported']['rows']:,} records", size(left["exported"]["bytes"])]
    with stage.step("base ← stick: imported, acknowledged") as facts:
        home = stage.on_base("sync", stage.stick, "--accept", DEVICE)
        facts += [f"{home['imported']:,} rows", f"{home['labels']:,} labels"]
    return {"rows": expected - 1}


def _learn(stage: Play) -> dict[str, Any]:
    """The base: how the world changed, is a new model better, ship it."""
    with stage.step("drift: did the inputs change?") as facts:
        drift = stage.on_base("drift", NAME)
        worst = drift["worst"]
        facts.append(f"most: {worst['name']} PSI {worst['psi']:.2f}")
    with stage.step("retrain: champion against challenger") as facts:
        proposal = stage.on_base("retrain", NAME)
        facts.append(f"AUC {proposal['champion']['auc']:.3f} → {proposal['challenger']['auc']:.3f}")
        stage.on_base("retrain", NAME, "--accept")
    with stage.step("build and sign bundle 2") as facts:
        built = stage.on_base("build", NAME)
        signed = stage.on_base("sign", built["file"])
        facts.append(digest(Path(signed["file"])))
    with stage.step("base → stick") as facts:
        out = stage.on_base("sync", stage.stick)
        facts.append(f"bundle {', '.join(map(str, out['bundles']))}")
    with stage.step("device ← stick: acks applied, bundle 2 active") as facts:
        inside = stage.on_device("sync", stage.stick)
        facts += [
            f"{inside['pruned_rows']:,} rows pruned",
            f"bundle {inside['installed']['version']}",
        ]
    return {"signed": signed, "drift": drift}


def _may_and_june(stage: Play, first: dict[str, Any]) -> dict[str, Any]:
    """The field again, under bundle 2; truth by the user's own key; home once more."""
    with stage.step("the genuine older bundle 1 is refused") as facts:
        facts.append(stage.expect_refusal("genuine older bundle", "install", first["file"]))
    rows, answers = stage.folder / "summer.csv", stage.folder / "summer-answers.csv"
    span = ("--since", "2013-05-01", "--until", "2013-07-01")
    stage.nature("rows", *span, "--out", rows)
    with stage.step("device: predicts May and June") as facts:
        done = stage.on_device("predict", rows, "--out", answers)
        facts.append(f"{done['rows']:,} flights")
    with stage.step("device: the truth arrives, by the key `row`") as facts:
        truth = stage.folder / "summer-truth.csv"
        stage.nature("truth", *span, "--by-key", "--out", truth)
        facts.append(f"{stage.on_device('label', '--file', truth)['labels']:,} labels")
    with stage.step("device → stick → base") as facts:
        stage.on_device("sync", stage.stick)
        home = stage.on_base("sync", stage.stick)
        facts += [f"{home['imported']:,} rows", f"{home['labels']:,} labels"]
    with stage.step("stick → device: acks applied") as facts:
        last = stage.on_device("sync", stage.stick)
        facts.append(f"{last['pruned_rows']:,} rows pruned")
    return {"rows": int(done["rows"])}


def _end(
    stage: Play,
    started: float,
    first: dict[str, Any],
    spring: dict[str, Any],
    second: dict[str, Any],
    summer: dict[str, Any],
) -> dict[str, Any]:
    report = stage.folder / "report.html"
    with stage.step("the report") as facts:
        written = stage.on_base("report", "-o", report)
        facts.append(size(report.stat().st_size))
    device = stage.on_device("status")
    fleet = stage.on_base("status")["devices"][0]
    same = written["same_rows"]["auc"]
    one, two = str(first["version"]), str(second["signed"]["version"])
    worst = second["drift"]["worst"]
    result = {
        "seconds": round(time.monotonic() - started, 1),
        "auc": {"bundle_1": same[one], "bundle_2": same[two]},
        "rows": {
            "predicted": spring["rows"] + summer["rows"],
            "journaled": device["journal"]["rows_produced"],
            "imported": fleet["records"]["home"],
            "pruned": device["journal"]["rows_pruned"],
        },
        "refused": stage.refused,
        "drift": {"column": worst["name"], "psi": worst["psi"]},
        "age_days": device["age_days"],
        "temperature": device["temperature"]["state"],
        "network": "none" if stage.no_network else "there, and not used",
        "report": str(report),
        "steps": stage.steps,
    }
    _table(stage, result)
    return result


def _table(stage: Play, result: dict[str, Any]) -> None:
    rows = result["rows"]
    lines = [
        ("AUC of bundle 1 on May and June", f"{result['auc']['bundle_1']:.3f}"),
        ("AUC of bundle 2 on the same flights", f"{result['auc']['bundle_2']:.3f}"),
        ("flights predicted", f"{rows['predicted']:,}"),
        ("rows journaled on the device", f"{rows['journaled']:,}"),
        ("rows imported at the base", f"{rows['imported']:,}"),
        ("rows pruned after an acknowledgement", f"{rows['pruned']:,}"),
        (
            "input that changed most",
            f"{result['drift']['column']} (PSI {result['drift']['psi']:.2f})",
        ),
        ("age of the running model", f"{result['age_days']} days, {result['temperature']}"),
        ("refused on the way", ", ".join(item["code"] for item in result["refused"])),
        ("in all", f"{result['seconds']} s"),
    ]
    stage.tell()
    for label, value in lines:
        stage.tell(f"  {label:<38} {value}")
    stage.tell()
    stage.tell(f"report: {result['report']}")


def _prune_at_once(config: Path) -> None:
    """Let this class of device forget what was acknowledged at once, so that the story shows it."""
    text = config.read_text(encoding="utf-8")
    head, mark, tail = text.partition("[class.field]\n")
    config.write_text(head + mark + "keep_acked_days = 0\n" + tail, encoding="utf-8")


def _flip_a_byte(genuine: Path, forged: Path) -> None:
    shutil.copyfile(genuine, forged)
    with forged.open("r+b") as file:
        file.seek(-9000, 2)
        byte = file.read(1)
        file.seek(-9000, 2)
        file.write(bytes([byte[0] ^ 1]))


def _tear_the_journal(journal: Path) -> int:
    """Leave half a frame at the end of each open segment, as a power cut does."""
    torn = b"\x07" * 37
    files = sorted(journal.rglob("*.open"))
    for path in files:
        with path.open("ab") as file:
            file.write(torn)
    return len(torn) * len(files)


def _twice(answers: Path) -> bool:
    """Whether a record id stands twice in the answers."""
    records = [line.split(b",", 1)[0] for line in answers.read_bytes().splitlines()]
    return len(set(records)) != len(records)
