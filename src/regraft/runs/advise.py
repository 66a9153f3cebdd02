"""``advise``: measure the frozen network on the images, try what may pay, recommend a plan with reasons."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.data.splits import complete
from regraft.errors import BackboneError, DataError, OutputError, TimeLimitError
from regraft.extraction.extract import Features
from regraft.extraction.store import FeatureStore
from regraft.heads.choose import Candidate
from regraft.heads.probe import FOLDS, Probe, joined, measure
from regraft.networks.graph import Graph
from regraft.progress import Deadline, Progress, duration
from regraft.records.advice import Advice, Depth, Forecast, Pilot, Recommended
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.networks import Cut
from regraft.records.plan import BackbonePlan, HeadPlan, Phase, Plan, PreprocessingPlan
from regraft.records.results import Interval, TrainResult
from regraft.report.cut_map import cut_map
from regraft.runs.drawing import draw
from regraft.runs.folder import RunFolder
from regraft.runs.planned import price
from regraft.runs.rank import NOTHING_HELD, SCORED, Race, Runner, as_training
from regraft.runs.steps import Job, settle, train_job
from regraft.runs.train import blocks_of, divide, network_and_rules, open_images, trim
from regraft.settings import AdviseSettings, TrainSettings, seconds, size_in_bytes
from regraft.strategy.advising import Measured, entropy, expected, reasons, recommended, scenario, wants_pilot
from regraft.strategy.halving import growing_order
from regraft.strategy.learning_curve import fit
from regraft.strategy.presets import strategy_plan
from regraft.strategy.writing import save_plan
from regraft.training.head import DEFAULT_READS, TrainableHead
from regraft.training.phases import Understood, understand

#: Images on which single places of the network are compared.
_PLACES = 1_000

#: Images of a trial, the share of them that is held out, and its epochs.
_TRIED, _TRIED_SHARE, _TRIED_EPOCHS = 1_000, 0.25, 3

#: Epochs that a network without knowledge needs at least.
_SCRATCH_EPOCHS = 30

#: How many of the latest stages learn in the cuts that are forecast.
_STAGES = (1, 2, 4)


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
            race = Race(settings, index, store, spaces, progress, Deadline(None))
            runner = race.enter(settings)
            features = race.extract(runner, np.sort(race.order))
            progress.say("measuring what the frozen network knows about the images, place by place")
            began = time.monotonic()
            measured, curve = _measure(index, race.order, features, runner, settings.seed)
            solving = time.monotonic() - began
        trim(store, size_in_bytes(settings.store_limit), progress)
    ways = _Ways(settings, index.take(features.rows), runner, measured, solving)
    pilot, not_tried = _pilot(settings, ways, limit, progress)
    strategy = recommended(pilot)
    told = scenario(measured, strategy)
    plan = _plan(settings, runner.name, strategy)
    reads = measured.best.settings.readouts
    return Advice(
        str(settings.data), runner.name, len(features.rows), len(index.classes), Recommended(strategy, reads, plan),
        tuple(reasons(measured, pilot, told, not_tried)), tuple(ways.forecasts(pilot)), told, tuple(ways.depths()),
        curve, pilot, round(time.monotonic() - started, 3), not_tried)


def _measure(index: ImageIndex, order: NDArray[np.int64], features: Features, runner: Runner, seed: int,
             ) -> tuple[Measured, tuple[tuple[int, float], ...]]:
    """What heads on the frozen network reach, and accuracies after learning from a quarter, half and all."""
    taken = order[np.isin(order, features.rows)][:SCORED]
    names = [readout.name for readout in runner.network.readouts]
    blocks = blocks_of(features, np.searchsorted(features.rows, taken), names)
    labels, y_N = np.unique(index.y_N[taken], return_inverse=True)
    groups = None if index.groups is None else index.groups[taken]

    def probe(head: Candidate, count: int) -> Probe | None:
        some = {name: blocks[name][:count] for name in head.readouts}
        return measure(some, y_N[:count].astype(np.int32), None if groups is None else groups[:count], len(labels),
                       [head], seed)

    def needed(head: Candidate, count: int) -> Probe:
        found = probe(head, count)
        if found is None:
            raise DataError(NOTHING_HELD)
        return found

    n = len(taken)
    last, several = needed(Candidate((names[-2],)), n), needed(joined(names), n)
    places = {name: needed(Candidate((name,)), min(n, _PLACES)) for name in names}
    best = min(last, several, key=lambda found: found.log_loss)
    head = Candidate(best.settings.readouts, best.settings.weighting)
    points = {count: probe(head, count) for count in (n // 4, n // 2) if count} | {n: best}
    known = {round(count * (FOLDS - 1) / FOLDS): found for count, found in points.items() if found is not None}
    curve = fit(list(known), [int((~found.right).sum()) for found in known.values()],
                [len(found.right) for found in known.values()])
    counts = index.class_counts(features.rows)
    measured = Measured(last, several, places, int(np.median(counts[counts > 0])),
                        curve.gain_of_doubling(len(features.rows)), entropy(blocks[names[-1]]))
    return measured, tuple((count, found.accuracy) for count, found in known.items())


class _Ways:
    """The ways to train on some images, with what each is expected to give and cost."""

    def __init__(self, settings: TrainSettings, index: ImageIndex, runner: Runner, measured: Measured, solving: float,
                 ) -> None:
        self.index = index
        self.runner = runner
        self.measured = measured
        self.untraced = ""
        self._solving = solving
        held = len(index.rows("validation")) or round(settings.validation_share * len(index))
        self._learn, self._held = len(index) - held, held
        self._graph: Graph | None = None
        try:
            named = replace(settings, backbone=runner.name, weights=runner.weights)
            network, _ = network_and_rules(named, index, "advising", layers=True)
            self._graph = Graph(network.module, runner.rules.size, network.readouts)
        except BackboneError as error:
            self.untraced = str(error)

    def _understood(self, phase: Phase) -> Understood:
        assert self._graph is not None
        reads = [readout for readout in self.runner.network.readouts if readout.name in DEFAULT_READS]
        return understand(phase, self._graph, reads, sum(p.numel() for p in self._head().parameters()), own=False)

    def _head(self) -> TrainableHead:
        width = sum(r.dim for r in self.runner.network.readouts if r.name in DEFAULT_READS)
        return TrainableHead(HeadPlan(), DEFAULT_READS, width, len(self.index.classes), 0)

    def cost(self, phase: Phase, learn: int, held: int) -> tuple[int, float]:
        """Bytes and seconds of a phase on so many images."""
        assert self._graph is not None
        return price(self._understood(phase), self._graph, self._head(), learn, held)

    def forecasts(self, pilot: Pilot | None) -> Iterator[Forecast]:
        """What each way is expected to give: frozen features first, then ever more that learns."""
        first = len(self.index) / self.runner.images_per_second
        kept = len(self.index) * 4 * sum(readout.dim for readout in self.runner.network.readouts)
        yield Forecast("features", "head", *expected("features", self.measured, None), round(first + self._solving, 1),
                       kept, 1.0)
        if self._graph is None:
            return
        for strategy, phase in _phases(len(self._graph.stage_ends)):
            size, seconds = self.cost(phase, self._learn, self._held)
            tried = phase.learns == _phase("partial").learns
            yield Forecast(strategy, ", ".join(phase.learns), *expected(strategy, self.measured, pilot, tried),
                           round(first + seconds, 1), kept + size, self._depth(self._understood(phase).cut))

    def depths(self) -> Iterator[Depth]:
        """Accuracy by place of the network."""
        for name, probe in self.measured.places.items():
            n = len(probe.right)
            yield Depth(name, self._depth_of(name), Interval(*metrics.wilson(int(probe.right.sum()), n)))

    def _depth_of(self, readout: str) -> float | None:
        if self._graph is None:
            return None
        end = self._graph.stage_ends.get(readout)
        if end is None:
            return 1.0
        return self._depth(max((cut for cut in self._graph.cuts if cut.position <= end), key=lambda cut: cut.position))

    def _depth(self, cut: Cut | None) -> float:
        """Share of the network's arithmetic in front of a cut."""
        assert self._graph is not None
        return 1.0 if cut is None else round(1 - cut.multiply_adds / self._graph.cuts[0].multiply_adds, 4)


def _phase(strategy: str) -> Phase:
    return strategy_plan(strategy, BackbonePlan(), PreprocessingPlan()).phases[0]


def _phases(stages: int) -> Iterator[tuple[str, Phase]]:
    """Strategies that let the network learn, by how much of it does."""
    partial, full = _phase("partial"), _phase("full")
    for count in _STAGES:
        if count < stages:
            yield "partial", replace(partial, learns=(f"stages[-{count}:]", "head"))
    yield "full", full
    yield "scratch", replace(full, epochs=_SCRATCH_EPOCHS)


def _plan(settings: TrainSettings, backbone: str, strategy: str) -> Plan:
    """The plan to train by: the settings of the advice stand in it."""
    start = BackbonePlan(backbone, None if settings.weights is None else str(settings.weights))
    seen = PreprocessingPlan(settings.size, settings.fit)
    plan = Plan("features", backbone=start, preprocessing=seen) if strategy == "features" else strategy_plan(
        strategy, start, seen)
    return replace(plan, name=strategy, about=f"advised for {shown(str(settings.data))}")


def _pilot(settings: TrainSettings, ways: _Ways, limit: float, progress: Progress) -> tuple[Pilot | None, str]:
    """A short training of the last stages where it could change the advice; else why there is none."""
    if not wants_pilot(ways.measured):
        return None, ""
    if ways.untraced:
        return None, ways.untraced
    # As --strategy partial learns, but shorter; smoothed labels would spoil the log-loss that is compared.
    phase = replace(_phase("partial"), epochs=_TRIED_EPOCHS, views=1, label_smoothing=0.0)
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
    plan = replace(_plan(settings, ways.runner.name, "partial"), name="trial", phases=(phase,))
    # A plan that is named keeps what was trained, better or worse: both are to be compared.
    settings, plan = settle(replace(settings, plan="trial", strategy="features", no_test=True, test=None, splits=None,
                                    limit=None, out=None, time_limit=None), plan)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder), False)
            run.path.mkdir()
            *_, result = train_job(Job(plan, settings, index), run, progress, Deadline(limit), began)
    except TimeLimitError:
        return None, f"the time limit of {duration(limit)} was over before the trial was (--time-limit)"
    assert isinstance(result, TrainResult)
    frozen, trained = result.probe, result.validation
    assert frozen is not None
    assert trained is not None
    return Pilot(trained.n, len(rows) - trained.n, frozen.accuracy.value, trained.accuracy.value, frozen.log_loss,
                 trained.log_loss, round(time.monotonic() - began, 3)), ""
