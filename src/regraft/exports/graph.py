"""What is exported: view 0's pixels to probabilities, as one module."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.heads.dense import Head, head_layers
from regraft.networks.reader import Reader
from regraft.training.head import ACTIVATIONS


class Classifier(nn.Module):
    """Pixels uint8 [N, S, S, 3] to probabilities and logits, both float32 [N, K]."""

    def __init__(self, reader: Reader, head: Head) -> None:
        super().__init__()
        self.reader = reader
        self.head = head_module(head)

    def forward(self, pixels_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, logits."""
        logits_NK = self.head(self.reader(pixels_NHWC))
        return logits_NK.softmax(1), logits_NK


def head_module(head: Head) -> nn.Module:
    """The head in fp32: joined raw readouts [N, D] to logits [N, K], a chain of dense layers with activations."""
    activations = [ACTIVATIONS[name]() for name in head.settings.hidden]
    layers = [dense(*layer) for layer in head_layers(head)]
    *hidden, last = layers
    return nn.Sequential(*(part for pair in zip(hidden, activations, strict=True) for part in pair), last)


def dense(W_DK: NDArray[np.floating], b_K: NDArray[np.floating]) -> nn.Linear:
    """``x @ W + b`` as a layer in fp32."""
    layer = nn.Linear(*W_DK.shape)
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(W_DK.T, np.float32)), requires_grad=False)
    layer.bias = nn.Parameter(torch.from_numpy(b_K.astype(np.float32)), requires_grad=False)
    return layer
