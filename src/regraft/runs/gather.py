"""What the page of a run shows, read from the run's folder alone."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path, PurePath
from typing import Any, TypeVar

from regraft.errors import DataError, RegraftError, UsageError
from regraft.manifest import NAME as MANIFEST
from regraft.model import RECORD, RUN
from regraft.records.answers import Answers
from regraft.records.base import Record, shown
from regraft.records.images import SPLITS, Quarantined
from regraft.records.labels import LabelCurves, LabelsResult
from regraft.records.model import HeadRecord, ModelRecord
from regraft.records.page import LabelsPage, RunPage
from regraft.records.plan import Plan, Run
from regraft.records.results import TrainResult
from regraft.records.review import FeatureMap
from regraft.records.training import Epoch, PhaseForecast
from regraft.review.answers import review
from regraft.runs.answers import NAME as ANSWERS
from regraft.runs.answers import read_answers
from regraft.runs.folder import STOPPED, begun_with, read_lines
from regraft.settings import TrainSettings, declared
from regraft.strategy.describing import describe
from regraft.strategy.writing import to_toml

#: Where the training leaves the map of its features.
MAP = "map.json"

#: Where a training with several labels an image leaves its curves.
CURVES = "curves.json"

#: Settings that name a file or folder: of those the last part alone is shown.
_PATHS = ("data", "out", "test", "splits", "weights", "plan", "store", "costs")

_ABSOLUTE = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()]+[/\\])+(?=[^\s/\\'\",;:()])")

_R = TypeVar("_R", bound=Record)


def model_folder(given: str | Path) -> Path:
    """The model folder that a path means: itself, or the one whose ``run`` it is; raises UsageError for none."""
    path = Path(given).expanduser()
    for folder in (path, path.parent):
        begun = (folder / RUN / "settings.json").is_file() or (folder / MANIFEST).is_file()
        if begun and (folder == path or path.name == RUN):
            return folder.resolve()
    raise UsageError(f"{shown(str(given))} holds no run; give a model folder that train wrote or began")


def gather(out: Path, private: bool = False) -> RunPage:
    """Read a run; what is missing in its folder is missing on the page.

    Raises DataError where what is there can't be understood.
    """
    run_folder, settings = out / RUN, begun_with(out)
    run = _record(Run, run_folder / "plan.json")
    finished = (out / MANIFEST).is_file()
    document = _json(run_folder / "record.json") if finished else None
    answers = _answers(out) if finished else {}
    planned = None if run is None else run.plan
    return RunPage(
        name=shown(out.name), data=_name(settings.get("data", out.name)), model=out.name,
        unfinished="" if finished else _unfinished(run_folder, private), command=command(settings) if settings else "",
        settings=settings, run=run, plan="" if run is None else _plan_words(planned or Plan()),
        plan_file="" if planned is None else to_toml(planned, comments=False),
        record=_model_record(out) if finished else None,
        result=None if document is None else TrainResult.from_dict(_result(document)),
        counts=_counts(run_folder / "splits.csv"), quarantined=_quarantined(run_folder / "quarantine.csv"),
        epochs=tuple(Epoch.from_dict(line) for line in read_lines(run_folder / "history.jsonl")),
        forecasts=tuple(PhaseForecast.from_dict(line) for line in read_lines(run_folder / "phases.jsonl")),
        answers=answers, reviews={split: review(of) for split, of in answers.items()},
        feature_map=_record(FeatureMap, run_folder / MAP) if finished else None,
        environment=(document or {}).get("environment", {}), roots=_roots(run_folder / "splits.csv", answers),
        private=private)


def gather_labels(out: Path, private: bool = False) -> LabelsPage:
    """Read a run with several labels an image, as :func:`gather` does another."""
    run_folder, settings = out / RUN, begun_with(out)
    finished = (out / MANIFEST).is_file()
    document = _json(run_folder / "record.json") if finished else None
    return LabelsPage(
        name=shown(out.name), data=_name(settings.get("data", out.name)), model=out.name,
        unfinished="" if finished else _unfinished(run_folder, private), command=command(settings),
        run=_record(Run, run_folder / "plan.json"), record=_model_record(out) if finished else None,
        result=None if document is None else LabelsResult.from_dict(_result(document)),
        counts=_counts(run_folder / "splits.csv"), quarantined=_quarantined(run_folder / "quarantine.csv"),
        curves=_record(LabelCurves, run_folder / CURVES) if finished else None,
        environment=(document or {}).get("environment", {}), private=private)


def has_several_labels(out: Path) -> bool:
    """Whether the run in a model folder was begun with several labels an image."""
    return begun_with(out).get("labels") == "several"


def without_places(text: str) -> str:
    """A text in which absolute paths are cut down to their last part: a page tells nothing of a machine."""
    return _ABSOLUTE.sub("", text)


def command(settings: Mapping[str, Any]) -> str:
    """What to type to train so again; of paths, the last part stands."""
    if added := settings.get("added"):
        return " ".join(["regraft", "update", "MODEL", *(shlex.quote(_name(one["data"])) for one in added
                                                         if one["update"] == added[-1]["update"])])
    words = ["regraft", "train", shlex.quote(_name(settings.get("data", "DATA")))]
    for item in declared(TrainSettings):
        value = settings.get(item.name, item.default)
        same = value == item.default or (not value and not item.default)
        if item.default is MISSING or item.setting.python_only or same:
            continue
        if isinstance(value, dict):  # a plan, which stands beside as a file
            value = "plan.toml"
        for one in value if isinstance(value, list) else [value]:
            text = _name(one) if item.name in _PATHS else str(one)
            words += [item.option] if one is True else [item.option, shlex.quote(text)]
    return " ".join(words)


def _name(path: object) -> str:
    text = str(path)
    return shown(PurePath(text).name or text)


def _json(path: Path) -> Any:
    """The document in a file, or None where there is no file; raises DataError for one that can't be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(str(path))} can't be read ({error}); train again to have it written anew") from None


def _record(kind: type[_R], path: Path) -> _R | None:
    document = _json(path)
    return None if document is None else kind.from_dict(document)


def _result(document: Any) -> Any:
    if not isinstance(document, dict) or not isinstance(document.get("result"), dict):
        raise DataError("run/record.json holds no result; train again to have it written anew")
    return document["result"]


def _model_record(out: Path) -> ModelRecord | HeadRecord | None:
    """What the model is; ``report`` shows it and answers nothing with it, so no digest is asked for."""
    document = _json(out / RECORD)
    if document is None:
        return None
    return HeadRecord.from_dict(document) if "features" in document else ModelRecord.from_dict(document)


def _unfinished(run_folder: Path, private: bool) -> str:
    """Why there is no model; a message may name files, so a private page has its kind alone."""
    stopped = _json(run_folder / STOPPED)
    if private and isinstance(stopped, dict):
        return f"it stopped with {stopped.get('kind')}"
    if isinstance(stopped, dict) and isinstance(stopped.get("message"), str):
        return without_places(str(stopped["message"]))
    if (run_folder / ".lock").exists():
        return "it may still be running, or its process was ended from outside"
    return "it was ended from outside, or its record is gone"


def _answers(out: Path) -> dict[str, Answers]:
    """None of a model that was trained before answers were kept."""
    return read_answers(out) if (out / RUN / ANSWERS).is_file() else {}


def _plan_words(plan: Plan) -> str:
    try:
        return without_places(repr(describe(plan)))
    except RegraftError as error:
        return str(error)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
            yield from csv.DictReader(handle)
    except FileNotFoundError:
        return


def _counts(path: Path) -> dict[str, dict[str, int]]:
    """Images of each class in each split."""
    found: Counter[tuple[str, str]] = Counter(
        (label, row["split"]) for row in _rows(path) for label in row["label"].split(";") if label)
    return {label: {split: found[label, split] for split in (*SPLITS, "") if found[label, split]}
            for label in sorted({label for label, _ in found})}


def _roots(path: Path, answers: Mapping[str, Answers]) -> dict[int, str]:
    """The root number of every answered image, by its data row."""
    wanted = {row for of in answers.values() for row in of.rows_N.tolist()}
    return {number: row.get("root") or "0" for number, row in enumerate(_rows(path)) if number in wanted}


def _quarantined(path: Path) -> tuple[Quarantined, ...]:
    return tuple(Quarantined(row["path"], row["reason"]) for row in _rows(path))
