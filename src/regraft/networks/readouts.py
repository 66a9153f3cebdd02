"""Where features can be read: the last tensor of each stage, the head's input, the head's output.

Found by running the network once and looking at what its modules give, not by a table of families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError
from regraft.records.networks import Pooling, Readout

#: Earlier stages kept; the head's input and output come on top.
MAX_STAGES = 8

#: Names of the readouts every network has.
LAST, LOGITS = "last", "logits"

#: Marks the input of a node instead of its output.
INPUT = ":input"


@dataclass(frozen=True)
class _Seen:
    node: str
    pooling: Pooling
    shape: tuple[int, ...]  # channels, then positions


def pool(tensor: Tensor, pooling: Pooling) -> Tensor:
    """Pool a stage's output to [B, D] in fp32."""
    match pooling:
        case "mean":
            return tensor.mean((2, 3), dtype=torch.float32)
        case "mean_last":
            return tensor.mean((1, 2), dtype=torch.float32)
        case "tokens":
            return tensor.mean(1, dtype=torch.float32)
        case "none":
            return tensor.flatten(1).float()


def find_readouts(network: nn.Module, size: int) -> tuple[Readout, ...]:
    """Readouts in the order of the network: stages (first to last), ``last``, ``logits``.

    A stage ends where the number of channels or positions changes. Raises BackboneError where the network has
    no head that maps features to classes.
    """
    seen, head, features, classes = _trace(network, size)
    groups: list[_Seen] = []
    for item in seen:
        if groups and groups[-1].shape == item.shape and groups[-1].pooling == item.pooling:
            groups[-1] = item  # the last module of a stage speaks for it
        else:
            groups.append(item)
    stages = _thin(groups, seen)
    # What is only pooled between the last stage and the head would be read twice.
    if stages and stages[-1].shape[0] == features[0] and len(stages) > 1 and stages[-1].pooling == features[1]:
        stages.pop()
    stages = stages[-MAX_STAGES:]
    return (
        *(Readout(f"stage{i}", s.node, s.pooling, s.shape[0]) for i, s in enumerate(stages, start=1)),
        Readout(LAST, head + INPUT, features[2], features[0]),
        Readout(LOGITS, head, features[2], classes),
    )


def _thin(groups: list[_Seen], seen: list[_Seen]) -> list[_Seen]:
    """Networks of equal blocks (transformers) have one long stage: read it at each quarter."""
    if len(groups) > 3 or len(seen) < 8:
        return groups
    longest = [s for s in seen if s.shape == groups[-1].shape and s.node.rpartition(".")[2].isdigit()]
    if len(longest) < 4:
        return groups
    return [longest[len(longest) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]


def _trace(network: nn.Module, size: int) -> tuple[list[_Seen], str, tuple[int, Pooling, Pooling], int]:
    """Outputs of all modules at most two names deep, in order of their end; the head; its input; classes."""
    seen: list[_Seen] = []
    heads: list[tuple[str, tuple[int, ...], tuple[int, ...], int]] = []
    handles = []
    for name, module in network.named_modules():
        if not name:
            continue

        def after(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            if isinstance(module, nn.Linear | nn.Conv2d) and isinstance(output, Tensor):
                heads.append((name, tuple(inputs[0].shape), tuple(output.shape), len(seen)))
            if name.count(".") <= 1 and isinstance(output, Tensor):
                item = _describe(name, output)
                if item is not None:
                    seen.append(item)

        handles.append(module.register_forward_hook(after))
    try:
        with torch.inference_mode():
            result = network(torch.zeros(2, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(result, Tensor) or result.ndim != 2:
        raise BackboneError("the network gives no table of class scores, so it is no classifier")
    classes = result.shape[1]
    # The head is the last layer that makes class scores: [B, K], or [B, K, H, W] that is pooled afterwards.
    for name, given, made, before in reversed(heads):
        if made[1:2] == (classes,) and len(made) in (2, 4):
            pooling: Pooling = "none" if len(given) == 2 else "mean"
            return seen[:before], name, (given[1], "mean", pooling), classes
    raise BackboneError("no layer of the network makes its class scores, so its features can't be told")


def _describe(name: str, output: Tensor) -> _Seen | None:
    shape = tuple(output.shape)
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        if shape[1] == shape[2] != shape[3]:
            return _Seen(name, "mean_last", (shape[3], shape[1], shape[2]))
        return _Seen(name, "mean", shape[1:])
    if len(shape) == 3 and shape[1] > 1:
        return _Seen(name, "tokens", (shape[2], shape[1]))
    return None
