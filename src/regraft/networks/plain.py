"""Two small networks that are trained from scratch: what transfer is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Class scores of a network nobody has trained: its head is always replaced.
_CLASSES = 10


class MLP(nn.Module):
    """Three hidden layers on the flattened pixels."""

    def __init__(self, size: int, width: int = 500) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, width), nn.ReLU(),
                                    nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.classifier = nn.Linear(width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to class scores [B, K]."""
        scores: Tensor = self.classifier(self.hidden(x))
        return scores


class CNN(nn.Module):
    """Three blocks of 32 filters of 5 x 5, ReLU and max-pooling by 4, then 64 units and dropout."""

    def __init__(self, size: int) -> None:
        super().__init__()
        side, given, blocks = size, 3, []
        for _ in range(3):
            pool = min(4, side)
            blocks.append(nn.Sequential(nn.Conv2d(given, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(pool)))
            side, given = side // pool, 32
        self.blocks = nn.Sequential(*blocks)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(32 * side * side, 64), nn.ReLU(), nn.Dropout(0.5))
        self.classifier = nn.Linear(64, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to class scores [B, K]."""
        scores: Tensor = self.classifier(self.dense(self.blocks(x)))
        return scores


PLAIN: dict[str, Callable[[int], nn.Module]] = {"mlp": MLP, "cnn": CNN}


def build_plain(name: str, size: int) -> nn.Module:
    """A plain network for pictures of one size, with random weights."""
    with torch.no_grad():
        return PLAIN[name](size)
