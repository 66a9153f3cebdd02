"""``update``: new images join those of a model's training; the new model takes its place where it is not worse."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from regraft.errors import DataError, OutputError, TimeLimitError, UsageError
from regraft.manifest import NAME as MANIFEST
from regraft.manifest import model_digest
from regraft.model import RUN, HeadModel, load
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.results import TrainResult
from regraft.records.update import UpdateResult
from regraft.runs import promotion
from regraft.runs.folder import begun_with, write_whole
from regraft.runs.joined import Begun, Joined, given, join, require_comparable, steps, take_up
from regraft.runs.report import PAGE
from regraft.runs.train import keep_page, train_on
from regraft.runs.verdict import judged
from regraft.settings import UpdateSettings, seconds

#: What came of an update, in the run folder of its candidate.
RECORD = "update.json"


def update(settings: UpdateSettings, progress: Progress) -> UpdateResult:
    """Run one update; see :func:`regraft.update`."""
    folder = Path(settings.model).expanduser().resolve()
    if not folder.parent.is_dir():
        load(folder)  # which says that there is no model
    with promotion.alone(folder):
        return _update(folder, settings, progress)


def _update(folder: Path, settings: UpdateSettings, progress: Progress) -> UpdateResult:
    started = time.monotonic()
    begun = take_up(folder, settings)
    old = load(folder)
    old.require_one_label("update")
    if isinstance(old, HeadModel):
        raise UsageError(f"{shown(str(folder))} has no network, and an update reads images; train one on images")
    joined = join(old, begun, settings)
    if joined is None:
        return _done_before(folder, settings, progress)
    require_comparable(old, joined.index)
    out = (folder.with_name(f"{folder.name}.update-{joined.update[:8]}") if settings.out is None
           else Path(settings.out).expanduser().resolve())
    promotion.require_movable(folder, out)
    progress.say(f"{int(joined.new_N.sum()):,} new images; the candidate is in {out}")
    training = _trained(begun, joined, out, settings, started, progress)
    result = judged(old, load(out), joined, training, settings, progress)
    if result.promoted and model_digest(folder) != old.digest:
        raise OutputError(f"{shown(str(folder))} was changed while its update was trained; run the command again")
    result = replace(result, seconds=round(time.monotonic() - started, 3))
    write_whole(out / RUN / RECORD, result.to_json())
    if result.promoted:
        assert result.previous is not None
        promotion.promote(folder, out, Path(result.previous), joined.update)
    keep_page(folder if result.promoted else out, settings.report, progress)
    return result


def _done_before(folder: Path, settings: UpdateSettings, progress: Progress) -> UpdateResult:
    """What came of the same command before; raises UsageError where that brought nothing new in another way."""
    try:
        found = UpdateResult.from_dict(json.loads((folder / RUN / RECORD).read_text("utf-8")))
    except (OSError, ValueError, DataError):
        found = None
    if found is None or list(found.data) != [one["data"] for one in given(settings)]:
        raise UsageError(f"nothing is new: {shown(str(folder))} has been trained or tested on all of these images "
                         "already; give others")
    progress.say(f"{folder} was updated with these images already")
    if not (folder / RUN / PAGE).exists():  # stopped just before it was written
        keep_page(folder, settings.report, progress)
    return found


def _trained(begun: Begun, joined: Joined, out: Path, settings: UpdateSettings, started: float, progress: Progress,
             ) -> TrainResult:
    """The candidate's training, as the old model's was; one that is finished already is not trained again."""
    finished = (out / MANIFEST).exists()
    if finished:
        found = _finished(out, joined.update)
        if found is not None:
            progress.say("the candidate is finished already")
            return found
    left = None
    if settings.time_limit is not None:
        left = seconds(settings.time_limit) - (time.monotonic() - started)
        if left <= 0:
            raise TimeLimitError("the time limit was reached before the training; the same command begins anew")
    own = replace(begun.settings, out=out, force=finished, time_limit=left, report="none", device=settings.device,
                  engine=settings.engine, workers=settings.workers, store=settings.store,
                  store_limit=settings.store_limit, quiet=settings.quiet)
    also = {"added": joined.added, "update": joined.update}
    if begun.plan is None:
        return train_on(joined.index, own, also, progress)
    by_steps = steps()
    settled, plan = by_steps.settle(own, begun.plan)
    result: TrainResult = by_steps.train_on(by_steps.Job(plan, settled, joined.index), own, also, progress)
    return result


def _finished(out: Path, update: str) -> TrainResult | None:
    """The training of a finished candidate, or None where its record is missing; raises OutputError for another."""
    if begun_with(out).get("update") != update:
        raise OutputError(f"{shown(str(out))} holds another model; leave --out away, or take another folder")
    try:
        found = TrainResult.from_dict(json.loads((out / RUN / "record.json").read_text("utf-8"))["result"])
    except (OSError, ValueError, KeyError, TypeError, DataError):  # such as: stopped just before it was written
        return None
    return replace(found, out=str(out))
