"""``advise``: measure the frozen network on the images, try what may pay, recommend a plan with reasons."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from regraft.data.splits import complete
from regraft.errors import OutputError, TimeLimitError
from regraft.extraction.store import FeatureStore
from regraft.progress import Deadline, Progress, duration
from regraft.records.advice import Advice, Pilot, Recommended
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.results import TrainResult
from regraft.report.cut_map import cut_map
from regraft.runs import augmenting
from regraft.runs.drawing import draw
from regraft.runs.folder import RunFolder
from regraft.runs.looking import Look
from regraft.runs.rank import as_training
from regraft.runs.steps import Job, settle, train_job
from regraft.runs.train import Before, divide, open_images, trim
from regraft.runs.ways import Ways, phase_of, plan_of
from regraft.settings import AdviseSettings, TrainSettings, seconds, size_in_bytes
from regraft.strategy.advising import harmless, reasons, recommended, scenario
from regraft.strategy.halving import growing_order
from regraft.strategy.presets import AUGMENT, MEASURED
from regraft.strategy.writing import save_plan

#: Images of a trial, and the share of them that is held out.
_TRIED, _TRIED_SHARE = 1_000, 0.25


def advise(settings: AdviseSettings, progress: Progress) -> Advice:
    """Run one advice; see :func:`regraft.advise`."""
    started = time.monotonic()
    out = None if settings.out is None else _file(settings)
    training = as_training(settings)
    advice = consult(training, divide(open_images(training), training), seconds(settings.time_limit), progress, started)
    if out is None:
        return advice
    save_plan(advice.recommended.plan, out, force=settings.force)
    advice = replace(advice, recommended=replace(advice.recommended, file=str(out)))
    draw(lambda: cut_map(advice), out.parent, out.stem, "picture of the cuts is", progress)
    return advice


def _file(settings: AdviseSettings) -> Path:
    file = Path(str(settings.out)).expanduser()
    if file.suffix.lower() != ".toml":
        raise OutputError(f"{shown(str(file))} is not allowed; a plan's file ends in .toml")
    if file.exists() and not settings.force:
        raise OutputError(f"{shown(str(file))} is there already; take another --out, or replace it with --force")
    return file


def consult(settings: TrainSettings, index: ImageIndex, limit: float, progress: Progress, started: float) -> Advice:
    """Advice for the training of these settings on divided images; the test images are left alone.

    A trial takes ``limit`` seconds at most.
    """
    for finding in index.findings:
        progress.say(str(finding))
    with FeatureStore(settings.store) as store:
        with ExitStack() as spaces:
            look = Look(settings, index, store, spaces, progress, Deadline(None))
            progress.say("measuring what the frozen network knows about the images, place by place")
            began = time.monotonic()
            measured, curve = look.measured()
            solving = time.monotonic() - began
            augmented = tuple(augmenting.tried(look, measured.best.settings, AUGMENT, progress, Deadline(None))
                              ) if measured.may_pay else ()
        trim(store, size_in_bytes(settings.store_limit), progress)
    backbone, rows = look.runner.name, look.features.rows
    ways = Ways(settings, index.take(rows), look.runner, measured, solving)
    augment = harmless(augmented) if augmented else MEASURED
    pilot, not_tried = _pilot(settings, ways, augment, limit, progress)
    strategy = recommended(pilot)
    told = scenario(measured, strategy)
    plan = plan_of(settings, backbone, strategy, augment)
    reads = measured.best.settings.readouts
    return Advice(
        str(settings.data), backbone, len(rows), len(index.classes), Recommended(strategy, reads, plan),
        tuple(reasons(measured, pilot, told, not_tried, augmented)), tuple(ways.all(measured, pilot)), told,
        tuple(ways.depths(measured.places)), curve, pilot, round(time.monotonic() - started, 3), augmented, not_tried)


def _pilot(settings: TrainSettings, ways: Ways, augment: Sequence[str], limit: float, progress: Progress,
           ) -> tuple[Pilot | None, str]:
    """A short training of the last stages where it could change the advice; else why there is none."""
    if not ways.frozen.may_pay:
        return None, ""
    if ways.untraced:
        return None, ways.untraced
    phase = phase_of("partial", augment)
    images = min(_TRIED, len(ways.index))
    held = round(_TRIED_SHARE * images)
    _, cost = ways.cost(phase, images - held, held)
    if cost > limit:
        return None, (f"the trial would take about {duration(cost)}, and the time limit is {duration(limit)} "
                      "(--time-limit)")
    progress.say(f"a short trial: the last two stages learn from {images - held:,} images, about {duration(cost)}")
    rows = np.sort(growing_order(ways.index.y_N, settings.seed)[:images])
    index = replace(ways.index.take(rows), findings=())
    index = complete(index.with_splits(np.zeros(len(rows), np.int8)), validation_share=_TRIED_SHARE, test_share=None,
                     seed=settings.seed)
    plan = replace(plan_of(settings, ways.runner.name, "partial"), name="trial", phases=(phase,))
    # A plan that is named keeps what was trained, better or worse: both are to be compared.
    settings, plan = settle(replace(settings, plan="trial", strategy="features", no_test=True, test=None, splits=None,
                                    limit=None, out=None, time_limit=None), plan)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder), False)
            run.path.mkdir()
            *_, result = train_job(Job(plan, settings, index), run, progress, Deadline(limit), Before.nothing())
    except TimeLimitError:
        return None, f"the time limit of {duration(limit)} was over before the trial was (--time-limit)"
    assert isinstance(result, TrainResult)
    frozen, trained = result.probe, result.validation
    assert frozen is not None
    assert trained is not None
    return Pilot(trained.n, len(rows) - trained.n, frozen.accuracy.value, trained.accuracy.value, frozen.log_loss,
                 trained.log_loss, round(time.monotonic() - began, 3)), ""
