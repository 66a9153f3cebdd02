"""Words for what learns to names of parameters: ``head``, ``stages[-2:]``, ``depthwise``, ``blocks.5.*``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from regraft.errors import SettingsError, UnknownNameError
from regraft.networks.graph import Graph
from regraft.networks.layers import keras_layers

_SLICE = re.compile(r"(?P<what>stages|layers)\[(?:(?P<one>-?\d+)|(?P<from>-?\d+)?:(?P<to>-?\d+)?)\]")
_SHARE = re.compile(r"share\((?P<share>0?\.\d+|1(\.0*)?|1e-\d+)\)")
_STAGE = re.compile(r"stage(?P<number>\d+)")

#: What the classes of layers that normalise have in their names, in PyTorch, timm and torchvision.
_NORM = re.compile("norm", re.IGNORECASE)


@dataclass(frozen=True)
class Learning:
    """Names of the backbone's parameters that learn, in the network's order, and whether the head does."""

    parameters: tuple[str, ...]
    head: bool


def learning(learns: Sequence[str], frozen: Sequence[str], module: nn.Module, used: Sequence[str],
             graph: Callable[[], Graph]) -> Learning:
    """Understand what a phase says learns.

    ``used`` are the parameters that the head's input depends on; others never learn. ``graph`` is asked for only
    where a word needs the order of the operations. Raises SettingsError or UnknownNameError.
    """
    chosen, head = _named(learns, module, used, graph)
    without, no_head = _named(frozen, module, used, graph)
    names = tuple(name for name in used if name in chosen and name not in without)
    return Learning(names, head and not no_head)


def _named(words: Sequence[str], module: nn.Module, used: Sequence[str], graph: Callable[[], Graph],
           ) -> tuple[set[str], bool]:
    names: set[str] = set()
    head = False
    for word in words:
        head = head or word in ("head", "all")
        if word != "head":
            names |= _of_word(word, module, used, graph)
    return names, head


def _of_word(word: str, module: nn.Module, used: Sequence[str], graph: Callable[[], Graph]) -> set[str]:
    every = [name for name, _ in module.named_parameters()]
    if word == "all":
        return set(every)
    if word == "norms":
        return {f"{name}.{own}" if name else own for name, part in module.named_modules()
                if _NORM.search(type(part).__name__) for own, _ in part.named_parameters(recurse=False)}
    if word == "biases":
        return {name for name in every if name.rpartition(".")[2] == "bias"}
    if word == "depthwise":
        return _of_depthwise(module, graph)
    if found := _SLICE.fullmatch(word):
        ends = (int(n) if n is not None else None for n in (found["from"], found["to"]))
        one = None if found["one"] is None else int(found["one"])
        span = slice(*ends) if one is None else slice(one, one + 1 or None)
        return _of_stages(graph(), span) if found["what"] == "stages" else _of_layers(graph(), span)
    if found := _SHARE.fullmatch(word):
        return _of_share(float(found["share"]), module, used, graph())
    if found := _STAGE.fullmatch(word):
        stages = list(graph().stage_ends)
        if word not in stages:
            raise UnknownNameError("stage", word, stages, f"the network has {', '.join(stages)}")
        at = stages.index(word)
        return _between(graph(), stages[at - 1] if at else None, word)
    return _of_modules(word, module)


def _of_modules(word: str, module: nn.Module) -> set[str]:
    """Parameters at or below the modules, or of the name, that match a pattern."""
    matching = [name for name, _ in module.named_modules() if name and fnmatch.fnmatchcase(name, word)]
    names = {name for name, _ in module.named_parameters()
             if fnmatch.fnmatchcase(name, word) or any(name.startswith(f"{m}.") for m in matching)}
    if not names and not matching:
        raise UnknownNameError(
            "module of the network", word, [name for name, _ in module.named_modules() if name],
            "what learns is head, all, norms, biases, depthwise, stage6, stages[-2:], layers[100:], share(0.3) or a "
            "module's name")
    return names


def _of_depthwise(module: nn.Module, graph: Callable[[], Graph]) -> set[str]:
    """Of convolutions that work on each channel by itself, and of the norms that read what they make."""
    parts = dict(module.named_modules())
    own = {name for name, _ in module.named_parameters() if _is_depthwise(parts[name.rpartition(".")[0]])}
    if not own:
        return own
    first_use, nodes = graph().first_use, graph().nodes
    users = {user for name in own if name in first_use for user in nodes[first_use[name]].users}
    return own | {name for name, at in first_use.items()
                  if nodes[at] in users and _NORM.search(type(parts[name.rpartition(".")[0]]).__name__)}


def _is_depthwise(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) and 1 < part.groups == part.in_channels


def _between(graph: Graph, after: str | None, until: str | None) -> set[str]:
    ends = graph.stage_ends
    first = -1 if after is None else ends[after]
    last = len(graph.nodes) if until is None else ends[until]
    return {name for name, at in graph.first_use.items() if first < at <= last}


def _of_stages(graph: Graph, span: slice) -> set[str]:
    """Stages by number; a slice that reaches the last stage takes what follows it too."""
    stages = list(graph.stage_ends)
    taken = stages[span]
    if not taken:
        raise SettingsError([f"stages[{span.start or ''}:{span.stop or ''}] names none of the network's "
                             f"{len(stages)} stages"])
    at = stages.index(taken[0])
    return _between(graph, stages[at - 1] if at else None, None if taken[-1] == stages[-1] else taken[-1])


def _of_layers(graph: Graph, span: slice) -> set[str]:
    layers = keras_layers(graph)
    taken = layers[span]
    if not taken:
        raise SettingsError([f"layers[{span.start or ''}:{span.stop or ''}] names none of the network's "
                             f"{len(layers)} layers"])
    places = {at for layer in taken for at in layer}
    return {name for name, at in graph.first_use.items() if at in places}


def _of_share(share: float, module: nn.Module, used: Sequence[str], graph: Graph) -> set[str]:
    """Whole layers from the output backwards until so large a share of the used parameters is reached.

    The network's own classifier is not among them where another head takes its place.
    """
    sizes = {name: module.get_parameter(name).numel() for name in used}
    wanted = share * sum(sizes.values())
    names: set[str] = set()
    for at in sorted({graph.first_use[name] for name in used}, reverse=True):
        if sum(sizes[name] for name in names) >= wanted:
            break
        names |= {name for name in used if graph.first_use[name] == at}
    return names


def groups_over(over: Sequence[str], module: nn.Module) -> list[tuple[str, ...]]:
    """Module names of each group of a rate law, from the head downwards.

    ``a+b`` is one group; ``a.*`` is one group for each child of a, from last to first. Raises UnknownNameError.
    """
    known = {name for name, _ in module.named_modules()}
    groups: list[tuple[str, ...]] = []
    for word in over:
        if word.endswith(".*") and word[:-2] in known:
            children = [f"{word[:-2]}.{child}" for child, _ in module.get_submodule(word[:-2]).named_children()]
            groups += [(child,) for child in reversed(children)]
            continue
        parts = tuple(part.strip() for part in word.split("+"))
        for part in parts:
            if part not in known and part != "head":
                raise UnknownNameError("module of the network", part, known)
        groups.append(parts)
    return groups
