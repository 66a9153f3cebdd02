"""What is exported: view 0's pixels to probabilities, as one module."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.heads.linear import LinearHead
from regraft.networks.reader import Reader


class Classifier(nn.Module):
    """Pixels uint8 [N, S, S, 3] to probabilities and logits, both float32 [N, K]."""

    def __init__(self, reader: Reader, head: LinearHead) -> None:
        super().__init__()
        self.reader = reader
        self.head = head_module(head)

    def forward(self, pixels_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, logits."""
        logits_NK = self.head(self.reader(pixels_NHWC))
        return logits_NK.softmax(1), logits_NK


def head_module(head: LinearHead) -> nn.Module:
    """The head in fp32: joined raw readouts [N, D] to logits [N, K].

    Every head is a chain of dense layers with activations between them; this one's has a single layer.
    """
    return nn.Sequential(dense(head.W_DK, head.b_K))


def dense(W_DK: NDArray[np.floating], b_K: NDArray[np.floating]) -> nn.Linear:
    """``x @ W + b`` as a layer in fp32."""
    layer = nn.Linear(*W_DK.shape)
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(W_DK.T, np.float32)), requires_grad=False)
    layer.bias = nn.Parameter(torch.from_numpy(b_K.astype(np.float32)), requires_grad=False)
    return layer
