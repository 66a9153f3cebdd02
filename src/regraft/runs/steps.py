"""``train`` by a plan with phases: images to a frozen probe, to phases of steps, to the better of what came out."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft import model
from regraft.data.splits import TEST
from regraft.data.view import deep_range_of, view_key
from regraft.decisions.calibration import smoothed_temperature, tempered
from regraft.engines.light import lightened
from regraft.engines.pytorch import choose_device
from regraft.errors import DataError, SettingsError, TrainingError
from regraft.extraction.extract import Readable, Route, extract, extract_by, extract_view, feature_key
from regraft.extraction.store import FeatureKey, FeatureStore, Space
from regraft.heads.choose import choosing_rows
from regraft.heads.dense import Head
from regraft.heads.linear import LinearHead, fit_head
from regraft.networks.build import Network
from regraft.networks.graph import Graph, Suffix
from regraft.networks.learns import Learning
from regraft.networks.own import load_network, own_name
from regraft.networks.readouts import read_as
from regraft.networks.weights import weights_digest
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.heads import Choice
from regraft.records.images import Finding, ImageIndex
from regraft.records.model import ModelRecord
from regraft.records.networks import Readout
from regraft.records.plan import Phase, Plan, Run
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Evaluation, TrainResult
from regraft.records.training import Epoch, PhaseForecast, in_views
from regraft.records.views import Augmentation, Step
from regraft.report.curves import curves
from regraft.runs.drawing import draw
from regraft.runs.engines import Engines, Work, answer_engine
from regraft.runs.folder import RunFolder, read_lines, write_whole
from regraft.runs.mirroring import ASKED, measured
from regraft.runs.settling import Held, Settled, settle_held, with_unknown
from regraft.runs.sources import Front, Source, room
from regraft.runs.train import (
    MAPPED,
    Before,
    Fitted,
    blocks_of,
    claimed,
    divide,
    environment,
    fit,
    judge_held,
    judge_test,
    keep_answers,
    keep_map,
    open_images,
    own_record,
    preprocessing,
    seen_images,
    tell_images,
    tell_network,
    test_probabilities,
    trim,
)
from regraft.runs.wanted import wanted
from regraft.settings import DEFAULT_BACKBONE, TrainSettings, size_in_bytes
from regraft.strategy.changing import on_backbone
from regraft.strategy.writing import to_toml
from regraft.training.arithmetic import arithmetic
from regraft.training.head import DEFAULT_READS, TrainableHead
from regraft.training.hooks import Hooks
from regraft.training.loop import Loop, Stage
from regraft.training.phases import kept_formats, may_keep, understand
from regraft.training.views import Views

_BatchNorm = nn.modules.batchnorm._BatchNorm

#: A :class:`regraft.records.training.PhaseForecast` a line, for each phase that was begun.
FORECASTS = "phases.jsonl"

#: Where the features of a larger share of the images are known, the first pass does not compute them again.
_KNOWN = 0.5

#: Widest readout that a probe is solved on.
_WIDEST = 8192

#: Where a run keeps its checkpoints until it is finished.
CHECKPOINTS = "checkpoints"

_NORMALISATION = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                  "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}


@dataclass(frozen=True)
class Job:
    """A plan, the settings that it leads to, and the images it is for."""

    plan: Plan
    settings: TrainSettings
    index: ImageIndex


def settle(settings: TrainSettings, plan: Plan) -> tuple[TrainSettings, Plan]:
    """Settings and plan as both hold: what the caller gave wins over the plan's."""
    defaults = TrainSettings(settings.data)

    def chosen(name: str, of_plan: Any) -> Any:
        given = getattr(settings, name)
        return given if given != getattr(defaults, name) else of_plan

    data, seen, backbone = plan.data, plan.preprocessing, plan.backbone
    no_test = settings.no_test or (data.test_share == 0 and settings.test_share == defaults.test_share)
    settings = replace(
        settings, no_test=no_test, limit=chosen("limit", data.limit), folds=None,
        test_share=settings.test_share if no_test else chosen("test_share", data.test_share),
        validation_share=chosen("validation_share", data.validation_share), size=chosen("size", seen.size),
        fit=chosen("fit", seen.fit),
        backbone=settings.backbone if settings.module is not None else chosen("backbone", backbone.name),
        weights=chosen("weights", backbone.weights))
    if settings.module is None:
        plan = on_backbone(plan, settings.backbone or backbone.name)
    elif backbone.name == DEFAULT_BACKBONE:  # no network is named, so the phases' words are meant for the module
        plan = replace(plan, backbone=replace(backbone, name=own_name(settings.module)))
    else:
        plan = on_backbone(plan, own_name(settings.module))
    return settings, replace(
        plan, data=replace(data, limit=settings.limit, validation_share=settings.validation_share,
                           test_share=0.0 if no_test else settings.test_share),
        preprocessing=replace(seen, size=settings.size, fit=settings.fit),
        backbone=replace(plan.backbone, weights=None if settings.weights is None else str(settings.weights)))


def prepare(settings: TrainSettings, plan: Plan) -> Job:
    """Settings given by the caller win over the plan's; the images are divided as both say."""
    settings, plan = settle(settings, plan)
    return Job(plan, settings, divide(open_images(settings), settings, by_split=True))


def events(settings: TrainSettings, plan: Plan, progress: Progress, before: Before | None = None,
           ) -> Iterator[PhaseForecast | Epoch | TrainResult]:
    """Train by a plan, and yield what happens: forecasts, epochs, and the result last."""
    before = before or Before.nothing()
    job = prepare(settings, plan)  # before anything is written: unusable data leaves no trace
    yield from _events(job, settings, {}, progress, before)


def _events(job: Job, settings: TrainSettings, also: Mapping[str, Any], progress: Progress, before: Before,
            ) -> Iterator[PhaseForecast | Epoch | TrainResult]:
    with claimed(settings, progress, {"plan": job.plan.to_dict(), **also}) as (folder, deadline):
        yield from train_job(job, folder, progress, deadline, before)


def train(settings: TrainSettings, plan: Plan, progress: Progress, before: Before | None = None) -> TrainResult:
    """Run one training by steps; see :func:`regraft.train`."""
    return _last(events(settings, plan, progress, before))


def train_on(job: Job, settings: TrainSettings, also: Mapping[str, Any], progress: Progress) -> TrainResult:
    """Train on images that are divided already; ``settings`` and ``also`` are what is recorded."""
    return _last(_events(job, settings, also, progress, Before.nothing()))


def _last(events: Iterator[PhaseForecast | Epoch | TrainResult]) -> TrainResult:
    *_, result = events
    assert isinstance(result, TrainResult)
    return result


def train_job(job: Job, folder: RunFolder, progress: Progress, deadline: Deadline, before: Before,
              ) -> Iterator[PhaseForecast | Epoch | TrainResult]:
    """Train on the images of a job, in a folder that is this process's own."""
    settings, plan, index = job.settings, job.plan, job.index
    tell_images(index, folder, progress)
    network, rules = _network(job)
    tell_network(network, progress)
    reads = tuple(read_as(word, network.module, network.readouts, rules.size) for word in plan.head.reads)
    readouts = (*network.readouts, *(r for r in reads if r not in network.readouts))
    run = Run(plan.name, network.name, network.digest, rules, readouts, None, 1, settings.seed,
              index.split_counts(), plan)
    folder.write("plan.json", run)
    write_whole(folder.path / "plan.toml", to_toml(plan))
    if not folder.continued:  # what another run has left there is not to be gone on with
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
    with FeatureStore(settings.store) as store:
        with ExitStack() as spaces:
            training = Training(job, network, rules, readouts, store, spaces, folder, progress, deadline, run)
            loop = Loop(plan.phases, training.stage, network.module, training.head,
                        training.y_N[training.learn], training.y_N[training.held], settings.seed,
                        folder.path / CHECKPOINTS, training.files, deadline, progress, training.hooks,
                        choose_device(settings.device))
            training.loop = loop
            forecasts = {line["phase"]: line for line in read_lines(folder.path / FORECASTS) if folder.continued}
            for event in loop.run():
                if isinstance(event, PhaseForecast):
                    forecasts[event.phase] = event.to_dict()
                    folder.write_lines(FORECASTS, list(forecasts.values()))
                folder.write_lines("history.jsonl", loop.history)
                progress.say(repr(event))
                yield event
            network.module.requires_grad_(False).eval()
            result = training.finish(loop, before)
        trim(store, size_in_bytes(settings.store_limit), progress)
    yield result


def _network(job: Job) -> tuple[Network, Preprocessing]:
    """The network in its starting weights, and how it sees."""
    settings, plan = job.settings, job.plan
    random = settings.seed if plan.backbone.start == "random" else None
    network = load_network(settings, random)
    network.module.to(memory_format=torch.channels_last)
    spec = network.input
    if plan.preprocessing.normalise != "backbone":
        mean, std = _NORMALISATION[plan.preprocessing.normalise]
        spec = replace(spec, mean=mean, std=std)
    learn = np.flatnonzero(job.index.splits != TEST)
    return network, preprocessing(settings, spec, deep_range_of(job.index, learn))


class _Colours:
    """An engine for networks that know nothing yet: it looks through the pictures and keeps their mean colour."""

    key = "colours"
    batch = 64
    concurrent = 1
    readouts: tuple[Readout, ...] = (Readout("colour", "", "none", 3),)

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean red, green and blue of each picture, float32 [B, 3]."""
        colours_BC: NDArray[np.float32] = pixels_BHWC.mean((1, 2), dtype=np.float32)
        return colours_BC


class Training:
    """What the phases of one training share: the network, the images that can be read, the probe, the head."""

    def __init__(self, job: Job, network: Network, rules: Preprocessing, readouts: Sequence[Readout],
                 store: FeatureStore, spaces: ExitStack, folder: RunFolder, progress: Progress, deadline: Deadline,
                 run: Run) -> None:
        self.job = job
        self.settings = job.settings
        self.wish = wanted(job.settings, job.index.classes)
        self.hooks = hooks_of(job.settings)
        self.network = network
        self.rules = rules
        self.readouts = {readout.name: readout for readout in readouts}
        self.store, self.spaces = store, spaces
        self.folder, self.progress, self.deadline = folder, progress, deadline
        self.loop: Loop | None = None
        random = job.plan.backbone.start == "random"
        self._route = self._colours() if random else self._first_route()
        self.view0 = self._route.space
        self.found: list[Finding] = []
        self.features = extract_by(job.index, [self._route], np.zeros(len(job.index), np.int64), rules, progress,
                                   deadline, job.settings.max_quarantined)
        folder.write_quarantine(self.features.quarantined)
        self.readable = job.index.take(self.features.rows)
        self.y_N = self.readable.y_N
        self.learn, self.held = self.readable.rows("train"), self.readable.rows("validation")
        if not len(self.held):
            raise TrainingError("no image is left for validation, on which the epoch is chosen; give more images a "
                                "class, or take --strategy features")
        self.fitted = None if random else self._probe(run)
        self._kept = self._kept_steps()
        self.head = self._head()
        self.reads = [self.readouts[name] for name in self.head.readouts]

    @property
    def trained(self) -> bool:
        """Whether some phase that has begun could change the network, in this process or before it was resumed."""
        return self.loop is not None and self.loop.changes_network

    @functools.cached_property
    def graph(self) -> Graph:
        """The network's graph, with every readout that the head reads."""
        return Graph(self.network.module, self.rules.size, list(self.readouts.values()))

    def files(self, rows: NDArray[np.int64]) -> list[str]:
        """Paths of rows of the training images."""
        return [self.readable.paths[int(self.learn[row])] for row in rows]

    def _work(self, network: Network, digest: str, readouts: Sequence[Readout]) -> Work:
        """The whole network, to be read as it is now."""
        light = lightened(network.name, network.module, readouts, self.settings.device, self.settings.engine)
        return Work(network.name, light or network.module, digest, tuple(readouts), self.rules)

    # -- the first pass ----------------------------------------------------------------------------

    def _colours(self) -> Route:
        """Nothing is to be read from a network that knows nothing; the pictures are looked through all the same."""
        engine = _Colours()
        return Route(self._space(feature_key(self.rules, self.network.digest, engine)), engine)

    def _first_route(self) -> Route:
        """The way of the images as they are: what the first phase keeps of them comes of the same run as the features.

        Unless the features of most are known already: what lies before the cut alone is sooner run then.
        """
        job, network, readouts = self.job, self.network, tuple(self.readouts.values())
        work = self._work(network, network.digest, readouts)
        where = (self.store, job.settings.engine, job.settings.device, self.progress)
        front = self._first_front()
        if front is None or Engines(work, *where).known_share(job.index) > _KNOWN:
            engine = answer_engine(work, job.index, *where)
            return Route(self._space(feature_key(self.rules, network.digest, engine)), engine)
        engine = answer_engine(self._work(network, network.digest, (*readouts, *front.whole)), job.index, *where)
        key = front.key(view_key(self.rules), kept_formats(front.found.phase)[0], engine.key)
        return Route(self._space(feature_key(self.rules, network.digest, engine, readouts)), engine, self._space(key))

    def _first_front(self) -> Front | None:
        """What lies before the first phase's cut, where something of it is kept of each image as it is."""
        job, phases = self.job, self.job.plan.phases
        if not phases:
            return None
        found = understand(phases[0], self.graph, list(self.readouts.values()), 0, job.plan.backbone.own_words)
        front = Front(self.network, self.graph, found, self.rules)
        augmented = bool(phases[0].augment or self.hooks.augmentation)
        kept = (found.cut is not None and not may_keep(found.phase, found.cut, augmented, cacheable=True)
                and front.bytes(len(job.index)) <= room(self.store, job.settings))
        return front if kept and front.whole else None

    def _space(self, key: FeatureKey) -> Space:
        """A space of the store, open as long as the training lasts."""
        return self.spaces.enter_context(self.store.space(key))

    # -- the probe and the head --------------------------------------------------------------------

    def _probe(self, run: Run) -> Fitted:
        """A head solved on the frozen features: what the training starts from, and is measured against."""
        only = self.job.plan.head.reads
        # Solving on unpooled features may take longer than the training; pooled ones are compared with instead.
        if any(self.readouts[name].dim > _WIDEST for name in only):
            only = ()
        return fit(self.job.index, self.features, self.network.readouts, run, self.progress, self.deadline, self.wish,
                   only, final=False)

    def _head(self) -> TrainableHead:
        plan, fitted = self.job.plan.head, self.fitted
        classes = len(self.job.index.classes)
        if plan.one_logit and classes != 2:
            raise SettingsError([f"head.one_logit: it is for two classes; the images have {classes}"])
        solved = None if fitted is None or plan.start == "random" else fitted.head
        elsewhere = solved is not None and plan.reads and set(solved.settings.readouts) != set(plan.reads)
        if plan.start == "solved" and (solved is None or elsewhere):
            raise SettingsError(["head.start: 'solved' needs pre-trained weights and pooled readouts; here it must be "
                                 "'random'"])
        names = plan.reads or (DEFAULT_READS if solved is None else solved.settings.readouts)
        ordered = self.graph.in_order(names)  # as they are joined, wherever the network is cut
        head = TrainableHead(plan, ordered, sum(self.readouts[name].dim for name in ordered), classes,
                             self.job.settings.seed)
        if solved is not None:
            features_ND = self.features.read(self.learn, ordered)
            head.start_at(self._softened(_reordered(solved, ordered, self.readouts), features_ND), features_ND)
        return head

    def _softened(self, solved: LinearHead, features_ND: NDArray[np.float32]) -> LinearHead:
        """The same answers, no surer than the smoothed labels of the first phase allow.

        What is solved on few images is sure of every one of them, and smoothing takes that for a mistake: the stages,
        which learn faster than the head, would first of all unlearn what it reads.
        """
        phases = self.job.plan.phases
        smoothing = phases[0].label_smoothing if phases else 0.0
        if not smoothing:
            return solved
        P_NK = solved.probabilities(features_ND)
        return solved.tempered(max(smoothed_temperature(P_NK, self.y_N[self.learn], smoothing), 1.0))

    # -- a phase, made ready -----------------------------------------------------------------------

    def stage(self, phase: Phase) -> Stage:
        """See :class:`regraft.training.loop.Stage`."""
        started = time.monotonic()
        module = self.network.module
        phase = replace(phase, augment=self._kept.get(phase.augment, phase.augment))
        found = understand(phase, self.graph, self.reads, sum(p.numel() for p in self.head.parameters()),
                           self.job.plan.backbone.own_words)
        phase, learns, cut = found.phase, found.learns, found.cut
        if found.instead:
            self.progress.say(f"{phase.name}: {found.instead}")
        norms = self._live_norms(phase, learns)
        suffix = None if cut is None else Suffix(self.graph, cut, found.behind)
        source = Source(self, found)
        forecast = PhaseForecast(phase.name, found.learning, found.total, found.head, cut, found.ladder, source.views,
                                 source.kept, source.bytes)
        if source.kept:
            self.progress.say(f"{phase.name}: keeping {in_views(source.views)} of {len(self.learn):,} images takes "
                              f"{source.bytes / 2**20:,.1f} MiB")
        modules = () if suffix is None else tuple(
            m for m in suffix.modules_run if not isinstance(m, _BatchNorm) or m in norms)
        buffers = tuple(name for name, _ in module.named_buffers()
                        if module.get_submodule(name.rpartition(".")[0]) in norms)
        train, validation = source.batches()
        computed = arithmetic(phase, choose_device(self.job.settings.device), suffix, () if cut is None else cut.shape)
        forecast = replace(forecast, prepared_seconds=round(time.monotonic() - started, 3))
        return Stage(phase, forecast, found.groups, suffix, modules, (*learns.parameters, *buffers), learns.head, train,
                     validation, computed)

    def _kept_steps(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """The augmentations of the phases, each without steps that turn out to do harm.

        Measured before anything learns, in the network that the probe was solved on.
        """
        if self.hooks.augmentation is not None or self.fitted is None:  # a network that knows nothing can't be asked
            return {}
        # Of all classes: images lie sorted by class.
        some = np.random.default_rng(self.settings.seed).permutation(len(self.held))[:ASKED]
        held, head = self.held[np.sort(some)], self.fitted.head
        right_M = self._right(head, self.features.read(held, head.settings.readouts), held)
        kept = {}
        for words in dict.fromkeys(phase.augment for phase in self.job.plan.phases):
            kept[words], found = measured(words, right_M, lambda step: self._told(step, head, held))
            for one in found:
                self.progress.say(repr(one))
            self.found += [Finding("harmful_augmentation", one.lost, repr(one)) for one in found if one.harms]
        return kept

    def _told(self, step: Step, head: LinearHead, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the probe tells images that a step has changed."""
        views = Views(Augmentation((step,)), self.rules, self.settings.seed)
        space = self._space(replace(self.view0.key, view=views.key(1)))
        digests = [self.features.digests[int(row)] for row in rows]
        extract_view([self.readable.file(int(row)) for row in rows], digests, Route(space, self._route.engine),
                     lambda data, digest: views.pixels(data, 1, digest), f"trying {step.name}", self.progress,
                     self.deadline)
        return self._right(head, space.read(space.locate(digests), head.settings.readouts), rows)

    def _right(self, head: LinearHead, features_MD: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        right_M: NDArray[np.bool_] = head.logits(features_MD).argmax(1) == self.y_N[rows]
        return right_M

    def _live_norms(self, phase: Phase, learns: Learning) -> tuple[nn.Module, ...]:
        """Batch norms that work on each batch's own statistics."""
        if phase.batch_norm == "inference":
            return ()
        names = set(learns.parameters)
        norms = [(name, m) for name, m in self.network.module.named_modules() if isinstance(m, _BatchNorm)]
        found = tuple(m for name, m in norms
                      if any(f"{name}.{own}" in names for own, _ in m.named_parameters(recurse=False)))
        if norms and not found:
            raise TrainingError(
                f"{phase.name}: batch_norm = \"training\" but no batch norm learns; in the frozen part each image's "
                "features would depend on the others of its batch, so they could not be computed once. Let layers with "
                "batch norm learn, or take batch_norm = \"inference\"")
        return found

    # -- the end -----------------------------------------------------------------------------------

    def finish(self, loop: Loop, before: Before) -> TrainResult:
        """Judge the trained network as it will answer, take the better one where the strategy promises so, save."""
        settings, plan, fitted = self.job.settings, self.job.plan, self.fitted
        if loop.stopped:
            self.progress.say(f"stopped early: {loop.stopped}")
        outcome, decision = self._trained(loop.head.exported()), ""
        if fitted is not None and fitted.validation is not None:
            probe, trained = fitted.validation, outcome.validation
            better = (probe.accuracy.value, -probe.log_loss) > (trained.accuracy.value, -trained.log_loss)
            first = "the frozen probe did better" if better else "training did at least as well"
            decision = (f"{first} on validation: {probe.accuracy.value:.1%} frozen, "
                        f"{trained.accuracy.value:.1%} trained")
            if probe.accuracy.value == trained.accuracy.value:
                decision += f" (log-loss {probe.log_loss:.3f} and {trained.log_loss:.3f})"
            if better and settings.plan is None:
                decision += "; the frozen probe is kept"
                outcome = self._frozen(fitted, probe)
            self.progress.say(decision)
        head, network, settled, P_test = outcome.head, outcome.network, outcome.settled, outcome.P_test
        learned, held = outcome.learned, outcome.held
        counts = self.readable.class_counts(learned)
        seen = seen_images(self.features, learned, held)
        test = None if P_test is None else judge_test(self.job.index, self.features, P_test, seen, int(counts.argmax()),
                                                      settled.rule)
        record = ModelRecord(
            classes=self.job.index.classes, strategy=plan.name, backbone=network.name,
            weights_digest=self._digest(network), licence=network.licence, preprocessing=self.rules,
            readouts=outcome.readouts, head=head.settings, training_counts=tuple(int(c) for c in counts),
            own=own_record(settings, network.module, outcome.readouts, self.rules), **settled.recorded)
        model.save(self.folder.out, record, network.state(), head, seen, settled.known, settings.module)
        keep_answers(self.folder, self.job.index, self.features, settled.held, P_test)
        if fitted is not None:
            keep_map(self.folder, self.job.index, self.features, MAPPED, settings.seed)
        shutil.rmtree(self.folder.path / CHECKPOINTS, ignore_errors=True)
        choice = Choice(head.settings, "the validation split") if fitted is None else replace(
            fitted.choice, chosen=head.settings)
        result = TrainResult(
            out=str(self.folder.out), strategy=plan.name, backbone=network.name,
            features=before.counted(self.features),
            quarantined=len(self.features.quarantined), validation=outcome.validation, test=test,
            seconds=before.seconds(), head=choice,
            findings=(*self.job.index.findings, *self.network.findings, *self.found),
            conversions=dict(self.features.notes),
            probe=None if fitted is None else fitted.validation, epochs=tuple(map(Epoch.from_dict, loop.history)),
            decision=decision)
        self.folder.write("record.json", {"format_version": 1, "result": result.to_dict(), "tried": choice.tried,
                                          "environment": environment()})
        draw(lambda: curves(result), self.folder.path, "curves", "curves are", self.progress)
        return result

    def _digest(self, network: Network) -> str:
        return weights_digest(network.architecture, network.module.state_dict()) if self.trained else network.digest

    def _trained(self, head: Head) -> _Outcome:
        """The network and the head after the last phase, judged on validation as they will answer."""
        network, readouts = self.network, tuple(self.reads)
        images, features, learn, held, test = self._final(network, readouts)
        P_held, P_test = (head.probabilities(features.read(rows, head.settings.readouts)) for rows in (held, test))
        answered = Held(held, P_held, "held out from learning, used for choosing the epoch")
        settled = settle_held(self.wish, images, answered)
        settled = with_unknown(settled, self.wish, images, features, head, learn, held, self.job.settings.seed)
        majority = int(self.readable.class_counts(self.learn).argmax())
        assert settled.held is not None
        validation = judge_held(images, settled.held, majority, settled.rule)
        # From here on positions are those of all readable images.
        settled = replace(settled, held=replace(settled.held, rows_M=self.held))
        return _Outcome(head, network, readouts, settled, validation,
                        tempered(P_test, settled.temperature) if len(test) else None, self.learn, self.held)

    def _frozen(self, fitted: Fitted, validation: Evaluation) -> _Outcome:
        """The probe on the network in its starting weights, solved on the held-out images too: it is chosen now."""
        network, _ = _network(self.job)
        test, seed, chosen = self.readable.rows("test"), self.job.settings.seed, fitted.head.settings
        settled = with_unknown(fitted.settled, self.wish, self.readable, self.features, fitted.head, self.learn,
                               self.held, seed)
        rows = np.sort(np.concatenate([self.learn, self.held]))
        head = fit_head(blocks_of(self.features, rows, chosen.readouts), self.y_N[rows], len(self.job.index.classes),
                        chosen)
        P_test = test_probabilities(head, settled, self.features, test) if len(test) else None
        return _Outcome(head, network, network.readouts, settled, validation, P_test, rows, rows[:0])

    def _final(self, network: Network, readouts: Sequence[Readout]) -> _Final:
        """Features of the network as it will be saved: of some images learned from, of held-out ones, of the test's."""
        test = self.readable.rows("test")
        if not self.trained and self.fitted is not None:
            return _Final(self.readable, self.features, self.learn, self.held, test)
        some = choosing_rows(self.y_N, self.learn, self.job.settings.seed)
        assert self.loop is not None
        learned_ND = self.loop.features(np.searchsorted(self.learn, some))
        rows = np.concatenate([some, self.held, test])
        images = self.readable.take(rows)
        unread = images if learned_ND is None else images.take(np.arange(len(some), len(rows)))
        work = self._work(network, self._digest(network), readouts)
        engine = answer_engine(work, unread, self.store, self.settings.engine, self.settings.device, self.progress)
        space = self._space(feature_key(self.rules, work.digest, engine))
        features = extract(unread, space, engine, self.rules, self.progress, Deadline(None), 1.0)
        if gone := features.quarantined:
            raise DataError(f"{shown(gone[0].path)} was read before and can't be now ({gone[0].reason}); put it back, "
                            f"and go on with the same command and --out {self.folder.out}")
        learn, held, test = np.split(np.arange(len(rows)), np.cumsum([len(some), len(self.held)]))
        known = features if learned_ND is None else _TwoParts(learned_ND, tuple(readouts), features)
        return _Final(images, known, learn, held, test)


class _Final(NamedTuple):
    """Images, their features, and the positions of those learned from, held out and tested on."""

    images: ImageIndex
    features: Readable
    learn: NDArray[np.int64]
    held: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class _TwoParts:
    """Features of the first images in memory, joined ``readouts``, and of those that follow them elsewhere."""

    first_ND: NDArray[np.float32]
    readouts: tuple[Readout, ...]
    others: Readable

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`Readable`."""
        ends = np.cumsum([readout.dim for readout in self.readouts])
        columns = {r.name: np.arange(end - r.dim, end) for r, end in zip(self.readouts, ends, strict=True)}
        first = which < len(self.first_ND)
        read_MD = np.empty((len(which), sum(len(columns[name]) for name in readouts)), np.float32)
        read_MD[first] = self.first_ND[which[first]][:, np.concatenate([columns[name] for name in readouts])]
        read_MD[~first] = self.others.read(which[~first] - len(self.first_ND), readouts)
        return read_MD


@dataclass(frozen=True)
class _Outcome:
    """What may be saved, its figures on validation, its answers for the test images, if there are any.

    ``learned`` and ``held`` are the readable images that it learned from and that were held out of it.
    """

    head: Head
    network: Network
    readouts: tuple[Readout, ...]
    settled: Settled
    validation: Evaluation
    P_test: NDArray[np.float64] | None
    learned: NDArray[np.int64]
    held: NDArray[np.int64]


def hooks_of(settings: TrainSettings) -> Hooks:
    """The caller's own parts; raises SettingsError for anything else."""
    if settings.hooks is None:
        return Hooks()
    if not isinstance(settings.hooks, Hooks):
        raise SettingsError([f"hooks: {type(settings.hooks).__name__} is not allowed; it must be regraft.Hooks(...)"])
    return settings.hooks


def _reordered(head: LinearHead, names: Sequence[str], readouts: dict[str, Readout]) -> LinearHead:
    """The same head with its readouts in another order."""
    ends = np.cumsum([readouts[name].dim for name in head.settings.readouts])
    rows = {name: np.arange(end - readouts[name].dim, end)
            for name, end in zip(head.settings.readouts, ends, strict=True)}
    W_DK = head.W_DK[np.concatenate([rows[name] for name in names])]
    return LinearHead(replace(head.settings, readouts=tuple(names)), W_DK, head.b_K)
