"""Grad-CAM (Selvaraju et al., ICCV 2017): the last feature map, weighted by what each channel does for a class.

With a linear head on averaged features the weights are the head's own, so it serves frozen networks as well.

A network that cuts pictures into tokens has no such map, and what its answer reads is often one token alone. There,
every token of the last layer in which the picture's own tokens still matter is weighted by its own gradient, channel by
channel (HiResCAM; Draelos and Carin, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import ModelError
from regraft.exports.graph import Classifier
from regraft.model import Model
from regraft.networks.reader import Reader

#: Most tokens beside those of the picture's places: of the class, of a teacher, registers.
_MOST_EXTRA = 8


@dataclass
class _Passing:
    """What a pass gave, in order: maps [1, C, H, W] or [1, H, W, C], and tokens [1, N, C], as wide as the first."""

    seen: list[Tensor] = field(default_factory=list)
    grid: tuple[int, int] = (0, 0)  # of the map that was cut into tokens
    width: int = 0

    def see(self, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad or output.shape[0] != 1:
            return
        if output.ndim == 4 and output.shape[2] > 1 and output.shape[1] > 1:
            self.seen.append(output)
        elif output.ndim == 3 and self.seen:
            if not self.width:
                self.width, self.grid = output.shape[2], (self.seen[-1].shape[2], self.seen[-1].shape[3])
            if output.shape[2] == self.width:
                self.seen.append(output)


def gradcam(model: Model, pixels_BHWC: NDArray[np.uint8], classes_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """What spoke for a class in each picture, float32 [B, H, W] from 0 to 1, as fine as the last map, or as the tokens.

    That is the last one that the head's answer depends on. ``pixels_BHWC`` are view 0's, uint8. Raises ModelError where
    the places of a network's tokens are not known.
    """
    network = model.network()
    classifier = Classifier(Reader(network, model.record.head_readouts, model.record.preprocessing), model.head)
    # One at a time: what leads back to a map takes a hundred times a picture's own memory.
    return np.concatenate([_heat(model, network, classifier, pixels_BHWC[at:at + 1], int(k))
                           for at, k in enumerate(classes_B)])


def _heat(model: Model, network: nn.Module, classifier: Classifier, pixels_BHWC: NDArray[np.uint8], k: int,
          ) -> NDArray[np.float32]:
    """Of one picture, and one class."""
    with torch.enable_grad(), _watched(network) as passing:
        # Of a frozen network nothing learns, so the input is what gradients start from.
        _, logits_BK = classifier(torch.from_numpy(pixels_BHWC).float().requires_grad_())
        score = logits_BK[0, k]
        gradients: tuple[Tensor | None, ...] = ()
        if passing.seen:
            gradients = torch.autograd.grad(score, passing.seen, allow_unused=True)
    used = [(seen, gradient) for seen, gradient in zip(passing.seen, gradients, strict=True) if gradient is not None]
    # Attention splits tokens into heads, which looks like a map; where tokens come after it, it is none.
    if used and used[-1][0].ndim == 4:
        spoke_HW = _of_map(*used[-1])
    else:
        spoke_HW = _of_tokens(model, [pair for pair in used if pair[0].ndim == 3], passing.grid)
    spoke_HW = spoke_HW.relu()
    heat: NDArray[np.float32] = (spoke_HW / spoke_HW.max().clamp_min(1e-12)).detach().numpy()
    return heat[None]


def _of_map(map_: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of a map of one picture, [H, W]."""
    channels, places = (3, (1, 2)) if _channels_last(map_) else (1, (2, 3))
    return (gradient.mean(places, keepdim=True) * map_).sum(channels)[0]


def _of_tokens(model: Model, used: list[tuple[Tensor, Tensor]], grid: tuple[int, int]) -> Tensor:
    """HiResCAM of the last tokens [1, N, C] of which those of the picture's places count, [H, W]."""
    places = math.prod(grid)
    for tokens, gradient in reversed(used):
        extra = tokens.shape[1] - places
        if places and 0 <= extra <= _MOST_EXTRA and gradient[0, extra:].any():
            return (gradient * tokens)[0, extra:].sum(1).reshape(grid)
    raise ModelError(f"where the tokens of {model.record.backbone} lie in a picture is not known")


def _channels_last(map_: Tensor) -> bool:
    return map_.shape[1] == map_.shape[2] != map_.shape[3]


@contextmanager
def _watched(network: nn.Module) -> Iterator[_Passing]:
    passing = _Passing()
    with ExitStack() as hooks:
        for module in network.modules():
            hooks.callback(module.register_forward_hook(lambda _, __, output: passing.see(output)).remove)
        yield passing
