"""A frozen network as the ONNX graph that the engines beside PyTorch run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from regraft.networks.onnx_graph import onnx_graph, refuse_large
from regraft.networks.reader import Reader
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing


def convert(module: nn.Module, readouts: Sequence[Readout], rules: Preprocessing, batch: int) -> bytes:
    """The graph from ``batch`` pictures, uint8 [B, S, S, 3], to joined readouts, float32 [B, D].

    Raises ExportError where the network can't be translated.
    """
    reader = Reader(module, readouts, rules).eval()
    example_BHWC = torch.zeros(batch, rules.size, rules.size, 3, dtype=torch.uint8)
    proto = onnx_graph(reader, example_BHWC, ["features"], any_number=False)
    refuse_large(proto.ByteSize())
    graph: bytes = proto.SerializeToString(deterministic=True)
    return graph


def forecast_seconds(module: nn.Module) -> float:
    """How long :func:`convert` will take, roughly: it goes by the network's layers, not by its arithmetic."""
    return 1.0 + 0.04 * sum(1 for part in module.modules() if not any(part.children()))
