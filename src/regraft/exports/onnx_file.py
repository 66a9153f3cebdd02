"""A classifier as the bytes of one ONNX file: no external data, nothing of the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import nn

from regraft.networks.onnx_graph import onnx_graph, refuse_large
from regraft.records.exported import LOGITS, PROBABILITIES, sealed


def onnx_bytes(classifier: nn.Module, size: int, about: Mapping[str, str]) -> bytes:
    """The file of a classifier of images of ``size`` pixels, for any number N of them.

    Raises ExportError where the network can't be translated or is larger than one file holds.
    """
    # Two images: of one, the exporter would take the number for a constant of the network.
    example_NHWC = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    proto = onnx_graph(classifier, example_NHWC, [PROBABILITIES, LOGITS], any_number=True)
    onnx.helper.set_model_props(proto, dict(about))
    refuse_large(proto.ByteSize())
    onnx.checker.check_model(proto)
    return sealed(proto.SerializeToString(deterministic=True))
