"""``runs``: what lies in a folder of model folders, unfinished runs too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from regraft.errors import DataError
from regraft.manifest import NAME as MANIFEST
from regraft.model import RUN
from regraft.records.base import shown
from regraft.records.labels import LabelsEvaluation, LabelsResult
from regraft.records.results import TrainResult
from regraft.records.runs import RunRow, Runs, RunState
from regraft.runs.folder import LOCK, STARTED, read_lines

#: Several plans lie in a folder of their own, one deeper.
_DEPTH = 2


def list_runs(folder: Path) -> Runs:
    """The runs below a folder; see :func:`regraft.list_runs`."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {shown(str(folder))}; name one that holds model folders")
    return Runs(str(folder), tuple(_row(out) for out in sorted(_model_folders(folder, _DEPTH))))


def _model_folders(folder: Path, depth: int) -> Iterator[Path]:
    for child in folder.iterdir():
        if (child / RUN / STARTED).is_file():
            yield child
        elif depth > 1 and child.is_dir():
            yield from _model_folders(child, depth - 1)


def _row(out: Path) -> RunRow:
    run = out / RUN
    begun = _json(run / "plan.json")
    plan, backbone = (str(begun.get(name) or "") for name in ("strategy", "backbone"))
    if not (out / MANIFEST).is_file():
        state: RunState = "running" if _in_use(run) else "unfinished"
        return RunRow(str(out), state, _reached(run), plan, backbone, None, None, None)
    try:
        result = _result(_json(run / "record.json").get("result") or {})
    except DataError:
        return RunRow(str(out), "finished", "its record can't be read", plan, backbone, None, None, None)
    validation, test = (None if of is None else of.exact_match if isinstance(of, LabelsEvaluation) else of.accuracy
                        for of in (result.validation, result.test))
    return RunRow(str(out), "finished", "the end", plan, backbone, validation, test, result.seconds)


def _result(values: dict[str, Any]) -> TrainResult | LabelsResult:
    """What a training reported; raises DataError where it is neither."""
    return LabelsResult.from_dict(values) if "thresholds_by" in values else TrainResult.from_dict(values)


def _reached(run: Path) -> str:
    """How far an unfinished run came, by what it wrote."""
    epochs = read_lines(run / "history.jsonl")
    if epochs:
        last = epochs[-1]
        return f"phase {shown(str(last.get('phase')))}, epoch {last.get('number')}"
    for name, words in (("quarantine.csv", "features computed"), ("plan.json", "computing features"),
                        ("splits.csv", "images divided")):
        if (run / name).exists():
            return words
    return "begun"


def _in_use(run: Path) -> bool:
    """Whether a process holds the folder."""
    if not (run / LOCK).exists():
        return False
    try:
        with filelock.FileLock(run / LOCK, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # in a folder that can't be written nobody trains
        return False


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
