"""Learning rates: over depth, as a ladder from the head downwards, and over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from regraft.networks.graph import Graph
from regraft.networks.learns import Learning, groups_over
from regraft.records.plan import Phase
from regraft.records.training import Rung

#: Where a one-cycle schedule begins, as a share of its top, and where it ends.
_START, _END = 1 / 25, 1e-4

#: Share of a one-cycle schedule in which the rate rises, where the plan does not say.
_RISE = 0.25


@dataclass(frozen=True)
class Group:
    """Parameters, by name, that share a learning rate."""

    label: str
    rate: float
    names: tuple[str, ...]


def ladder(phase: Phase, learning: Learning, module: nn.Module, graph: Callable[[], Graph]) -> list[Group]:
    """Groups from the head downwards, empty ones left out.

    The head shares the first group's rate unless it has one of its own; without a law over depth all is one group.
    """
    groups = _of_network(phase, learning, module, graph)
    if phase.head_rate is None or not learning.head:
        return groups
    return [Group("the head", phase.head_rate, ()), *(group for group in groups if group.names)]


def _of_network(phase: Phase, learning: Learning, module: nn.Module, graph: Callable[[], Graph]) -> list[Group]:
    if phase.law == "constant" and not phase.over:
        return [Group("all that learns", phase.rate, learning.parameters)]
    if phase.over:
        labels = groups_over(phase.over, module)
        members = [(" + ".join(names), _below(names, learning.parameters)) for names in labels]
    else:
        members = _by_stage(learning.parameters, graph())
    count = len(members)
    rates = [_rate(phase, i, count) for i in range(count)]
    taken: set[str] = set()
    groups = []
    for i, ((label, names), rate) in enumerate(zip(members, rates, strict=True)):
        own = tuple(name for name in names if name not in taken)
        taken |= set(own)
        if own or i == 0:
            groups.append(Group(label, rate, own))
    others = tuple(name for name in learning.parameters if name not in taken)
    if others:
        groups.append(Group("what no group names", rates[-1] if phase.other_rate is None else phase.other_rate, others))
    return groups


def _rate(phase: Phase, at: int, count: int) -> float:
    match phase.law:
        case "constant":
            return phase.rate
        case "linear":
            return phase.rate + (phase.last_rate - phase.rate) * at / max(count - 1, 1)
        case "geometric":
            return phase.rate / phase.factor**at
        case "groups":
            return phase.group_rates[at]


def _below(modules: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if any(name == m or name.startswith(f"{m}.") for m in modules))


def _by_stage(names: Sequence[str], graph: Graph) -> list[tuple[str, tuple[str, ...]]]:
    """The stages from last to first; what follows the last one stands above it."""
    ends = list(graph.stage_ends.items())
    spans = []
    before = -1
    for stage, end in ends:
        spans.append((stage, before, end))
        before = end
    spans.append(("after the stages", before, len(graph.nodes)))
    return [(label, tuple(n for n in names if a < graph.first_use.get(n, -1) <= b)) for label, a, b in reversed(spans)]


def rungs(groups: Sequence[Group], module: nn.Module, head: int) -> tuple[Rung, ...]:
    """The ladder with the numbers that learn on each rung; the head's stand on the first."""
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    return tuple(Rung(group.label, group.rate, sum(sizes[n] for n in group.names) + (head if i == 0 else 0))
                 for i, group in enumerate(groups))


def make_optimiser(phase: Phase, groups: Sequence[Group], module: nn.Module, head: nn.Module, learns_head: bool,
                   ) -> torch.optim.Optimizer:
    """The phase's optimiser over its groups, weights apart from norms and biases."""
    parameters = dict(module.named_parameters())
    settings = []
    for i, group in enumerate(groups):
        tensors = [parameters[name] for name in group.names]
        if i == 0 and learns_head:
            tensors = [*tensors, *head.parameters()]
        for decays in (True, False):
            own = [t for t in tensors if (t.ndim > 1) == decays]
            if own:
                decay = phase.weight_decay if decays or phase.decay_norms else 0.0
                settings.append({"params": own, "lr": group.rate, "base": group.rate, "weight_decay": decay})
    match phase.optimiser:
        case "sgd":
            return torch.optim.SGD(settings, lr=phase.rate, momentum=phase.momentum, nesterov=phase.nesterov)
        case "adam":
            return torch.optim.Adam(settings, lr=phase.rate)
        case "adamw":
            return torch.optim.AdamW(settings, lr=phase.rate)
        case "rmsprop":
            # As Keras has it: published rates of this optimiser are meant for these.
            return torch.optim.RMSprop(settings, lr=phase.rate, alpha=0.9, eps=1e-7, momentum=phase.momentum)


def set_rates(optimiser: torch.optim.Optimizer, phase: Phase, step: int, steps: int, an_epoch: int) -> float:
    """Set every group's rate for a step (from 0) of so many, ``an_epoch`` of them an epoch; returns the factor."""
    factor = schedule(phase, step, steps, an_epoch) / (1 + phase.decay * step)
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor
    return factor


def schedule(phase: Phase, step: int, steps: int, an_epoch: int) -> float:
    """The factor on every rate at a step (from 0) of a phase of so many."""
    if phase.schedule == "one_cycle":
        rise = max(1, round((phase.warmup or _RISE) * steps))
        if step < rise:
            return _START + (1 - _START) * (1 - math.cos(math.pi * step / rise)) / 2
        return _END + (1 - _END) * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1))) / 2
    warm = round(phase.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if phase.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))) / 2
    if phase.schedule == "step":
        return float(phase.step_factor ** int(step / max(an_epoch * phase.step_epochs, 1)))
    return 1.0
