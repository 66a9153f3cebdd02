"""Pixels to features: normalise, run the network, pool what passes at its readouts, join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from regraft.networks.readouts import INPUT, pool
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing


class Reader(nn.Module):
    """View 0's pixels, uint8 [B, S, S, 3], to the joined readouts, float32 [B, D].

    The engine runs it and the export writes it down, so both read the same features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, readouts: Sequence[Readout], rules: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.readouts = tuple(readouts)
        self.register_buffer("mean", torch.tensor(rules.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(rules.std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Joined readouts; one call at a time, for the network is tapped meanwhile."""
        with self._tapping() as tapped:
            # A view of [B, H, W, C] memory as [B, C, H, W] is channels-last already.
            x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float()
            self.network((x_BCHW - self.mean) / self.std)
            return torch.cat([tapped[readout.name] for readout in self.readouts], 1)

    @contextmanager
    def _tapping(self) -> Iterator[dict[str, Tensor]]:
        """Pooled tensors by readout, of what the network runs meanwhile; it is left as it was."""
        tapped: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for readout in self.readouts:
                module = self.network.get_submodule(readout.node.removesuffix(INPUT))

                def keep(tensor: Tensor, readout: Readout = readout) -> None:
                    tapped[readout.name] = pool(tensor, readout.pooling if tensor.ndim > 2 else "none")

                if readout.node.endswith(INPUT):
                    handle = module.register_forward_pre_hook(lambda _, inputs, keep=keep: keep(inputs[0]))
                else:
                    handle = module.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output))
                hooks.callback(handle.remove)
            yield tapped
