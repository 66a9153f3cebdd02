"""``plan``: what a network makes of a plan's phases, and what they would take, without weights and without training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regraft.engines.pytorch import choose_device
from regraft.errors import BackboneError
from regraft.networks.build import Network, untrained
from regraft.networks.graph import Graph, Prefix, Suffix
from regraft.networks.readouts import Tapped, read_as
from regraft.records.described import DescribedPlan, PhaseFacts
from regraft.records.images import ImageIndex
from regraft.records.networks import Cut
from regraft.records.plan import Plan
from regraft.runs.steps import settle
from regraft.runs.train import divide
from regraft.settings import Device, TrainSettings
from regraft.strategy.describing import describe
from regraft.training.arithmetic import arithmetic
from regraft.training.head import DEFAULT_READS, TrainableHead
from regraft.training.phases import (
    Understood,
    kept_bytes,
    kept_formats,
    may_keep,
    understand,
)

#: Images of a measured batch.
_MEASURED = 4

#: Classes that the head is counted for where neither images nor plan say.
_CLASSES = 2

#: Forward and backward passes cost about this many forward ones.
_STEP = 3

#: Where a training runs unless it is told otherwise.
_DEVICE: Device = "auto"


@dataclass(frozen=True)
class _Seconds:
    """Of one image: through the frozen part, and in a step of what learns."""

    frozen: float
    step: float


def foresee(plan: Plan, index: ImageIndex | None = None, data: str | None = None) -> DescribedPlan:
    """A plan with what its network makes of it; with an ``index`` also what it would take.

    No weights are needed. Raises UnknownNameError and SettingsError for names that mean nothing, TrainingError where
    nothing would learn, BackboneError where the network refuses the size.
    """
    describe(plan, index=index, data=data)  # a plan that does not fit the images is refused before it takes time
    if not plan.phases and index is None:
        return describe(plan)
    network = untrained(plan.backbone.name, plan.preprocessing.size)
    pass_seconds = None if index is None else len(index) * _pass_seconds(network, plan)
    if not plan.phases:
        return describe(plan, (), index, data, pass_seconds)
    notes = []
    classes = plan.data.classes or _CLASSES
    if index is not None:
        classes = len(index.classes)
    elif not plan.head.one_logit:
        advice = "" if plan.data.classes else "; name the images, or give --set data.classes=NUMBER"
        notes.append(f"figures are for {classes} classes{advice}")
    if not plan.head.reads:
        notes.append(f"figures are for a head that reads {', '.join(DEFAULT_READS)}; what it reads is chosen on "
                     "validation images")
    size = plan.preprocessing.size or network.input.size
    reads = [read_as(word, network.module, network.readouts, size) for word in plan.head.reads or DEFAULT_READS]
    head = TrainableHead(plan.head, tuple(r.name for r in reads), sum(r.dim for r in reads), classes, 0)
    try:
        graph = Graph(network.module, size, [*network.readouts, *(r for r in reads if r not in network.readouts)])
    except BackboneError as error:
        return describe(plan, (), index, data, pass_seconds, [f"no figures of the phases: {error}"])
    own = plan.backbone.own_words
    count = sum(p.numel() for p in head.parameters())
    found = [understand(phase, graph, reads, count, own) for phase in plan.phases]
    facts = [_told(one) for one in found] if index is None else _priced(plan, index, str(data), graph, head, found)
    return describe(plan, facts, index, data, pass_seconds, notes)


def _told(found: Understood, price: int | None = None, seconds: float | None = None) -> PhaseFacts:
    return PhaseFacts(
        found.learning, found.total, _where(found.cut), {rung.label: rung.rate for rung in found.ladder},
        {rung.label: rung.parameters for rung in found.ladder}, found.head, found.instead, price,
        None if seconds is None else round(seconds, 3))


def _where(cut: Cut | None) -> str:
    if cut is None:
        return "the head's input"
    shape = " x ".join(map(str, cut.shape))
    return f"the front, {shape}" if cut.position < 0 else f"{cut.module or cut.name}, {shape}"


def _priced(plan: Plan, index: ImageIndex, data: str, graph: Graph, head: TrainableHead,
            phases: Sequence[Understood]) -> list[PhaseFacts]:
    """Facts of the phases with their forecasts, as if the disk had room for everything."""
    settings, _ = settle(TrainSettings(data), plan)
    divided = divide(index, settings, by_split=True)
    learn, held = len(divided.rows("train")), len(divided.rows("validation"))
    facts, trained = [], False
    for found in phases:
        facts.append(_told(found, *price(found, graph, head, learn, held, _DEVICE, trained)))
        trained = trained or bool(found.learns.parameters)
    return facts


def price(found: Understood, graph: Graph, head: TrainableHead, learn: int, held: int, device: Device,
          trained: bool = False) -> tuple[int, float]:
    """Bytes that a phase keeps and seconds that it takes on a device, for images to learn from and held out.

    ``trained`` says whether an earlier phase changes the network. Measured on random pixels, decoding apart, as if the
    disk had room for everything and the features were known: where they are not, the pass that reads them brings the
    images as they are along.
    """
    phase, cut = found.phase, found.cut
    augmented = bool(phase.augment)
    kept = not may_keep(phase, cut, augmented, cacheable=True)
    # Frozen readouts of a network that has not changed are in the store after the first pass.
    there = cut is None and not trained and not augmented
    rows = learn * (1 + (phase.views if augmented else 0)) + held
    size = kept_bytes(rows, found.kept, kept_formats(phase)[0]) if kept and not there else 0
    cost = _measure(graph, found, head, choose_device(device))
    frozen = 0.0 if there else cost.frozen * (rows if kept else held + learn * phase.epochs)
    return size, frozen + cost.step * (phase.epochs * learn + (phase.epochs + 1) * held / _STEP)


def _pass_seconds(network: Network, plan: Plan) -> float:
    """Of one image through the frozen network."""
    if plan.backbone.start == "random":
        return 0.0
    device = choose_device(_DEVICE)
    program = Tapped(network.module, network.readouts).to(device)
    x = _pixels(plan.preprocessing.size or network.input.size).to(device)
    with torch.inference_mode():
        return _time(lambda: program(x))[0] / _MEASURED


def _pixels(size: int) -> Tensor:
    return torch.rand((_MEASURED, 3, size, size), generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last)


def _time(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of the second run, and what it gives; the first one sets up."""

    def done() -> Tensor:
        made = run()
        float(made.detach().flatten()[0])  # a GPU runs behind: only what is read has been computed
        return made

    done()
    started = time.perf_counter()
    made = done()
    return time.perf_counter() - started, made


def _measure(graph: Graph, found: Understood, head: TrainableHead, device: str) -> _Seconds:
    """One batch of the frozen part, and forward and backward through what learns, on random pixels."""
    size = int(graph.cuts[0].shape[-1])
    module, cut = graph.module.to(device), found.cut
    head.to(device)
    x = _pixels(size).to(device)
    frozen = 0.0
    program: nn.Module | None = None
    if cut is None:
        program = Tapped(module, found.before)
    elif cut.position >= 0:
        program = Prefix(graph, cut, found.before)
    joined = x
    if program is not None:
        with torch.no_grad():
            frozen, joined = _time(lambda: program(x))
    width = 0 if cut is None else cut.numbers
    read = joined[:, :joined.shape[1] - width] if program is not None else x.new_zeros((_MEASURED, 0))
    activation = x if program is None or cut is None else joined[:, -width:].reshape(_MEASURED, *cut.shape)
    suffix = None if cut is None else Suffix(graph, cut, found.behind)
    computed = arithmetic(found.phase, device, suffix, () if cut is None else cut.shape)
    names = set(found.learns.parameters)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    head.requires_grad_(found.learns.head)

    def step() -> Tensor:
        features = [read]
        if suffix is not None:
            with computed.learning():
                features.append(suffix(activation))
        value: Tensor = head(torch.cat(features, 1)).sum()
        torch.autograd.backward(value)
        # Gradients come after the value: reading one of them waits for all.
        return next((p.grad for p in (*module.parameters(), *head.parameters()) if p.grad is not None), value)

    try:
        return _Seconds(frozen / _MEASURED, _time(step)[0] / _MEASURED)
    finally:
        module.requires_grad_(False).zero_grad(set_to_none=True)
        head.zero_grad(set_to_none=True)
