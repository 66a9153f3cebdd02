"""Pixels to features: normalise, run the network, pool what passes at its readouts, join."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regraft.networks.graph import Prefix
from regraft.networks.readouts import Tapped
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing


class Reader(nn.Module):
    """View 0's pixels, uint8 [B, S, S, 3], to the joined readouts, float32 [B, D].

    The engine runs it and the export writes it down, so both read the same features. A
    :class:`~regraft.networks.graph.Prefix` (or what is tapped already) is run as it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, readouts: Sequence[Readout], rules: Preprocessing) -> None:
        super().__init__()
        self.program = network if isinstance(network, Prefix | Tapped) else Tapped(network, readouts)
        self.register_buffer("mean", torch.tensor(rules.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(rules.std).view(1, 3, 1, 1) * 255)

    def normalised(self, pixels_BHWC: Tensor) -> Tensor:
        """What the network sees, [B, 3, S, S]."""
        # A view of [B, H, W, C] memory as [B, C, H, W] is channels-last already.
        return (pixels_BHWC.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Joined readouts; one call at a time, for the network is tapped meanwhile."""
        joined: Tensor = self.program(self.normalised(pixels_BHWC))
        return joined
