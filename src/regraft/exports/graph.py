"""What is exported: view 0's pixels to probabilities and how unlike the known images they are, as one module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.decisions.novelty import Known
from regraft.errors import DataError
from regraft.heads.dense import Head, head_layers
from regraft.networks.reader import Reader
from regraft.records.decisions import NoveltyKind
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.training.head import ACTIVATIONS


class Classifier(nn.Module):
    """Pixels uint8 [N, S, S, 3] to what the model says of them; ``novelty`` is missing where nothing measures it.

    Gives probabilities and logits, float32 [N, K], and novelty, float32 [N].
    """

    def __init__(self, reader: Reader, head: Head, novelty: nn.Module | None = None) -> None:
        super().__init__()
        self.reader = reader
        self.head = head_module(head)
        self.novelty = novelty

    def forward(self, pixels_NHWC: Tensor) -> tuple[Tensor, ...]:
        """Probabilities, logits and, where it is measured, novelty."""
        return self.answer(self.reader(pixels_NHWC))

    def answer(self, features_ND: Tensor) -> tuple[Tensor, ...]:
        """The same from what the head reads, float32 [N, D]."""
        logits_NK = self.head(features_ND)
        answer = logits_NK.softmax(1), logits_NK
        return answer if self.novelty is None else (*answer, self.novelty(features_ND, logits_NK))


class HalfReader(Reader):
    """The same with a network in fp16: pixels are made into numbers and features are pooled in fp32."""

    def __init__(self, network: nn.Module, readouts: Sequence[Readout], rules: Preprocessing) -> None:
        super().__init__(network.half(), readouts, rules)

    def normalised(self, pixels_BHWC: Tensor) -> Tensor:
        """What the network sees, [B, 3, S, S] in fp16."""
        return super().normalised(pixels_BHWC).half()


def novelty_module(kind: NoveltyKind, known: Known | None) -> nn.Module:
    """:func:`regraft.decisions.novelty.novelty` in fp32, of features and logits; raises DataError as it does."""
    if kind != "relative_mahalanobis":
        return _Unsureness(energy=kind == "energy")
    if known is None:
        raise DataError("this novelty is a distance from known images, and nothing is known of them")
    return _Distance(known)


class _Unsureness(nn.Module):
    """From the logits alone, [N]."""

    def __init__(self, energy: bool) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, _: Tensor, logits_NK: Tensor) -> Tensor:
        return -logits_NK.logsumexp(1) if self.energy else 1 - logits_NK.softmax(1).amax(1)


class _Distance(nn.Module):
    """Relative Mahalanobis distance, [N]."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self.projection = dense(known.projection, -known.offset)
        none_R = np.zeros(len(known.offset), np.float32)
        self.inside, self.overall = dense(known.inside, none_R), dense(known.overall, none_R)
        self.register_buffer("means_1KR", torch.from_numpy(np.ascontiguousarray(known.means))[None])

    means_1KR: Tensor

    def forward(self, features_ND: Tensor, _: Tensor) -> Tensor:
        at_NR = self.projection(features_ND)
        to_each_NK = ((self.inside(at_NR)[:, None] - self.means_1KR) ** 2).sum(2)
        novelty_N: Tensor = to_each_NK.amin(1) - (self.overall(at_NR) ** 2).sum(1)
        return novelty_N


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
