"""The ways to train on some images, with what each is expected to give and cost here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from regraft import metrics
from regraft.errors import BackboneError
from regraft.heads.probe import Probe
from regraft.networks.graph import Graph
from regraft.records.advice import Basis, Depth, Forecast, Pilot
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.networks import Cut
from regraft.records.plan import BackbonePlan, HeadPlan, Phase, Plan, PreprocessingPlan
from regraft.records.results import Interval
from regraft.runs.looking import features_forecast, first_pass
from regraft.runs.planned import price
from regraft.runs.rank import Runner
from regraft.runs.train import network_and_rules
from regraft.settings import TrainSettings
from regraft.strategy.advising import Frozen, Measured, expected, from_scratch
from regraft.strategy.presets import MEASURED, strategy_plan
from regraft.training.head import DEFAULT_READS, TrainableHead
from regraft.training.phases import Understood, understand

#: Epochs that a network without knowledge needs at least.
_SCRATCH_EPOCHS = 30

#: How many of the latest stages learn in the cuts that are forecast.
_STAGES = (1, 2, 4)


class Ways:
    """The ways to train on some images, with what each is expected to give and cost."""

    def __init__(self, settings: TrainSettings, index: ImageIndex, runner: Runner, frozen: Frozen, solving: float,
                 ) -> None:
        self.index = index
        self.runner = runner
        self.frozen = frozen
        self.untraced = ""
        self._solving = solving
        self._device = settings.device
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
        return price(self._understood(phase), self._graph, self._head(), learn, held, self._device)

    def partial(self) -> Forecast | None:
        """What learning stages are expected to give, untried; None where the network can't be cut."""
        return None if self._graph is None else self._learning(
            "partial", phase_of("partial"), *expected("partial", self.frozen, None))

    def all(self, measured: Measured, pilot: Pilot | None) -> Iterator[Forecast]:
        """What each way is expected to give: frozen features first, then ever more that learns."""
        yield features_forecast(measured, self.runner, len(self.index), self._solving)
        if self._graph is None:
            return
        for strategy, phase in _phases(len(self._graph.stage_ends)):
            tried = phase.learns == phase_of("partial").learns
            yield self._learning(strategy, phase, *((from_scratch(measured), "estimated") if strategy == "scratch"
                                                    else expected(strategy, measured, pilot, tried)))

    def _learning(self, strategy: str, phase: Phase, accuracy: Interval, basis: Basis) -> Forecast:
        seconds, size = first_pass(self.runner, len(self.index))
        kept, learning = self.cost(phase, self._learn, self._held)
        return Forecast(strategy, phase.what_learns, accuracy, basis, round(seconds + learning, 1), size + kept,
                        self._depth(self._understood(phase).cut))

    def depths(self, places: Mapping[str, Probe]) -> Iterator[Depth]:
        """Accuracy by place of the network."""
        for name, probe in places.items():
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


def phase_of(strategy: str, augment: Sequence[str] = MEASURED) -> Phase:
    """The only phase of a strategy."""
    return strategy_plan(strategy, BackbonePlan(), PreprocessingPlan(), augment).phases[0]


def _phases(stages: int) -> Iterator[tuple[str, Phase]]:
    """Strategies that let the network learn, by how much of it does."""
    partial, full = phase_of("partial"), phase_of("full")
    for count in _STAGES:
        if count < stages:
            yield "partial", replace(partial, learns=(f"stages[-{count}:]", "head"))
    yield "full", full
    yield "scratch", replace(full, epochs=_SCRATCH_EPOCHS)


def plan_of(settings: TrainSettings, backbone: str, strategy: str, augment: Sequence[str] = MEASURED) -> Plan:
    """The plan to train by: the settings of the advice stand in it."""
    start = BackbonePlan(backbone, None if settings.weights is None else str(settings.weights))
    seen = PreprocessingPlan(settings.size, settings.fit)
    plan = Plan("features", backbone=start, preprocessing=seen) if strategy == "features" else strategy_plan(
        strategy, start, seen, augment)
    return replace(plan, name=strategy, about=f"advised for {shown(str(settings.data))}")
