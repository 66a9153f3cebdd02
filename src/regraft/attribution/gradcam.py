"""Grad-CAM (Selvaraju et al., ICCV 2017): the last feature map, weighted by what each channel does for a class.

With a linear head on averaged features the weights are the head's own, so it serves frozen networks as well.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class _Passing:
    """The maps [B, C, H, W] of a pass, and for each whether lists of tokens came right after it."""

    maps: list[Tensor] = field(default_factory=list)
    tokens: list[bool] = field(default_factory=list)

    def see(self, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return
        if output.ndim == 4 and output.shape[2] > 1 and output.shape[1] > 1:
            self.maps.append(output)
            self.tokens.append(False)
        elif output.ndim == 3 and self.tokens:
            self.tokens[-1] = True


def gradcam(model: Model, pixels_BHWC: NDArray[np.uint8], classes_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """What spoke for a class in each picture, float32 [B, H, W] from 0 to 1, as fine as the last map.

    That is the last one that the head's answer depends on. ``pixels_BHWC`` are view 0's, uint8. Raises ModelError where
    the network works on tokens instead of maps.
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
        if passing.maps:
            gradients = torch.autograd.grad(score, passing.maps, allow_unused=True)
    used = [at for at, gradient in enumerate(gradients) if gradient is not None]
    if not used or passing.tokens[used[-1]]:
        raise ModelError(f"{model.record.backbone} cuts pictures into tokens, and Grad-CAM needs a network of "
                         "convolutions")
    map_, gradient = passing.maps[used[-1]], gradients[used[-1]]
    assert gradient is not None
    channels, places = (3, (1, 2)) if _channels_last(map_) else (1, (2, 3))
    spoke_BHW = (gradient.mean(places, keepdim=True) * map_).sum(channels).relu()
    largest_B = spoke_BHW.amax((1, 2), keepdim=True).clamp_min(1e-12)
    heat: NDArray[np.float32] = (spoke_BHW / largest_B).detach().numpy()
    return heat


def _channels_last(map_: Tensor) -> bool:
    return map_.shape[1] == map_.shape[2] != map_.shape[3]


@contextmanager
def _watched(network: nn.Module) -> Iterator[_Passing]:
    passing = _Passing()
    with ExitStack() as hooks:
        for module in network.modules():
            hooks.callback(module.register_forward_hook(lambda _, __, output: passing.see(output)).remove)
        yield passing
