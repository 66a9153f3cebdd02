"""A phase's words on a traced network: what learns, where the network is cut, at which rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from regraft.errors import SettingsError, TrainingError, UnknownNameError
from regraft.extraction.store import Numbers, row_bytes
from regraft.networks.graph import Graph
from regraft.networks.learns import Learning, groups_over, learning
from regraft.records.networks import Cut, Readout
from regraft.records.plan import Phase
from regraft.records.training import Rung
from regraft.training.batches import AT_CUT
from regraft.training.rates import Group, ladder, rungs

#: Number formats of kept activations, in the order in which they are tried.
_HALF: tuple[Numbers, ...] = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Understood:
    """What a network makes of a phase.

    Attributes
    ----------
    phase, instead:
        The phase as it applies to the network; what is to be said where that is not as it was written, else empty.
    learns:
        Names of the backbone's parameters that learn, and whether the head does.
    cut:
        Where the network is cut; None: behind everything that the head reads.
    before, behind:
        The head's readouts in front of the cut, and those that come from what is trained.
    kept:
        What is kept of an image where something is: the network's readouts in front of the cut, whatever the head
        reads, and, last, the tensor at the cut. Without a cut, what the head reads.
    groups, ladder:
        Parameters that share a rate, from the head downwards, and how many they are with the head's.
    learning, total, head:
        Parameters that learn, all that the answer depends on, and the head's.
    """

    phase: Phase
    instead: str
    learns: Learning
    cut: Cut | None
    before: tuple[Readout, ...]
    behind: tuple[Readout, ...]
    kept: tuple[Readout, ...]
    groups: tuple[Group, ...]
    ladder: tuple[Rung, ...]
    learning: int
    total: int
    head: int


def understand(phase: Phase, graph: Graph, reads: Sequence[Readout], head: int, own: bool = True) -> Understood:
    """What a network makes of a phase, for a head of so many parameters on some readouts.

    ``own`` says whether the network is the one that the phase's words were written for. In another one names of
    modules are looked up all the same; numbers of layers always name some, so they count as missing there, unless
    nothing is said to learn ``elsewhere``. Rates over modules that another network lacks fall over its stages.

    Raises UnknownNameError or SettingsError for words that mean nothing here, TrainingError where nothing would learn.
    """
    module = graph.module
    applied, learns = _apply(phase, graph, reads, own)
    if not learns.parameters and not learns.head:
        raise TrainingError(f"{phase.name}: nothing learns of what the head's answer depends on; name other modules, "
                            "or head")
    cut = graph.cut_for(learns.parameters) if learns.parameters else None
    front = tuple(reads) if cut is None else graph.readouts_before(cut)
    frozen = {r.name for r in front}
    at_cut = () if cut is None else (Readout(AT_CUT, f"@{cut.name}", "none", cut.numbers),)
    groups = tuple(ladder(applied, learns, module, lambda: graph))
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    in_head = head if learns.head else 0
    return Understood(
        applied, _difference(phase, applied), learns, cut, tuple(r for r in reads if r.name in frozen),
        tuple(r for r in reads if r.name not in frozen), (*front, *at_cut), groups, rungs(groups, module, in_head),
        sum(sizes[name] for name in learns.parameters) + in_head,
        sum(sizes[name] for name in graph.used_by(reads)) + head, head)


def _apply(phase: Phase, graph: Graph, reads: Sequence[Readout], own: bool) -> tuple[Phase, Learning]:
    """The phase as it applies to this network, and what learns."""
    module, used = graph.module, graph.used_by(reads)
    by_stages = replace(phase, over=(), law="geometric" if phase.law == "groups" else phase.law)
    try:
        groups_over(phase.over, module)
    except UnknownNameError:
        if own and not phase.elsewhere:
            raise
        phase = by_stages
    if not phase.elsewhere:
        return phase, learning(phase.learns, phase.frozen, module, used, lambda: graph)
    if own or not phase.counts_layers:
        try:
            return phase, learning(phase.learns, phase.frozen, module, used, lambda: graph)
        except (UnknownNameError, SettingsError):
            pass
    phase = replace(by_stages, learns=phase.elsewhere, frozen=())
    return phase, learning(phase.learns, (), module, used, lambda: graph)


def _difference(written: Phase, applied: Phase) -> str:
    """What is to be said of a phase that does not apply as it was written."""
    told = []
    if (written.learns, written.frozen) != (applied.learns, applied.frozen):
        told.append(f"{', '.join(applied.learns)} learns instead: what the plan names belongs to another network")
    if written.over != applied.over:
        told.append(f"rates fall over the stages: the network has no {', '.join(written.over)}")
    return "; ".join(told)


def may_keep(phase: Phase, cut: Cut | None, augmented: bool, cacheable: bool) -> str:
    """Why activations at the cut can't be kept, or nothing."""
    if phase.cached == "never":
        return "it is said not to be"
    if cut is not None and cut.position < 0:
        return "everything learns from the first layer on"
    if augmented and not phase.views:
        return "fresh augmentation each epoch is asked for (views = 0)"
    return "" if cacheable else "your augmentation has no version"


def kept_formats(phase: Phase) -> tuple[Numbers, ...]:
    """Number formats of kept activations, in the order in which they are tried."""
    return ("float32",) if phase.store_as == "float32" else _HALF


def kept_bytes(rows: int, readouts: Sequence[Readout], numbers: Numbers) -> int:
    """Bytes of so many kept rows."""
    return rows * row_bytes(sum(readout.dim for readout in readouts), numbers)
