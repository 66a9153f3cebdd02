"""Where features can be read: the last tensor of each stage, the head's input, the head's output.

Found by running the network once and looking at what its modules give, not by a table of families.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError, UnknownNameError
from regraft.records.networks import Pooling, Readout
from regraft.settings import Pool

#: Earlier stages kept; the head's input and output come on top.
MAX_STAGES = 8

#: Names of the readouts every network has.
LAST, LOGITS = "last", "logits"

#: Marks the input of a node instead of its output.
INPUT = ":input"

#: The node that is the network itself.
NETWORK = ""


_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

#: A list of at least this many modules of one kind is the trunk of a transformer, whoever owns it.
_TRUNK = 4


@dataclass(frozen=True)
class _Seen:
    node: str
    pooling: Pooling
    shape: tuple[int, ...]  # channels, then positions
    block: bool  # one of the numbered blocks of a trunk


@dataclass(frozen=True)
class _Layer:
    """A module with parameters of its own that has run, and how much had been seen before."""

    node: str
    linear: bool
    given: tuple[int, ...]
    made: tuple[int, ...]
    before: int


def pool(tensor: Tensor, pooling: Pooling) -> Tensor:
    """Pool a stage's output to [B, D] in fp32."""
    match pooling:
        case "mean":
            return tensor.mean((2, 3), dtype=torch.float32)
        case "mean_last":
            return tensor.mean((1, 2), dtype=torch.float32)
        case "tokens":
            return tensor.mean(1, dtype=torch.float32)
        case "max":
            return tensor.amax((2, 3)).float()
        case "max_last":
            return tensor.amax((1, 2)).float()
        case "max_tokens":
            return tensor.amax(1).float()
        case "none":
            return tensor.flatten(1).float()


class Tapped(nn.Module):
    """A network that gives its pooled readouts, joined, fp32 [B, D]; hooks read them while it runs as it is.

    Not to be run by two threads at once.
    """

    def __init__(self, network: nn.Module, readouts: Sequence[Readout]) -> None:
        super().__init__()
        self.network = network
        self._readouts = tuple(readouts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D]."""
        with self._tapping() as tapped:
            self.network(x)
        return torch.cat([tapped[readout.name] for readout in self._readouts], 1)

    @contextmanager
    def _tapping(self) -> Iterator[dict[str, Tensor]]:
        """Pooled tensors by readout, of what the network runs meanwhile; it is left as it was."""
        tapped: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for readout in self._readouts:
                module = self.network.get_submodule(readout.node.removesuffix(INPUT))

                def keep(tensor: Tensor, readout: Readout = readout) -> None:
                    pooled = pool(tensor, readout.pooling if tensor.ndim > 2 else "none")
                    # What is not pooled may be the tensor itself, which a later layer may change in place.
                    tapped[readout.name] = pooled.clone() if readout.pooling == "none" else pooled

                if readout.node.endswith(INPUT):
                    handle = module.register_forward_pre_hook(lambda _, inputs, keep=keep: keep(inputs[0]))
                else:
                    handle = module.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output))
                hooks.callback(handle.remove)
            yield tapped


def find_readouts(network: nn.Module, size: int) -> tuple[Readout, ...]:
    """Readouts in the order of the network: stages (first to last), ``last``, ``logits``.

    A stage ends where the number of channels or positions changes. Raises BackboneError where the network has
    no head that maps features to classes, or can't take images of that size.
    """
    seen, layers, classes = _trace(network, size)
    head = _head(layers, classes)
    pooling: Pooling = "none" if len(head.given) == 2 else "mean"
    # What runs several times in a pass is no one place: a pooling layer that serves all of a network, for instance.
    runs = Counter(item.node for item in seen)
    stages = _stages([item for item in seen[:head.before] if runs[item.node] == 1])
    # What is only pooled between the last stage and the head would be read twice.
    if len(stages) > 1 and stages[-1].shape[0] == head.given[1] and stages[-1].pooling == "mean":
        stages.pop()
    stages = stages[-MAX_STAGES:]
    return (
        *(Readout(f"stage{i}", s.node, s.pooling, s.shape[0]) for i, s in enumerate(stages, start=1)),
        Readout(LAST, head.node + INPUT, pooling, head.given[1]),
        # Some networks average two heads, or have an activation after the last: only the whole gives class scores.
        Readout(LOGITS, NETWORK, "none", classes),
    )


def read_as(word: str, network: nn.Module, known: Sequence[Readout], size: int) -> Readout:
    """The readout that a plan's word names: NAME or NAME/mean, or NAME/flatten, which is not pooled.

    Raises UnknownNameError, BackboneError; see :func:`find_layer`.
    """
    name, _, pooling = word.partition("/")
    if pooling not in ("", "mean", "flatten"):
        raise UnknownNameError("way to pool", pooling, ("mean", "flatten"), "write NAME, NAME/mean or NAME/flatten")
    found, _ = find_layer(network, known, name, "none" if pooling == "flatten" else "mean", size)
    return replace(found, name=word)


def find_layer(network: nn.Module, known: Sequence[Readout], name: str, pool: Pool, size: int,
               ) -> tuple[Readout, tuple[int, ...]]:
    """The readout of one layer, and the shape that an image's features have there after pooling.

    ``name`` is one of the ``known`` readouts or of the network's modules (with ``:input`` its input). Raises
    UnknownNameError with the nearest names, BackboneError where the layer gives no one tensor with a row an image.
    """
    readouts = {readout.name: readout for readout in known}
    modules = dict(network.named_modules())
    modules.pop(NETWORK)
    node = readouts[name].node if name in readouts else name
    if name not in readouts and name.removesuffix(INPUT) not in modules:
        raise UnknownNameError("layer", name, [*readouts, *modules], f"{', '.join(readouts)} or a module's name is "
                               "allowed")
    shape = _shape_at(network, node, name, size)
    pooling = _pooling(shape, pool)
    if name in readouts and readouts[name].pooling == pooling:
        return readouts[name], (readouts[name].dim,)
    kept = shape if pooling == "none" else (shape[-1] if pooling.endswith(("_last", "tokens")) else shape[0],)
    return Readout(name, node, pooling, math.prod(kept)), kept


def _pooling(shape: tuple[int, ...], pool: Pool) -> Pooling:
    """How an image's features of a shape are pooled: over all positions, wherever the channels stand."""
    if pool == "none" or len(shape) == 1:
        return "none"
    if len(shape) == 2:
        return "tokens" if pool == "mean" else "max_tokens"
    if _channels_last(shape):
        return "mean_last" if pool == "mean" else "max_last"
    return "mean" if pool == "mean" else "max"


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an image's features of three dimensions are [H, W, C]."""
    return shape[0] == shape[1] != shape[2]


def _shape_at(network: nn.Module, node: str, name: str, size: int) -> tuple[int, ...]:
    """The shape of an image's features at a node."""
    found: list[Any] = []
    module = network.get_submodule(node.removesuffix(INPUT))
    if node.endswith(INPUT):
        handle = module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0] if inputs else None))
    else:
        handle = module.register_forward_hook(lambda _, inputs, output: found.append(output))
    try:
        with torch.inference_mode():
            network(torch.zeros(2, 3, size, size))
    finally:
        handle.remove()
    if len(found) != 1:
        raise BackboneError(f"the layer {name} runs {len(found)} times for an image; take one that runs once")
    tensor = found[0]
    if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3, 4) or tensor.shape[0] != 2:
        raise BackboneError(f"the layer {name} does not give one table, map or list of tokens an image; take another")
    return tuple(tensor.shape[1:])


def _stages(seen: list[_Seen]) -> list[_Seen]:
    """The last module of each stage; four of a long stage's blocks where a network has hardly any other."""
    groups: list[list[_Seen]] = []
    for item in seen:
        if groups and (groups[-1][-1].shape, groups[-1][-1].pooling) == (item.shape, item.pooling):
            groups[-1].append(item)
        else:
            groups.append([item])
    ends = [group[-1] for group in groups]
    if not 1 <= len(groups) <= 3:
        return ends
    # Networks of equal blocks (transformers) have one long stage: read it at each quarter.
    blocks = [[item for item in group if item.block] for group in groups]
    longest = max(range(len(groups)), key=lambda i: len(blocks[i]))
    trunk = blocks[longest]
    if len(trunk) < _TRUNK:
        return ends
    return [*(trunk[len(trunk) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)), *ends[longest + 1:]]


def _head(layers: list[_Layer], classes: int) -> _Layer:
    """The last layer that makes class scores: [B, K], or [B, K, H, W] that is pooled afterwards."""
    for layer in reversed(layers):
        if layer.linear and layer.made[1:2] == (classes,) and len(layer.made) in (2, 4):
            return layer
        if classes not in layer.made[1:]:
            break  # Further layers work on something else, so none before it was the head.
    raise BackboneError("no layer of the network makes its class scores, so its features can't be told")


def _places(network: nn.Module) -> dict[str, bool]:
    """Modules that the picture passes one after another, by name; True for the blocks of a trunk.

    That is children of the network and of its lists of modules. Inside other modules, branches run side by
    side; only a long list of equal blocks is a trunk there too.
    """
    places = {}
    for name, child in network.named_children():
        places[name] = False
        trunks: list[tuple[str, nn.Module]] = [(name, child)]
        if not isinstance(child, _LISTS):
            trunks = [(f"{name}.{inner}", part) for inner, part in child.named_children() if _is_trunk(part)]
        for trunk, part in trunks:
            places.update({f"{trunk}.{block}": True for block, _ in part.named_children()})
    return places


def _is_trunk(module: nn.Module) -> bool:
    blocks = list(module.children())
    return isinstance(module, _LISTS) and len(blocks) >= _TRUNK and len({type(block) for block in blocks}) == 1


def _trace(network: nn.Module, size: int) -> tuple[list[_Seen], list[_Layer], int]:
    """Outputs at all places and layers with parameters, in order of their end; the number of classes."""
    seen: list[_Seen] = []
    layers: list[_Layer] = []
    places = _places(network)
    handles = []
    for name, module in network.named_modules():

        def after(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            if not isinstance(output, Tensor):
                return
            if name and inputs and isinstance(inputs[0], Tensor) and next(module.parameters(False), None) is not None:
                layers.append(_Layer(name, isinstance(module, nn.Linear | nn.Conv2d), tuple(inputs[0].shape),
                                     tuple(output.shape), len(seen)))
            if name in places:
                item = _describe(name, output, places[name])
                if item is not None:
                    seen.append(item)

        handles.append(module.register_forward_hook(after))
    try:
        with torch.inference_mode():
            result = network(torch.zeros(2, 3, size, size))
    except Exception as error:  # Networks refuse a size in many ways: assertions, shapes that do not match.
        reason = str(error).strip().splitlines()
        raise BackboneError(f"the network can't take images of {size} x {size} pixels "
                            f"({reason[0] if reason else type(error).__name__}); try another --size") from None
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(result, Tensor) or result.ndim != 2:
        raise BackboneError("the network gives no table of class scores, so it is no classifier")
    return seen, layers, result.shape[1]


def _describe(name: str, output: Tensor, block: bool) -> _Seen | None:
    shape = tuple(output.shape)
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        if _channels_last(shape[1:]):
            return _Seen(name, "mean_last", (shape[3], shape[1], shape[2]), block)
        return _Seen(name, "mean", shape[1:], block)
    if len(shape) == 3 and shape[1] > 1:
        return _Seen(name, "tokens", (shape[2], shape[1]), block)
    return None
