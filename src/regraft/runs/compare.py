"""``train`` by several plans: a model folder each, the same images in the same splits, one table."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.errors import DataError, OutputError, StoppedError, TimeLimitError, UsageError
from regraft.manifest import NAME as MANIFEST
from regraft.model import RUN
from regraft.networks.catalogue import resolve
from regraft.progress import Progress
from regraft.records.base import plain, shown
from regraft.records.images import ImageIndex
from regraft.records.plan import DataPlan, Plan
from regraft.records.results import Compared, Comparison, TrainResult
from regraft.records.training import PhaseForecast
from regraft.report.bars import bars
from regraft.runs.drawing import draw
from regraft.runs.folder import begun_with, fresh_folder, read_lines, write_whole
from regraft.runs.steps import FORECASTS, Job, prepare
from regraft.runs.steps import train as train_one
from regraft.runs.train import decisive
from regraft.settings import TrainSettings, seconds
from regraft.strategy.describing import describe

RECORD, PICTURE = "comparison.json", "comparison"

NOTE = ("Choose among the rows by validation. Each model looked at the test images once; to choose a row by its test "
        "figure would spoil that figure.")


def compare(settings: TrainSettings, plans: Sequence[Plan], progress: Progress) -> Comparison:
    """Train by each plan in ``OUT/<its name>``, and tell of them in one table; see :func:`regraft.train`.

    A plan that is finished there with the same settings is not trained again. Everything that can be known to fail
    is found before the first training.
    """
    ends = None if settings.time_limit is None else time.monotonic() + seconds(settings.time_limit)
    wanted = [_meant_for(plan, settings) for plan in plans]
    jobs = [prepare(own, plan) for own, plan in zip(wanted, plans, strict=True)]
    index = _same_images(jobs)
    for job in jobs:
        resolve(job.plan.backbone.name)
        describe(job.plan, index=index, data=str(settings.data))
    out = Path(settings.out).expanduser() if settings.out else fresh_folder(Path(str(settings.data)).stem)
    folders = _folders(out, plans)
    _check(out, folders, settings)
    progress.say(f"comparing {len(plans)} plans in {out}")
    results = []
    for number, (plan, own, job, folder) in enumerate(zip(plans, wanted, jobs, folders, strict=True), 1):
        title = f"plan {number} of {len(plans)}, {shown(plan.name)}"
        found = None if settings.force else _finished(folder, own, job.plan, progress)
        if found is not None:
            progress.say(f"{title}: finished in {folder} already; --force trains it again")
            results.append(found)
            continue
        left = None if ends is None else ends - time.monotonic()
        if left is not None and left <= 0:
            raise TimeLimitError(f"the time limit was reached: {number - 1} of {len(plans)} plans are finished; "
                                 f"continue with the same command and --out {out}")
        progress.say(title)
        # What is finished and still to be trained is to be replaced.
        force = settings.force or (folder / MANIFEST).exists()
        again = replace(own, out=folder, time_limit=left, resume=False, force=force)
        results.append(_train(again, plan, out, progress))
    comparison = _table(out, index, jobs, results)
    _write(out, comparison, progress)
    return comparison


def _meant_for(plan: Plan, settings: TrainSettings) -> TrainSettings:
    """Another backbone is meant for the pre-trained ones: networks from scratch are what they are compared with."""
    return settings if plan.backbone.start == "pretrained" else replace(settings, backbone=None, weights=None)


def _same_images(jobs: Sequence[Job]) -> ImageIndex:
    """The images that all plans divide alike; raises UsageError where they do not."""
    first = jobs[0].index
    for job in jobs[1:]:
        if job.index.paths != first.paths or not np.array_equal(job.index.splits, first.splits):
            raise UsageError(f"the plans divide the images differently, so their figures could not be compared "
                             f"({_differences(jobs)}); say the same for all, such as --set data.test_share=0.2")
    return first


def _differences(jobs: Sequence[Job]) -> str:
    told = []
    for field in fields(DataPlan):
        given = {job.plan.name: getattr(job.plan.data, field.name) for job in jobs}
        if len(set(given.values())) > 1:
            told.append(f"data.{field.name}: " + ", ".join(f"{value} in {shown(name)}"
                                                           for name, value in given.items()))
    return "; ".join(told)


def _folders(out: Path, plans: Sequence[Plan]) -> list[Path]:
    """A folder for each plan; raises UsageError where two would share one."""
    names = ["".join(c if c.isalnum() or c in "-_" else "-" for c in plan.name).strip("-")[:60] or "plan"
             for plan in plans]
    for at, name in enumerate(names):
        if name.casefold() in [other.casefold() for other in names[:at]]:
            raise UsageError(f"two of the plans are called {plans[at].name!r}, and each needs a folder of its own; "
                             "name each plan once, or give them other names in their files")
    return [out / name for name in names]


def _check(out: Path, folders: Sequence[Path], settings: TrainSettings) -> None:
    """Raise OutputError where ``out`` is no place for a comparison, or holds none to resume."""
    begun = any(folder.exists() for folder in folders)
    if (out / MANIFEST).exists():
        raise OutputError(f"{out} holds a finished model; several plans need a folder for several models, take another "
                          "--out")
    if out.exists() and not begun and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is neither empty nor the folder of these plans; take another --out")
    if settings.resume and not begun:
        raise OutputError(f"{out} holds no unfinished run to resume; leave --resume away to begin one there")


def _finished(folder: Path, settings: TrainSettings, plan: Plan, progress: Progress) -> TrainResult | None:
    """The result that a finished folder of the same settings holds, or None where there is still to train.

    Raises OutputError where it is finished with other settings.
    """
    if not (folder / MANIFEST).exists():
        return None
    begun, given = begun_with(folder), plain(decisive(settings, {"plan": plan.to_dict()}))
    other = sorted(name for name in {*begun, *given} if begun.get(name) != given.get(name))
    if other:
        raise OutputError(f"{folder} holds a model that was trained with other settings ({', '.join(other)}); say the "
                          "same again, take another --out, or begin anew with --force")
    try:
        result = TrainResult.from_dict(json.loads((folder / RUN / "record.json").read_text("utf-8"))["result"])
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:  # such as: stopped just before it is written
        progress.say(f"{folder} holds a model whose record can't be read ({error}); it is trained again")
        return None
    return replace(result, out=str(folder))  # which may have been moved


def _train(settings: TrainSettings, plan: Plan, out: Path, progress: Progress) -> TrainResult:
    try:
        return train_one(settings, plan, progress)
    except StoppedError as stop:  # which says how to go on with this plan alone
        raise type(stop)(str(stop).replace(f"--out {settings.out}", f"--out {out}")) from None


def _table(out: Path, index: ImageIndex, jobs: Sequence[Job], results: Sequence[TrainResult]) -> Comparison:
    rows = tuple(_row(job, result) for job, result in zip(jobs, results, strict=True))
    majorities = {split: next((figures.majority for result in results
                               if (figures := getattr(result, split)) is not None), None)
                  for split in ("validation", "test")}
    return Comparison(str(out), index.split_counts(), rows, majorities["validation"], majorities["test"],
                      round(sum(row.seconds for row in rows), 3), NOTE)


def _row(job: Job, result: TrainResult) -> Compared:
    phases = {phase.name for phase in job.plan.phases}
    told = [forecast for forecast in _forecasts(Path(result.out)) if forecast.phase in phases]
    first = next((epoch.validation_accuracy for epoch in result.epochs if epoch.train_loss is not None), None)
    return Compared(
        plan=job.plan.name, out=result.out, backbone=result.backbone,
        learning=max((forecast.learning for forecast in told), default=None),
        epochs=max((epoch.number for epoch in result.epochs), default=0),
        planned=sum(phase.epochs for phase in job.plan.phases), first=first,
        validation=None if result.validation is None else result.validation.accuracy,
        test=None if result.test is None else result.test.accuracy, seconds=result.seconds,
        published=dict(job.plan.published))


def _forecasts(folder: Path) -> list[PhaseForecast]:
    lines: list[Mapping[str, Any]] = read_lines(folder / RUN / FORECASTS)
    return [PhaseForecast.from_dict(line) for line in lines]


def _write(out: Path, comparison: Comparison, progress: Progress) -> None:
    write_whole(out / RECORD, comparison.to_json())
    draw(lambda: bars(comparison), out, PICTURE, "bars are", progress)
